//! Which of a GPU's attentions walk along page lists, in tiles of how many rows: what its back end promises and its kernels keep.

use hyc_plan::{AttnShape, CacheSpec, KvOrder, ListShape, StepOp, ops};

/// Warp groups of a block that multiply, and rows (query, head of the group) of each.
pub const GROUPS: u64 = 3;
pub const ROWS: u64 = 64;
/// Shared memory of a block for queries and pages.
pub const SHARED: u64 = 225 << 10;
/// Fewest rows of a step that share pages: fewer leave multiprocessors without a tile.
pub const LEAST: u64 = 512;

/// Heads of a group, and blocks of a selection, that tensor cores take.
pub const MOST_HEADS: u64 = 16;
pub const MOST_BLOCKS: u64 = 32;

/// The lists that an attention over these caches walks along.
pub fn page_lists(op: &StepOp, caches: &[CacheSpec]) -> Option<ListShape> {
    let (StepOp::SparseAttention(ops::SparseAttention { shape, select, .. })
    | StepOp::HybridAttention(ops::HybridAttention { shape, select, .. })) = *op
    else {
        return None;
    };
    let tiled = caches.iter().all(|cache| cache.order == KvOrder::Tiles);
    let few = shape.heads / shape.kv_heads <= MOST_HEADS && select.blocks <= MOST_BLOCKS;
    (tiled && few && takes(shape)).then(|| ListShape { tile: rows_of_a_tile(shape), least: LEAST })
}

/// Whether pages are shared in an attention of this shape.
pub fn takes(shape: AttnShape) -> bool {
    shape.v_dim <= 128 && query_bytes(shape) + 2 * stage_bytes(shape) <= SHARED
}

/// Rows of the step that share pages.
pub fn rows_of_a_tile(shape: AttnShape) -> u64 {
    GROUPS * (ROWS * shape.kv_heads / shape.heads).max(1)
}

/// Shared memory of a tile's queries.
pub fn query_bytes(shape: AttnShape) -> u64 {
    2 * GROUPS * ROWS * shape.qk_dim
}

/// Shared memory of a page's keys and values.
pub fn stage_bytes(shape: AttnShape) -> u64 {
    2 * 64 * (shape.qk_dim + shape.v_dim)
}
