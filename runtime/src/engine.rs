//! One forward pass over the plan, on a runner.

use std::sync::Arc;

use hyc_plan::abi::StepContext;
use hyc_plan::{Buffer, BufferId, CacheId, CachePolicy, CacheSpec, Operand, Plan, Rows, Step};

use crate::error::{Error, ErrorKind, Result};
use crate::kv::{KvRoom, Ring};
use crate::memory::Block;
use crate::model::Model;
use crate::runner::{Clock, HostRunner, Kernels, Memory, Runner};
use crate::step_input::StepInput;

mod replace;
mod values;

pub use values::Values;

/// A runner, and the pass that it has in hand.
///
/// Kernels follow indices that earlier steps wrote, so steps run in the plan's order or not at all.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// use hyc_runtime::{Engine, KvRoom, StepInput};
///
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().load()?;
/// let mut engine = Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(4, 1))?;
/// // One sequence of two rows, on page 3 of the growing caches.
/// engine.begin(StepInput {
///     token_ids: vec![1, 2],
///     positions: vec![0, 1],
///     sequence: vec![0, 0],
///     page_table: vec![3],
///     ring_slot: vec![0],
///     out_rows: vec![1],
///     ..StepInput::default()
/// })?;
/// engine.run_pass()?;
/// assert_eq!(engine.row(model.plan().logits, 0)?.len(), 16);
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    runner: Box<dyn Runner>,
    input: StepInput,
    max_pages: u64,
    /// The step after the last that ran on the input in hand; `None`: there is no input.
    next: Option<usize>,
}

impl Engine {
    /// An engine on a runner's memory.
    pub fn new(runner: Box<dyn Runner>) -> Engine {
        Engine { runner, input: StepInput::default(), max_pages: 0, next: None }
    }

    /// The same on the host, with other kernels than the artefact's: an interpreter's, say. Errors: kernels of another
    /// model; no room.
    pub fn with_kernels(
        model: impl Into<Arc<Model>>,
        kernels: Box<dyn Kernels>,
        room: KvRoom,
    ) -> Result<Engine> {
        Ok(Engine::new(Box::new(HostRunner::new(model, kernels, room)?)))
    }

    /// The model, which lives as long as the engine.
    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    fn plan(&self) -> &Plan {
        self.model().plan()
    }

    /// Arena and caches, to be written.
    fn memory_mut(&mut self) -> &mut Memory {
        // SAFETY: no use of it in this file puts another memory there.
        unsafe { self.runner.memory_mut() }
    }

    /// Fills all keys and values of all caches with `value`s, some millions of them over and over: a context
    /// without a prefill, to measure with.
    pub fn fill_caches(&mut self, mut value: impl FnMut() -> f32) -> Result<()> {
        // No multiple of a page, so that pages differ.
        const ELEMENTS: usize = (1 << 21) + 24;
        let row: Vec<f32> = (0..ELEMENTS).map(|_| value()).collect();
        let model = Arc::clone(self.model());
        for (cache, memory) in model.plan().caches.iter().zip(self.memory_mut().caches_mut()) {
            let pattern = match cache.codec.elem() {
                Some(elem) => {
                    let mut pattern = Vec::new();
                    hyc_plan::pack::pack_row(elem, &row, &mut pattern);
                    pattern
                }
                None => pages(&cache.spec(), &row),
            };
            memory.fill(&pattern)?;
        }
        Ok(())
    }

    /// Takes a step's input, after checking all of it: ids, positions, pages and rows in range, and no two rows that
    /// would write to one place.
    pub fn begin(&mut self, input: StepInput) -> Result<()> {
        let room = self.runner.memory().room();
        input.check(&self.plan().model, room.pages, room.sequences)?;
        self.max_pages = (input.page_table.len() / input.ring_slot.len()) as u64;
        self.input = input;
        self.next = None;
        let context = self.context();
        // SAFETY: the lists are `input`'s, whose lengths and values were checked above.
        unsafe { self.runner.begin(&context) }?;
        self.next = Some(0);
        Ok(())
    }

    /// The input in hand.
    pub(crate) fn input(&self) -> &StepInput {
        &self.input
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
        let (steps, context) = (self.plan().steps.len(), self.context());
        let Some(next) = self.next.filter(|_| index < steps) else {
            let message = match self.next {
                Some(_) => format!("there is no step {index}: the plan has {steps}"),
                None => format!("step {index} has no input"),
            };
            return Err(Error::new(ErrorKind::BadInput, message).help("`Engine::begin` takes a step's input"));
        };
        if index > next {
            let message = format!("step {index} cannot run before step {next}, whose results it may read");
            return Err(Error::new(ErrorKind::BadInput, message).help("run the plan's steps in their order"));
        }
        // SAFETY: `begin` has checked the lists and handed over this context, and the steps before have run on it.
        unsafe { self.runner.run_step(index, &context) }?;
        // What a repeated step overwrote was memory of later steps' results.
        self.next = Some(index + 1);
        Ok(())
    }

