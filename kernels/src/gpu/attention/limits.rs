//! Which attentions tensor cores take, in which variants.

use hyc_plan::{KernelSpec, Kind, KvOrder, OperandSpec};

use crate::gpu::work_item::group;
use crate::lists::{MOST_BLOCKS, MOST_HEADS};

/// Attention over whole contexts: parts of contexts side by side, and their sum by a second launch or by the last of the first one's
/// blocks; or 64 rows at a time.
pub const SPLIT_KV: &str = "split_kv";
pub const SPLIT_KV_LAST: &str = "split_kv_last";
pub const FLASH: &str = "flash";
/// Most rows of the first two.
pub const SPLIT_KV_ROWS: u64 = 64;
/// Attention over selected blocks or a window: a cluster of so many blocks per (token, KV head).
pub const CLUSTERS: [(&str, u64); 4] = [("cluster8", 8), ("cluster4", 4), ("cluster2", 2), ("cluster1", 1)];
/// The same by as many blocks wherever they are, the last of which adds up what all have; most rows of that.
pub const PARTS: (&str, u64) = ("parts4", 4);
pub const PARTS_ROWS: u64 = 16;
/// The same of tiles of rows that share the pages of each.
pub const SHARED_PAGES: &str = "shared_pages";
/// Page lists, in steps that have them; in others nothing is to be done.
pub const LISTS: &str = "lists";
pub const NO_LISTS: &str = "none";
/// The only variant of attentions that no tensor core takes.
pub const SIMT: &str = "simt";

/// Whether the kernels on tensor cores take the op.
pub fn takes(spec: &KernelSpec) -> bool {
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
    tiled && group(shape) <= MOST_HEADS && selections.max().unwrap_or(0) <= MOST_BLOCKS
}
