//! How probable a text is to a model.

use hyc_runtime::{Session, Tokenizer};

use crate::error::{Error, Result};

/// How probable a text is to a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// Tokens whose probability counts: all of a window but its first.
    pub tokens: u64,
    /// Windows, each of which begins anew.
    pub windows: u64,
    /// The sum of -ln p.
    pub nats: f64,
    /// Bytes of text that the tokens stand for, where there is a tokenizer.
    pub bytes: Option<u64>,
}

impl Perplexity {
    /// Of no token yet.
    pub fn none(tokenizer: Option<&Tokenizer>) -> Perplexity {
        Perplexity { tokens: 0, windows: 0, nats: 0.0, bytes: tokenizer.map(|_| 0) }
    }

    /// Counts a token whose -ln p is `nats`.
    pub fn token(&mut self, nats: f64) {
        self.nats += nats;
        self.tokens += 1;
    }

    /// Counts a window, whose tokens are through. Errors: the tokenizer's.
    pub fn window(&mut self, tokenizer: Option<&Tokenizer>, window: &[u32]) -> Result<()> {
        self.windows += 1;
        if let (Some(bytes), Some(tokenizer)) = (&mut self.bytes, tokenizer) {
            *bytes += tokenizer.decode(&window[1..])?.len() as u64;
        }
        Ok(())
    }

    /// e to the mean of -ln p (Jelinek et al., 1977).
    pub fn value(&self) -> f64 {
        (self.nats / self.tokens.max(1) as f64).exp()
    }

    /// Bits of a byte of text.
    pub fn bits_per_byte(&self) -> Option<f64> {
        self.bytes.map(|bytes| self.nats / std::f64::consts::LN_2 / bytes.max(1) as f64)
    }
}

/// ln of the sum of e^x over logits: ln p of a token is its logit less this.
pub fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    f64::from(most) + sum.ln()
}

/// The windows of `context` tokens of a text, which do not overlap, each behind `begin`, the tokens that begin a text; a last
/// one of one token is left out. Errors: no window has two tokens.
pub fn windows<'t>(begin: &[u32], tokens: &'t [u32], context: usize) -> Result<Vec<&'t [u32]>> {
    let room = context.saturating_sub(begin.len());
    if room < 2 || tokens.len() < 2 {
        return Err(
            Error::input("there is nothing to predict: two tokens are the least").help("give a longer text")
        );
    }
    Ok(tokens.chunks(room).filter(|window| window.len() > 1).collect())
}

/// The token of a window that row `row` of the logits predicts, where it counts: row i of `begin` tokens and the window's is of
/// the token behind i of them. What is predicted of `begin` alone counts for none, and nothing is behind the last row.
pub fn predicted(begin: usize, window: &[u32], row: usize) -> Option<u32> {
    let at = (row + 1).checked_sub(begin).filter(|at| *at > 0)?;
    window.get(at).copied()
}

/// The perplexity of a text of these tokens in [`windows`] of `context` tokens behind `begin`. `seen` is told of tokens that are
/// through, and may end it. Errors: no window has two tokens; those of the session.
pub fn perplexity(
    session: &mut Session,
    tokenizer: Option<&Tokenizer>,
    (begin, tokens): (&[u32], &[u32]),
    context: usize,
    seen: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Perplexity> {
    let windows = windows(begin, tokens, context)?;
    session.set_all_logits(true);
    let mut sum = Perplexity::none(tokenizer);
    for window in windows {
        let id = session.add_sequence()?;
        session.feed(id, &[begin, window].concat())?;
        let mut row = 0;
        while session.pending(id)? > 0 {
            let step = session.step()?;
            for (_, logits) in &step.logits {
                let logits = logits.as_ref().map_err(|error| Error::input(error.message.clone()))?;
                if let Some(token) = predicted(begin.len(), window, row) {
                    sum.token(log_sum(logits) - f64::from(logits[token as usize]));
                }
                row += 1;
            }
            seen(step.tokens)?;
        }
        session.remove_sequence(id)?;
        sum.window(tokenizer, window)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_surprise_is_minus_the_log_of_the_softmax() {
        let logits = [1.0f32, 2.0, 3.0];
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((log_sum(&logits) - sum.ln()).abs() < 1e-12);
        // Far beyond what an exponential holds.
        assert_eq!(log_sum(&[1e4, 0.0]), 1e4);
        assert_eq!(log_sum(&[-1e4, -2e4]), -1e4);
    }

    #[test]
    fn all_tokens_of_a_window_but_its_first_count() {
        let of = |begin, rows| (0..rows).map(|row| predicted(begin, &[7, 8, 9], row)).collect::<Vec<_>>();
        assert_eq!(of(0, 3), [Some(8), Some(9), None]);
        assert_eq!(of(2, 5), [None, None, Some(8), Some(9), None]);
        let windows = |begin: &[u32], context| windows(begin, &[1, 2, 3, 4, 5], context).ok();
        assert_eq!(windows(&[], 3), Some(vec![&[1, 2, 3][..], &[4, 5]]));
        assert_eq!(windows(&[0], 3), Some(vec![&[1, 2][..], &[3, 4]]));
        assert_eq!(windows(&[0], 2), None);
    }
}
