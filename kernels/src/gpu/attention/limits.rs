//! Which attentions tensor cores take, in which variants.

use hyc_plan::{AttnShape, KernelSpec, Kind, KvOrder, OperandSpec, Reach};

use crate::gpu::work_item::group;
use crate::lists::{MOST_BLOCKS, MOST_HEADS};

/// Attention over whole contexts: parts of a context side by side and their sum; or 64 rows at a time.
pub const SPLIT_KV: &str = "split_kv";
pub const FLASH: &str = "flash";
/// Most rows that there is scratch for in [`SPLIT_KV`].
pub const SPLIT_KV_ROWS: u64 = 64;
/// Attention over selected blocks or a window: eight or four warps per (token, KV head).
pub const WARPS8: &str = "warps8";
pub const WARPS4: &str = "warps4";
/// The same of few rows over selected blocks: eight blocks.
pub const CLUSTER: &str = "cluster8";
/// The same of tiles of rows that share the pages of each.
pub const SHARED_PAGES: &str = "shared_pages";
/// Page lists, in steps that have them; in others nothing is to be done.
pub const LISTS: &str = "lists";
pub const NO_LISTS: &str = "none";
/// The only variant of attentions that no tensor core takes.
pub const SIMT: &str = "simt";
/// Pages of a block: two words each.
const MOST_PAGES: u64 = 2048;

/// Blocks that share one (token, KV head): two a multiprocessor at one sequence.
pub fn splits(shape: AttnShape, multiprocessors: u64) -> u64 {
    (2 * multiprocessors / shape.kv_heads).clamp(1, 64)
}

/// Whether the kernels on tensor cores take the op.
pub fn takes(spec: &KernelSpec, multiprocessors: u64) -> bool {
    let Some(shape) = spec.op.attention() else { return false };
    let tiled = spec.operands.iter().all(|operand| match operand {
        OperandSpec::Cache(cache) => {
            cache.order == KvOrder::Tiles && cache.qk_dim <= 256 && cache.v_dim <= 256
        }
        OperandSpec::Tensor { .. } | OperandSpec::Weight(_) => true,
    });
    let selections = spec.op.roles().into_iter().filter_map(|role| match role.kind {
        Kind::Selection { shape, .. } => Some(shape.blocks),
        Kind::Rows(_)
        | Kind::RowsOrTiles(_)
        | Kind::TokenRows(_)
        | Kind::Token
        | Kind::Experts { .. }
        | Kind::PageLists { .. }
        | Kind::Vector(_)
        | Kind::Matrices { .. }
        | Kind::Table { .. }
        | Kind::Cache { .. } => None,
    });
    tiled
        && group(shape) <= MOST_HEADS
        && selections.max().unwrap_or(0) <= MOST_BLOCKS
        && looked_up(spec, shape, multiprocessors) <= MOST_PAGES
}

/// Pages that a block has in its shared memory: of a window, or of a part of the context.
fn looked_up(spec: &KernelSpec, shape: AttnShape, multiprocessors: u64) -> u64 {
    let pages = spec.op.roles().into_iter().map(|role| match role.kind {
        Kind::Cache { reach: Reach::Context, .. } => spec.max_context / 64 / splits(shape, multiprocessors),
        Kind::Cache { reach: Reach::Window(window), .. } => window / 64,
        // Those of a selection are its blocks.
        Kind::Cache { reach: Reach::Selected(_) | Reach::Nothing, .. }
        | Kind::Rows(_)
        | Kind::RowsOrTiles(_)
        | Kind::TokenRows(_)
        | Kind::Token
        | Kind::Experts { .. }
        | Kind::Selection { .. }
        | Kind::PageLists { .. }
        | Kind::Vector(_)
        | Kind::Matrices { .. }
        | Kind::Table { .. } => 0,
    });
    pages.max().unwrap_or(0)
}
