//! GPU kernels through LLVM: PTX for `sm_90a`, shapes constant.
//!
//! A kernel takes the addresses of the step's context, of its operands and of its scratch, laid out as
//! [`hyc_plan::abi`] says: weights, caches and activations are those of the CPU's kernels, so one reference
//! serves both.

mod attention;
mod gemm;
mod isa;
mod moe;
mod paged_kv;
#[doc(hidden)]
pub mod probe;
mod sampling;
mod select;
mod tile;
mod work_item;

use std::fmt;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use hyc_plan::{
    AttnShape, CacheSpec, Extent, GridDim, KernelSpec, Launch, Layout, OperandSpec, Rows, SelectShape,
    StepOp, When,
};
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};

use crate::mlir;
use crate::operands::{self, Operands};
use attention::{flash_prefill, simt, sparse, split_kv_decode, warp_mma};
use gemm::{linear, projections, qkv};
use isa::Emit;

/// Multiprocessors of an H100: what a grid that takes its items in turns has of blocks.
pub(crate) const MULTIPROCESSORS: u64 = 132;

/// Why a product is refused whose weight is in the order of a table or a vector; [`supports`] has refused it before.
const NO_PRODUCT: &str = "a product whose weight is neither in panels nor in tiles";

/// The targets that this back end knows.
pub const TARGETS: [&str; 1] = ["sm_90a"];

/// Why no code came out; each is a bug of this back end, since [`supports`] was asked first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuError(String);

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU code generation failed: {}", self.0)
    }
}

impl std::error::Error for GpuError {}

/// All kernels of a plan.
#[derive(Debug, Clone)]
pub struct Ptx {
    /// The PTX of all functions.
    pub text: String,
    /// LLVM's text before optimisation.
    pub llvm: String,
    /// One entry a spec, in order.
    pub kernels: Vec<GpuKernel>,
}

/// How one kernel is launched.
#[derive(Debug, Clone, Default)]
pub struct GpuKernel {
    /// Functions, in order.
    pub launches: Vec<Launch>,
    /// Scratch of the whole kernel in device memory, in bytes.
    pub scratch_bytes: u64,
}

/// Whether there is a kernel for this; the reason where there is none.
pub fn supports(spec: &KernelSpec) -> Result<(), String> {
    operands::check(spec)?;
    let wide = |what: &str, n: u64, most: u64| {
        if n > most { Err(format!("{what} of {n}: the GPU kernels take {most} at most")) } else { Ok(()) }
    };
    for operand in &spec.operands {
        match operand {
            OperandSpec::Weight(format) => match &format.layout {
                Layout::Panels { count, out, inn, .. } => {
                    // Indices inside a matrix are 32 bits.
                    wide("a matrix", count.saturating_mul(*out).saturating_mul(*inn) / 16, 1 << 31)?;
                }
                Layout::Vector { .. } | Layout::Rows { .. } | Layout::Tiles { .. } => {}
            },
            OperandSpec::Cache(cache) => {
                wide("a head", cache.qk_dim.max(cache.v_dim), 256)?;
                wide("a page", cache.page, 128)?;
            }
            // So are those inside a tensor, whose rows are taken in tiles.
            OperandSpec::Tensor { stride, .. } => {
                let elements = (spec.max_rows + 128).saturating_mul(*stride);
                wide("the rows of a tensor, in elements,", elements, (1 << 31) - 1)?;
            }
        }
    }
    if let Some(shape) = spec.op.attention() {
        wide("a group", shape.heads / shape.kv_heads, 32)?;
        if !warp_mma::takes(spec) {
            let bytes = simt::shared_bytes(spec, shape);
            wide("queries and sums in shared memory, in bytes,", bytes, 48 << 10)?;
        }
    }
    match spec.op {
        StepOp::QkvAppend { shape: s, .. } => {
            let columns = (s.heads + s.kv_heads) * s.qk_dim + s.kv_heads * s.v_dim;
            wide("projections, in elements,", (spec.max_rows + 128).saturating_mul(columns), (1 << 31) - 1)
        }
        StepOp::ExpertsUp { active, .. } | StepOp::ExpertsDown { active, .. } => {
            // A grid's second axis.
            wide("rows times chosen experts", spec.max_rows.saturating_mul(active), 65535)
        }
        StepOp::Router { experts, active } => {
            wide("a router", experts, 4096)?;
            wide("a router's choice", active, 64)
        }
        StepOp::Embed { .. }
        | StepOp::RmsNorm { .. }
        | StepOp::Linear { .. }
        | StepOp::Rope { .. }
        | StepOp::Append { .. }
        | StepOp::Add { .. }
        | StepOp::SiluMul { .. }
        | StepOp::Gate { .. }
        | StepOp::FullAttention { .. }
        | StepOp::OracleAttention { .. }
        | StepOp::WindowAttention { .. }
        | StepOp::SparseAttention { .. }
        | StepOp::HybridAttention { .. }
        | StepOp::GatherRows { .. }
        | StepOp::Sample { .. } => Ok(()),
    }
}

