//! From a prompt to a continuation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::sampling::{Sampling, out_of_range, random_seed};
use crate::session::{SequenceId, Session};
use crate::text_stream::TextStream;
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
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// Most new tokens; the context's end stops as well.
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
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// `max_new_tokens` were made.
    Length,
    /// A stop string or token came.
    Stop,
    /// The context is full.
    Context,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
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
/// panic in `on_event`, too. Other sequences of the session stand still meanwhile.
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
    if prompt.is_empty() {
        return Err(Error::new(ErrorKind::BadInput, "the prompt is empty").help("give at least one token"));
    }
    let (sampling, seed) = choice(session, options)?;
    let id = session.add_sequence()?;
    let guard = Guest { session, id };
    guard.session.set_sampling(id, sampling, seed)?;
    let done = run(guard.session, id, tokenizer, prompt, options, cancel, on_event)?;
    Ok(Generated { seed, ..done })
}

/// Continues a sequence of the session, which stays there: of `tokens`, all of its text, those that it does not hold
/// yet are fed. Afterwards, after an error too, it holds the first [`Session::len`] of `tokens` and the new tokens.
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
    let held = session.len(id)? as usize;
    if tokens.len() < held || (tokens.len() == held && session.pending(id)? == 0) {
        let message = format!("the sequence holds {held} tokens: {} are nothing new", tokens.len());
        return Err(
            Error::new(ErrorKind::BadInput, message).help("give its whole text and at least one token")
        );
    }
    let (sampling, seed) = choice(session, options)?;
    session.set_sampling(id, sampling, seed)?;
    let done = run(session, id, tokenizer, tokens, options, cancel, on_event)?;
    Ok(Generated { seed, ..done })
}

/// How tokens are chosen: the options over the model's defaults. Errors: out of range.
fn choice(session: &Session, options: &GenerateOptions) -> Result<(Sampling, u64)> {
    let defaults = session.model().sampling_defaults();
    let sampling = options.sampling.unwrap_or(defaults.sampling);
    sampling.check().map_err(out_of_range)?;
    Ok((sampling, options.seed.or(defaults.seed).unwrap_or_else(random_seed)))
}

/// A sequence that leaves its session when this is dropped.
struct Guest<'s> {
    session: &'s mut Session,
    id: SequenceId,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Nobody else has its id to remove it.
        let _ = self.session.remove_sequence(self.id);
    }
}

fn run(
    session: &mut Session,
    id: SequenceId,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(Event),
) -> Result<Generated> {
    let held = session.len(id)? as usize;
    if prompt.len() > held {
        session.feed(id, &prompt[held..])?;
    }
    let total = session.pending(id)?;
    let mut token = advance(session, id, cancel, &mut |left| {
        on_event(Event::Prefill { done: total - left, total });
    })?;
    let max_context = session.model().plan().model.max_context;
    let stop_tokens = stop_tokens(tokenizer, options);
    let mut stream = TextStream::new(tokenizer, prompt, &options.stop, options.show_special)?;
    let mut done = Generated { tokens: Vec::new(), text: String::new(), finish: Finish::Length, seed: 0 };
    while done.tokens.len() < options.max_new_tokens {
        if stop_tokens.contains(&token) {
            done.finish = Finish::Stop;
            break;
        }
        done.tokens.push(token);
        on_event(Event::Token(token));
        let (text, ended) = stream.push(token)?;
        show(&mut done, text, on_event);
        if ended {
            done.finish = Finish::Stop;
            return Ok(done);
        }
        if done.tokens.len() == options.max_new_tokens {
            break;
        }
        if session.len(id)? >= max_context {
            done.finish = Finish::Context;
            break;
        }
        session.feed(id, &[token])?;
        token = advance(session, id, cancel, &mut |_| {})?;
    }
    let (rest, ended) = stream.finish()?;
    if ended {
        done.finish = Finish::Stop;
    }
    show(&mut done, rest, on_event);
    Ok(done)
}

/// Tokens that end the continuation: those of the options, the model's own, and those that a stop text spells.
fn stop_tokens(tokenizer: &Tokenizer, options: &GenerateOptions) -> Vec<u32> {
    let spelled = options.stop.iter().filter_map(|text| tokenizer.token(text));
    let eos = tokenizer.settings().eos.iter().copied().filter(|_| !options.ignore_eos);
    let given = options.stop_tokens.iter().copied();
    given.chain(eos).chain(spelled.filter(|token| tokenizer.is_special(*token))).collect()
}

fn show(done: &mut Generated, text: String, on_event: &mut dyn FnMut(Event)) {
    if !text.is_empty() {
        done.text.push_str(&text);
        on_event(Event::Text(text));
    }
}

/// Steps until the sequence's next token is there; `progress` gets the tokens that are left.
fn advance(
    session: &mut Session,
    id: SequenceId,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(u64),
) -> Result<u32> {
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        let output = session.step_sampled_of(id)?;
        progress(session.pending(id)?);
        if let Some((_, token)) = output.sampled.into_iter().find(|(sequence, _)| *sequence == id) {
            return token;
        }
    }
}
