//! Which steps a GPU's persistent kernels take, and into how many tasks they split them: sixteen outputs each.

use hyc_plan::ops::QkvAppend;
use hyc_plan::{Elem, KernelSpec, Layout, OperandSpec, SPAN, StepOp, TILE};

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
    // Inputs that a warp multiplies a streamed weight's outputs by at once.
    let at_once = |name: &str| match operand(name) {
        Some(OperandSpec::Weight(format)) => match format.layout {
            Layout::Tiles { .. } => Some(TILE),
            Layout::Strips { .. } => Some(SPAN),
            _ => None,
        },
        _ => None,
    };
    let streamed = |name: &str| at_once(name).is_some();
    // Of down that is of one expert; up is where down is.
    let of_experts = |name: &str, ffn: u64| at_once(name).is_some_and(|inputs| ffn.is_multiple_of(inputs));
    let reads = |name: &str, in_features: u64| match operand(name) {
        Some(OperandSpec::Tensor { elem: Elem::Bf16, .. }) => in_features <= MOST_KEPT,
        Some(OperandSpec::Tensor { .. }) => in_features <= MOST_RAW,
        _ => false,
    };
    match spec.op {
        StepOp::Linear(op) if streamed("weight") && reads("x", op.in_features) => split(&spec.op),
        StepOp::QkvAppend(op) if streamed("wq") && reads("x", op.in_features) => split(&spec.op),
        StepOp::ExpertsUp(op) if of_experts("gate", op.ffn) && reads("x", op.in_features) => split(&spec.op),
        StepOp::ExpertsDown(op) if of_experts("down", op.ffn) && reads("h", op.columns()) => split(&spec.op),
        _ => None,
    }
}

/// Tasks of an op that can be split; what a task is, [`crate::reference::run_task`] says.
pub fn split(op: &StepOp) -> Option<u64> {
    match op {
        StepOp::Linear(op) => Some(op.out_features.div_ceil(OUTPUTS)),
        StepOp::QkvAppend(op) => ends_in_registers(op).then(|| projected(op) / OUTPUTS),
        StepOp::ExpertsUp(op) => op.ffn.is_multiple_of(OUTPUTS).then_some(op.columns() / OUTPUTS),
        StepOp::ExpertsDown(op) => Some(op.out_features.div_ceil(OUTPUTS)),
        _ => None,
    }
}

/// Outputs of all projections of an op.
fn projected(op: &QkvAppend) -> u64 {
    let s = op.shape;
    let own = if op.own_kv { s.kv_heads * (s.qk_dim + s.v_dim) } else { 0 };
    s.heads * s.qk_dim + own + op.gates * s.heads * s.v_dim
}
