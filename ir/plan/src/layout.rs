//! The order of a weight's elements.

use serde::{Deserialize, Serialize};

use crate::align::{PANEL, TILE, round_up};

/// How a weight's elements are ordered in the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Layout {
    /// `[len]`, always f32 (norm weights, sinks).
    Vector {
        /// Elements.
        len: u64,
    },
    /// `[rows, cols]` row-major (an embedding of its own).
    Rows {
        /// Rows.
        rows: u64,
        /// Columns.
        cols: u64,
    },
    /// A linear's `[out, inn]`, `count` of them one after the other (1, or the experts), as panels of
    /// [`PANEL`] output features: `[count][out/group][ceil(group/PANEL)][inn][PANEL]`, zero-padded where
    /// `group` is no multiple of PANEL. `group` is `out`, or a head's rows where a panel must not cross
    /// heads. bf16 lanes are stored so that each 32-bit word j of an 8-lane half h holds lane `8h + j` in
    /// its low and lane `8h + 4 + j` in its high 16 bits: a shift and a mask give two f32x4 in lane order.
    Panels {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out: u64,
        /// Input features.
        inn: u64,
        /// Output features that share panels.
        group: u64,
    },
    /// A linear's `[out, inn]` in bf16, `count` of them one after the other, as tensor cores read it: tiles
    /// `[count][ceil(out/64)][ceil(inn/64)][64 outputs][64 inputs]` of 8 KiB, zero-padded, each swizzled as
    /// [`pack::swizzle`](crate::pack::swizzle) says. A tile is copied to shared memory as it lies.
    Tiles {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out: u64,
        /// Input features.
        inn: u64,
    },
}

impl Layout {
    /// Elements stored, padding included.
    pub fn elements(&self) -> u64 {
        match *self {
            Layout::Vector { len } => len,
            Layout::Rows { rows, cols } => rows * cols,
            Layout::Panels { count, out, inn, group } => {
                count * (out / group) * group.div_ceil(PANEL) * PANEL * inn
            }
            Layout::Tiles { count, out, inn } => count * round_up(out, TILE) * round_up(inn, TILE),
        }
    }

    /// Panels or rows of tiles of one matrix; 0 for what is no matrix of a product.
    pub fn panels(&self) -> u64 {
        match *self {
            Layout::Tiles { out, .. } => out.div_ceil(TILE),
            Layout::Panels { out, group, .. } => (out / group) * group.div_ceil(PANEL),
            _ => 0,
        }
    }
}
