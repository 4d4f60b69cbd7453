//! The plan interpreter: runs an artefact's own Plan on the reference kernels.
//!
//! It is the oracle of every back end: same steps, same memory, same order, each step in plain Rust.
//! `hyc diff` and the tests set it beside the generated code.

use hyc_ir::abi::StepContext;
use hyc_ir::plan::{KernelSpec, Plan, Step};
use hyc_runtime::{Error, Executor};

/// An executor on `hyc_kernels::reference`.
#[derive(Debug, Default)]
pub struct Interpreter;

impl Executor for Interpreter {
    fn run(
        &mut self,
        _plan: &Plan,
        _index: usize,
        _step: &Step,
        spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<(), Error> {
        // SAFETY: the engine hands every executor the operands that the verified plan names, with the
        // sizes that the spec states.
        unsafe { hyc_kernels::reference::run(spec, context, operands) };
        Ok(())
    }
}
