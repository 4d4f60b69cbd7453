//! Attentions: the operands that each takes, and caches for a shape.

use hyc_kernels::page_lists;
use hyc_plan::*;
use hyc_plan::{KvOrder, round_up};

use super::{Limits, indices, spec, tensor, vector};

/// A growing cache, and a ring for a window: of bf16 where that has scales.
pub fn caches(shape: AttnShape, page: u64, codec: KvCodec, window: u64, limits: Limits) -> [CacheSpec; 2] {
    let growing = CacheSpec {
        kv_heads: shape.kv_heads,
        qk_dim: shape.qk_dim,
        v_dim: shape.v_dim,
        codec,
        page,
        policy: CachePolicy::Growing,
        order: KvOrder::Columns,
    };
    let pages = round_up(window + limits.rows, page) / page + 1;
    let ring = if codec.scaled() { KvCodec::Bf16 } else { codec };
    [growing, CacheSpec { policy: CachePolicy::Ring { window, pages }, codec: ring, ..growing }]
}

/// An attention over `shared`; a window reads `own`. Where a GPU's kernels walk along page lists, they are there in steps of any
/// size.
pub fn attention(mut op: StepOp, shared: CacheSpec, own: CacheSpec, limits: Limits) -> KernelSpec {
    let found = page_lists(&op, &[shared, own]).map(|lists| ListShape { least: 1, ..lists });
    if let StepOp::SparseAttention(ops::SparseAttention { lists, .. })
    | StepOp::HybridAttention(ops::HybridAttention { lists, .. }) = &mut op
    {
        *lists = found;
    }
    let operand = |role: &Role| match role.kind {
        Kind::Rows(width) | Kind::RowsOrTiles(width) => tensor(width.unwrap_or_default()),
        Kind::Selection { shape, .. } => indices(shape.kv_heads * shape.blocks),
        Kind::PageLists { select, lists, .. } => indices(lists.width(select).unwrap_or_default()),
        Kind::Vector(len) => vector(len),
        Kind::Cache { reach: Reach::Window(_), .. } => OperandSpec::Cache(own),
        Kind::Cache { .. } => OperandSpec::Cache(shared),
        kind => unreachable!("{} is no attention: {kind:?}", op.name()),
    };
    spec(op, op.roles().iter().map(operand).collect(), limits)
}

/// Each attention of a shape.
pub fn every(
    shape: AttnShape,
    (block, blocks): (u64, u64),
    window: u64,
    sink: bool,
    gate: GateMode,
) -> [StepOp; 5] {
    let select = SelectShape { kv_heads: shape.kv_heads, block, blocks };
    [
        StepOp::FullAttention(ops::FullAttention { shape, sink }),
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }),
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }),
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, lists: None }),
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, lists: None }),
    ]
}
