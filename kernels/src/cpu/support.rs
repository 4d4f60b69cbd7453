//! What this back end has kernels for.

use hyc_plan::{Elem, KernelSpec, Kind, KvOrder, Layout, OperandSpec, SelectShape, StepOp, ops};

use crate::operands;

/// Offsets in the code are 32-bit; an element this far away is the most that a kernel addresses by one.
const MAX_OFFSET: u64 = 1 << 30;

/// Whether there is a kernel for `spec`; the reason where there is none.
pub fn supports(spec: &KernelSpec) -> Result<(), String> {
    operands::check_kinds(spec)?;
    // A product's; the numbers of a table stand by themselves, also where it is in panels.
    operands::check_shared(spec, |kind, layout| {
        matches!((kind, layout), (Kind::Matrices { .. }, Layout::Panels { .. }))
    })?;
    spec.operands.iter().try_for_each(operand)?;
    if let Some(shape) = spec.op.attention() {
        group(shape.heads, shape.kv_heads)?;
    }
    for role in spec.op.roles() {
        if let Kind::Selection { shape, .. } = role.kind {
            selection(spec, shape)?;
        }
    }
    match spec.op {
        // The session samples on the host, from logits that are there already.
        StepOp::Sample(_) => Err("tokens are chosen by the host".to_string()),
        // A processor's kernels read the selection alone.
        StepOp::PageLists(_) => Err("page lists".to_string()),
        StepOp::QkvAppend(ops::QkvAppend { gates: 1.., .. }) => {
            Err("gates beside projections: a processor's kernels make them by products of their own"
                .to_string())
        }
        StepOp::Linear(ops::Linear { fp8_rows: Some(_), .. })
        | StepOp::QkvAppend(ops::QkvAppend { fp8_rows: Some(_), .. }) => {
            Err("rows of fp8: a processor's kernels multiply rows of f32".to_string())
        }
        StepOp::ExpertsUp(ops::ExpertsUp { shared: true, .. })
        | StepOp::ExpertsDown(ops::ExpertsDown { shared: true, .. }) => {
            Err("a shared expert beside those that are chosen: a processor's kernels make it by products of its own"
                .to_string())
        }
        StepOp::Embed(_)
        | StepOp::RmsNorm(_)
        | StepOp::Linear(_)
        | StepOp::QkvAppend(_)
        | StepOp::Rope(_)
        | StepOp::Append(_)
        | StepOp::QuantiseKv(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::FullAttention(_)
        | StepOp::OracleAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_)
        | StepOp::Router(_)
        | StepOp::ExpertsUp(_)
        | StepOp::ExpertsDown(_)
        | StepOp::GatherRows(_) => Ok(()),
    }
}

fn operand(operand: &OperandSpec) -> Result<(), String> {
    match operand {
        OperandSpec::Cache(cache) => {
            if cache.order == KvOrder::Tiles {
                return Err("a cache in tiles: the CPU has no kernel that reads them".to_string());
            }
            if cache.page % 8 != 0 {
                return Err(format!("pages of {} tokens: the CPU wants a multiple of 8", cache.page));
            }
            if cache.page_bytes() > MAX_OFFSET {
                return Err(format!("pages of {} bytes are too large", cache.page_bytes()));
            }
        }
        OperandSpec::Tensor { elem: Elem::Bf16, .. } => {
            return Err("rows in tiles: the CPU has no kernel that reads them".to_string());
        }
        OperandSpec::Tensor { stride, .. } => {
            if 4 * 6 * stride > MAX_OFFSET {
                return Err(format!("rows of {stride} elements are too wide"));
            }
        }
        OperandSpec::Weight(format) => match &format.layout {
            Layout::Panels { out_features: out, in_features, .. } => {
                if in_features * 64 > MAX_OFFSET || *out == 0 {
                    return Err(format!("{in_features} input features are too many"));
                }
            }
            Layout::Tiles { .. } => {
                return Err("a weight in tiles: the CPU has no kernel that reads them".to_string());
            }
            Layout::Strips { .. } => {
                return Err("a weight in strips: the CPU has no kernel that reads them".to_string());
            }
            Layout::Vector { .. } | Layout::Rows { .. } => {}
        },
    }
    Ok(())
}

/// Lists of blocks are lists of pages.
fn selection(spec: &KernelSpec, select: SelectShape) -> Result<(), String> {
    if spec.operands.iter().any(|o| matches!(o, OperandSpec::Cache(c) if c.page != select.block)) {
        return Err(format!("blocks of {} tokens over pages of another size", select.block));
    }
    if spec.op.attention().is_some_and(|shape| shape.kv_heads != select.kv_heads) {
        return Err("a selection for another number of KV heads".to_string());
    }
    Ok(())
}

/// The code of an attention is unrolled over the heads that share a KV head.
fn group(heads: u64, kv_heads: u64) -> Result<(), String> {
    match heads.checked_div(kv_heads) {
        Some(1..=128) => Ok(()),
        _ => Err(format!("{heads} heads over {kv_heads} KV heads: up to 128 may share one")),
    }
}