/// A kernel being made: its spec, its name, and the functions so far.
pub(crate) struct Maker<'c, 's> {
    context: &'c Context,
    module: &'c Module<'c>,
    name: &'s str,
    spec: &'s KernelSpec,
    operands: Rc<Operands>,
    kernel: GpuKernel,
    /// Functions that MLIR lowers.
    mlir: String,
    /// Why there is no code.
    fault: Option<String>,
}

impl<'c> Maker<'c, '_> {
    /// Adds one function; `part` tells it from others of this kernel.
    fn launch(&mut self, part: &str, grid: [Extent; 2], threads: u64, body: impl FnOnce(&Emit<'c>)) {
        self.launch_with(part, grid, threads, None, 0, body);
    }

    /// The same for some row counts alone.
    fn launch_when(
        &mut self,
        part: &str,
        grid: [Extent; 2],
        threads: u64,
        when: Option<When>,
        body: impl FnOnce(&Emit<'c>),
    ) {
        self.launch_with(part, grid, threads, when, 0, body);
    }

    /// The same with `shared` bytes of dynamic shared memory.
    fn launch_with(
        &mut self,
        part: &str,
        grid: [Extent; 2],
        threads: u64,
        when: Option<When>,
        shared: u64,
        body: impl FnOnce(&Emit<'c>),
    ) {
        self.launch_early(part, grid, threads, when, shared, |e| {
            e.wait_for_inputs();
            body(e);
        });
    }

    /// The same of a `body` that calls [`Emit::wait_for_inputs`] itself, before it touches what an earlier launch
    /// wrote: weights and the step's context may be read at once.
    fn launch_early(
        &mut self,
        part: &str,
        grid: [Extent; 2],
        threads: u64,
        when: Option<When>,
        shared: u64,
        body: impl FnOnce(&Emit<'c>),
    ) {
        let entry = format!("{}{part}", self.name);
        let e = Emit::new(
            self.context,
            self.module,
            &entry,
            (self.operands.clone(), self.spec.operands.len()),
            threads as u32,
        );
        body(&e);
        e.finish();
        let shared_bytes = shared as u32;
        let threads = threads as u32;
        self.kernel.launches.push(Launch { entry, grid, threads, shared_bytes, overlaps: true, when });
    }

    /// Adds the one function of a row-wise op: a block a row.
    fn row_wise(&mut self) {
        match mlir::function(self.name, self.spec) {
            Some(Ok(text)) => self.mlir.push_str(&text),
            Some(Err(fault)) => self.fault = Some(fault),
            None => self.fault = Some(format!("`{}` is no row-wise op", self.spec.op.name())),
        }
        self.kernel.launches.push(Launch {
            entry: self.name.to_string(),
            grid: [self.rows(1, 1), Extent::fixed(1)],
            threads: mlir::THREADS as u32,
            shared_bytes: 0,
            overlaps: true,
            when: None,
        });
    }

    /// Says why there is no code: a bug of the kernel, or of what `supports` has let pass.
    fn refuse(&mut self, why: &str) {
        self.fault = Some(why.to_string());
    }

    /// The layout of a weight's elements.
    fn layout(&self, name: &str) -> Layout {
        self.operands.weight(name).1
    }

    /// The constants of a cache.
    fn cache(&self, name: &str) -> CacheSpec {
        self.operands.cache(name)
    }

    /// `per` items a row, `each` of them a block.
    fn rows(&self, per: u64, each: u64) -> Extent {
        let dim = if self.spec.rows == Rows::Tokens { GridDim::Tokens } else { GridDim::Outputs };
        Extent { dim, per, each }
    }

    /// Bytes of scratch, aligned; returns their offset in 4-byte elements.
    fn scratch(&mut self, bytes: u64) -> u64 {
        let at = self.kernel.scratch_bytes;
        self.kernel.scratch_bytes += bytes.next_multiple_of(256);
        at / 4
    }
}

fn machine() -> Result<TargetMachine, GpuError> {
    Target::initialize_nvptx(&InitializationConfig::default());
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).map_err(|e| GpuError(e.to_string()))?;
    let options = (OptimizationLevel::Aggressive, RelocMode::Default, CodeModel::Default);
    target
        .create_target_machine(&triple, "sm_90a", "+ptx87", options.0, options.1, options.2)
        .ok_or_else(|| GpuError("this LLVM has no target machine for sm_90a".into()))
}

/// Generates the kernels of `specs` as one PTX text. Names must be unique.
pub fn compile(specs: &[(String, KernelSpec)]) -> Result<Ptx, GpuError> {
    compile_with(specs, &build)
}

/// The same, each spec's functions being made by `build`.
fn compile_with(specs: &[(String, KernelSpec)], build: &dyn Fn(&mut Maker<'_, '_>)) -> Result<Ptx, GpuError> {
    let machine = machine()?;
    let context = Context::create();
    // The context owns the module and frees it.
    let module = ManuallyDrop::new(context.create_module("hyc"));
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let mut kernels = Vec::with_capacity(specs.len());
    let (mut row_wise, mut waiting) = (String::new(), Vec::new());
    for (name, spec) in specs {
        // PTX names take letters, digits, `_` and `$`.
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let mut maker = Maker {
            context: &context,
            module: &module,
            name: &name,
            spec,
            operands: Rc::new(Operands::new(spec)),
            kernel: GpuKernel::default(),
            mlir: String::new(),
            fault: None,
        };
        build(&mut maker);
        if let Some(fault) = maker.fault.or_else(|| maker.operands.fault()) {
            return Err(GpuError(format!("kernel {name}: {fault}")));
        }
        if !maker.mlir.is_empty() {
            row_wise.push_str(&maker.mlir);
            waiting.push(name.clone());
        }
        if maker.kernel.scratch_bytes >= 8 << 30 {
            let gib = maker.kernel.scratch_bytes >> 30;
            return Err(GpuError(format!(
                "kernel {name} would take {gib} GiB of scratch: lower `chunk` or `max_context` of [target]"
            )));
        }
        kernels.push(maker.kernel);
    }
    if !row_wise.is_empty() {
        mlir::link(&row_wise, &context, &module).map_err(|e| GpuError(e.to_string()))?;
        for name in &waiting {
            isa::wait_at_entry(&context, &module, name)
                .ok_or_else(|| GpuError(format!("the function {name} was not linked")))?;
        }
    }
    let llvm = module.print_to_string().to_string();
    module.verify().map_err(|e| GpuError(e.to_string()))?;
    module
        .run_passes("default<O3>", &machine, PassBuilderOptions::create())
        .map_err(|e| GpuError(e.to_string()))?;
    let text =
        machine.write_to_memory_buffer(&module, FileType::Assembly).map_err(|e| GpuError(e.to_string()))?;
    let text = String::from_utf8_lossy(text.as_slice()).trim_end_matches('\0').to_string();
    Ok(Ptx { text, llvm, kernels })
}

fn build(k: &mut Maker<'_, '_>) {
    let tensor_cores = warp_mma::takes(k.spec);
    match k.spec.op {
        StepOp::Embed { .. }
        | StepOp::RmsNorm { .. }
        | StepOp::Add { .. }
        | StepOp::SiluMul { .. }
        | StepOp::Gate { .. }
        | StepOp::GatherRows { .. }
        | StepOp::Rope { .. } => k.row_wise(),
        StepOp::Linear { inn, norm, epilogue, .. } => linear::linear(k, inn, norm, epilogue),
        StepOp::QkvAppend { inn, shape, norm, qk_norm, rope, own_kv } => {
            qkv::qkv_append(k, &projections::Qkv { inn, shape, norm, qk_norm, rope, own_kv });
        }
        StepOp::Append { kv_heads, qk_dim, v_dim } => qkv::append(k, kv_heads, qk_dim, v_dim),
        StepOp::FullAttention { shape, sink } if tensor_cores => whole(k, shape, sink, None),
        StepOp::OracleAttention { shape, sink, select } if tensor_cores => {
            whole(k, shape, sink, Some(select))
        }
        StepOp::WindowAttention { shape, window, sink } if tensor_cores => {
            sparse::window(k, shape, window, sink);
        }
        StepOp::SparseAttention { shape, select, sink } if tensor_cores => {
            sparse::sparse(k, shape, select, sink);
        }
        StepOp::HybridAttention { shape, select, window, gate } if tensor_cores => {
            sparse::hybrid(k, shape, select, window, gate);
        }
        StepOp::FullAttention { shape, sink } => simt::full(k, shape, sink, None),
        StepOp::OracleAttention { shape, sink, select } => simt::full(k, shape, sink, Some(select)),
        StepOp::WindowAttention { shape, window, sink } => simt::window(k, shape, window, sink),
        StepOp::SparseAttention { shape, select, sink } => simt::sparse(k, shape, select, sink),
        StepOp::HybridAttention { shape, select, window, gate } => {
            simt::hybrid(k, shape, select, window, gate);
        }
        StepOp::Router { experts, active } => moe::panel::router(k, experts, active),
        StepOp::ExpertsUp { inn, ffn, active, .. } => moe::panel::up(k, inn, ffn, active),
        StepOp::ExpertsDown { active, ffn, out, .. } => moe::panel::down(k, active, ffn, out),
        StepOp::Sample { vocab } => sampling::sample(k, vocab),
    }
}

/// Attention over whole contexts on tensor cores: one function for few rows, one for many.
fn whole(k: &mut Maker<'_, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    split_kv_decode::decode(k, shape, sink, select);
    flash_prefill::prefill(k, shape, sink, select);
}
