//! Memory that ends where the next byte is nobody's: a runner that gives every block, weight, list and scratch a page
//! without access right behind it or right before it, so that one stray access ends the process.

use std::sync::Arc;

use hyc_plan::WeightId;
use hyc_plan::abi::StepContext;
use hyc_plan::sample::SampleParams;
use hyc_runtime::{
    Block, DeviceMemory, Error, ErrorKind, HostRunner, Kernels, KvRoom, Model, ModelId, NativeKernels,
    Result, StepCall,
};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// At which end of a block the page without access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Right behind its last byte.
    Behind,
    /// Right before its first.
    Before,
}

const PAGE: usize = 4096;
/// Bytes that no element is likely to be, in what a block's alignment leaves before the page.
const CANARY: u8 = 0xa5;

/// Zeroed bytes beside a page without access.
pub struct Guarded {
    base: *mut u8,
    mapped: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is owned; who writes it when is decided by whoever has the block.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Maps them, from a multiple of `align`.
    pub fn zeroed(len: u64, side: Side, align: usize) -> Result<Guarded> {
        let fail = |e| Error::new(ErrorKind::Resource, format!("cannot map {len} bytes: {e}"));
        let len = usize::try_from(len).unwrap_or(usize::MAX / 2);
        let inner = len.next_multiple_of(align).next_multiple_of(PAGE);
        let mapped = inner + 2 * PAGE;
        // SAFETY: a fresh mapping; its first and last page lose their access before anybody has an address.
        let base = unsafe {
            let none = std::ptr::null_mut();
            let base = mmap_anonymous(none, mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
                .map_err(fail)?;
            mprotect(base, PAGE, MprotectFlags::empty()).map_err(fail)?;
            mprotect(base.byte_add(PAGE + inner), PAGE, MprotectFlags::empty()).map_err(fail)?;
            base.cast::<u8>()
        };
        let before = match side {
            Side::Before => 0,
            Side::Behind => inner - len.next_multiple_of(align),
        };
        // SAFETY: inside the mapping.
        let start = unsafe { base.add(PAGE + before) };
        let block = Guarded { base, mapped, start, len };
        // SAFETY: what is between the block's end and the page, less than `align` bytes; or between both ends.
        unsafe {
            let slack = base.add(PAGE + inner).offset_from(start) as usize - len;
            start.add(len).write_bytes(CANARY, slack);
        }
        Ok(block)
    }

    /// A copy of `items`.
    fn of<T: Copy>(items: &[T], side: Side) -> Result<Guarded> {
        let block = Guarded::zeroed(size_of_val(items) as u64, side, align_of::<T>())?;
        // SAFETY: a block of that many bytes at that alignment, which nobody else has yet.
        unsafe { block.start.cast::<T>().copy_from_nonoverlapping(items.as_ptr(), items.len()) };
        Ok(block)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is owned, and no kernel runs while it is looked at.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn inside(&self, at: u64, len: usize) -> Result<std::ops::Range<usize>> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.len as u64);
        let range = end.map(|end| at as usize..end as usize);
        range.ok_or_else(|| Error::new(ErrorKind::BadInput, "outside of a guarded block"))
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the slack is inside the mapping, which is unmapped once.
        unsafe {
            let inner = self.mapped - 2 * PAGE;
            let end = self.base.add(PAGE + inner);
            let slack = end.offset_from(self.start) as usize - self.len;
            let canaries = std::slice::from_raw_parts(self.start.add(self.len), slack);
            let whole = canaries.iter().all(|byte| *byte == CANARY);
            let _ = munmap(self.base.cast(), self.mapped);
            assert!(whole || std::thread::panicking(), "a kernel wrote behind a block of {} bytes", self.len);
        }
    }
}

