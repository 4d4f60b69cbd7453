//! Which of a GPU's kernels read and write rows in bf16 tiles: what its back end promises and its kernels keep.

use hyc_plan::tensor::can_tile;
use hyc_plan::{StepOp, ops};

/// Whether kernels for this op, whose matrices are in tiles or are not, read and write rows in tiles.
pub fn tiles_rows(op: &StepOp, tiled: bool) -> bool {
    match op {
        StepOp::Linear(_) | StepOp::QkvAppend(_) => tiled,
        // Each choice of a row has whole tiles.
        StepOp::ExpertsUp(ops::ExpertsUp { ffn, .. }) | StepOp::ExpertsDown(ops::ExpertsDown { ffn, .. }) => {
            tiled && can_tile(*ffn)
        }
        StepOp::RmsNorm(norm) => norm.groups == 1,
        StepOp::FullAttention(_)
        | StepOp::OracleAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_) => true,
        StepOp::Embed(_)
        | StepOp::Rope(_)
        | StepOp::Append(_)
        | StepOp::Add(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::PageLists(_)
        | StepOp::Router(_)
        | StepOp::GatherRows(_)
        | StepOp::Sample(_) => false,
    }
}
