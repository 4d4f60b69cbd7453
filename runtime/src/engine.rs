//! One forward pass over the plan: arena, caches, and an executor.

use hyc_ir::abi::StepContext;
use hyc_ir::plan::{Buffer, BufferId, CacheId, CachePolicy, Elem, KernelSpec, Operand, Rows, Step, StepOp};
use hyc_ir::sample::{ONE, SampleParams, Seen, most_seen};
use hyc_ir::sampling::MAX_PENALTY_WINDOW;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Executor, Pass};
use crate::memory::{Block, cache_pages};
use crate::model::Model;

/// What a step runs on: rows of one or more sequences.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepInput {
    /// `[tokens]` vocabulary ids.
    pub token_ids: Vec<i32>,
    /// `[tokens]` positions.
    pub positions: Vec<i32>,
    /// `[tokens]` index of the row's sequence, `0..batch`.
    pub sequence: Vec<i32>,
    /// `[batch][max_pages]` physical pages.
    pub page_table: Vec<i32>,
    /// `[batch]` ring slots.
    pub ring_slot: Vec<i32>,
    /// `[outputs]` rows whose logits are wanted.
    pub out_rows: Vec<i32>,
    /// `[outputs]` how a token is chosen from each, where the plan has a step for it; empty: none is.
    pub sampling: Vec<SampleParams>,
    /// The tokens that penalties look at, of all rows of `sampling`, which say where theirs are.
    pub seen: Vec<Seen>,
}

/// A buffer's rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Activations.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
}

/// Addresses of each step's operands.
struct Addresses(Vec<Vec<*mut u8>>);

// SAFETY: they point into memory that the engine or its executor owns, or into weights that nobody writes.
unsafe impl Send for Addresses {}

/// Memory and executor of a model.
///
/// Kernels follow indices that earlier steps wrote, so steps run in the plan's order or not at all.
pub struct Engine<'m> {
    model: &'m Model,
    specs: Vec<KernelSpec>,
    arena: Box<dyn Block>,
    caches: Vec<Box<dyn Block>>,
    cache_pages: Vec<u64>,
    executor: Box<dyn Executor + 'm>,
    operands: Addresses,
    input: StepInput,
    max_pages: u64,
    /// The step after the last that ran on the input in hand; `None`: there is no input.
    next: Option<usize>,
}

