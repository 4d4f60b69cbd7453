//! A continuation that is pulled.

use std::ops::Deref;

use super::{CancelToken, Continuation, Event, GenerateOptions, Generated};
use crate::error::Result;
use crate::session::{SequenceId, Session};
use crate::tokenizer::Tokenizer;

/// A continuation of a prompt: an iterator over what happens, which computes as far as it is asked. `T` is a
/// [`Tokenizer`], borrowed or shared.
///
/// The sequence of [`Session::generate`] leaves the session with its generation, unless it is kept
/// ([`Generation::keep`]) for a second turn.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Event, GenerateOptions, Session, SessionOptions, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// # let tokenizer = Tokenizer::of(&model)?;
/// # let mut session = Session::with_kernels(model, Box::new(Plain), &SessionOptions::default())?;
/// let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
/// let mut text = tokenizer.encode("abc")?;
/// let mut generation = session.generate(&tokenizer, &text, &options)?;
/// for event in generation.by_ref() {
///     if let Event::Text(part) = event? {
///         print!("{part}");
///     }
/// }
/// text.extend(&generation.so_far().tokens);
/// let kept = generation.keep();
/// // The second turn computes what is new alone.
/// text.extend(tokenizer.encode_bare("d")?);
/// let second = session.generate_in(kept, &tokenizer, &text, &options)?.finish()?;
/// assert_eq!(second.tokens.len(), 3);
/// # Ok(())
/// # }
/// ```
pub struct Generation<'s, T> {
    session: &'s mut Session,
    continuation: Continuation<T>,
    /// Whether the sequence stays.
    kept: bool,
    /// An error was given: nothing comes behind it.
    failed: bool,
}

impl Session {
    /// Continues `prompt` in a sequence of its own. Other sequences stand still meanwhile. Errors: an empty prompt or one
    /// longer than the context; sampling out of range; no free sequence or pages.
    pub fn generate<T: Deref<Target = Tokenizer>>(
        &mut self,
        tokenizer: T,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Generation<'_, T>> {
        let id = self.add_sequence()?;
        match Continuation::new(self, id, tokenizer, prompt, options) {
            Ok(continuation) => Ok(Generation { session: self, continuation, kept: false, failed: false }),
            Err(error) => {
                self.remove_sequence(id)?;
                Err(error)
            }
        }
    }

    /// Continues a sequence that is there, and stays: of `tokens`, all of its text, those that it does not hold yet are
    /// fed. Afterwards, after an error too, it holds the first [`Session::len`] of `tokens` and the new tokens. Errors:
    /// those of [`Session::generate`]; no such sequence; `tokens` with nothing new.
    pub fn generate_in<T: Deref<Target = Tokenizer>>(
        &mut self,
        id: SequenceId,
        tokenizer: T,
        tokens: &[u32],
        options: &GenerateOptions,
    ) -> Result<Generation<'_, T>> {
        let continuation = Continuation::new(self, id, tokenizer, tokens, options)?;
        Ok(Generation { session: self, continuation, kept: true, failed: false })
    }
}

impl<T: Deref<Target = Tokenizer>> Generation<'_, T> {
    /// What ends it from another thread: the next event is the error `Cancelled` then.
    pub fn cancel_token(&self) -> CancelToken {
        self.continuation.cancel_token().clone()
    }

    /// The same generation, ended by a token that is there already.
    pub fn cancelled_by(mut self, cancel: &CancelToken) -> Self {
        self.continuation.cancel_with(cancel);
        self
    }

    /// What there is of it; after the last event, the whole.
    pub fn so_far(&self) -> &Generated {
        self.continuation.so_far()
    }

    /// Runs to the end. Errors: the first one.
    pub fn finish(mut self) -> Result<Generated> {
        self.by_ref().try_for_each(|event| event.map(drop))?;
        Ok(self.so_far().clone())
    }

    /// The last row of one of the model's outputs ([`Session::output`]).
    pub fn output(&self, name: &str) -> Result<Vec<f32>> {
        self.session.output(self.continuation.sequence(), name)
    }

    /// Leaves the sequence in its session, for [`Session::generate_in`], [`Session::fork`] or [`Session::truncate`]. It
    /// holds [`Session::len`] tokens: of a continuation that has come to its end the prompt's and all new ones but the
    /// last.
    pub fn keep(mut self) -> SequenceId {
        self.kept = true;
        self.continuation.sequence()
    }
}

impl<T: Deref<Target = Tokenizer>> Iterator for Generation<'_, T> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        if self.failed {
            return None;
        }
        let next = self.continuation.next(self.session);
        self.failed = next.is_err();
        next.transpose()
    }
}

impl<T> Drop for Generation<'_, T> {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody else has its id to remove it.
            let _ = self.session.remove_sequence(self.continuation.sequence());
        }
    }
}
