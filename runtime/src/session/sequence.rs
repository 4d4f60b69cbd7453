//! One sequence: its tokens, its pages and its slot.

use crate::error::{Error, ErrorKind};
use crate::kv::Held;
use crate::sampling::Sampler;
use hyc_plan::sampling::MAX_PENALTY_WINDOW;

/// A sequence of a session. No two sequences of a process have the same one, whatever their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    pub(super) session: u64,
    pub(super) number: u64,
}

impl std::fmt::Display for SequenceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number)
    }
}

/// What a session knows of a sequence.
pub struct Sequence {
    pub id: SequenceId,
    /// All tokens that were fed: those in the caches, then those that wait.
    pub tokens: Vec<u32>,
    /// Which of them a step has chosen.
    pub generated: Vec<bool>,
    /// Tokens in the caches.
    pub len: usize,
    /// Pages of the growing caches, for all of `tokens`. From the one that the next token goes to on they are nobody
    /// else's where a token waits.
    pub pages: Vec<i32>,
    /// Slot of the ring caches.
    pub slot: usize,
    /// What the rings hold.
    pub held: Held,
    pub sampler: Sampler,
    /// The token that was chosen last and has not been fed.
    pub chosen: Option<u32>,
}

impl Sequence {
    /// An empty one.
    pub fn new(id: SequenceId, slot: usize) -> Sequence {
        Sequence {
            id,
            tokens: Vec::new(),
            generated: Vec::new(),
            len: 0,
            pages: Vec::new(),
            slot,
            held: Held::default(),
            sampler: Sampler::default(),
            chosen: None,
        }
    }

    /// The tokens that wait for a step.
    pub fn waiting(&self) -> &[u32] {
        &self.tokens[self.len..]
    }

    /// Takes tokens, which wait from now on.
    pub fn push(&mut self, tokens: &[u32]) {
        let generated = usize::from(!tokens.is_empty() && self.chosen == tokens.first().copied());
        self.sampler.see(&tokens[..generated], true);
        self.sampler.see(&tokens[generated..], false);
        self.chosen = self.chosen.filter(|_| tokens.is_empty());
        self.tokens.extend(tokens);
        self.generated.extend((0..tokens.len()).map(|i| i < generated));
    }

    /// Forgets all tokens but the first `len`.
    pub fn shorten(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.generated.truncate(len);
        self.len = self.len.min(len);
        self.chosen = None;
        let from = len.saturating_sub(MAX_PENALTY_WINDOW as usize);
        let tokens = self.tokens.iter().copied().zip(self.generated.iter().copied());
        self.sampler.see_anew(tokens.skip(from));
    }
}

/// The error of a sequence that session `number` does not have.
pub fn gone(number: u64, id: SequenceId) -> Error {
    let (message, help) = match id.session == number {
        true => (format!("sequence {id} was removed"), "`add_sequence` makes a new one"),
        false => (
            format!("sequence {id} is of another session"),
            "a sequence lives in the session whose `add_sequence` made it",
        ),
    };
    Error::new(ErrorKind::BadInput, message).help(help)
}
