//! The order of a weight's elements.

use serde::{Deserialize, Serialize};

use crate::align::{PANEL, SPAN, STRIP, TILE};

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
    /// A linear's `[out_features, in_features]`, `count` of them one after the other (1, or the experts), as panels of
    /// [`PANEL`] output features: `[count][out/group][ceil(group/PANEL)][in_features][PANEL]`, zero-padded where
    /// `group` is no multiple of PANEL. `group` is `out`, or a head's rows where a panel must not cross
    /// heads. bf16 lanes are stored so that each 32-bit word j of an 8-lane half h holds lane `8h + j` in
    /// its low and lane `8h + 4 + j` in its high 16 bits: a shift and a mask give two f32x4 in lane order. In a
    /// grouped codec a panel is group by group what its outputs share and their codes ([`pack::Panel`](crate::pack::Panel)).
    Panels {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out_features: u64,
        /// Input features.
        in_features: u64,
        /// Output features that share panels.
        group: u64,
    },
    /// A linear's `[out_features, in_features]` in bf16, `count` of them one after the other, as tensor cores read it: tiles
    /// `[count][ceil(out/64)][ceil(in_features/64)][64 outputs][64 inputs]` of 8 KiB, zero-padded, each swizzled as
    /// [`pack::swizzle`](crate::pack::swizzle) says. A tile is copied to shared memory as it lies.
    Tiles {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out_features: u64,
        /// Input features.
        in_features: u64,
    },
    /// A linear's `[out_features, in_features]` in a grouped codec, `count` of them one after the other, as a warp reads it:
    /// records `[count][ceil(out/16)][ceil(in_features/256)]` of 16 outputs by 256 inputs, zero-padded. A record is two halves of
    /// eight outputs; a half is its codes, lane by lane of the warp whose operands of `mma` they become, then what its groups
    /// share ([`pack::Half`](crate::pack::Half)).
    Strips {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out_features: u64,
        /// Input features.
        in_features: u64,
    },
}

impl Layout {
    /// Elements stored, padding included; 0 where the layout is not possible: see [`Layout::checked_elements`].
    pub fn elements(&self) -> u64 {
        self.checked_elements().unwrap_or(0)
    }

    /// Panels or rows of tiles of one matrix; 0 for what is no matrix of a product.
    pub fn panels(&self) -> u64 {
        match *self {
            Layout::Tiles { out_features: out, .. } => out.div_ceil(TILE),
            Layout::Strips { out_features: out, .. } => out.div_ceil(STRIP),
            Layout::Panels { out_features: out, group, .. } => (out / group) * group.div_ceil(PANEL),
            Layout::Vector { .. } | Layout::Rows { .. } => 0,
        }
    }

    /// The same; `None` where a dimension is 0, a group does not divide the rows, or the number overflows.
    pub fn checked_elements(&self) -> Option<u64> {
        let product = |factors: [Option<u64>; 4]| {
            factors
                .into_iter()
                .try_fold(1u64, |n, factor| n.checked_mul(factor.filter(|factor| *factor > 0)?))
        };
        let whole = |n: u64, to: u64| n.checked_next_multiple_of(to);
        match *self {
            Layout::Vector { len } => product([Some(len), Some(1), Some(1), Some(1)]),
            Layout::Rows { rows, cols } => product([Some(rows), Some(cols), Some(1), Some(1)]),
            Layout::Panels { count, out_features: out, in_features, group } => {
                let groups = out.checked_div(group).filter(|_| out % group == 0);
                product([Some(count), groups, whole(group, PANEL), Some(in_features)])
            }
            Layout::Tiles { count, out_features: out, in_features } => {
                let whole = |n| whole(n, TILE).filter(|_| n > 0);
                product([Some(count), whole(out), whole(in_features), Some(1)])
            }
            Layout::Strips { count, out_features: out, in_features } => {
                let whole = |n, side| whole(n, side).filter(|_| n > 0);
                product([Some(count), whole(out, STRIP), whole(in_features, SPAN), Some(1)])
            }
        }
    }

    /// Numbers of a row.
    pub fn cols(&self) -> u64 {
        match *self {
            Layout::Vector { len } => len,
            Layout::Rows { cols, .. } => cols,
            Layout::Panels { in_features, .. }
            | Layout::Tiles { in_features, .. }
            | Layout::Strips { in_features, .. } => in_features,
        }
    }

    /// The rows that are packed together, in the order in which they are stored: the first of each band, and how many.
    pub fn bands(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (rows, group, side) = match *self {
            Layout::Vector { .. } => (1, 1, 1),
            Layout::Rows { rows, .. } => (rows, rows, 1),
            Layout::Panels { count, out_features: out, group, .. } => (count * out, group, PANEL),
            Layout::Tiles { count, out_features: out, .. } => (count * out, out, TILE),
            Layout::Strips { count, out_features: out, .. } => (count * out, out, STRIP),
        };
        let groups = (0..rows).step_by(group.max(1) as usize);
        groups.flat_map(move |first| {
            let end = first + group;
            (first..end).step_by(side as usize).map(move |row| (row, (end - row).min(side)))
        })
    }

    /// The shape of the tensor that holds the numbers.
    pub fn shape(&self) -> Vec<u64> {
        match *self {
            Layout::Vector { len } => vec![len],
            Layout::Rows { rows, cols } => vec![rows, cols],
            Layout::Panels { count, in_features, .. } => vec![count * self.panels(), in_features, PANEL],
            Layout::Tiles { count, out_features: out, in_features } => {
                vec![count * out.div_ceil(TILE), in_features.div_ceil(TILE), TILE, TILE]
            }
            Layout::Strips { count, in_features, .. } => {
                vec![count * self.panels(), in_features.div_ceil(SPAN), STRIP, SPAN]
            }
        }
    }
}
