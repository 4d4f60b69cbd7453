//! What this back end has kernels for.

use hyc_ir::plan::{KernelSpec, Layout, OperandSpec, StepOp};

/// Offsets in the code are 32-bit; an element this far away is the most that a kernel addresses by one.
const MAX_OFFSET: u64 = 1 << 30;

/// Whether there is a kernel for `spec`; the reason where there is none.
pub fn supports(spec: &KernelSpec) -> Result<(), String> {
    if spec.operands.len() != spec.op.roles().len() {
        return Err(format!("{} operands for `{}`", spec.operands.len(), spec.op.name()));
    }
    for operand in &spec.operands {
        match operand {
            OperandSpec::Cache(cache) => {
                if cache.page % 8 != 0 {
                    return Err(format!("pages of {} tokens: the CPU wants a multiple of 8", cache.page));
                }
                if cache.page_bytes() > MAX_OFFSET {
                    return Err(format!("pages of {} bytes are too large", cache.page_bytes()));
                }
            }
            OperandSpec::Tensor { stride, .. } if 4 * 6 * stride > MAX_OFFSET => {
                return Err(format!("rows of {stride} elements are too wide"));
            }
            OperandSpec::Weight { layout: Layout::Panels { out, inn, .. }, .. }
                if inn * 64 > MAX_OFFSET || *out == 0 =>
            {
                return Err(format!("{inn} input features are too many"));
            }
            _ => {}
        }
    }
    match spec.op {
        StepOp::OracleAttention { shape, select, .. }
        | StepOp::SparseAttention { shape, select, .. }
        | StepOp::HybridAttention { shape, select, .. } => {
            if spec.operands.iter().any(|o| matches!(o, OperandSpec::Cache(c) if c.page != select.block)) {
                return Err(format!("blocks of {} tokens over pages of another size", select.block));
            }
            if shape.kv_heads != select.kv_heads {
                return Err("a selection for another number of KV heads".to_string());
            }
            group(shape.heads, shape.kv_heads)
        }
        StepOp::FullAttention { shape, .. } | StepOp::WindowAttention { shape, .. } => {
            group(shape.heads, shape.kv_heads)
        }
        // The session samples on the host, from logits that are there already.
        StepOp::Sample { .. } => Err("tokens are chosen by the host".to_string()),
        StepOp::Router { experts, active } if active > experts => {
            Err(format!("{active} of {experts} experts"))
        }
        _ => Ok(()),
    }
}

/// The code of an attention is unrolled over the heads that share a KV head.
fn group(heads: u64, kv_heads: u64) -> Result<(), String> {
    match heads.checked_div(kv_heads) {
        Some(1..=128) => Ok(()),
        _ => Err(format!("{heads} heads over {kv_heads} KV heads: up to 128 may share one")),
    }
}