    /// Runs all steps of the plan on the input in hand, as fast as the runner can.
    pub fn run_pass(&mut self) -> Result<()> {
        let (steps, context) = (self.plan().steps.len(), self.context());
        if self.next != Some(0) {
            return (0..steps).try_for_each(|index| self.run_step(index));
        }
        // SAFETY: as in `run_step`, of all steps in turn.
        unsafe { self.runner.run_pass(&context) }?;
        self.next = Some(steps);
        Ok(())
    }

    /// The tokens that the pass in hand has sampled, one per output; -1 where a row's logits are no numbers. `None`:
    /// the plan samples nothing. Errors: a kernel before it failed.
    pub fn sampled(&mut self) -> Result<Option<Vec<i32>>> {
        let Some(id) = self.plan().sampled.filter(|_| !self.input.sampling.is_empty()) else {
            return Ok(None);
        };
        let rows = self.input.out_rows.len();
        if let Some(tokens) = self.runner.sampled(rows)? {
            return Ok(Some(tokens));
        }
        match self.buffer(id)? {
            Values::I32(tokens) => Ok(Some(tokens)),
            Values::F32(_) => Ok(None),
        }
    }

    /// What times its steps.
    pub fn clock(&mut self) -> &mut dyn Clock {
        self.runner.clock()
    }

    /// Waits for what was started. Errors: a kernel that failed meanwhile.
    pub fn synchronise(&mut self) -> Result<()> {
        self.runner.synchronise()
    }

    fn place(&self, id: BufferId) -> Result<&Buffer> {
        let buffers = &self.plan().buffers;
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
        Ok(values::decode(buffer, self.rows(buffer), &self.written(id)?))
    }

    /// Takes over what the last step has written to a buffer in `other`, an engine of the same model that has run the
    /// same steps on the same input. Errors: another engine than that, another buffer; a kernel before it failed, here
    /// or there.
    pub fn adopt(&mut self, other: &Engine, id: BufferId) -> Result<()> {
        let last = self.next.and_then(|next| self.plan().steps.get(next.checked_sub(1)?));
        let written = last.is_some_and(|step| {
            let operands = step.operands.iter().zip(step.op.roles());
            operands.into_iter().any(|(operand, role)| role.writes() && *operand == Operand::Buffer(id))
        });
        let alike = self.model().id() == other.model().id()
            && (self.next, &self.input, self.max_pages) == (other.next, &other.input, other.max_pages);
        if !written || !alike {
            let message = format!("{id} cannot be taken over from an engine that stands elsewhere");
            return Err(Error::new(ErrorKind::BadInput, message).help(
                "run the same step of the same model on the same input in both, then adopt its results",
            ));
        }
        let (offset, bytes) = (self.place(id)?.offset, other.written(id)?);
        self.memory_mut().write_arena(offset, &bytes)
    }

