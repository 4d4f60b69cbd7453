//! From a prompt to a continuation: pulled event by event, for one sequence or for a batch of them.

mod batch;
mod continuation;
mod generation;
#[cfg(feature = "stream")]
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::batch::{Batch, Continuations, Prompt};
pub use self::continuation::Continuation;
pub use self::generation::Generation;
#[cfg(feature = "stream")]
pub use self::stream::EventStream;
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::Sampling;
use crate::session::{SequenceId, Session};
use crate::tokenizer::Tokenizer;

/// Asks a running generation to stop; it does between two steps.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has pulled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Asks to stop. From any thread, at any time.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How to continue a prompt.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most new tokens; 256 by default. The context's end stops as well.
    pub max_new_tokens: usize,
    /// How tokens are chosen; `None`: as the model says ([`Model::sampling_defaults`](crate::Model::sampling_defaults)).
    pub sampling: Option<Sampling>,
    /// Seed of the choice; `None`: the model's own, where it has one, else a random one, which
    /// [`Generated::seed`] tells.
    pub seed: Option<u64>,
    /// Texts that end the continuation; they are not part of it. The spelling of a special token stands for that
    /// token, whether or not special tokens are shown.
    pub stop: Vec<String>,
    /// Tokens that end the continuation, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// The model's own end tokens ([`TextSettings::eos`](crate::TextSettings)) end nothing.
    pub ignore_eos: bool,
    /// Special tokens are part of the text.
    pub show_special: bool,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 256,
            sampling: None,
            seed: None,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            show_special: false,
        }
    }
}

/// What happens meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So many of the prompt's tokens are through.
    Prefill {
        /// Tokens through.
        done: u64,
        /// Tokens of the prompt.
        total: u64,
    },
    /// A token was chosen.
    Token(u32),
    /// Text that is certain now.
    Text(String),
    /// It is through; the last event.
    End(Finish),
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Finish {
    /// `max_new_tokens` were made.
    #[default]
    Length,
    /// A stop string or token came.
    Stop,
    /// The context is full.
    Context,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generated {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Their text, up to the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The seed of the choice: with it the same prompt gives the same tokens again.
    pub seed: u64,
}

/// Continues `prompt` in a sequence of its own, which is removed at the end, however it ends: by an error, or by a
/// panic in `on_event`, too. Other sequences of the session stand still meanwhile. [`Session::generate`] is the same,
/// pulled.
///
/// Errors: an empty prompt or one longer than the context, sampling out of range, `Cancelled`, and those of [`Session::step`].
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(Event),
) -> Result<Generated> {
    let mut generation = session.generate(tokenizer, prompt, options)?.cancelled_by(cancel);
    generation.by_ref().try_for_each(|event| event.map(&mut *on_event))?;
    Ok(generation.so_far().clone())
}

/// Continues a sequence of the session, which stays there: of `tokens`, all of its text, those that it does not hold
/// yet are fed. Afterwards, after an error too, it holds the first [`Session::len`] of `tokens` and the new tokens.
/// [`Session::generate_in`] is the same, pulled.
///
/// Errors: those of [`generate`]; `tokens` with nothing new: what is held and waits for a step, as after a prompt that
/// was cancelled, is new.
pub fn generate_in(
    session: &mut Session,
    id: SequenceId,
    tokenizer: &Tokenizer,
    tokens: &[u32],
    options: &GenerateOptions,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(Event),
) -> Result<Generated> {
    let mut generation = session.generate_in(id, tokenizer, tokens, options)?.cancelled_by(cancel);
    generation.by_ref().try_for_each(|event| event.map(&mut *on_event))?;
    Ok(generation.so_far().clone())
}

/// Errors: somebody asked to stop.
fn check(cancel: &CancelToken) -> Result<()> {
    match cancel.is_cancelled() {
        true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
        false => Ok(()),
    }
}
