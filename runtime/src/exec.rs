//! Executors: who runs a step.

use std::sync::Arc;

use hyc_ir::abi::{KernelFn, StepContext};
use hyc_ir::plan::{GridDim, KernelSpec, Plan, Step, WeightId};
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Aligned, Block, MemoryPlan};
use crate::model::Model;
use crate::pool::Pool;
use crate::session::SessionOptions;

/// A whole forward pass, as an executor that takes it at once sees it.
pub struct Pass<'p> {
    /// The plan.
    pub plan: &'p Plan,
    /// Counts and lists.
    pub context: &'p StepContext,
    /// Addresses of each step's operands, by its index in the plan.
    pub operands: &'p [Vec<*mut u8>],
}

/// Runs one step of a plan on memory that the engine keeps.
pub trait Executor: Send {
    /// Executes the whole grid of `step`. `operands[i]` is the address of its i-th operand; the memory is
    /// as `hyc_ir::abi` says for `spec`.
    fn run(
        &mut self,
        plan: &Plan,
        index: usize,
        step: &Step,
        spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()>;

    /// Executes all steps of a pass, where it has a faster way than one by one; false: it has none for this
    /// pass, and nothing has run.
    fn run_all(&mut self, _pass: &Pass<'_>) -> Result<bool> {
        Ok(false)
    }

    /// Bytes of scratch that it keeps.
    fn scratch_bytes(&self) -> u64 {
        0
    }

    /// Zeroed memory that its kernels can address.
    fn zeroed(&self, bytes: u64) -> Result<Box<dyn Block>> {
        Ok(Box::new(Aligned::zeroed(bytes)?))
    }

    /// A weight's address for its kernels: the mapped file's, unless it keeps copies. Errors: no memory for
    /// what is made up.
    fn weight(&self, model: &Model, id: WeightId) -> Result<*mut u8> {
        Ok(model.weight(id)?.as_ptr().cast_mut())
    }

    /// Takes the lists of a forward pass, before its steps run.
    fn begin(&mut self, _context: &StepContext) -> Result<()> {
        Ok(())
    }

    /// The tokens that the last pass has sampled, where they are with the host already; else they are read from
    /// the plan's buffer.
    fn sampled(&mut self, _rows: usize) -> Result<Option<Vec<i32>>> {
        Ok(None)
    }

    /// Waits for what was started. Errors: a kernel that failed meanwhile.
    fn synchronise(&mut self) -> Result<()> {
        Ok(())
    }

    /// From now on times each step on the device's own clock, or stops that. Such a pass runs slower as a whole.
    /// False: there is no such clock.
    fn set_timing(&mut self, _plan: &Plan, _on: bool) -> Result<bool> {
        Ok(false)
    }

    /// Bytes a second that a device reads and writes, together, when it copies its memory; `None` for the host.
    fn copy_bandwidth(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Seconds spent in each step of the plan, in its order, since the last call.
    fn take_times(&mut self) -> Vec<f64> {
        Vec::new()
    }
}

/// The executor that an artefact's target needs: the host's generated code on threads, or a GPU. `memory` is what
/// the caller will allocate beside; `progress` gets the bytes of weights copied to a GPU and all bytes, and ends
/// that where it returns false.
///
/// Errors: a target that this build of the runtime does not carry; no such device; too little memory;
/// `Cancelled`.
pub fn open_executor(
    model: &Model,
    options: &SessionOptions,
    memory: &MemoryPlan,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Box<dyn Executor>> {
    let kind = model.plan().target.kind.as_str();
    if kind == "cpu" {
        memory.check(model.plan())?;
        return Ok(Box::new(NativeExecutor::new(model, options.thread_count())?));
    }
    #[cfg(feature = "cuda")]
    return Ok(Box::new(crate::cuda::CudaExecutor::new(model, memory, &options.gpu, progress)?));
    #[cfg(not(feature = "cuda"))]
    {
        let _ = progress;
        let message = format!("this build of the runtime does not execute `{kind}` code");
        Err(Error::new(ErrorKind::Unsupported, message)
            .help("build it with the feature `cuda`, or compile the model with `--target cpu`"))
    }
}

/// Runs the artefact's generated code on a pool of threads.
pub struct NativeExecutor {
    kernels: Vec<KernelFn>,
    /// What `kernels` point into; kept so that the executor may outlive its model.
    _code: Arc<Mmap>,
    pool: Pool,
    scratch: Vec<Aligned>,
}

/// Scratch bytes of `threads` threads for a plan.
pub fn scratch_bytes(plan: &Plan, threads: usize) -> u64 {
    let most = plan.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
    most.next_multiple_of(64).saturating_mul(threads as u64)
}

impl NativeExecutor {
    /// Prepares the kernels of `model`. Errors: an artefact without code, no memory for scratch.
    pub fn new(model: &Model, threads: usize) -> Result<NativeExecutor> {
        let Some(code) = &model.code else {
            let message = format!("{} has no code for this machine", model.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message).help("compile it without `--plan-only`"));
        };
        let entry = |kernel: &hyc_ir::plan::Kernel| {
            // SAFETY: `Model::load` has seen that the kernel lies in the code, whose bytes have the digest
            // that the compiler wrote: it is a function of this type.
            unsafe {
                std::mem::transmute::<*const u8, KernelFn>(code.as_ptr().add(kernel.code_offset as usize))
            }
        };
        let kernels = model.plan().kernels.iter().map(entry).collect();
        let pool = Pool::new(threads);
        let most = scratch_bytes(model.plan(), 1);
        let scratch = (0..pool.threads()).map(|_| Aligned::zeroed(most)).collect::<Result<_>>()?;
        Ok(NativeExecutor { kernels, _code: code.clone(), pool, scratch })
    }
}

/// Operand addresses, shared with the workers.
struct Call<'c> {
    context: &'c StepContext,
    operands: &'c [*mut u8],
    scratch: &'c [Aligned],
}

// SAFETY: kernels write disjoint parts for disjoint items, and each worker has its own scratch.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    fn run(&self, kernel: KernelFn, worker: usize, begin: u64, end: u64) {
        // SAFETY: the engine made the operands for this kernel's step; the plan was verified.
        unsafe { kernel(self.context, self.operands.as_ptr(), begin, end, self.scratch[worker].as_ptr()) };
    }
}

impl Executor for NativeExecutor {
    fn run(
        &mut self,
        _plan: &Plan,
        _index: usize,
        step: &Step,
        _spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()> {
        let count = match step.grid.dim {
            GridDim::One => 1,
            GridDim::Tokens => context.tokens,
            GridDim::Outputs => context.outputs,
        };
        let items = count * step.grid.per;
        // A product's call normalises its rows first: few long ranges. Rows of an attention cost what their
        // context is long: many short ones.
        let ranges = self.pool.threads() as u64 * if step.grid.dim == GridDim::One { 2 } else { 8 };
        let call = Call { context, operands, scratch: &self.scratch };
        let kernel = self.kernels[step.kernel.index()];
        self.pool
            .run(items, items.div_ceil(ranges), &|worker, begin, end| call.run(kernel, worker, begin, end));
        Ok(())
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch.iter().map(Aligned::len).sum()
    }
}
