//! All kernels of a plan as one LLVM module and one PTX.

use std::fmt;
use std::mem::ManuallyDrop;

use hyc_plan::{Gpu, KernelSpec, Launch, NvidiaArch};
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};

use super::function::{GpuKernel, Kernel};
use super::gemm::slice;
use super::isa::wait_at_entry;
use crate::mlir;

/// Why no code came out; each is a bug of this back end, since `candidates` was asked first.
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
    /// The launches of slices, in order.
    pub slices: Vec<Launch>,
}

/// What a kernel's code is before optimisation, the functions of one variant alone: a digest of it in hexadecimal digits.
/// Optimisation is not in it, so that it takes little time.
pub fn digest(
    spec: &KernelSpec,
    variant: &str,
    gpu: &Gpu,
    build: &dyn Fn(&mut Kernel<'_, '_>),
) -> Result<String, GpuError> {
    let context = Context::create();
    // The context owns the module and frees it.
    let module = ManuallyDrop::new(context.create_module("hyc"));
    let wanted = [variant];
    let mut kernel = Kernel::new(&context, &module, ("kernel", spec, &wanted), false, gpu);
    build(&mut kernel);
    let finished = kernel.finish().map_err(GpuError)?;
    if finished.launched.launches.is_empty() {
        return Err(GpuError(format!("`{variant}` of `{}` has no function", spec.op.name())));
    }
    let parts = (module.print_to_string().to_string(), finished.mlir, finished.launched.launches);
    Ok(crate::table::hex_digest(&parts))
}

fn machine(arch: NvidiaArch) -> Result<TargetMachine, GpuError> {
    Target::initialize_nvptx(&InitializationConfig::default());
    let triple = TargetTriple::create("nvptx64-nvidia-cuda");
    let target = Target::from_triple(&triple).map_err(|e| GpuError(e.to_string()))?;
    let options = (OptimizationLevel::Aggressive, RelocMode::Default, CodeModel::Default);
    target
        .create_target_machine(&triple, arch.name(), "+ptx87", options.0, options.1, options.2)
        .ok_or_else(|| GpuError(format!("this LLVM has no target machine for {}", arch.name())))
}

/// A kernel to generate.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its name, unique among those that are generated together.
    pub name: &'a str,
    /// What to generate.
    pub spec: &'a KernelSpec,
    /// Names of the variants that there shall be code of.
    pub variants: Vec<&'a str>,
    /// Whether its functions write down the times of their blocks ([`hyc_plan::BlockTimes`]).
    pub clocked: bool,
}

/// Generates kernels for a GPU, each one's functions being made by `build`, and slices.
pub fn compile(
    (requests, slices): (&[Request<'_>], &[slice::Request<'_>]),
    gpu: &Gpu,
    build: &dyn Fn(&mut Kernel<'_, '_>),
) -> Result<Ptx, GpuError> {
    let machine = machine(gpu.arch)?;
    let context = Context::create();
    // The context owns the module and frees it.
    let module = ManuallyDrop::new(context.create_module("hyc"));
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let mut kernels = Vec::with_capacity(requests.len());
    let (mut row_wise, mut waiting) = (String::new(), Vec::new());
    for Request { name, spec, variants, clocked } in requests {
        // PTX names take letters, digits, `_` and `$`.
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let mut kernel = Kernel::new(&context, &module, (&name, spec, variants), *clocked, gpu);
        build(&mut kernel);
        let finished = kernel.finish().map_err(|fault| GpuError(format!("kernel {name}: {fault}")))?;
        if !finished.mlir.is_empty() {
            row_wise.push_str(&finished.mlir);
            waiting.push(name.clone());
        }
        if finished.launched.scratch_bytes >= 8 << 30 {
            let gib = finished.launched.scratch_bytes >> 30;
            return Err(GpuError(format!(
                "kernel {name} would take {gib} GiB of scratch: lower `chunk` or `max_context` of [target]"
            )));
        }
        kernels.push(finished.launched);
    }
    let sliced = |request| {
        slice::slice(&context, &module, request)
            .map_err(|fault| GpuError(format!("{}: {fault}", request.name)))
    };
    let slices = slices.iter().map(sliced).collect::<Result<_, _>>()?;
    if !row_wise.is_empty() {
        mlir::link(&row_wise, &context, &module).map_err(|e| GpuError(e.to_string()))?;
        for name in &waiting {
            wait_at_entry(&context, &module, name)
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
    Ok(Ptx { text, llvm, kernels, slices })
}
