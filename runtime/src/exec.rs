//! Executors: who runs a step.

use std::sync::Arc;

use hyc_plan::abi::{KernelFn, StepContext};
use hyc_plan::{Code, Grid, GridDim, KernelSpec, Plan, Step, WeightId};
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Aligned, Block};
use crate::memory_plan::{MemoryPlan, scratch_bytes};
use crate::model::{Model, ModelId};
use crate::options::SessionOptions;
use crate::pool::Pool;

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
///
/// # Safety
/// The engine follows what an executor says of itself without a look: [`Executor::model`] is the one model whose
/// code and weights it holds, if it holds any; a block of [`Executor::zeroed`] keeps what [`Block`] promises for the
/// bytes asked for; [`Executor::weight`] is the address of all bytes of that weight, valid while executor and model
/// live. Running a step touches nothing but what its operands, its context's lists and the executor's own memory are.
pub unsafe trait Executor: Send {
    /// The model that it was made for; `None` where it runs any plan (an interpreter). An [`Engine`](crate::Engine)
    /// of another model refuses it.
    fn model(&self) -> Option<ModelId>;

    /// Executes the whole grid of `step`. `operands[i]` is the address of its i-th operand; the memory is
    /// as `hyc_plan::abi` says for `spec`.
    ///
    /// # Safety
    /// `step` is step `index` of `plan`, a verified plan, which is that of [`Executor::model`]; `spec` is that step's.
    /// Every list of `context` has the length that the context states, with values in the range that the plan
    /// allows; every operand is valid for the bytes that the spec gives it, and nobody else uses them meanwhile.
    /// [`Executor::begin`] was called with the same context, and the steps before `index` have run on it.
    unsafe fn run(
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
    ///
    /// # Safety
    /// As for [`Executor::run`], of every step in turn.
    unsafe fn run_all(&mut self, _pass: &Pass<'_>) -> Result<bool> {
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
    ///
    /// # Safety
    /// Every list has the length that the context states, within the maxima of the executor's model.
    unsafe fn begin(&mut self, _context: &StepContext) -> Result<()> {
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
    fn set_timing(&mut self, _on: bool) -> Result<bool> {
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
/// the caller will allocate beside; `progress` gets the bytes of weights checked, or copied to a GPU, and all bytes, and
/// ends that where it returns false.
///
/// Errors: a target that this build of the runtime does not carry; no such device; too little memory;
/// `Cancelled`.
pub fn open_executor(
    model: &Model,
    options: &SessionOptions,
    memory: &MemoryPlan,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Box<dyn Executor>> {
    model.check_runnable()?;
    let target = &model.plan().target;
    if target.is_host() {
        memory.check(model.plan())?;
        model.check_weights(progress)?;
        return Ok(Box::new(NativeExecutor::new(model, options.thread_count())?));
    }
    #[cfg(feature = "cuda")]
    return Ok(Box::new(crate::cuda::CudaExecutor::new(model, memory, &options.gpu, progress)?));
    #[cfg(not(feature = "cuda"))]
    {
        let message = format!("this build of the runtime does not execute `{}` code", target.kind());
        Err(Error::new(ErrorKind::Unsupported, message)
            .help("build it with the feature `cuda`, or compile the model with `--target cpu`"))
    }
}

/// Runs the artefact's generated code on a pool of threads.
///
/// Its kernels are machine code: only an engine, which has checked what they will read, can call them without `unsafe`.
///
/// ```compile_fail,E0133
/// # use hyc_runtime::*;
/// # use hyc_plan::{abi::StepContext, *};
/// # fn run(mut executor: NativeExecutor, plan: &Plan, context: &StepContext) -> Result<()> {
/// let step = &plan.steps[0];
/// executor.run(plan, 0, step, &plan.spec(step), context, &[std::ptr::null_mut(); 2])
/// # }
/// ```
pub struct NativeExecutor {
    model: ModelId,
    /// Each kernel's function and how its work is split.
    kernels: Vec<(KernelFn, Grid)>,
    /// What `kernels` point into; kept so that the executor may outlive its model.
    _code: Arc<Mmap>,
    pool: Pool,
    /// A thread's own.
    scratch: Vec<Box<dyn Block>>,
    scratch_bytes: u64,
}

impl NativeExecutor {
    /// Prepares the kernels of `model`. Errors: an artefact without code, no memory for scratch.
    pub fn new(model: &Model, threads: usize) -> Result<NativeExecutor> {
        let mut plain = |bytes| Ok(Box::new(Aligned::zeroed(bytes)?) as Box<dyn Block>);
        // SAFETY: an allocation of so many bytes.
        unsafe { NativeExecutor::with_scratch(model, threads, &mut plain) }
    }

    /// The same; each thread's scratch is a block that `zeroed` makes. Errors: its own, too.
    ///
    /// # Safety
    /// `zeroed(bytes)` makes a block of so many bytes.
    pub unsafe fn with_scratch(
        model: &Model,
        threads: usize,
        zeroed: &mut dyn FnMut(u64) -> Result<Box<dyn Block>>,
    ) -> Result<NativeExecutor> {
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
        let scratch_bytes = most * scratch.len() as u64;
        Ok(NativeExecutor { model: model.id(), kernels, _code: code.clone(), pool, scratch, scratch_bytes })
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

// SAFETY: memory and weights are the trait's own defaults; kernels touch their operands, lists and scratch alone, which
// is what the compiler makes and the plan's verifier assumes.
unsafe impl Executor for NativeExecutor {
    fn model(&self) -> Option<ModelId> {
        Some(self.model)
    }

    unsafe fn run(
        &mut self,
        _plan: &Plan,
        _index: usize,
        step: &Step,
        _spec: &KernelSpec,
        context: &StepContext,
        operands: &[*mut u8],
    ) -> Result<()> {
        let (kernel, grid) = self.kernels[step.kernel.index()];
        let count = match grid.dim {
            GridDim::One => 1,
            GridDim::Tokens => context.tokens,
            GridDim::Outputs => context.outputs,
        };
        let items = count * grid.per;
        // A product's call normalises its rows first: few long ranges. Rows of an attention cost what their
        // context is long: many short ones.
        let ranges = self.pool.threads() as u64 * if grid.dim == GridDim::One { 2 } else { 8 };
        let call = Call { context, operands, scratch: &self.scratch };
        self.pool
            .run(items, items.div_ceil(ranges), &|worker, begin, end| call.run(kernel, worker, begin, end));
        Ok(())
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}
