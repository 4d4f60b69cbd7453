//! How many tokens a session has memory for.

use hyc_runtime::Finish;

use crate::error::{Error, ErrorKind, Result};

/// What a command that continues a text reserves.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ContextArgs {
    /// Memory for a context of so many tokens, the new ones included; without it for what the prompt and -n need
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<u64>,
}

/// What a session shall hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Tokens in all.
    pub tokens: u64,
    /// Most new tokens that fit.
    pub new_tokens: usize,
    /// Whether more of them were asked for.
    clipped: bool,
}

impl Room {
    /// Room for new tokens behind a prompt where there is memory for `tokens` in all; `None` where the prompt itself does
    /// not fit. The last new token needs none: it is never fed.
    pub fn behind(prompt: usize, new_tokens: usize, tokens: u64) -> Option<Room> {
        let left = tokens.checked_sub(prompt as u64)?.saturating_add(1);
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        Some(Room { tokens, new_tokens: new_tokens.min(most), clipped: new_tokens > most })
    }

    /// Why a text of at most [`Room::new_tokens`] ended: that it could be no longer may be the context's doing.
    pub fn finish(self, finish: Finish) -> Finish {
        match finish {
            Finish::Length if self.clipped => Finish::Context,
            other => other,
        }
    }
}

impl ContextArgs {
    /// Room for a prompt and so many new tokens, in a model of `max_context`. A prompt that is too long for the model
    /// is the session's to refuse. Errors: a context that the model has not, or that the prompt does not fit into.
    pub fn room(self, prompt: usize, new_tokens: usize, max_context: u64) -> Result<Room> {
        let Some(ctx) = self.ctx else {
            let wanted = (prompt as u64).saturating_add(new_tokens as u64);
            return Ok(Room { tokens: wanted.min(max_context), new_tokens, clipped: false });
        };
        let refuse = |message: String, help: &str| Err(Error::new(ErrorKind::Usage, message).help(help));
        if ctx > max_context {
            return refuse(
                format!("--ctx {ctx} is more than the model's context of {max_context}"),
                "give less, or compile with a larger [target] max_context",
            );
        }
        match Room::behind(prompt, new_tokens, ctx).filter(|_| ctx > 0) {
            Some(room) => Ok(room),
            None => refuse(format!("--ctx {ctx} has no room for a prompt of {prompt} tokens"), "give more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(ctx: Option<u64>, prompt: usize, new_tokens: usize) -> Result<(u64, usize)> {
        ContextArgs { ctx }.room(prompt, new_tokens, 4096).map(|room| (room.tokens, room.new_tokens))
    }

    #[test]
    fn room_is_what_is_needed_or_asked_for() {
        assert_eq!(room(None, 2, 3).unwrap(), (5, 3));
        assert_eq!(room(None, 2, usize::MAX).unwrap(), (4096, usize::MAX));
        assert_eq!(room(None, 5000, 3).unwrap(), (4096, 3));
        assert_eq!(room(Some(1000), 2, 3).unwrap(), (1000, 3));
        assert_eq!(room(Some(10), 2, 128).unwrap(), (10, 9));
        assert_eq!(room(Some(2), 2, 3).unwrap(), (2, 1));
        assert!(room(Some(4097), 2, 3).unwrap_err().to_string().contains("context of 4096"));
        assert!(room(Some(1), 2, 3).unwrap_err().to_string().contains("a prompt of 2 tokens"));
        assert!(room(Some(0), 2, 3).is_err() && room(Some(0), 0, 3).is_err());
    }

    #[test]
    fn a_text_that_the_context_cuts_off_ends_by_it() {
        for (new_tokens, finish) in
            [(9, Finish::Length), (10, Finish::Context), (usize::MAX, Finish::Context)]
        {
            let room = Room::behind(2, new_tokens, 10).unwrap();
            assert_eq!((room.new_tokens, room.finish(Finish::Length)), (9, finish));
            assert_eq!(room.finish(Finish::Stop), Finish::Stop);
        }
        assert_eq!(Room::behind(11, 1, 10), None);
    }
}
