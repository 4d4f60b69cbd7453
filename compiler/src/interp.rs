//! The plan interpreter: runs an artefact's own Plan on the reference kernels.
//!
//! It is the oracle of every back end: same steps, same memory, same order, each step in plain Rust.
//! `hyc diff` and the tests set it beside the generated code.

use hyc_runtime::{Error, Kernels, ModelId, StepCall};

/// The kernels of `hyc_kernels::reference`, for any plan.
#[derive(Debug, Default)]
pub struct Interpreter;

// SAFETY: the reference touches a step's operands and lists alone.
unsafe impl Kernels for Interpreter {
    fn model(&self) -> Option<ModelId> {
        None
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<(), Error> {
        // SAFETY: passed on from the caller.
        unsafe { hyc_kernels::reference::run(call.spec, call.context, call.operands) };
        Ok(())
    }
}
