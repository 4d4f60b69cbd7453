//! The contract between an engine and what runs its passes.

use std::sync::Arc;

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelId, Step, StepOp};

use super::memory::Memory;
use crate::error::Result;
use crate::model::Model;

/// Whether a pass has no such step: it chooses tokens, and the pass samples nothing.
pub(super) fn is_left_out(step: &Step, context: &StepContext) -> bool {
    matches!(step.op, StepOp::Sample(_)) && context.sampling.is_null()
}

/// A device of one model: its memory, with the address of every operand of every step, and its kernels.
///
/// An [`Engine`](crate::Engine) hands it passes: [`Runner::begin`], then the steps, one by one or all at once. Nothing has a
/// default: a runner says each of these for itself.
///
/// # Safety
/// The engine follows what a runner says without a look. [`Runner::model`] is the model of its kernels, and never another;
/// [`Runner::memory`] is memory placed for that model, the same for as long as the runner lives. Running steps touches
/// nothing but that memory, the lists of the context, and memory of the runner's own.
pub unsafe trait Runner: Send {
    /// The model that it runs.
    fn model(&self) -> &Arc<Model>;

    /// Arena and caches.
    fn memory(&self) -> &Memory;

    /// The same, to be written between passes.
    ///
    /// # Safety
    /// What it points to is not exchanged for another memory.
    unsafe fn memory_mut(&mut self) -> &mut Memory;

    /// Takes the counts and lists of a pass, before its steps run. Errors: a device's.
    ///
    /// # Safety
    /// Every list has the length that the context states, within the maxima of the model's plan, and values in the range
    /// that the plan allows; all of it stays as it is until the pass is over.
    unsafe fn begin(&mut self, context: &StepContext) -> Result<()>;

    /// Runs step `index` of the plan; one that samples only where the context says how. Errors: a device's, now or when
    /// somebody looks.
    ///
    /// # Safety
    /// [`Runner::begin`] was called with the same context, and the steps before `index` have run on it.
    unsafe fn run_step(&mut self, index: usize, context: &StepContext) -> Result<()>;

    /// Runs all steps of the plan, as fast as it can. Errors: those of [`Runner::run_step`].
    ///
    /// # Safety
    /// [`Runner::begin`] was called with the same context, and no step has run on it.
    unsafe fn run_pass(&mut self, context: &StepContext) -> Result<()>;

    /// The tokens that the last pass has sampled, `rows` of them, where they are with the host already; `None`: they are
    /// read from the plan's buffer. Errors: a kernel before it failed.
    fn sampled(&mut self, rows: usize) -> Result<Option<Vec<i32>>>;

    /// Waits for what was started. Errors: a kernel that failed meanwhile.
    fn synchronise(&mut self) -> Result<()>;

    /// What measures its steps.
    fn clock(&mut self) -> &mut dyn Clock;
}

/// What the blocks of one launch wrote down of their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTimes {
    /// The plan's step that it is of.
    pub step: usize,
    /// The function.
    pub function: String,
    /// Its blocks, by x, then by y.
    pub blocks: Vec<hyc_plan::BlockTimes>,
}

/// The clock of a device, and what it says of it.
pub trait Clock {
    /// From now on times each step, or stops that. On a GPU a timed pass runs slower as a whole. Errors: a device's.
    fn set_timing(&mut self, on: bool) -> Result<()>;

    /// Seconds spent in each step of the plan, in its order, since the last call; empty where nothing is timed.
    fn take_times(&mut self) -> Vec<f64>;

    /// The times of the blocks of the pass that was put on the device last, or was captured last where it is a replay, by launch; empty
    /// where its code writes down none (`hyc compile --clocks`). Errors: a device's.
    fn launch_times(&mut self) -> Result<Vec<LaunchTimes>>;

    /// Bytes per second that a device reads and writes, together, when it copies its memory; `None` for the host, whose
    /// bandwidth is that of its threads. Errors: a device's.
    fn copy_bandwidth(&mut self) -> Result<Option<f64>>;

    /// The device's name, as its driver gives it; `None` for the host. Errors: a device's.
    fn device_name(&mut self) -> Result<Option<String>>;

    /// From now on a variant computes those steps of a kernel that it can, to be measured; `None`: what the plan has chosen.
    /// Errors: the device has no code of such a variant.
    fn force_variant(&mut self, kernel: KernelId, variant: Option<&str>) -> Result<()>;

    /// In the pass in hand, once each of these steps has run, its operand of that number begins with these bytes, to measure what
    /// depends on them. No step's time has a part of it. Errors: a device's.
    ///
    /// # Safety
    /// Each operand is a buffer of at least as many bytes, and what reads it may find such values in it.
    unsafe fn replace(&mut self, operands: &[(usize, usize)], bytes: &[u8]) -> Result<()>;
}
