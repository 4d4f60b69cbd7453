//! The plan interpreter: runs an artefact's own Plan on the reference kernels.
//!
//! It is the oracle of every back end: same steps, same memory, same order, each in plain Rust.
//! `hyc diff` and the tests set it beside the generated code.

use std::thread;

use hyc_kernels::reference;
use hyc_plan::{Rows, StepOp};
use hyc_runtime::{Error, Kernels, Machine, ModelId, StepCall};

/// The kernels of `hyc_kernels::reference`, for any plan.
#[derive(Debug, Default)]
pub struct Interpreter;

/// A call that several threads look at.
struct Shared<'a>(&'a StepCall<'a>);

// SAFETY: the threads read the call, and each writes the rows of results that are its own.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    /// # Safety
    /// As for [`reference::run_rows`].
    unsafe fn run(&self, rows: &[u64]) {
        let StepCall { spec, context, operands, .. } = *self.0;
        // SAFETY: passed on from the caller.
        unsafe { reference::run_rows(spec, context, operands, rows) };
    }
}

// SAFETY: the reference touches a step's operands and lists alone.
unsafe impl Kernels for Interpreter {
    fn model(&self) -> Option<ModelId> {
        None
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<(), Error> {
        let experts = matches!(call.spec.op, StepOp::ExpertsUp(_) | StepOp::ExpertsDown(_));
        let rows: Vec<u64> = (0..call.context.tokens).collect();
        if !experts || call.spec.rows != Rows::Tokens || rows.len() < 2 {
            // SAFETY: passed on from the caller.
            unsafe { reference::run(call.spec, call.context, call.operands) };
            return Ok(());
        }
        // Each row decodes the weights of its own experts, which is most of what a model with many of them takes.
        let threads = Machine::here().cores();
        let shared = &Shared(call);
        thread::scope(|scope| {
            for rows in rows.chunks(rows.len().div_ceil(threads)) {
                // SAFETY: passed on from the caller; rows are independent of each other, and no two threads have the same one.
                let run = move || unsafe { shared.run(rows) };
                // Where the system refuses a thread, this one does its work.
                if thread::Builder::new().spawn_scoped(scope, run).is_err() {
                    run();
                }
            }
        });
        Ok(())
    }
}
