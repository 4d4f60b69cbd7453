//! Where the time of a pass goes: an executor with a clock for each step.

use std::time::Instant;

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Plan, Step, TargetKind, WeightId};
use hyc_runtime::{Block, Executor, MemoryPlan, Model, ModelId, SessionOptions, open_executor};

use crate::error::Result;

/// Runs another executor with the host's clock beside it.
struct Timed {
    inner: Box<dyn Executor>,
    /// Of the plan.
    steps: usize,
    /// Seconds of each step; empty where nothing is timed.
    seconds: Vec<f64>,
}

/// The executor of `model`, which can time its steps: a GPU by its own clock, which captures each timed pass with
/// events around its steps; the host by its clock, which costs nothing.
pub fn executor(model: &Model, options: &SessionOptions, memory: &MemoryPlan) -> Result<Box<dyn Executor>> {
    let inner = open_executor(model, options, memory, &mut |_, _| !crate::commands::stopped())?;
    match model.plan().target.kind() {
        TargetKind::Host => {
            Ok(Box::new(Timed { inner, steps: model.plan().steps.len(), seconds: Vec::new() }))
        }
        TargetKind::Nvidia(_) => Ok(inner),
    }
}

// SAFETY: all that it says is what `inner` says.
unsafe impl Executor for Timed {
    fn model(&self) -> Option<ModelId> {
        self.inner.model()
    }

    unsafe fn run(
        &mut self,
        plan: &Plan,
        index: usize,
        step: &Step,
        spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> hyc_runtime::Result<()> {
        let start = Instant::now();
        // SAFETY: passed on from the caller.
        let result = unsafe { self.inner.run(plan, index, step, spec, context, operands) };
        let result = result.and_then(|()| self.inner.synchronise());
        if let Some(seconds) = self.seconds.get_mut(index) {
            *seconds += start.elapsed().as_secs_f64();
        }
        result
    }

    fn scratch_bytes(&self) -> u64 {
        self.inner.scratch_bytes()
    }

    fn zeroed(&self, bytes: u64) -> hyc_runtime::Result<Box<dyn Block>> {
        self.inner.zeroed(bytes)
    }

    fn weight(&self, model: &Model, id: WeightId) -> hyc_runtime::Result<*mut u8> {
        self.inner.weight(model, id)
    }

    unsafe fn begin(&mut self, context: &StepContext) -> hyc_runtime::Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { self.inner.begin(context) }
    }

    fn sampled(&mut self, rows: usize) -> hyc_runtime::Result<Option<Vec<i32>>> {
        self.inner.sampled(rows)
    }

    fn synchronise(&mut self) -> hyc_runtime::Result<()> {
        self.inner.synchronise()
    }

    fn set_timing(&mut self, on: bool) -> hyc_runtime::Result<bool> {
        self.seconds = vec![0.0; if on { self.steps } else { 0 }];
        Ok(true)
    }

    fn take_times(&mut self) -> Vec<f64> {
        let zeros = vec![0.0; self.seconds.len()];
        std::mem::replace(&mut self.seconds, zeros)
    }
}
