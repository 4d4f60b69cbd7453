//! Memory that kernels work on, and what a session will take of it.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use hyc_ir::plan::{CachePolicy, Plan};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// Memory that an executor's kernels work on: the host's, or a device's.
///
/// # Safety
/// From [`Block::address`] on, as many bytes as the block was asked for are the block's own until it is dropped, at an
/// address that is a multiple of 64 and never changes.
///
/// ```compile_fail,E0200
/// struct Tiny(Vec<u64>);
/// impl hyc_runtime::Block for Tiny {
///     fn address(&self) -> *mut u8 { self.0.as_ptr().cast::<u8>().cast_mut() }
///     fn read(&self, _: u64, _: &mut [u8]) -> hyc_runtime::Result<()> { Ok(()) }
///     fn write(&mut self, _: u64, _: &[u8]) -> hyc_runtime::Result<()> { Ok(()) }
///     fn fill(&mut self, _: &[u8]) -> hyc_runtime::Result<()> { Ok(()) }
/// }
/// ```
pub unsafe trait Block: Send {
    /// The first byte, as kernels address it; on a device not for the host to follow.
    fn address(&self) -> *mut u8;

    /// Copies `out.len()` bytes from `at`. Errors: they are not inside; a kernel before it has failed.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()>;

    /// Copies `bytes` to `at`. Errors: they do not fit.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;

    /// Writes `pattern` over and over, to the end.
    fn fill(&mut self, pattern: &[u8]) -> Result<()>;
}

/// The range of `len` bytes from `at` in a block of `all`.
pub(crate) fn inside(at: u64, len: usize, all: u64) -> Result<std::ops::Range<usize>> {
    match at.checked_add(len as u64).filter(|end| *end <= all) {
        Some(end) => Ok(at as usize..end as usize),
        None => {
            Err(Error::new(ErrorKind::BadInput, format!("{len} bytes at {at} are outside a block of {all}")))
        }
    }
}

// SAFETY: an allocation of `len` bytes at a multiple of 64, freed when this is dropped.
unsafe impl Block for Aligned {
    fn address(&self) -> *mut u8 {
        self.pointer
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let range = inside(at, out.len(), self.len)?;
        out.copy_from_slice(&self.bytes()[range]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let range = inside(at, bytes.len(), self.len)?;
        self.bytes_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn fill(&mut self, pattern: &[u8]) -> Result<()> {
        for piece in self.bytes_mut().chunks_mut(pattern.len().max(1)) {
            piece.copy_from_slice(&pattern[..piece.len()]);
        }
        Ok(())
    }
}

/// Zeroed bytes at a multiple of 64. The system commits pages as they are touched.
pub struct Aligned {
    pointer: *mut u8,
    len: u64,
}

// SAFETY: the memory is owned; who writes it when is decided by the engine.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// Allocates; an error where the system has no room.
    pub fn zeroed(len: u64) -> Result<Aligned> {
        let fail = || Error::new(ErrorKind::Resource, format!("cannot allocate {len} bytes"));
        let layout = layout(len).ok_or_else(fail)?;
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() { Err(fail()) } else { Ok(Aligned { pointer, len }) }
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.pointer
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation is owned; no kernel runs while the engine is read.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len as usize) }
    }

    /// All bytes, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the allocation is owned and borrowed mutably; no kernel runs meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len as usize) }
    }
}

fn layout(len: u64) -> Option<Layout> {
    Layout::from_size_align(usize::try_from(len.max(64)).ok()?, 64).ok()
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.len) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.pointer, layout) };
        }
    }
}

/// Bytes that a session takes, known before anything is allocated and never exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The mapped artefact; the weights themselves where they are copied to a GPU or made up.
    pub weights: u64,
    /// Whether `weights` are mapped, and take only memory that the system can take back.
    pub mapped: bool,
    /// Activations.
    pub arena: u64,
    /// KV caches.
    pub caches: u64,
    /// Scratch of all threads, or of a GPU's kernels.
    pub scratch: u64,
}

impl MemoryPlan {
    /// For a model, with `pages` pages in each growing cache and `sequences` ring slots.
    pub fn new(model: &Model, pages: u64, sequences: u64, threads: usize) -> MemoryPlan {
        let plan = model.plan();
        let caches = plan
            .caches
            .iter()
            .map(|cache| cache_pages(cache.policy, pages, sequences).saturating_mul(cache.page_bytes()));
        let cpu = plan.target.kind == "cpu";
        let mapped = cpu && !model.has_random_weights();
        let copies = || plan.weights.iter().map(|weight| weight.bytes().next_multiple_of(256)).sum();
        MemoryPlan {
            weights: if mapped { model.file_bytes() } else { copies() },
            mapped,
            arena: plan.arena_bytes,
            caches: caches.fold(0, u64::saturating_add),
            scratch: crate::exec::scratch_bytes(plan, if cpu { threads } else { 1 }),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let mapped = if self.mapped { self.weights } else { 0 };
        mapped.saturating_add(self.allocated())
    }

    /// What is allocated beside the mapped file.
    pub fn allocated(&self) -> u64 {
        let weights = if self.mapped { 0 } else { self.weights };
        weights.saturating_add(self.arena).saturating_add(self.caches).saturating_add(self.scratch)
    }

    /// An error where this machine's memory has less to give than is allocated.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        self.check_against(plan, available().unwrap_or(u64::MAX), "")
    }

    /// An error where less than what is allocated is `free`; `place` follows what is free.
    pub(crate) fn check_against(&self, plan: &Plan, free: u64, place: &str) -> Result<()> {
        if self.allocated() <= free {
            return Ok(());
        }
        let mib = |n: u64| n >> 20;
        let weights = if self.mapped { String::new() } else { format!("{} of weights, ", mib(self.weights)) };
        let message = format!(
            "the session needs {} MiB ({weights}{} of KV caches, {} of activations, {} of scratch), {} MiB are \
             free{place}",
            mib(self.allocated()),
            mib(self.caches),
            mib(self.arena),
            mib(self.scratch),
            mib(free),
        );
        let pages_a_sequence = plan.model.max_context.div_ceil(plan.model.page.max(1));
        Err(Error::new(ErrorKind::Resource, message).help(format!(
            "allow fewer tokens or sequences (a sequence of {} tokens takes {pages_a_sequence} pages), or \
             compile with a smaller max_context or chunk",
            plan.model.max_context
        )))
    }
}

/// Pages in a cache's pool.
pub fn cache_pages(policy: CachePolicy, pages: u64, sequences: u64) -> u64 {
    match policy {
        CachePolicy::Growing => pages,
        CachePolicy::Ring { pages, .. } => pages.saturating_mul(sequences),
    }
}

/// Bytes that the system can still give, where it says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}
