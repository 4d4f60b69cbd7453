//! GPU kernels through LLVM: PTX for `sm_90a`, shapes constant.
//!
//! A kernel takes the addresses of the step's context, of its operands and of its scratch, laid out as
//! [`hyc_plan::abi`] says: weights, caches and activations are those of the CPU's kernels, so one reference
//! serves both.

mod attention;
mod function;
mod gemm;
mod isa;
mod module;
mod moe;
mod paged_kv;
#[doc(hidden)]
pub mod probe;
mod sampling;
mod select;
mod tile;
mod work_item;

use hyc_plan::{AttnShape, Gpu, KernelSpec, Layout, OperandSpec, SelectShape, StepOp};

use crate::operands;
use attention::{flash_prefill, limits, simt, sparse, split_kv_decode};
use function::Kernel;
use gemm::{linear, projections, qkv};

pub use function::GpuKernel;
pub use module::{GpuError, Ptx};

/// Whether there is a kernel for this on this GPU; the reason where there is none.
pub fn supports(spec: &KernelSpec, gpu: &Gpu) -> Result<(), String> {
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
        if !limits::takes(spec, u64::from(gpu.multiprocessors)) {
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

/// Generates the kernels of `specs` for a GPU as one PTX text. Names must be unique.
pub fn compile(specs: &[(String, KernelSpec)], gpu: &Gpu) -> Result<Ptx, GpuError> {
    module::compile(specs, gpu, &build)
}

fn build(k: &mut Kernel<'_, '_>) {
    let tensor_cores = limits::takes(k.spec, k.multiprocessors);
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
        StepOp::Router { experts, active } => moe::router::router(k, experts, active),
        StepOp::ExpertsUp { inn, ffn, active, .. } => moe::experts::up(k, inn, ffn, active),
        StepOp::ExpertsDown { active, ffn, out, .. } => moe::experts::down(k, active, ffn, out),
        StepOp::Sample { vocab } => sampling::sample(k, vocab),
    }
}

/// Attention over whole contexts on tensor cores: one function for few rows, one for many.
fn whole(k: &mut Kernel<'_, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    split_kv_decode::decode(k, shape, sink, select);
    flash_prefill::prefill(k, shape, sink, select);
}
