//! `fp8-rows`: products whose kernels multiply rows of e4m3 in steps of many rows say from how many on.
//!
//! ```text
//! %q, %kv = qkv_append(%h, @wq, ..)         %q, %kv = qkv_append(%h, @wq, ..) {.., fp8_rows = 65}
//! %g = linear(%o, @wg)                  =>  %g = fused_linear(%o, @wg) {epilogue = store, fp8_rows = 65}
//! ```
//! A row is rounded where it is read, behind the norm that the product has: values keep their types. The back end says which
//! ops do so, by the formats of their weights. Left alone are products of gathered rows, which are few, and those of a model
//! whose steps have never so many.

use hyc_ir::{Dim, Graph, Op, OpId, Sym, Type, op};
use hyc_plan::{Backend, Epilogue, Format};

use crate::error::PassError;
use crate::lower::lower;

/// Says where rows are of e4m3. Returns how many products changed.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<OpId>>() {
        let data = graph.op(id);
        let Some(has) = data.op.fp8_rows() else { continue };
        // A dump may say it of a product of which this back end does not.
        let wanted = wanted(graph, id, backend);
        if wanted != has {
            let (op, operands) = (with(data.op, wanted), data.operands.clone());
            graph.rewrite(id, op, operands);
            changes += 1;
        }
    }
    Ok(changes)
}

/// From how many rows on an op shall multiply rows of e4m3.
fn wanted(graph: &Graph, id: OpId, backend: &dyn Backend) -> Option<u64> {
    let by_token = |value| matches!(graph.ty(value), Type::Tensor { dims, .. } if dims.first() == Some(&Dim::Sym(Sym::Tokens)));
    if !by_token(*graph.op(id).results.first()?) {
        return None;
    }
    // What no step stands for is select-kernels' to refuse.
    let step = lower(graph, id, backend).ok()??;
    let format = |(value, layout)| match graph.ty(value) {
        Type::Weight { codec, .. } => Some(Format { codec: *codec, layout }),
        Type::Tensor { .. } | Type::Cache(_) | Type::Selection(_) | Type::Lists(_) => None,
    };
    let weights: Vec<Format> = step.layouts.into_iter().filter_map(format).collect();
    backend.fp8_rows(&step.op, &weights).filter(|least| *least <= graph.header.chunk)
}

/// The product with rows of e4m3 from so many on. A plain one has no place for that.
fn with(product: Op, fp8_rows: Option<u64>) -> Op {
    match product {
        Op::QkvAppend(op) => Op::QkvAppend(op::QkvAppend { fp8_rows, ..op }),
        Op::FusedLinear(op) => Op::FusedLinear(op::FusedLinear { fp8_rows, ..op }),
        Op::Linear(op::Linear {}) => {
            Op::FusedLinear(op::FusedLinear { norm: None, epilogue: Epilogue::Store, fp8_rows })
        }
        other => other,
    }
}
