//! What computes a step on the host.

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Plan, Step};

use crate::error::Result;
use crate::model::ModelId;

/// One step of a pass, as kernels of the host see it.
#[derive(Clone, Copy)]
pub struct StepCall<'c> {
    /// The plan.
    pub plan: &'c Plan,
    /// The step, one of the plan's.
    pub step: &'c Step,
    /// What its kernel knows of its operands.
    pub spec: &'c KernelSpec,
    /// Counts and lists of the pass.
    pub context: &'c StepContext,
    /// The address of each operand, in the order of [`StepOp::roles`](hyc_plan::StepOp::roles); memory is as
    /// [`hyc_plan::abi`] says.
    pub operands: &'c [*mut u8],
}

/// Kernels in the host's memory: generated code, or an interpreter.
///
/// # Safety
/// [`Kernels::model`] is the one model whose code they are, if they are any model's. A step touches nothing but what its
/// operands, its context's lists and memory of the kernels' own are.
pub unsafe trait Kernels: Send {
    /// The model that they were made for; `None` where they run any plan (an interpreter). A
    /// [`HostRunner`](crate::HostRunner) of another model refuses them.
    fn model(&self) -> Option<ModelId>;

    /// Executes the whole grid of a step.
    ///
    /// # Safety
    /// The step is one of a verified plan, which is that of [`Kernels::model`]; `spec` is that step's. Every list of the
    /// context has the length that the context states, with values in the range that the plan allows; every operand is
    /// valid for the bytes that the spec gives it, and nobody else uses them meanwhile. The steps before it have run.
    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<()>;
}
