//! The generated code of an artefact, on threads.

use hyc_plan::abi::{KernelFn, StepContext};
use hyc_plan::{Code, Grid, GridDim};

use super::kernels::{Kernels, StepCall};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Aligned, Block};
use crate::memory_plan::scratch_bytes;
use crate::model::{HostCode, Model, ModelId};
use crate::pool::Pool;

/// Runs the artefact's generated code on a pool of threads.
///
/// Its kernels are machine code: only an engine, which has checked what they will read, can call them without `unsafe`.
///
/// ```compile_fail,E0133
/// # use hyc_runtime::*;
/// # fn run(mut kernels: NativeKernels, call: &StepCall<'_>) -> Result<()> {
/// kernels.run(call)
/// # }
/// ```
pub struct NativeKernels {
    model: ModelId,
    /// Each kernel's function and how its work is split.
    kernels: Vec<(KernelFn, Grid)>,
    /// What `kernels` point into; kept so that they may outlive their model.
    _code: HostCode,
    pool: Pool,
    /// A thread's own.
    scratch: Vec<Box<dyn Block>>,
}

impl NativeKernels {
    /// Prepares the kernels of `model`. Errors: an artefact without code, no memory for scratch.
    pub fn new(model: &Model, threads: usize) -> Result<NativeKernels> {
        let mut plain = |bytes| Ok(Box::new(Aligned::zeroed(bytes)?) as Box<dyn Block>);
        // SAFETY: an allocation of so many bytes.
        unsafe { NativeKernels::with_scratch(model, threads, &mut plain) }
    }

    /// The same; each thread's scratch is a block that `zeroed` makes. Errors: its own, too.
    ///
    /// # Safety
    /// `zeroed(bytes)` makes a block of so many bytes.
    pub unsafe fn with_scratch(
        model: &Model,
        threads: usize,
        zeroed: &mut dyn FnMut(u64) -> Result<Box<dyn Block>>,
    ) -> Result<NativeKernels> {
        model.check_runnable()?;
        let Some(code) = &model.code else {
            let message = format!("{} has no code for this machine", model.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message).help("compile it without `--plan-only`"));
        };
        let entry = |kernel: &hyc_plan::Kernel| match kernel.code {
            // SAFETY: `Model::load` has seen that the kernel lies in the code, whose bytes have the digest
            // that the compiler wrote: it is a function of this type.
            Code::Host { grid, offset, .. } => Ok(unsafe {
                (std::mem::transmute::<*const u8, KernelFn>(code.as_ptr().add(offset as usize)), grid)
            }),
            Code::Nvidia { .. } => {
                let message = format!("kernel {} is not for a processor", kernel.name);
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        };
        let kernels = model.plan().kernels.iter().map(entry).collect::<Result<_>>()?;
        let pool = Pool::new(threads);
        let most = scratch_bytes(model.plan(), 1);
        let scratch: Vec<_> = (0..pool.threads()).map(|_| zeroed(most)).collect::<Result<_>>()?;
        Ok(NativeKernels { model: model.id(), kernels, _code: code.clone(), pool, scratch })
    }
}

/// Operand addresses, shared with the workers.
struct Call<'c> {
    context: &'c StepContext,
    operands: &'c [*mut u8],
    scratch: &'c [Box<dyn Block>],
}

// SAFETY: kernels write disjoint parts for disjoint items, and each worker looks at its own block of scratch alone.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    fn run(&self, kernel: KernelFn, worker: usize, begin: u64, end: u64) {
        // SAFETY: the engine made the operands for this kernel's step; the plan was verified.
        unsafe { kernel(self.context, self.operands.as_ptr(), begin, end, self.scratch[worker].address()) };
    }
}

// SAFETY: kernels touch their operands, lists and scratch alone, which is what the compiler makes and the plan's verifier
// assumes.
unsafe impl Kernels for NativeKernels {
    fn model(&self) -> Option<ModelId> {
        Some(self.model)
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<()> {
        let (kernel, grid) = self.kernels[call.step.kernel.index()];
        let context = call.context;
        let count = match grid.dim {
            GridDim::One => 1,
            GridDim::Tokens => context.tokens,
            GridDim::Outputs => context.outputs,
        };
        let items = count * grid.per;
        // A product's call normalises its rows first: few long ranges. Rows of an attention cost what their
        // context is long: many short ones.
        let ranges = self.pool.threads() as u64 * if grid.dim == GridDim::One { 2 } else { 8 };
        let call = Call { context, operands: call.operands, scratch: &self.scratch };
        self.pool
            .run(items, items.div_ceil(ranges), &|worker, begin, end| call.run(kernel, worker, begin, end));
        Ok(())
    }
}
