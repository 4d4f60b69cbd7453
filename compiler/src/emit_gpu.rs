//! The forms of `--emit` that need MLIR or LLVM: the graph as MLIR, a GPU's kernels as MLIR, LLVM or PTX.

use hyc_plan::{Gpu, KernelSpec, Plan, Target};

use crate::driver::{self, Lowered};
use crate::error::{Error, ErrorKind, Result};

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The graph in the `hysparse` dialect; one row-wise kernel in MLIR's own dialects.
    Mlir,
    /// Kernels as LLVM gets them, before optimisation.
    Llvm,
    /// Kernels as PTX.
    Ptx,
}

/// The whole model, or the one kernel that is named.
pub fn text(
    form: Form,
    lowered: &mut Lowered,
    kernel: Option<&str>,
    wanted: driver::Wanted,
) -> Result<String> {
    match (form, kernel) {
        (Form::Mlir, None) => graph(lowered),
        (_, Some(name)) => one_kernel(form, &lowered.plan, name, wanted),
        (_, None) => {
            need_gpu(&lowered.plan)?;
            let code = driver::gpu_code(&mut lowered.plan, wanted)?;
            Ok(if form == Form::Ptx { code.text } else { code.llvm })
        }
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, error.to_string())
}

fn graph(lowered: &Lowered) -> Result<String> {
    hyc_kernels::mlir::graph_text(&lowered.graph).map_err(internal)
}

fn need_gpu(plan: &Plan) -> Result<&Gpu> {
    if let Target::Nvidia(gpu) = &plan.target {
        return Ok(gpu);
    }
    Err(Error::new(ErrorKind::Usage, "kernels as MLIR, LLVM or PTX are those of a GPU")
        .help("add `--target sm_90a`"))
}

fn one_kernel(form: Form, plan: &Plan, name: &str, wanted: driver::Wanted) -> Result<String> {
    let gpu = need_gpu(plan)?;
    let specs = driver::specs(plan);
    let Some((kernel, spec)) = plan.kernels.iter().zip(&specs).find(|(_, (found, _))| found == name) else {
        return Err(unknown(plan, name));
    };
    if form == Form::Mlir {
        return mlir_kernel(spec);
    }
    let request = driver::request(kernel, &spec.1, wanted);
    let code = hyc_kernels::gpu::compile(&[request], gpu).map_err(internal)?;
    Ok(if form == Form::Ptx { code.text } else { code.llvm })
}

fn mlir_kernel((name, spec): &(String, KernelSpec)) -> Result<String> {
    let not_mlir = || {
        Error::new(ErrorKind::Usage, format!("the kernel `{name}` is not built with MLIR"))
            .help("embed, rmsnorm, rope, add, silu_mul, gate and gather_rows are; try `--emit llvm`")
    };
    hyc_kernels::mlir::kernel_text(name, spec).ok_or_else(not_mlir)?.map_err(internal)
}

/// Names the three kernels that are spelt most alike.
fn unknown(plan: &Plan, name: &str) -> Error {
    let mut names: Vec<&str> = plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    names.sort_by_key(|known| {
        let begins_alike = known.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        (hyc_ir::text::distance(known, name), usize::MAX - begins_alike)
    });
    let near: Vec<String> = names.iter().take(3).map(|name| format!("`{name}`")).collect();
    Error::new(ErrorKind::Usage, format!("the plan has no kernel `{name}`")).help(format!(
        "near to it: {}; `--emit plan` lists all {}",
        near.join(", "),
        names.len()
    ))
}