    /// The bytes of a buffer's rows that this step has written, padding included.
    fn written(&self, id: BufferId) -> Result<Vec<u8>> {
        let buffer = self.place(id)?;
        let mut bytes = vec![0; values::bytes(buffer, self.rows(buffer))];
        self.runner.memory().read_arena(buffer.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Rows of a buffer in this step.
    fn rows(&self, buffer: &Buffer) -> usize {
        match buffer.rows {
            Rows::Tokens => self.input.token_ids.len(),
            Rows::Outputs => self.input.out_rows.len(),
        }
    }

    /// The rows that `step` has written with an element that is not finite: what they follow, their index, and the
    /// first such element.
    pub(crate) fn bad_rows(&self, step: &Step) -> Result<Vec<(Rows, usize, f32)>> {
        let mut bad = Vec::new();
        for (operand, role) in step.operands.iter().zip(step.op.roles()) {
            let (true, Operand::Buffer(id)) = (role.writes(), *operand) else { continue };
            let (buffer, Values::F32(values)) = (self.place(id)?, self.buffer(id)?) else { continue };
            for (row, values) in values.chunks(buffer.width.max(1) as usize).enumerate() {
                let value = values.iter().find(|x| !x.is_finite());
                bad.extend(value.map(|value| (buffer.rows, row, *value)));
            }
        }
        Ok(bad)
    }

    /// Copies a page of every growing cache to another.
    pub(crate) fn copy_page(&mut self, from: i32, to: i32) -> Result<()> {
        let model = Arc::clone(self.model());
        for (cache, memory) in model.plan().caches.iter().zip(self.memory_mut().caches_mut()) {
            if cache.policy == CachePolicy::Growing {
                let at = |page: i32| u64::from(page.unsigned_abs()).saturating_mul(cache.page_bytes());
                memory.copy(at(from), at(to), cache.page_bytes())?;
            }
        }
        Ok(())
    }

    /// Copies what a sequence of `written` tokens has written to the rings of one slot to those of another.
    pub(crate) fn copy_rings(&mut self, from: usize, to: usize, written: u64) -> Result<()> {
        self.each_ring(|ring, bytes, memory| {
            let used = written.div_ceil(ring.page).min(ring.pages) * bytes;
            let at = |slot: usize| slot as u64 * ring.pages * bytes;
            if used == 0 { Ok(()) } else { memory.copy(at(from), at(to), used) }
        })
    }

    /// Copies the windows before position `len` from the rings of a slot to those of stored prefix `prefix`.
    pub(crate) fn save_windows(&mut self, slot: usize, prefix: usize, len: u64) -> Result<()> {
        self.move_windows(slot, prefix, len, false)
    }

    /// The same the other way.
    pub(crate) fn load_windows(&mut self, prefix: usize, slot: usize, len: u64) -> Result<()> {
        self.move_windows(slot, prefix, len, true)
    }

    fn move_windows(&mut self, slot: usize, prefix: usize, len: u64, load: bool) -> Result<()> {
        let (room, border) = (self.runner.memory().room(), self.plan().model.page);
        self.each_ring(|ring, bytes, memory| {
            let stored = room.window_page(ring, border, prefix as u64);
            for (index, page) in ring.window_pages(len).enumerate() {
                let live = slot as u64 * ring.pages + page % ring.pages;
                let (from, to) = match load {
                    false => (live, stored + index as u64),
                    true => (stored + index as u64, live),
                };
                memory.copy(from * bytes, to * bytes, bytes)?;
            }
            Ok(())
        })
    }

    /// Each ring cache, with the bytes of its pages and its memory.
    fn each_ring(&mut self, mut f: impl FnMut(Ring, u64, &mut dyn Block) -> Result<()>) -> Result<()> {
        let model = Arc::clone(self.model());
        for (cache, memory) in model.plan().caches.iter().zip(self.memory_mut().caches_mut()) {
            if let Some(ring) = Ring::of(cache) {
                f(ring, cache.page_bytes(), memory)?;
            }
        }
        Ok(())
    }

    /// One row of a buffer of f32 or bf16. Errors: no such buffer or row; a kernel before it failed.
    pub fn row(&self, id: BufferId, row: u64) -> Result<Vec<f32>> {
        let buffer = self.place(id)?;
        let rows = self.rows(buffer);
        if row >= rows as u64 {
            return Err(Error::new(
                ErrorKind::BadInput,
                format!("{id} has no row {row} in this step, but {rows}"),
            ));
        }
        let (from, len, inside) = values::span(buffer, row);
        let mut bytes = vec![0; len];
        self.runner.memory().read_arena(buffer.offset + from, &mut bytes)?;
        Ok(values::decode_row(buffer, inside, &bytes))
    }

    /// Key and value, `[kv_heads][dim]` each, of a position of row `sequence` of the step in hand. Errors: no such
    /// cache, sequence or position; a kernel before it failed.
    pub fn cache_kv(&self, id: CacheId, sequence: usize, position: u64) -> Result<(Vec<f32>, Vec<f32>)> {
        let nothing = || {
            let message =
                format!("cache {id} holds no position {position} of sequence {sequence} in this step");
            Error::new(ErrorKind::BadInput, message)
        };
        let cache = self.plan().caches.get(id.index()).ok_or_else(nothing)?;
        let memory = self.runner.memory().cache(id)?;
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
        let (spec, place) = (cache.spec(), position % cache.page);
        let all =
            |values| (0..cache.kv_heads).flat_map(|head| spec.load(&page, head, place, values)).collect();
        Ok((all(false), all(true)))
    }
}

/// Pages of a cache whose codes have scales, with these numbers over and over; as many as take about all of them once.
fn pages(cache: &CacheSpec, numbers: &[f32]) -> Vec<u8> {
    let count = (numbers.len() / cache.page_elements().max(1) as usize).max(1);
    let mut bytes = vec![0; count * cache.page_bytes() as usize];
    let mut numbers = numbers.iter().copied().cycle();
    for page in bytes.chunks_mut(cache.page_bytes() as usize) {
        for (head, place) in
            (0..cache.kv_heads).flat_map(|head| (0..cache.page).map(move |place| (head, place)))
        {
            for (values, dim) in [(false, cache.qk_dim), (true, cache.v_dim)] {
                let vector: Vec<f32> = numbers.by_ref().take(dim as usize).collect();
                cache.store(page, head, place, values, &vector);
            }
        }
    }
    bytes
}
