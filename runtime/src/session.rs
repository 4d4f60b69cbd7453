//! Sequences with their pages, and the steps that advance them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyc_plan::Step;
use hyc_plan::sample::{SampleParams, penalise_and_choose};

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Executor, open_executor};
use crate::memory_plan::MemoryPlan;
use crate::model::Model;
use crate::options::SessionOptions;
use crate::sampling::{Sampler, Sampling, out_of_range};
use crate::step_input::StepInput;

/// A sequence of a session. No two sequences of a process have the same one, whatever their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    session: u64,
    number: u64,
}

impl std::fmt::Display for SequenceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number)
    }
}

/// Sessions that this process has set up.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// What a step gave.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Logits after the last token that was fed to a sequence, for those that are through with theirs;
    /// with [`Session::set_all_logits`] one entry for each row, in order.
    pub logits: Vec<(SequenceId, Vec<f32>)>,
    /// Tokens that went through.
    pub tokens: u64,
}

struct Sequence {
    id: SequenceId,
    /// Tokens in the caches.
    len: u64,
    pending: std::collections::VecDeque<u32>,
    pages: Vec<i32>,
    slot: i32,
    sampler: Sampler,
    /// The token that was chosen last and has not been fed.
    chosen: Option<u32>,
}

/// What a sampling step gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampledOutput {
    /// The next token of each sequence that is through with what was fed to it. It is not fed.
    pub sampled: Vec<(SequenceId, u32)>,
    /// Tokens that went through.
    pub tokens: u64,
}

