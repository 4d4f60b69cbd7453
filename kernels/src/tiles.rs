//! Which of a GPU's kernels read and write rows in bf16 tiles, and which products have an end of their own: what its back end
//! promises and its kernels keep.

use hyc_plan::tensor::can_tile;
use hyc_plan::{Codec, Format, Layout, StepOp, ops};

/// Outputs of the tiles of products of many rows: of the usual ones, and of those for heads that 256 is no multiple of.
const WIDTHS: [u64; 2] = [256, 192];

/// Least rows that tiles of many are usual for.
pub const MANY_ROWS: u64 = 65;

/// Whether products by a matrix stored so can multiply rows of e4m3: codes of e4m3 with a scale a row.
pub fn beside_fp8_rows(matrix: Format, in_features: u64) -> bool {
    let scale_a_row = matches!(matrix.codec, Codec::Fp8 { group } if u64::from(group) >= in_features);
    scale_a_row && matches!(matrix.layout, Layout::Strips { .. })
}

/// Whether products of few rows rotate and append what they project: heads that rotate whole and have no norm of their own.
pub fn ends_in_registers(op: &ops::QkvAppend) -> bool {
    let whole = |dim: u64| dim.is_multiple_of(16);
    op.qk_norm.is_none() && op.rope.dims == op.shape.qk_dim && whole(op.shape.qk_dim) && whole(op.shape.v_dim)
}

/// Outputs of a tile of whole heads of such a product of many rows; `None`: there is none, and no gates are projected.
pub fn qkv_tile(op: &ops::QkvAppend) -> Option<u64> {
    let whole = |width: &u64| ends_in_registers(op) && width.is_multiple_of(op.shape.qk_dim);
    WIDTHS.into_iter().find(whole)
}

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
        | StepOp::QuantiseKv(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::PageLists(_)
        | StepOp::Router(_)
        | StepOp::GatherRows(_)
        | StepOp::Sample(_) => false,
    }
}
