//! A session: the engine, and the sequences that it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sequence::{Sequence, SequenceId, gone};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{PagePool, PrefixStore, Ring};
use crate::memory_plan::MemoryPlan;
use crate::model::Model;
use crate::options::SessionOptions;
use crate::runner::{HostRunner, Kernels, Runner, open_runner};
use crate::sampling::{Sampling, out_of_range};

/// Sessions that this process has set up.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// Several sequences on one model.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Session, SessionOptions};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().load()?;
/// let mut session = Session::with_kernels(model, Box::new(Plain), &SessionOptions::default())?;
/// let (a, b) = (session.add_sequence()?, session.add_sequence()?);
/// session.feed(a, &[1, 2, 3])?;
/// session.feed(b, &[4])?;
/// // One pass over both.
/// for (id, token) in session.step_sampled()?.sampled {
///     session.feed(id, &[token?])?;
/// }
/// assert_eq!((session.len(a)?, session.len(b)?), (4, 2));
/// # Ok(())
/// # }
/// ```
pub struct Session {
    pub(super) engine: Engine,
    memory: MemoryPlan,
    /// By their slots in the ring caches.
    pub(super) sequences: Vec<Option<Sequence>>,
    /// Pages of the growing caches.
    pub(super) pool: PagePool,
    pub(super) prefixes: PrefixStore,
    /// The ring caches.
    pub(super) rings: Vec<Ring>,
    pub(super) all_logits: bool,
    /// Whose each row of the last step's outputs is.
    pub(super) outputs: Vec<SequenceId>,
    /// Of [`SESSIONS`], as every sequence of this one carries it.
    number: u64,
    /// Ids given out.
    ids: u64,
    /// The process that has its threads.
    process: u32,
}

impl Session {
    /// Sets up memory and threads. Errors: options out of range; less memory free than the session takes; on a
    /// GPU those of its driver.
    pub fn new(model: impl Into<Arc<Model>>, options: &SessionOptions) -> Result<Session> {
        Session::new_observed(model, options, &mut |_, _| true)
    }

    /// The same; `progress` gets the bytes of weights checked, or copied to a GPU, so far and all bytes, every few MiB, and
    /// ends it with [`ErrorKind::Cancelled`] where it returns false.
    pub fn new_observed(
        model: impl Into<Arc<Model>>,
        options: &SessionOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Session> {
        let model = model.into();
        let memory = MemoryPlan::of(&model, options)?;
        let runner = open_runner(&model, options, &memory, progress)?;
        Ok(Session::build(runner, memory))
    }

    /// The same on the host with other kernels, such as an interpreter.
    pub fn with_kernels(
        model: impl Into<Arc<Model>>,
        kernels: Box<dyn Kernels>,
        options: &SessionOptions,
    ) -> Result<Session> {
        let model = model.into();
        let memory = MemoryPlan { scratch: 0, ..MemoryPlan::of(&model, options)? };
        memory.check(model.plan())?;
        let runner = HostRunner::new(model, kernels, memory.room)?;
        Ok(Session::build(Box::new(runner), memory))
    }

    /// The same on any runner, whose memory is there already.
    pub fn with_runner(runner: Box<dyn Runner>) -> Session {
        let memory = MemoryPlan::new(runner.model(), runner.memory().room(), 0);
        Session::build(runner, memory)
    }

    fn build(runner: Box<dyn Runner>, memory: MemoryPlan) -> Session {
        let engine = Engine::new(runner);
        let plan = engine.model().plan();
        let rings: Vec<Ring> = plan.caches.iter().filter_map(Ring::of).collect();
        let prefixes = PrefixStore::new(memory.room.prefixes, plan.model.page, !rings.is_empty());
        Session {
            engine,
            memory,
            sequences: (0..memory.room.sequences).map(|_| None).collect(),
            pool: PagePool::new(memory.room.pages),
            prefixes,
            rings,
            all_logits: false,
            outputs: Vec::new(),
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
            ids: 0,
            process: std::process::id(),
        }
    }

    /// The model, which lives as long as the session.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Arena and caches, to look at after a step.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Errors: this is a child of the process that set the session up.
    pub(super) fn check_process(&self) -> Result<()> {
        if self.process == std::process::id() {
            return Ok(());
        }
        let message = format!("process {} has this session's threads, not its forked child", self.process);
        Err(Error::new(ErrorKind::Unsupported, message)
            .help("set up a session in the child, or fork before the first one"))
    }

    /// What the session takes.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// Whether steps return logits for every row; such a step takes at most `max_outputs` rows.
    pub fn set_all_logits(&mut self, all: bool) {
        self.all_logits = all;
    }

    /// A new, empty sequence. Errors: all are in use.
    pub fn add_sequence(&mut self) -> Result<SequenceId> {
        let slot = self.free_slot()?;
        let id = self.next_id();
        self.sequences[slot] = Some(Sequence::new(id, slot));
        Ok(id)
    }

    /// A slot that no sequence has. Errors: all are in use.
    pub(super) fn free_slot(&self) -> Result<usize> {
        self.sequences.iter().position(Option::is_none).ok_or_else(|| {
            let message = format!("all {} sequences are in use", self.sequences.len());
            Error::new(ErrorKind::Resource, message).help("remove one, or compile with a larger max_batch")
        })
    }

    pub(super) fn next_id(&mut self) -> SequenceId {
        self.ids += 1;
        SequenceId { session: self.number, number: self.ids - 1 }
    }

    /// Drops a sequence; its pages are free again, but for those that others use. Errors: one that is gone already, or
    /// another session's.
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<()> {
        let place = self.place(id)?;
        if let Some(sequence) = self.sequences[place].take() {
            self.pool.release(&sequence.pages);
        }
        Ok(())
    }

    /// Index of a sequence that is there.
    pub(super) fn place(&self, id: SequenceId) -> Result<usize> {
        let found = self.sequences.iter().position(|s| s.as_ref().is_some_and(|s| s.id == id));
        found.ok_or_else(|| gone(self.number, id))
    }

    pub(super) fn sequence(&self, id: SequenceId) -> Result<&Sequence> {
        let place = self.place(id)?;
        self.sequences[place].as_ref().ok_or_else(|| gone(self.number, id))
    }

    pub(super) fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence> {
        let place = self.place(id)?;
        self.sequences[place].as_mut().ok_or_else(|| gone(self.number, id))
    }

    /// Chooses a sequence's tokens in [`Session::step_sampled`]; a new sequence's are the likeliest. Penalties look at
    /// the tokens that were fed: one that a step has chosen and that is fed next was generated, all others are the
    /// prompt's. Errors: `sampling` out of range.
    pub fn set_sampling(&mut self, id: SequenceId, sampling: Sampling, seed: u64) -> Result<()> {
        sampling.check().map_err(out_of_range)?;
        self.sequence_mut(id)?.sampler.reset(sampling, seed);
        Ok(())
    }

    /// Pages of the growing caches that no sequence has: free ones, and those of stored prefixes alone, which go where
    /// a sequence needs them.
    pub fn free_pages(&self) -> u64 {
        (self.pool.free() + self.prefixes.pages_alone(&self.pool)) as u64
    }

    /// Tokens of a sequence, those that wait included.
    pub fn len(&self, id: SequenceId) -> Result<u64> {
        self.sequence(id).map(|s| s.tokens.len() as u64)
    }

    /// A sequence's tokens: those in the caches, then those that wait.
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32]> {
        self.sequence(id).map(|s| s.tokens.as_slice())
    }

