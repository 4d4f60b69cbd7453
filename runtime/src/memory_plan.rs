//! What a session will take of memory.

use hyc_plan::Plan;

use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvRoom;
use crate::memory::Machine;
use crate::model::Model;
use crate::options::SessionOptions;

/// Bytes that a session takes, known before anything is allocated and never exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Pages of the caches.
    pub room: KvRoom,
    /// The mapped artefact; the weights themselves where they are copied to a GPU or made up.
    pub weights: u64,
    /// Whether `weights` are there already: mapped, where they take only memory that the system can take back, or
    /// copied when the model was loaded.
    pub mapped: bool,
    /// Activations.
    pub arena: u64,
    /// KV caches.
    pub caches: u64,
    /// Scratch of all threads, or of a GPU's kernels.
    pub scratch: u64,
}

impl MemoryPlan {
    /// What a session of `options` will take, without making one. Errors: options out of range.
    ///
    /// A session of other kernels ([`Session::with_kernels`](crate::Session::with_kernels)) takes no scratch of this.
    ///
    /// ```
    /// # use hyc_handmade::Parts;
    /// # use hyc_runtime::{MemoryPlan, SessionOptions};
    /// # fn main() -> hyc_runtime::Result<()> {
    /// # let model = Parts::new().load()?;
    /// let of = |max_sequences| {
    ///     let options = SessionOptions { max_sequences: Some(max_sequences), ..SessionOptions::default() };
    ///     MemoryPlan::of(&model, &options)
    /// };
    /// assert!(of(1)?.total() < of(3)?.total());
    /// of(3)?.check(model.plan())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn of(model: &Model, options: &SessionOptions) -> Result<MemoryPlan> {
        Ok(MemoryPlan::new(model, KvRoom::of(&model.plan().model, options)?, options.thread_count()))
    }

    /// The same for caches of `room` and so many threads.
    pub fn new(model: &Model, room: KvRoom, threads: usize) -> MemoryPlan {
        let plan = model.plan();
        let page = plan.model.page;
        let caches = plan.caches.iter().map(|c| room.pages_of(c, page).saturating_mul(c.page_bytes()));
        let cpu = plan.target.is_host();
        let mapped = cpu && !model.has_random_weights();
        let copies = || plan.weights.iter().map(|weight| weight.bytes().next_multiple_of(256)).sum();
        MemoryPlan {
            room,
            weights: if mapped { model.file_bytes() } else { copies() },
            mapped,
            arena: plan.arena_bytes,
            caches: caches.fold(0, u64::saturating_add),
            scratch: scratch_bytes(plan, if cpu { threads } else { 1 }),
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

    /// An error where less than is allocated is free: on this machine, in a control group around this process, or
    /// in its address space.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        match Machine::here().free_memory() {
            Some(free) => self.check_against(plan, free.bytes, free.place),
            None => Ok(()),
        }
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
        Err(Error::new(ErrorKind::Resource, message).help(format!(
            "allow fewer tokens (`-n` and `--ctx` of `hyc run`, `--context` of `hyc bench`, \
             `SessionOptions::max_tokens`; {} are the most of a sequence) or fewer sequences, or compile with a \
             smaller max_context or chunk",
            plan.model.max_context
        )))
    }
}

/// Scratch bytes of `threads` threads for a plan.
pub fn scratch_bytes(plan: &Plan, threads: usize) -> u64 {
    let most = plan.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
    most.next_multiple_of(64).saturating_mul(threads as u64)
}
