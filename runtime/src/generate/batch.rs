//! Several continuations, a step for all of them at a time.

use std::collections::VecDeque;
use std::ops::Deref;

use super::{CancelToken, Continuation, Event, GenerateOptions, Generated, check};
use crate::error::{ErrorKind, Result};
use crate::session::{SequenceId, Session};
use crate::tokenizer::Tokenizer;

/// A prompt of a batch, and how to continue it.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How to go on.
    pub options: GenerateOptions,
}

/// Continuations of several prompts: an iterator over what happens to which of them. As many as the session has room
/// for go on together, a step for all; the others wait until one has come to its end. An error is its prompt's alone,
/// but for a device's, which every prompt gets that is not through.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Event, GenerateOptions, Prompt, Session, SessionOptions, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// # let tokenizer = Tokenizer::of(&model)?;
/// # let mut session = Session::with_kernels(model, Box::new(Plain), &SessionOptions::default())?;
/// let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
/// let prompts = ["ab", "c"].map(|text| tokenizer.encode(text));
/// let prompts = prompts.into_iter().map(|tokens| Ok(Prompt { tokens: tokens?, options: options.clone() }));
/// let mut batch = session.generate_batch(&tokenizer, prompts.collect::<hyc_runtime::Result<_>>()?);
/// for (index, event) in batch.by_ref() {
///     match event {
///         Ok(Event::Text(text)) => println!("{index}: {text}"),
///         Ok(_) => {}
///         Err(error) => println!("{index}: {error}"),
///     }
/// }
/// assert!(batch.finish().iter().all(|done| done.as_ref().is_ok_and(|done| done.tokens.len() == 3)));
/// # Ok(())
/// # }
/// ```
pub struct Batch<'s, T> {
    session: &'s mut Session,
    all: Continuations<T>,
}

/// A batch that is given its session anew for each event, as [`Continuation`] is. Sequences of those at work stay in the
/// session until [`Continuations::end`].
pub struct Continuations<T> {
    tokenizer: T,
    /// By their indices, first come first.
    waiting: VecDeque<(usize, Prompt)>,
    active: Vec<(usize, Continuation<T>)>,
    events: VecDeque<(usize, Result<Event>)>,
    results: Vec<Result<Generated>>,
    cancel: Vec<CancelToken>,
}

impl Session {
    /// Continues several prompts, each in a sequence of its own that leaves the session at its end. Other sequences stand
    /// still meanwhile. What is wrong with a prompt is its first event.
    pub fn generate_batch<T>(&mut self, tokenizer: T, prompts: Vec<Prompt>) -> Batch<'_, T>
    where
        T: Deref<Target = Tokenizer> + Clone,
    {
        Batch { session: self, all: Continuations::new(tokenizer, prompts) }
    }
}

impl<T: Deref<Target = Tokenizer> + Clone> Batch<'_, T> {
    /// What ends the prompt of an index, from another thread too: its next event is the error `Cancelled` then. `None`:
    /// there is no such prompt.
    pub fn cancel_token(&self, index: usize) -> Option<&CancelToken> {
        self.all.cancel_token(index)
    }

    /// Runs to the end: what became of each prompt.
    pub fn finish(mut self) -> Vec<Result<Generated>> {
        self.by_ref().for_each(drop);
        std::mem::take(&mut self.all.results)
    }
}

impl<T: Deref<Target = Tokenizer> + Clone> Iterator for Batch<'_, T> {
    type Item = (usize, Result<Event>);

    fn next(&mut self) -> Option<(usize, Result<Event>)> {
        self.all.next(self.session)
    }
}

impl<T> Drop for Batch<'_, T> {
    fn drop(&mut self) {
        self.all.end(self.session);
    }
}

impl<T> Continuations<T> {
    /// Ends those at work: their sequences leave the session, and nothing more happens.
    pub fn end(&mut self, session: &mut Session) {
        self.waiting.clear();
        for (_, continuation) in self.active.drain(..) {
            // Nobody else has its id to remove it.
            let _ = session.remove_sequence(continuation.sequence());
        }
    }