/// Several sequences on one model.
pub struct Session {
    engine: Engine,
    memory: MemoryPlan,
    sequences: Vec<Option<Sequence>>,
    free_pages: Vec<i32>,
    all_logits: bool,
    /// Of [`SESSIONS`], as every sequence of this one carries it.
    number: u64,
    /// Ids given out.
    ids: u64,
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
        let executor = open_executor(&model, options, &memory, progress)?;
        Session::build(model, executor, memory)
    }

    /// The same with another executor, such as an interpreter.
    pub fn with_executor(
        model: impl Into<Arc<Model>>,
        executor: Box<dyn Executor>,
        options: &SessionOptions,
    ) -> Result<Session> {
        let model = model.into();
        let memory = MemoryPlan { scratch: 0, ..MemoryPlan::of(&model, options)? };
        memory.check(model.plan())?;
        Session::build(model, executor, memory)
    }

    fn build(model: Arc<Model>, executor: Box<dyn Executor>, memory: MemoryPlan) -> Result<Session> {
        let engine = Engine::new(model, executor, memory.room)?;
        Ok(Session {
            engine,
            memory,
            sequences: (0..memory.room.sequences).map(|_| None).collect(),
            free_pages: (0..memory.room.pages as i32).rev().collect(),
            all_logits: false,
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
            ids: 0,
        })
    }

    /// The model, which lives as long as the session.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Arena and caches, to look at after a step.
    pub fn engine(&self) -> &Engine {
        &self.engine
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
        let Some(slot) = self.sequences.iter().position(Option::is_none) else {
            let message = format!("all {} sequences are in use", self.sequences.len());
            return Err(Error::new(ErrorKind::Resource, message)
                .help("remove one, or compile with a larger max_batch"));
        };
        let id = SequenceId { session: self.number, number: self.ids };
        self.ids += 1;
        let pending = Default::default();
        self.sequences[slot] = Some(Sequence {
            id,
            len: 0,
            pending,
            pages: Vec::new(),
            slot: slot as i32,
            sampler: Sampler::default(),
            chosen: None,
        });
        Ok(id)
    }

    /// Drops a sequence; its pages are free again. Errors: one that is gone already, or another session's.
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<()> {
        let place = self.place(id)?;
        if let Some(sequence) = self.sequences[place].take() {
            self.free_pages.extend(sequence.pages.into_iter().rev());
        }
        Ok(())
    }

    /// Index of a sequence that is there.
    fn place(&self, id: SequenceId) -> Result<usize> {
        let found = self.sequences.iter().position(|s| s.as_ref().is_some_and(|s| s.id == id));
        found.ok_or_else(|| gone(self.number, id))
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence> {
        let place = self.place(id)?;
        self.sequences[place].as_ref().ok_or_else(|| gone(self.number, id))
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence> {
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

    /// Pages of the growing caches that no sequence has.
    pub fn free_pages(&self) -> u64 {
        self.free_pages.len() as u64
    }

    /// Tokens of a sequence, those that wait included.
    pub fn len(&self, id: SequenceId) -> Result<u64> {
        self.sequence(id).map(|s| s.len + s.pending.len() as u64)
    }

    /// Tokens of a sequence that wait for a step.
    pub fn pending(&self, id: SequenceId) -> Result<u64> {
        self.sequence(id).map(|s| s.pending.len() as u64)
    }

    /// Gives a sequence tokens and the pages for them. Errors: a context longer than the model's, a token
    /// outside the vocabulary, no free pages; nothing has changed then.
    pub fn feed(&mut self, id: SequenceId, tokens: &[u32]) -> Result<()> {
        let m = self.model().plan().model.clone();
        if let Some(token) = tokens.iter().find(|t| u64::from(**t) >= m.vocab) {
            let message = format!("token {token} is not in the model's vocabulary of {}", m.vocab);
            return Err(Error::new(ErrorKind::BadInput, message).help("is the tokenizer this model's?"));
        }
        let free = self.free_pages.len();
        let s = self.sequence(id)?;
        let total = s.len + (s.pending.len() + tokens.len()) as u64;
        if total > m.max_context {
            let message = format!("{total} tokens do not fit: the model was compiled for {}", m.max_context);
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("shorten the prompt, or compile with a larger [target] max_context"));
        }
        let missing = (total.div_ceil(m.page) as usize).saturating_sub(s.pages.len());
        if missing > free {
            let message = format!("{missing} pages of {} tokens are needed, {free} are free", m.page);
            return Err(Error::new(ErrorKind::Resource, message)
                .help("remove a sequence, or allow the session more tokens (`max_tokens`)"));
        }
        let pages = self.free_pages.split_off(free - missing);
        let s = self.sequence_mut(id)?;
        let generated = usize::from(!tokens.is_empty() && s.chosen == tokens.first().copied());
        s.sampler.see(&tokens[..generated], true);
        s.sampler.see(&tokens[generated..], false);
        s.chosen = s.chosen.filter(|_| tokens.is_empty());
        s.pending.extend(tokens);
        s.pages.extend(pages.into_iter().rev());
        Ok(())
    }

    /// Runs one step over what waits: decode rows first, then prompts in chunks.
    ///
    /// Errors: a step that computes something that is no number, which the message names. Every sequence
    /// stands as before then, with its tokens waiting: remove one, and the others go on.
    pub fn step(&mut self) -> Result<StepOutput> {
        self.step_with(&mut |engine| engine.run_pass())
    }

    /// The same, and chooses a token for each sequence that is through: on the device, where the plan samples
    /// there, so that no logits are copied; else on the host, with the same result.
    ///
    /// Errors: those of [`Session::step`]; after one, a sequence's draws stand as before too. A session of
    /// [`Session::set_all_logits`].
    pub fn step_sampled(&mut self) -> Result<SampledOutput> {
        self.sample_step(None)
    }

    /// The same for one sequence alone: what waits of the others goes on waiting, and no token of theirs is drawn.
    ///
    /// Errors: those of [`Session::step_sampled`]; there is no such sequence.
    pub fn step_sampled_of(&mut self, id: SequenceId) -> Result<SampledOutput> {
        self.place(id)?;
        self.sample_step(Some(id))
    }

    fn sample_step(&mut self, only: Option<SequenceId>) -> Result<SampledOutput> {
        if self.all_logits {
            return Err(Error::new(ErrorKind::BadInput, "a session that returns all logits samples nothing"));
        }
        let (mut input, taken, outputs) = self.schedule(only);
        if input.token_ids.is_empty() {
            return Ok(SampledOutput::default());
        }
        let tokens = input.token_ids.len() as u64;
        let mut seen = Vec::new();
        let next = outputs.iter().map(|id| Ok(self.sequence(*id)?.sampler.next(&mut seen)));
        let (params, states): (Vec<SampleParams>, Vec<u64>) =
            next.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let model = Arc::clone(self.model());
        let plan = model.plan();
        if plan.sampled.is_some() {
            input.sampling.clone_from(&params);
            input.seen.clone_from(&seen);
        }
        self.engine.begin(input)?;
        self.engine.run_pass()?;
        let chosen: Vec<Option<u32>> = match self.engine.sampled()? {
            Some(tokens) => tokens.into_iter().map(|token| u32::try_from(token).ok()).collect(),
            None => (0u64..)
                .zip(&params)
                .map(|(row, params)| {
                    Ok(penalise_and_choose(&mut self.engine.row(plan.logits, row)?, params, &seen))
                })
                .collect::<Result<_>>()?,
        };
        let mut sampled = Vec::with_capacity(outputs.len());
        for (id, token) in outputs.iter().zip(chosen) {
            sampled.push((*id, token.ok_or_else(|| self.not_finite(*id))?));
        }
        self.advance(taken)?;
        for ((id, token), state) in sampled.iter().zip(states) {
            let s = self.sequence_mut(*id)?;
            s.sampler.advance(state);
            s.chosen = Some(*token);
        }
        Ok(SampledOutput { sampled, tokens })
    }

    /// Takes the tokens that went through from what waits.
    fn advance(&mut self, taken: Vec<(SequenceId, usize)>) -> Result<()> {
        for (id, count) in taken {
            let s = self.sequence_mut(id)?;
            s.pending.drain(..count);
            s.len += count as u64;
        }
        Ok(())
    }

    /// The same; `observer` sees the engine after each step of the plan.
    pub fn step_observed(&mut self, observer: &mut dyn FnMut(&Step, &Engine)) -> Result<StepOutput> {
        self.step_with(&mut |engine| {
            let model = Arc::clone(engine.model());
            for (index, step) in model.plan().steps.iter().enumerate() {
                engine.run_step(index)?;
                observer(step, engine);
            }
            Ok(())
        })
    }

    /// Schedules a pass, has `run` execute it, and takes its results.
    fn step_with(&mut self, run: &mut dyn FnMut(&mut Engine) -> Result<()>) -> Result<StepOutput> {
        let (input, taken, outputs) = self.schedule(None);
        if input.token_ids.is_empty() {
            return Ok(StepOutput::default());
        }
        let tokens = input.token_ids.len() as u64;
        self.engine.begin(input)?;
        run(&mut self.engine)?;
        let plan = self.engine.model().plan();
        let rows = outputs.into_iter().enumerate();
        let logits: Vec<(SequenceId, Vec<f32>)> = rows
            .map(|(row, id)| Ok((id, self.engine.row(plan.logits, row as u64)?)))
            .collect::<Result<_>>()?;
        if let Some((id, _)) = logits.iter().find(|(_, values)| values.iter().any(|x| !x.is_finite())) {
            return Err(self.not_finite(*id));
        }
        self.advance(taken)?;
        Ok(StepOutput { logits, tokens })
    }

    /// Runs the step in hand again, which writes the same to the same places, and looks at every result for
    /// the first that is no number.
    fn not_finite(&mut self, id: SequenceId) -> Error {
        let model = Arc::clone(self.model());
        let plan = model.plan();
        let mut place = "the logits".to_string();
        for (index, step) in plan.steps.iter().enumerate() {
            if let Err(error) = self.engine.run_step(index) {
                return error;
            }
            match self.engine.first_bad_number(step) {
                Ok(None) => {}
                Ok(Some((row, value))) => {
                    place = format!("row {row} of step {} ({value})", step.name);
                    break;
                }
                Err(error) => return error,
            }
        }
        let message = format!("sequence {id}: {place} is no number: the model's values have overflowed");
        Error::new(ErrorKind::BadNumbers, message)
            .help("check the weights of that layer; `hyc diff` says whether the reference does the same")
    }

    /// The next step's rows (`only` of one sequence), how many tokens each sequence gives, and whose logits come out.
    fn schedule(&self, only: Option<SequenceId>) -> (StepInput, Vec<(SequenceId, usize)>, Vec<SequenceId>) {
        let m = &self.model().plan().model;
        let waits = |s: &&Sequence| !s.pending.is_empty() && only.is_none_or(|id| s.id == id);
        let mut order: Vec<&Sequence> = self.sequences.iter().flatten().filter(waits).collect();
        order.sort_by_key(|s| (s.pending.len() > 1, s.id));
        order.truncate(m.max_batch as usize);
        let max_pages = order.iter().map(|s| s.pages.len()).max().unwrap_or(0);
        let limit = if self.all_logits { m.chunk.min(m.max_outputs) } else { m.chunk } as usize;
        let (mut input, mut taken, mut outputs) = (StepInput::default(), Vec::new(), Vec::new());
        for s in order {
            let count = s.pending.len().min(limit - input.token_ids.len());
            let ends = count == s.pending.len();
            if count == 0 || (ends && !self.all_logits && outputs.len() as u64 == m.max_outputs) {
                continue;
            }
            let index = input.ring_slot.len() as i32;
            for (offset, token) in s.pending.iter().take(count).enumerate() {
                if self.all_logits || (ends && offset + 1 == count) {
                    input.out_rows.push(input.token_ids.len() as i32);
                    outputs.push(s.id);
                }
                input.token_ids.push(*token as i32);
                input.positions.push((s.len + offset as u64) as i32);
                input.sequence.push(index);
            }
            let row = s.pages.iter().copied().chain(std::iter::repeat(-1)).take(max_pages);
            input.page_table.extend(row);
            input.ring_slot.push(s.slot);
            taken.push((s.id, count));
        }
        (input, taken, outputs)
    }
}

/// The error of a sequence that session `number` does not have.
fn gone(number: u64, id: SequenceId) -> Error {
    let (message, help) = match id.session == number {
        true => (format!("sequence {id} was removed"), "`add_sequence` makes a new one"),
        false => (
            format!("sequence {id} is of another session"),
            "a sequence lives in the session whose `add_sequence` made it",
        ),
    };
    Error::new(ErrorKind::BadInput, message).help(help)
}
