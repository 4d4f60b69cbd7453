//! Where the time of a step goes: an executor that runs the generated code with a clock beside it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyc_ir::abi::StepContext;
use hyc_ir::plan::{KernelSpec, Plan, Step, WeightId};
use hyc_runtime::{Block, Executor, MemoryPlan, Model, SessionOptions, open_executor};

use crate::error::Result;

/// Seconds spent in each step of the plan, in its order, since the last [`Clock::take`].
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Mutex<Vec<f64>>>);

impl Clock {
    /// What was counted; counting starts anew.
    pub fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, index: usize, seconds: f64) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() <= index {
            list.resize(index + 1, 0.0);
        }
        list[index] += seconds;
    }
}

struct Timed {
    inner: Box<dyn Executor>,
    clock: Clock,
}

/// The generated code of `model`, and its clock.
pub fn executor(
    model: &Model,
    options: &SessionOptions,
    memory: &MemoryPlan,
) -> Result<(Box<dyn Executor>, Clock)> {
    let (inner, clock) = (open_executor(model, options, memory, &mut |_, _| true)?, Clock::default());
    Ok((Box::new(Timed { inner, clock: clock.clone() }), clock))
}

impl Executor for Timed {
    fn run(
        &mut self,
        plan: &Plan,
        index: usize,
        step: &Step,
        spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> hyc_runtime::Result<()> {
        let start = Instant::now();
        let result = self.inner.run(plan, index, step, spec, context, operands);
        let result = result.and_then(|()| self.inner.synchronise());
        self.clock.add(index, start.elapsed().as_secs_f64());
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

    fn begin(&mut self, context: &StepContext) -> hyc_runtime::Result<()> {
        self.inner.begin(context)
    }

    fn synchronise(&mut self) -> hyc_runtime::Result<()> {
        self.inner.synchronise()
    }
}
