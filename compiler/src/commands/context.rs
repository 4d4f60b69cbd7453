//! How many tokens a session has memory for.

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
}

impl ContextArgs {
    /// Room for a prompt and so many new tokens, in a model of `max_context`. A prompt that is too long for the model
    /// is the session's to refuse. Errors: a context that the model has not, or that the prompt fills.
    pub fn room(self, prompt: usize, new_tokens: usize, max_context: u64) -> Result<Room> {
        let (prompt, wanted) = (prompt as u64, (prompt as u64).saturating_add(new_tokens as u64));
        let Some(ctx) = self.ctx else {
            return Ok(Room { tokens: wanted.min(max_context), new_tokens });
        };
        let refuse = |message: String, help: &str| Err(Error::new(ErrorKind::Usage, message).help(help));
        if ctx > max_context {
            return refuse(
                format!("--ctx {ctx} is more than the model's context of {max_context}"),
                "give less, or compile with a larger [target] max_context",
            );
        }
        if ctx <= prompt {
            return refuse(format!("--ctx {ctx} has no room after a prompt of {prompt} tokens"), "give more");
        }
        let new_tokens = new_tokens.min(usize::try_from(ctx - prompt).unwrap_or(usize::MAX));
        Ok(Room { tokens: ctx, new_tokens })
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
        assert_eq!(room(Some(10), 2, 128).unwrap(), (10, 8));
        assert!(room(Some(4097), 2, 3).unwrap_err().to_string().contains("context of 4096"));
        assert!(room(Some(2), 2, 3).unwrap_err().to_string().contains("a prompt of 2 tokens"));
        assert!(room(Some(0), 2, 3).is_err());
    }
}