    /// Tokens of a sequence that wait for a step.
    pub fn pending(&self, id: SequenceId) -> Result<u64> {
        self.sequence(id).map(|s| s.waiting().len() as u64)
    }

    /// Gives a sequence tokens and the pages for them. Errors: a context longer than the model's, a token
    /// outside the vocabulary, no free pages; nothing has changed then.
    pub fn feed(&mut self, id: SequenceId, tokens: &[u32]) -> Result<()> {
        let place = self.place(id)?;
        self.check_tokens(tokens)?;
        let held = self.sequence(id)?.tokens.len();
        let (total, most) = ((held + tokens.len()) as u64, self.model().plan().model.max_context);
        if total > most {
            let message = format!("{total} tokens do not fit: the model was compiled for {most}");
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("shorten the prompt, or compile with a larger [target] max_context"));
        }
        self.make_room(place, total as usize)?;
        self.sequence_mut(id)?.push(tokens);
        Ok(())
    }

    /// Errors: a token outside the vocabulary.
    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model().plan().model.vocab;
        let Some(token) = tokens.iter().find(|t| u64::from(**t) >= vocab) else { return Ok(()) };
        let message = format!("token {token} is not in the model's vocabulary of {vocab}");
        Err(Error::new(ErrorKind::BadInput, message).help("is the tokenizer this model's?"))
    }

    /// Gives the sequence in a place pages for `total` tokens, and has those that steps will write to be its own: a page
    /// that others use is copied. Errors: no free pages, a device's; nothing has changed then.
    pub(super) fn make_room(&mut self, place: usize, total: usize) -> Result<()> {
        let page = self.model().plan().model.page as usize;
        let Some(s) = self.sequences[place].as_ref().filter(|s| total > s.len) else { return Ok(()) };
        let (have, next) = (s.pages.len(), s.len / page);
        let shared: Vec<(usize, i32)> =
            (next..have).map(|i| (i, s.pages[i])).filter(|(_, page)| self.pool.users(*page) > 1).collect();
        let missing = total.div_ceil(page).saturating_sub(have) + shared.len();
        let mut new = self.take_pages(missing)?;
        for ((_, from), to) in shared.iter().zip(&new) {
            if let Err(error) = self.engine.copy_page(*from, *to) {
                self.pool.release(&new);
                return Err(error);
            }
        }
        let more = new.split_off(shared.len());
        if let Some(s) = &mut self.sequences[place] {
            shared.iter().zip(&new).for_each(|((index, _), page)| s.pages[*index] = *page);
            s.pages.extend(more);
        }
        shared.iter().for_each(|(_, page)| self.pool.release(&[*page]));
        Ok(())
    }

    /// Takes free pages; where there are too few, stored prefixes give theirs, the one first that was used longest ago of
    /// those that have a page to give.
    fn take_pages(&mut self, count: usize) -> Result<Vec<i32>> {
        if count > self.pool.free() {
            let free = self.pool.free() + self.prefixes.pages_alone(&self.pool);
            if count > free {
                let page = self.model().plan().model.page;
                let message = format!("{count} pages of {page} tokens are needed, {free} are free");
                return Err(Error::new(ErrorKind::Resource, message)
                    .help("remove a sequence, or allow the session more tokens (`max_tokens`)"));
            }
            while count > self.pool.free() && self.prefixes.drop_for_pages(&mut self.pool) {}
        }
        self.pool.take(count).ok_or_else(|| Error::new(ErrorKind::Resource, "no page is free"))
    }
}
