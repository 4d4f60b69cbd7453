//! Page lists: which pages the rows of a tile selected, each page once, with the rows that selected it. What attention of many
//! rows walks along, made once from a selection for all of its readers.
//!
//! They lie in an i32 tensor of one row per token. `tile` neighbouring rows share a list for each KV head, those of a tile one
//! behind the other in its rows: with n rows in the tile (fewer in a pass's last), that of KV head h begins at element
//! `h * n * blocks * entry` behind the tile's first row and has room for `n * blocks` entries. An entry is
//!
//! ```text
//! physical page | first page's number << 8 | edge << 7 | tokens | 32 rows of the tile, a bit each | .. | 0 up to 16 bytes
//! ```
//! `tokens` of the page are no newer than the newest row of the sequence in the tile; `edge` where some row of it may not see all
//! of them. Entries stand by sequence, then by page. A list that is shorter than its room ends in an entry of page -1, behind
//! which nothing is said.

use serde::{Deserialize, Serialize};

use crate::align::{ROW_ALIGN, round_up};
use crate::shape::SelectShape;

/// Where a page's number stands in the second word of an entry.
pub const PAGE_SHIFT: u64 = 8;
/// Some row of the tile may not see all tokens of the page.
pub const EDGE: u64 = 1 << 7;
/// Most rows of a tile.
const MOST_ROWS: u64 = 1024;

/// How rows share lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListShape {
    /// Rows of a tile.
    pub tile: u64,
    /// Fewest rows of a step that has lists: there is nothing in them in a smaller one.
    pub least: u64,
}

impl ListShape {
    /// Whether there can be such lists.
    pub fn is_possible(self) -> bool {
        (1..=MOST_ROWS).contains(&self.tile) && self.least > 0
    }

    /// Words of an entry that are bits of rows.
    pub fn row_words(self) -> u64 {
        self.tile.div_ceil(32)
    }

    /// Words of an entry.
    pub fn entry(self) -> u64 {
        round_up(2 + self.row_words(), 4)
    }

    /// i32 elements of a row of the tensor; `None` where 64 bits do not hold them.
    pub fn width(self, select: SelectShape) -> Option<u64> {
        let entries = select.kv_heads.checked_mul(select.blocks)?;
        entries.checked_mul(self.entry())?.checked_next_multiple_of(ROW_ALIGN)
    }
}
