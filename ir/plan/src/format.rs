//! How a weight is stored: a codec and an order.

use serde::{Deserialize, Serialize};

use crate::align::{MAX_BYTES, SPAN, STRIP};
use crate::artefact::ALIGN;
use crate::codec::Codec;
use crate::half::Half;
use crate::layout::Layout;
use crate::panel::Panel;

/// How a weight is stored: what its numbers are, and in which order they stand. What the groups of a grouped codec share stands
/// beside their codes in [`Layout::Panels`] and [`Layout::Strips`]; of [`Layout::Rows`] behind all codes, at the next multiple of
/// [`ALIGN`], row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Format {
    /// What a stored number is.
    pub codec: Codec,
    /// The order of the numbers.
    pub layout: Layout,
}

impl Format {
    /// Groups of a row, where what they share stands behind all codes.
    pub fn row_groups(&self) -> Option<u64> {
        let Layout::Rows { cols, .. } = self.layout else { return None };
        Some(cols.div_ceil(self.codec.group()?.max(1)))
    }

    /// Where what groups share begins behind so many bytes of codes.
    pub const fn shares_at(codes: u64) -> u64 {
        codes.next_multiple_of(ALIGN)
    }

    /// Bytes of all codes, with what stands between them.
    pub fn code_bytes(&self) -> u64 {
        match self.layout {
            // A row begins with a byte of its own.
            Layout::Rows { rows, cols } => rows * self.codec.code_bytes(cols),
            Layout::Strips { .. } => {
                self.layout.elements() / (STRIP * SPAN) * 2 * Half::of(self.codec).bytes()
            }
            Layout::Panels { count, in_features, .. } => {
                count * self.layout.panels() * Panel::of(self.codec, in_features).bytes()
            }
            Layout::Vector { .. } | Layout::Tiles { .. } => self.codec.code_bytes(self.layout.elements()),
        }
    }

    /// Bytes stored, padding included. The format must be possible: see [`Format::checked_bytes`].
    pub fn bytes(&self) -> u64 {
        let codes = self.code_bytes();
        match (self.layout, self.row_groups()) {
            (Layout::Rows { rows, .. }, Some(groups)) => {
                Format::shares_at(codes) + rows * groups * self.codec.shared_bytes()
            }
            _ => codes,
        }
    }

    /// The same of any format; `None` where it is not possible: vectors are f32, tiles bf16, groups of strips divide a span or are
    /// whole spans or whole rows, no dimension is 0, a panel's group divides the rows, and all of it has at most 1 PiB.
    pub fn checked_bytes(&self) -> Option<u64> {
        let codec = match (self.layout, self.codec) {
            (Layout::Vector { .. }, codec) => codec == Codec::F32,
            (Layout::Tiles { .. }, codec) => codec == Codec::Bf16,
            (Layout::Strips { in_features, .. }, codec) => {
                codec.group().is_some_and(|group| Half::takes(group, in_features))
            }
            (Layout::Rows { .. } | Layout::Panels { .. }, codec) => codec.group() != Some(0),
        };
        // What the smallest groups share takes no more than four times the codes, and those may be 4 bytes.
        let elements = self.layout.checked_elements().filter(|n| *n <= MAX_BYTES / 8)?;
        (codec && elements > 0).then(|| self.bytes())
    }

    /// Element type and shape of the tensor in the artefact, as safetensors has them: what has scales is bytes.
    pub fn stored(&self) -> (&'static str, Vec<u64>) {
        match self.codec {
            Codec::F32 => ("F32", self.layout.shape()),
            Codec::Bf16 => ("BF16", self.layout.shape()),
            Codec::Int8 { .. } | Codec::Fp8 { .. } | Codec::Int4 { .. } => ("U8", vec![self.bytes()]),
        }
    }
}
