//! Which steps a GPU's persistent kernels take, and into how many tasks they split them: sixteen outputs each.

use hyc_plan::ops::QkvAppend;
use hyc_plan::{Elem, KernelSpec, Layout, OperandSpec, StepOp};

use crate::tiles::ends_in_registers;

/// Outputs of a task.
pub const OUTPUTS: u64 = 16;
/// Most input features of a row that is read in f32, of which every thread has eight registers for each 2,048 (in a slice 4,096),
/// and as many of its norm.
pub const MOST_RAW: u64 = 8192;
/// The same of one that lies in tiles: what a block keeps of it takes from what it has on the way.
const MOST_KEPT: u64 = 16384;

/// Tasks of a step of one row; `None`: it is in no slice.
pub fn tasks(spec: &KernelSpec) -> Option<u64> {
    let operand = |name: &str| spec.at(name).and_then(|at| spec.operands.get(at));
    let streamed = |name: &str| match operand(name) {
        Some(OperandSpec::Weight(format)) => {
            matches!(format.layout, Layout::Tiles { .. } | Layout::Strips { .. })
        }
        _ => false,
    };
    let reads = |in_features: u64| match operand("x") {
        Some(OperandSpec::Tensor { elem: Elem::Bf16, .. }) => in_features <= MOST_KEPT,
        Some(OperandSpec::Tensor { .. }) => in_features <= MOST_RAW,
        _ => false,
    };
    match spec.op {
        StepOp::Linear(op) if streamed("weight") && reads(op.in_features) => split(&spec.op),
        StepOp::QkvAppend(op) if streamed("wq") && reads(op.in_features) => split(&spec.op),
        _ => None,
    }
}

/// Tasks of an op that can be split; what a task is, [`crate::reference::run_task`] says.
pub fn split(op: &StepOp) -> Option<u64> {
    match op {
        StepOp::Linear(op) => Some(op.out_features.div_ceil(OUTPUTS)),
        StepOp::QkvAppend(op) => ends_in_registers(op).then(|| projected(op) / OUTPUTS),
        _ => None,
    }
}

/// Outputs of all projections of an op.
fn projected(op: &QkvAppend) -> u64 {
    let s = op.shape;
    let own = if op.own_kv { s.kv_heads * (s.qk_dim + s.v_dim) } else { 0 };
    s.heads * s.qk_dim + own + op.gates * s.heads * s.v_dim
}