    /// What ends the prompt of an index; `None`: there is no such prompt.
    pub fn cancel_token(&self, index: usize) -> Option<&CancelToken> {
        self.cancel.get(index)
    }

    /// What there is of each prompt's continuation: the whole, or an error, for those that are through.
    pub fn results(&self) -> &[Result<Generated>] {
        &self.results
    }
}

impl<T: Deref<Target = Tokenizer> + Clone> Continuations<T> {
    /// Nothing is fed yet.
    pub fn new(tokenizer: T, prompts: Vec<Prompt>) -> Continuations<T> {
        Continuations {
            tokenizer,
            active: Vec::new(),
            events: VecDeque::new(),
            results: prompts.iter().map(|_| Ok(Generated::default())).collect(),
            cancel: prompts.iter().map(|_| CancelToken::new()).collect(),
            waiting: prompts.into_iter().enumerate().collect(),
        }
    }

    /// The next event and whose it is, after the session's next step where one is needed; `None` at the end.
    pub fn next(&mut self, session: &mut Session) -> Option<(usize, Result<Event>)> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            self.drop_cancelled(session);
            self.admit(session);
            match (self.events.is_empty(), self.active.is_empty()) {
                (false, _) => {}
                (true, true) => return None,
                (true, false) => self.step(session),
            }
        }
    }

    /// Begins prompts as long as there is room.
    fn admit(&mut self, session: &mut Session) {
        while let Some((index, prompt)) = self.waiting.pop_front() {
            match self.begin(session, index, &prompt) {
                Ok(()) => {}
                // One of those at work leaves its pages.
                Err(error) if error.kind == ErrorKind::Resource && !self.active.is_empty() => {
                    return self.waiting.push_front((index, prompt));
                }
                Err(error) => self.fail(index, error),
            }
        }
    }

    fn begin(&mut self, session: &mut Session, index: usize, prompt: &Prompt) -> Result<()> {
        check(&self.cancel[index])?;
        let id = session.add_sequence()?;
        let tokenizer = self.tokenizer.clone();
        match Continuation::new(session, id, tokenizer, &prompt.tokens, &prompt.options) {
            Ok(continuation) => {
                self.active.push((index, continuation));
                Ok(())
            }
            Err(error) => {
                session.remove_sequence(id)?;
                Err(error)
            }
        }
    }

    fn fail(&mut self, index: usize, error: crate::Error) {
        self.results[index] = Err(error.clone());
        self.events.push_back((index, Err(error)));
    }

    /// A step over all that are at work, and what it gave.
    fn step(&mut self, session: &mut Session) {
        let ids: Vec<SequenceId> = self.active.iter().map(|(_, c)| c.sequence()).collect();
        let output = session.step_sampled_among(&ids);
        for (index, mut continuation) in std::mem::take(&mut self.active) {
            let id = continuation.sequence();
            let sampled = output.as_ref().map_err(Clone::clone).and_then(|output| {
                let token = output.sampled.iter().find(|(sequence, _)| *sequence == id);
                token.map(|(_, token)| token.clone()).transpose()
            });
            let stepped = sampled.and_then(|token| continuation.stepped(session, token));
            self.events.extend(std::iter::from_fn(|| continuation.ready()).map(|event| (index, Ok(event))));
            match stepped {
                Ok(()) if !continuation.has_ended() => {
                    self.active.push((index, continuation));
                    continue;
                }
                Ok(()) => self.results[index] = Ok(continuation.so_far().clone()),
                Err(error) => self.fail(index, error),
            }
            // Nobody else has its id to remove it.
            let _ = session.remove_sequence(id);
        }
    }

    /// Ends those that somebody has cancelled.
    fn drop_cancelled(&mut self, session: &mut Session) {
        for (index, continuation) in std::mem::take(&mut self.active) {
            match check(&self.cancel[index]) {
                Ok(()) => self.active.push((index, continuation)),
                Err(error) => {
                    let _ = session.remove_sequence(continuation.sequence());
                    self.fail(index, error);
                }
            }
        }
    }
}
