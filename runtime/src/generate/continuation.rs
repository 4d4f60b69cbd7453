//! One sequence's way from its prompt to its end, apart from the session that takes it there.

use std::collections::VecDeque;
use std::ops::Deref;

use super::{CancelToken, Event, Finish, GenerateOptions, Generated, check};
use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{Sampling, out_of_range, random_seed};
use crate::session::{SequenceId, Session};
use crate::text_stream::TextStream;
use crate::tokenizer::Tokenizer;

/// A continuation that is given its session anew for each event: for who keeps sessions elsewhere, behind a lock or a
/// handle of another language. [`Generation`](super::Generation) is the same with the session in it.
///
/// The sequence stays in the session until somebody removes it, however the continuation ends.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Continuation, GenerateOptions, Session, SessionOptions, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// let tokenizer = std::sync::Arc::new(Tokenizer::of(&model)?);
/// # let mut session = Session::with_kernels(model, Box::new(Plain), &SessionOptions::default())?;
/// let id = session.add_sequence()?;
/// let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
/// let mut continuation = Continuation::new(&mut session, id, tokenizer, &[1, 2, 3], &options)?;
/// while continuation.next(&mut session)?.is_some() {}
/// assert_eq!(continuation.so_far().tokens.len(), 4);
/// session.remove_sequence(id)?;
/// # Ok(())
/// # }
/// ```
pub struct Continuation<T> {
    id: SequenceId,
    /// `None` where the text has come to its end.
    stream: Option<TextStream<T>>,
    stop_tokens: Vec<u32>,
    most: usize,
    /// Tokens of the prompt: all that waited at the beginning, and those that wait now; none once they are through.
    prompt: Option<(u64, u64)>,
    events: VecDeque<Event>,
    done: Generated,
    cancel: CancelToken,
}

impl<T> Continuation<T> {
    /// Its sequence.
    pub fn sequence(&self) -> SequenceId {
        self.id
    }
}

impl<T: Deref<Target = Tokenizer>> Continuation<T> {
    /// Begins in a sequence of `session`: of `tokens`, all of its text, those that it does not hold yet are fed, and
    /// nothing is computed yet. Errors: no such sequence; `tokens` with nothing new, or longer than the context; sampling
    /// out of range; no free pages.
    pub fn new(
        session: &mut Session,
        id: SequenceId,
        tokenizer: T,
        tokens: &[u32],
        options: &GenerateOptions,
    ) -> Result<Continuation<T>> {
        let held = session.len(id)? as usize;
        check_new(tokens.len(), held, session.pending(id)?)?;
        let (sampling, seed) = choice(session, options)?;
        session.set_sampling(id, sampling, seed)?;
        let stop_tokens = stop_tokens(&tokenizer, options);
        let stream = TextStream::new(tokenizer, tokens, &options.stop, options.show_special)?;
        if tokens.len() > held {
            session.feed(id, &tokens[held..])?;
        }
        let waiting = session.pending(id)?;
        Ok(Continuation {
            id,
            stream: Some(stream),
            stop_tokens,
            most: options.max_new_tokens,
            prompt: Some((waiting, waiting)),
            events: VecDeque::new(),
            done: Generated { seed, ..Generated::default() },
            cancel: CancelToken::new(),
        })
    }

    /// What ends it from elsewhere: [`Continuation::next`] gives `Cancelled` then.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Has a token that is there already end it.
    pub fn cancel_with(&mut self, cancel: &CancelToken) {
        self.cancel = cancel.clone();
    }

    /// What there is of it; after the last event, the whole.
    pub fn so_far(&self) -> &Generated {
        &self.done
    }

    /// The next event, after the session's next step where one is needed; `None` at the end. Errors, of which
    /// `Cancelled` and those of a step may be tried again: those of [`Session::step_sampled_of`], and `Cancelled`.
    pub fn next(&mut self, session: &mut Session) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.has_ended() {
                return Ok(None);
            }
            check(&self.cancel)?;
            let output = session.step_sampled_of(self.id)?;
            let token = output.sampled.into_iter().find(|(id, _)| *id == self.id).map(|(_, token)| token);
            self.stepped(session, token.transpose()?)?;
        }
    }

    /// The next event that is there without a step.
    pub(super) fn ready(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether no more steps are needed.
    pub(super) fn has_ended(&self) -> bool {
        self.stream.is_none()
    }

    /// Takes what a step of the session gave: a token, where the sequence was through with what waited.
    pub(super) fn stepped(&mut self, session: &mut Session, token: Option<u32>) -> Result<()> {
        if let Some((total, waited)) = self.prompt {
            let left = session.pending(self.id)?;
            if left < waited {
                self.events.push_back(Event::Prefill { done: total - left, total });
            }
            self.prompt = Some((total, left)).filter(|_| left > 0);
        }
        let Some(token) = token else { return Ok(()) };
        if self.most == 0 || self.stop_tokens.contains(&token) {
            let finish = if self.most == 0 { Finish::Length } else { Finish::Stop };
            return self.end(finish);
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        self.done.tokens.push(token);
        self.events.push_back(Event::Token(token));
        let (text, ended) = stream.push(token)?;
        self.show(text);
        if ended {
            self.close(Finish::Stop);
            return Ok(());
        }
        if self.done.tokens.len() == self.most {
            return self.end(Finish::Length);
        }
        if session.len(self.id)? >= session.model().plan().model.max_context {
            return self.end(Finish::Context);
        }
        session.feed(self.id, &[token])
    }

    /// Ends with the text that was held back, which may be a stop text.
    fn end(&mut self, finish: Finish) -> Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let (rest, ended) = stream.finish()?;
        self.show(rest);
        self.close(if ended { Finish::Stop } else { finish });
        Ok(())
    }

    fn close(&mut self, finish: Finish) {
        self.stream = None;
        self.done.finish = finish;
        self.events.push_back(Event::End(finish));
    }

    fn show(&mut self, text: String) {
        if !text.is_empty() {
            self.done.text.push_str(&text);
            self.events.push_back(Event::Text(text));
        }
    }
}

/// Errors: nothing for a step to do.
fn check_new(tokens: usize, held: usize, pending: u64) -> Result<()> {
    if tokens == 0 {
        return Err(Error::new(ErrorKind::BadInput, "the prompt is empty").help("give at least one token"));
    }
    if tokens > held || (tokens == held && pending > 0) {
        return Ok(());
    }
    let message = format!("the sequence holds {held} tokens: {tokens} are nothing new");
    Err(Error::new(ErrorKind::BadInput, message).help("give its whole text and at least one token"))
}

/// How tokens are chosen: the options over the model's defaults. Errors: out of range.
fn choice(session: &Session, options: &GenerateOptions) -> Result<(Sampling, u64)> {
    let defaults = session.model().sampling_defaults();
    let sampling = options.sampling.unwrap_or(defaults.sampling);
    sampling.check().map_err(out_of_range)?;
    Ok((sampling, options.seed.or(defaults.seed).unwrap_or_else(random_seed)))
}

/// Tokens that end the continuation: those of the options, the model's own, and those that a stop text spells.
fn stop_tokens(tokenizer: &Tokenizer, options: &GenerateOptions) -> Vec<u32> {
    let spelled = options.stop.iter().filter_map(|text| tokenizer.token(text));
    let eos = tokenizer.settings().eos.iter().copied().filter(|_| !options.ignore_eos);
    let given = options.stop_tokens.iter().copied();
    given.chain(eos).chain(spelled.filter(|token| tokenizer.is_special(*token))).collect()
}
