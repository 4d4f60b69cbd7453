//! The plan interpreter: runs an artefact's own Plan on the reference kernels.
//!
//! It is the oracle of every back end: same steps, same memory, same order, each step in plain Rust.
//! `hyc diff` and the tests set it beside the generated code.

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Plan, Step};
use hyc_runtime::{Error, Executor, ModelId};

/// An executor on `hyc_kernels::reference`.
#[derive(Debug, Default)]
pub struct Interpreter;

// SAFETY: memory and weights are the trait's own defaults; the reference touches a step's operands and lists alone.
unsafe impl Executor for Interpreter {
    fn model(&self) -> Option<ModelId> {
        None
    }

    unsafe fn run(
        &mut self,
        _plan: &Plan,
        _index: usize,
        _step: &Step,
        spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<(), Error> {
        // SAFETY: passed on from the caller.
        unsafe { hyc_kernels::reference::run(spec, context, operands) };
        Ok(())
    }
}