impl<'m> Engine<'m> {
    /// Allocates the arena and the caches: `pages` pages in each growing cache, `sequences` ring slots.
    ///
    /// Errors: an executor of another model; no room.
    pub fn new(
        model: &'m Model,
        executor: Box<dyn Executor + 'm>,
        pages: u64,
        sequences: u64,
    ) -> Result<Engine<'m>> {
        let plan = model.plan();
        if executor.model().is_some_and(|id| id != model.id()) {
            let message = format!("this executor was made for another model than {}", model.path().display());
            return Err(
                Error::new(ErrorKind::BadInput, message).help("make it from the model that it shall run")
            );
        }
        let counts: Vec<u64> = plan.caches.iter().map(|c| cache_pages(c.policy, pages, sequences)).collect();
        let caches = plan.caches.iter().zip(&counts).map(|(c, n)| {
            let bytes = n.checked_mul(c.page_bytes());
            executor.zeroed(bytes.ok_or_else(|| Error::new(ErrorKind::Resource, "the caches are too large"))?)
        });
        let caches: Vec<Box<dyn Block>> = caches.collect::<Result<_>>()?;
        let arena = executor.zeroed(plan.arena_bytes)?;
        let address = |operand: &Operand| match *operand {
            Operand::Buffer(id) => Ok(arena.address().wrapping_add(plan.buffers[id.index()].offset as usize)),
            Operand::Weight(id) => executor.weight(model, id),
            Operand::Cache(id) => Ok(caches[id.index()].address()),
        };
        let operands = plan.steps.iter().map(|step| step.operands.iter().map(address).collect());
        let operands = Addresses(operands.collect::<Result<_>>()?);
        Ok(Engine {
            model,
            specs: plan.steps.iter().map(|step| plan.spec(step)).collect(),
            arena,
            caches,
            cache_pages: counts,
            executor,
            operands,
            input: StepInput::default(),
            max_pages: 0,
            next: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Fills all keys and values of all caches with `value`s, some millions of them over and over: a context
    /// without a prefill, to measure with.
    pub fn fill_caches(&mut self, mut value: impl FnMut() -> f32) -> Result<()> {
        // No multiple of a page, so that pages differ.
        const ELEMENTS: usize = (1 << 21) + 24;
        let row: Vec<f32> = (0..ELEMENTS).map(|_| value()).collect();
        for (cache, memory) in self.model.plan().caches.iter().zip(&mut self.caches) {
            let mut pattern = Vec::new();
            hyc_ir::pack::pack_row(cache.elem, &row, &mut pattern);
            memory.fill(&pattern)?;
        }
        Ok(())
    }

    /// Takes a step's input, after checking all of it: ids, positions, pages and rows in range.
    pub fn begin(&mut self, input: StepInput) -> Result<()> {
        let (m, batch) = (&self.model.plan().model, input.ring_slot.len());
        let bad = |what: String| Err(Error::new(ErrorKind::BadInput, what));
        let tokens = input.token_ids.len();
        if tokens == 0 || tokens as u64 > m.chunk || batch as u64 > m.max_batch || batch == 0 {
            return bad(format!(
                "a step of {tokens} tokens in {batch} sequences; at most {} in {}",
                m.chunk, m.max_batch
            ));
        }
        if input.out_rows.len() as u64 > m.max_outputs {
            return bad(format!(
                "{} rows of logits in a step; at most {}",
                input.out_rows.len(),
                m.max_outputs
            ));
        }
        if input.positions.len() != tokens
            || input.sequence.len() != tokens
            || input.page_table.len() % batch != 0
        {
            return bad("the parts of a step's input differ in length".to_string());
        }
        let max_pages = input.page_table.len() / batch;
        if max_pages as u64 > m.max_context.div_ceil(m.page) {
            return bad(format!("{max_pages} pages of a sequence are more than its context has"));
        }
        if let Some(id) = input.token_ids.iter().find(|id| **id < 0 || **id as u64 >= m.vocab) {
            return bad(format!("token id {id} is not in the vocabulary of {}", m.vocab))
                .map_err(|e: Error| e.help("is the tokenizer this model's?"));
        }
        self.check_places(&input, max_pages)?;
        let slots = self.ring_slots();
        if input.ring_slot.iter().any(|slot| *slot < 0 || *slot as u64 >= slots) {
            return bad("a ring slot is out of range".to_string());
        }
        if input.out_rows.iter().any(|row| *row < 0 || *row as usize >= tokens) {
            return bad("a row of logits is out of range".to_string());
        }
        self.check_sampling(&input)?;
        if !input.sampling.is_empty() && input.sampling.len() != input.out_rows.len() {
            return bad("the parts of a step's input differ in length".to_string());
        }
        self.max_pages = max_pages as u64;
        self.input = input;
        self.next = None;
        let context = self.context();
        // SAFETY: the lists are `input`'s, whose lengths and values were checked above.
        unsafe { self.executor.begin(&context) }?;
        self.next = Some(0);
        Ok(())
    }

    /// Every parameter is in its range, and every row's tokens are in the list, ascend and are in the vocabulary.
    fn check_sampling(&self, input: &StepInput) -> Result<()> {
        let m = &self.model.plan().model;
        let bad = |what: &str| Err(Error::new(ErrorKind::BadInput, what));
        if input.seen.len() as u64 > most_seen(m) {
            return bad("penalties look at more tokens than a step has room for");
        }
        for p in &input.sampling {
            if !(p.scale.is_finite() && p.scale >= 0.0 && p.top_p >= 0.0 && p.least <= ONE) {
                return bad("parameters of sampling are out of range");
            }
            let first = p.first_seen as usize;
            let row = first.checked_add(p.seen as usize).and_then(|end| input.seen.get(first..end));
            let Some(row) = row.filter(|row| row.len() <= MAX_PENALTY_WINDOW as usize) else {
                return bad("the tokens that a row's penalties look at are not in the list");
            };
            // Each once, so that a kernel's threads never share a logit.
            if !row.is_sorted_by(|a, b| a.id < b.id) || row.last().is_some_and(|s| u64::from(s.id) >= m.vocab)
            {
                return bad("the tokens that penalties look at do not ascend within the vocabulary");
            }
            let good = p.repeat > 0.0 && [p.repeat, p.presence, p.frequency].iter().all(|x| x.is_finite());
            if !(good || row.is_empty()) {
                return bad("penalties are out of range");
            }
        }
        Ok(())
    }

    /// Every row's position is within its sequence's pages, which are all there.
    fn check_places(&self, input: &StepInput, max_pages: usize) -> Result<()> {
        let (m, batch) = (&self.model.plan().model, input.ring_slot.len());
        let bad = |what: String| Err(Error::new(ErrorKind::BadInput, what));
        // The last position of each sequence, whose pages are then looked at once.
        let mut last: Vec<Option<i32>> = vec![None; batch];
        let mut before = None;
        for (position, sequence) in input.positions.iter().zip(&input.sequence) {
            let place = usize::try_from(*sequence).ok().and_then(|place| last.get_mut(place));
            let logical = usize::try_from(*position).ok().map(|p| p / m.page as usize);
            match place {
                Some(place)
                    if logical.is_some_and(|l| l < max_pages) && (*position as u64) < m.max_context =>
                {
                    // Kernels take runs of rows for one sequence's, and a run's last row for its newest.
                    if before != Some(*sequence) && place.is_some() {
                        return bad(format!("the rows of sequence {sequence} do not stand together"));
                    }
                    if place.is_some_and(|last| last >= *position) {
                        return bad(format!(
                            "the positions of sequence {sequence} do not ascend at {position}"
                        ));
                    }
                    *place = Some(*position);
                    before = Some(*sequence);
                }
                _ => return bad(format!("position {position} of sequence {sequence} is out of range")),
            }
        }
        let pages = self.growing_pages();
        for (sequence, position) in last.into_iter().enumerate() {
            let Some(position) = position else { continue };
            let row = &input.page_table
                [sequence * max_pages..=sequence * max_pages + position as usize / m.page as usize];
            if row.iter().any(|page| *page < 0 || *page as u64 >= pages) {
                return bad(format!("sequence {sequence} has no page for position {position}"));
            }
        }
        Ok(())
    }

    fn growing_pages(&self) -> u64 {
        let caches = self.model.plan().caches.iter().zip(&self.cache_pages);
        caches.filter(|(c, _)| c.policy == CachePolicy::Growing).map(|(_, n)| *n).min().unwrap_or(u64::MAX)
    }

    fn ring_slots(&self) -> u64 {
        let slots =
            self.model.plan().caches.iter().zip(&self.cache_pages).filter_map(|(c, n)| match c.policy {
                CachePolicy::Ring { pages, .. } => n.checked_div(pages),
                CachePolicy::Growing => None,
            });
        slots.min().unwrap_or(u64::MAX)
    }

    /// The context of the step in hand.
    fn context(&self) -> StepContext {
        let i = &self.input;
        StepContext {
            tokens: i.token_ids.len() as u64,
            batch: i.ring_slot.len() as u64,
            outputs: i.out_rows.len() as u64,
            max_pages: self.max_pages,
            token_ids: i.token_ids.as_ptr(),
            positions: i.positions.as_ptr(),
            sequence: i.sequence.as_ptr(),
            page_table: i.page_table.as_ptr(),
            ring_slot: i.ring_slot.as_ptr(),
            out_rows: i.out_rows.as_ptr(),
            sampling: if i.sampling.is_empty() { std::ptr::null() } else { i.sampling.as_ptr() },
            seen_count: i.seen.len() as u64,
            seen: if i.seen.is_empty() { std::ptr::null() } else { i.seen.as_ptr() },
        }
    }

    /// Runs step `index` of the plan on the input in hand: the next one, or again one that has run since
    /// [`Engine::begin`]. Errors: no such step, or one whose predecessors have not run.
    pub fn run_step(&mut self, index: usize) -> Result<()> {
        let (plan, context) = (self.model.plan(), self.context());
        let (Some(step), Some(next)) = (plan.steps.get(index), self.next) else {
            let message = match self.next {
                Some(_) => format!("there is no step {index}: the plan has {}", plan.steps.len()),
                None => format!("step {index} has no input"),
            };
            return Err(Error::new(ErrorKind::BadInput, message).help("`Engine::begin` takes a step's input"));
        };
        if index > next {
            let message = format!("step {index} cannot run before step {next}, whose results it may read");
            return Err(Error::new(ErrorKind::BadInput, message).help("run the plan's steps in their order"));
        }
        if !matches!(step.op, StepOp::Sample { .. }) || !context.sampling.is_null() {
            // SAFETY: operands and lists are as the verified plan says; `begin` has taken this context, and the steps
            // before this one have run on it.
            unsafe {
                self.executor.run(plan, index, step, &self.specs[index], &context, &self.operands.0[index])
            }?;
        }
        // What a repeated step overwrote was memory of later steps' results.
        self.next = Some(index + 1);
        Ok(())
    }

    /// Runs all steps of the plan on the input in hand, as fast as the executor can.
    pub fn run_pass(&mut self) -> Result<()> {
        let (plan, context) = (self.model.plan(), self.context());
        let pass = Pass { plan, context: &context, operands: &self.operands.0 };
        // SAFETY: as in `run_step`, of all steps in turn.
        if self.next == Some(0) && unsafe { self.executor.run_all(&pass) }? {
            self.next = Some(plan.steps.len());
            return Ok(());
        }
        (0..plan.steps.len()).try_for_each(|index| self.run_step(index))
    }

    /// The tokens that the pass in hand has sampled, one an output; -1 where a row's logits are no numbers. `None`:
    /// the plan samples nothing. Errors: a kernel before it failed.
    pub fn sampled(&mut self) -> Result<Option<Vec<i32>>> {
        let Some(id) = self.model.plan().sampled.filter(|_| !self.input.sampling.is_empty()) else {
            return Ok(None);
        };
        let rows = self.input.out_rows.len();
        if let Some(tokens) = self.executor.sampled(rows)? {
            return Ok(Some(tokens));
        }
        match self.buffer(id)? {
            Values::I32(tokens) => Ok(Some(tokens)),
            Values::F32(_) => Ok(None),
        }
    }

    /// The executor, to time its steps.
    pub fn executor(&mut self) -> &mut (dyn Executor + 'm) {
        self.executor.as_mut()
    }

    /// Waits for what was started. Errors: a kernel that failed meanwhile.
    pub fn synchronise(&mut self) -> Result<()> {
        self.executor.synchronise()
    }

    fn place(&self, id: BufferId) -> Result<&'m Buffer> {
        let buffers = &self.model.plan().buffers;
        buffers.get(id.index()).ok_or_else(|| {
            Error::new(
                ErrorKind::BadInput,
                format!("there is no buffer {id}: the plan has {}", buffers.len()),
            )
        })
    }

    /// The rows of a buffer that this step has written, without padding. Errors: no such buffer; a kernel before it
    /// failed.
    pub fn buffer(&self, id: BufferId) -> Result<Values> {
        let buffer = self.place(id)?;
        let bytes = self.written(id)?;
        let words = bytes
            .chunks_exact(buffer.stride() as usize * 4)
            .flat_map(|row| row[..buffer.width as usize * 4].chunks_exact(4))
            .map(|b| [b[0], b[1], b[2], b[3]]);
        Ok(match buffer.elem {
            Elem::I32 => Values::I32(words.map(i32::from_le_bytes).collect()),
            _ => Values::F32(words.map(f32::from_le_bytes).collect()),
        })
    }

    /// Takes over what the last step has written to a buffer in `other`, an engine of the same model that has run the
    /// same steps on the same input. Errors: another engine than that, another buffer; a kernel before it failed, here
    /// or there.
    pub fn adopt(&mut self, other: &Engine<'_>, id: BufferId) -> Result<()> {
        let last = self.next.and_then(|next| self.model.plan().steps.get(next.checked_sub(1)?));
        let written = last.is_some_and(|step| {
            let operands = step.operands.iter().zip(step.op.signature());
            operands.into_iter().any(|(operand, role)| role.write && *operand == Operand::Buffer(id))
        });
        let alike = self.model.id() == other.model.id()
            && (self.next, &self.input, self.max_pages) == (other.next, &other.input, other.max_pages);
        if !written || !alike {
            let message = format!("{id} cannot be taken over from an engine that stands elsewhere");
            return Err(Error::new(ErrorKind::BadInput, message).help(
                "run the same step of the same model on the same input in both, then adopt its results",
            ));
        }
        let (offset, bytes) = (self.place(id)?.offset, other.written(id)?);
        self.arena.write(offset, &bytes)
    }

    /// The bytes of a buffer's rows that this step has written, padding included.
    fn written(&self, id: BufferId) -> Result<Vec<u8>> {
        let buffer = self.place(id)?;
        let mut bytes = vec![0; self.rows(buffer) * buffer.stride() as usize * 4];
        self.arena.read(buffer.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Rows of a buffer in this step.
    fn rows(&self, buffer: &Buffer) -> usize {
        match buffer.rows {
            Rows::Tokens => self.input.token_ids.len(),
            Rows::Outputs => self.input.out_rows.len(),
        }
    }

    /// Row and value of the first f32 element that `step` has written and that is not finite.
    pub(crate) fn first_bad_number(&self, step: &Step) -> Result<Option<(u64, f32)>> {
        for (operand, role) in step.operands.iter().zip(step.op.signature()) {
            if let (true, Operand::Buffer(id)) = (role.write, *operand)
                && let Values::F32(values) = self.buffer(id)?
                && let Some(at) = values.iter().position(|x| !x.is_finite())
            {
                return Ok(Some((at as u64 / self.place(id)?.width, values[at])));
            }
        }
        Ok(None)
    }

    /// One row of an f32 buffer. Errors: no such buffer or row; a kernel before it failed.
    pub fn row(&self, id: BufferId, row: u64) -> Result<Vec<f32>> {
        let buffer = self.place(id)?;
        let rows = self.rows(buffer);
        if row >= rows as u64 {
            return Err(Error::new(
                ErrorKind::BadInput,
                format!("{id} has no row {row} in this step, but {rows}"),
            ));
        }
        let mut bytes = vec![0; buffer.width as usize * 4];
        self.arena.read(buffer.offset + row * buffer.stride() * 4, &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Key and value, `[kv_heads][dim]` each, of a position of row `sequence` of the step in hand. Errors: no such
    /// cache, sequence or position; a kernel before it failed.
    pub fn cache_kv(&self, id: CacheId, sequence: usize, position: u64) -> Result<(Vec<f32>, Vec<f32>)> {
        let nothing = || {
            let message =
                format!("cache {id} holds no position {position} of sequence {sequence} in this step");
            Error::new(ErrorKind::BadInput, message)
        };
        let cache = self.model.plan().caches.get(id.index()).ok_or_else(nothing)?;
        let memory = self.caches.get(id.index()).ok_or_else(nothing)?;
        let logical = position / cache.page;
        let physical = match cache.policy {
            CachePolicy::Growing => {
                let pages = usize::try_from(self.max_pages).ok().filter(|pages| logical < *pages as u64);
                let row =
                    pages.and_then(|pages| self.input.page_table.chunks_exact(pages.max(1)).nth(sequence));
                row.and_then(|row| row.get(logical as usize).copied()).map(i64::from)
            }
            CachePolicy::Ring { pages, .. } => {
                let slot = self.input.ring_slot.get(sequence).copied();
                slot.map(|slot| i64::from(slot) * pages as i64 + (logical % pages) as i64)
            }
        };
        let physical = physical.and_then(|page| u64::try_from(page).ok()).ok_or_else(nothing)?;
        let mut page = vec![0; cache.page_bytes() as usize];
        memory.read(physical.saturating_mul(cache.page_bytes()), &mut page)?;
        let spec = cache.spec();
        let place = position % cache.page;
        let load = |index: u64| hyc_ir::pack::load(cache.elem, &page, index);
        let key = |h: u64, d: u64| load(spec.key_index(h, place, d));
        let value = |h: u64, d: u64| load(spec.value_index(h, place, d));
        let all = |dim: u64, f: &dyn Fn(u64, u64) -> f32| {
            (0..cache.kv_heads).flat_map(|h| (0..dim).map(move |d| (h, d))).map(|(h, d)| f(h, d)).collect()
        };
        Ok((all(cache.qk_dim, &key), all(cache.v_dim, &value)))
    }
}