// SAFETY: a mapping of its own around `len` bytes at a multiple of 64, until it is dropped.
unsafe impl Block for Guarded {
    fn address(&self) -> *mut u8 {
        self.start
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.bytes()[self.inside(at, out.len())?]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let range = self.inside(at, bytes.len())?;
        self.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<()> {
        let (from, to) = (self.inside(from, len as usize)?, self.inside(to, len as usize)?);
        self.bytes_mut().copy_within(from, to.start);
        Ok(())
    }

    fn fill(&mut self, pattern: &[u8]) -> Result<()> {
        for piece in self.bytes_mut().chunks_mut(pattern.len().max(1)) {
            piece.copy_from_slice(&pattern[..piece.len()]);
        }
        Ok(())
    }
}

/// Guarded memory, with copies of a model's weights in it.
pub struct GuardedMemory {
    weights: Vec<Guarded>,
    side: Side,
}

impl GuardedMemory {
    /// Copies the weights of `model`.
    pub fn new(model: &Model, side: Side) -> Result<GuardedMemory> {
        let copy = |i: usize| {
            let bytes = model.weight(WeightId(i as u32))?;
            let mut block = Guarded::zeroed(bytes.len() as u64, side, 64)?;
            block.write(0, bytes)?;
            Ok(block)
        };
        Ok(GuardedMemory { weights: (0..model.plan().weights.len()).map(copy).collect::<Result<_>>()?, side })
    }

    /// Fills all weights with `pattern`, over and over.
    pub fn fill_weights(&mut self, pattern: &[u8]) -> Result<()> {
        self.weights.iter_mut().try_for_each(|block| block.fill(pattern))
    }

    /// Fills the weight `id` with `pattern`, over and over.
    pub fn fill_weight(&mut self, id: WeightId, pattern: &[u8]) -> Result<()> {
        self.weights[id.index()].fill(pattern)
    }

    /// The host's generated code, with all that it touches in this memory or more of its kind. Errors: no room.
    pub fn run(self, model: &Arc<Model>, threads: usize, room: KvRoom) -> Result<HostRunner> {
        let side = self.side;
        let mut scratch = |bytes| Ok(Box::new(Guarded::zeroed(bytes, side, 64)?) as Box<dyn Block>);
        // SAFETY: blocks of so many bytes.
        let inner = unsafe { NativeKernels::with_scratch(model, threads, &mut scratch) }?;
        HostRunner::with_memory(model.clone(), Box::new(GuardedKernels { inner, side }), room, Box::new(self))
    }
}

// SAFETY: guarded blocks hold what they promise, and weights are copies of all their bytes.
unsafe impl DeviceMemory for GuardedMemory {
    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(Guarded::zeroed(bytes, self.side, 64)?))
    }

    fn weight(&self, _: &Model, id: WeightId) -> Result<*mut u8> {
        let block = self.weights.get(id.index());
        block.map(|block| block.start).ok_or_else(|| Error::new(ErrorKind::BadInput, "no such weight"))
    }
}

/// Generated code that gets its lists in guarded memory.
struct GuardedKernels {
    inner: NativeKernels,
    side: Side,
}

// SAFETY: all that it says is what `inner` says, of copies of what the caller gives.
unsafe impl Kernels for GuardedKernels {
    fn model(&self) -> Option<ModelId> {
        self.inner.model()
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<()> {
        let (c, side) = (call.context, self.side);
        let ints = |list: *const i32, n: u64| {
            // SAFETY: the caller's promise.
            Guarded::of(unsafe { std::slice::from_raw_parts(list, n as usize) }, side)
        };
        let (token_ids, positions) = (ints(c.token_ids, c.tokens)?, ints(c.positions, c.tokens)?);
        let (sequence, slots) = (ints(c.sequence, c.tokens)?, ints(c.ring_slot, c.batch)?);
        let (pages, out_rows) = (ints(c.page_table, c.batch * c.max_pages)?, ints(c.out_rows, c.outputs)?);
        // SAFETY: the caller's promise: one entry per output, where it is not null.
        let sampling = (!c.sampling.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(c.sampling, c.outputs as usize) })
            .map(|list| Guarded::of(list, side))
            .transpose()?;
        let moved = StepContext {
            token_ids: token_ids.start.cast(),
            positions: positions.start.cast(),
            sequence: sequence.start.cast(),
            page_table: pages.start.cast(),
            ring_slot: slots.start.cast(),
            out_rows: out_rows.start.cast(),
            sampling: sampling.as_ref().map_or(std::ptr::null(), |list| list.start.cast::<SampleParams>()),
            ..*c
        };
        let context = Guarded::of(&[moved], side)?;
        let operands = Guarded::of(call.operands, side)?;
        // SAFETY: copies of what the caller promises.
        unsafe {
            let count = operands.len / size_of::<*mut u8>();
            let operands = std::slice::from_raw_parts(operands.start.cast::<*mut u8>(), count);
            let context = &*context.start.cast::<StepContext>();
            self.inner.run(&StepCall { context, operands, ..*call })
        }
    }
}
