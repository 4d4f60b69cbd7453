//! GPU kernels through LLVM: PTX for `sm_90a`, shapes constant.
//!
//! A kernel takes the addresses of the step's context, of its operands and of its scratch, laid out as
//! [`hyc_plan::abi`] says: weights, caches and activations are those of the CPU's kernels, so one reference
//! serves both.

mod attention;
mod candidates;
mod function;
mod gemm;
mod isa;
mod kv_codes;
mod module;
mod moe;
mod paged_kv;
#[doc(hidden)]
pub mod probe;
mod sampling;
mod select;
mod tile;
mod work_item;

use hyc_plan::{AttnShape, Gpu, KernelSpec, SelectShape, StepOp, ops};

use attention::{flash_prefill, limits, page_lists, simt, sparse, split_kv};
use function::Kernel;
use gemm::{linear, pack_rows, qkv};

pub use candidates::candidates;
pub use function::GpuKernel;
pub use gemm::slice::Request as SliceRequest;
pub use module::{GpuError, Ptx, Request};

/// Generates kernels for a GPU as one PTX text.
pub fn compile(requests: &[Request<'_>], gpu: &Gpu) -> Result<Ptx, GpuError> {
    module::compile((requests, &[]), gpu, &build)
}

/// The same, and slices of their plan.
pub fn compile_sliced(
    requests: &[Request<'_>],
    slices: &[SliceRequest<'_>],
    gpu: &Gpu,
) -> Result<Ptx, GpuError> {
    module::compile((requests, slices), gpu, &build)
}

/// A digest, in hexadecimal digits, of the code of one variant of a kernel before it is optimised, at a
/// [`standard`](crate::table::standard) chunk and context: what was measured of it is of no use once this is another.
pub fn digest(spec: &KernelSpec, variant: &str, gpu: &Gpu) -> Result<String, GpuError> {
    module::digest(&crate::table::standard(spec), variant, gpu, &build)
}

fn build(k: &mut Kernel<'_, '_>) {
    let tensor_cores = limits::takes(k.spec);
    match k.spec.op {
        StepOp::RmsNorm(ops::RmsNorm { width, eps, .. }) if k.in_tiles("out") => {
            pack_rows::rmsnorm(k, width, eps)
        }
        StepOp::Embed(_)
        | StepOp::RmsNorm(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::GatherRows(_)
        | StepOp::Rope(_) => k.row_wise(),
        StepOp::Linear(op) => linear::linear(k, &op),
        StepOp::QkvAppend(op) => {
            qkv::qkv_append(k, &op);
        }
        StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim }) => qkv::append(k, kv_heads, qk_dim, v_dim),
        StepOp::QuantiseKv(op) => kv_codes::quantise(k, op.kv_heads),
        StepOp::FullAttention(ops::FullAttention { shape, sink }) if tensor_cores => {
            whole(k, shape, sink, None)
        }
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) if tensor_cores => {
            whole(k, shape, sink, Some(select))
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }) if tensor_cores => {
            sparse::window(k, shape, window, sink);
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, lists }) if tensor_cores => {
            sparse::sparse(k, shape, (select, lists), sink);
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, lists })
            if tensor_cores =>
        {
            sparse::hybrid(k, shape, (select, lists), window, gate);
        }
        StepOp::FullAttention(ops::FullAttention { shape, sink }) => simt::full(k, shape, sink, None),
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) => {
            simt::full(k, shape, sink, Some(select))
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }) => {
            simt::window(k, shape, window, sink)
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, .. }) => {
            simt::sparse(k, shape, select, sink)
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, .. }) => {
            simt::hybrid(k, shape, select, window, gate);
        }
        StepOp::PageLists(ops::PageLists { select, lists, .. }) => page_lists::page_lists(k, select, lists),
        StepOp::Router(op) => moe::router::router(k, op),
        StepOp::ExpertsUp(op) => moe::experts::up(k, op),
        StepOp::ExpertsDown(op) => moe::experts::down(k, op),
        StepOp::Sample(op) => sampling::sample(k, op),
    }
}

/// Attention over whole contexts on tensor cores.
fn whole(k: &mut Kernel<'_, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    split_kv::decode(k, shape, sink, select);
    flash_prefill::prefill(k, shape, sink, select);
}
