//! How a weight is stored: a codec and an order.

use serde::{Deserialize, Serialize};

use crate::align::{MAX_BYTES, SPAN, STRIP};
use crate::artefact::ALIGN;
use crate::codec::Codec;
use crate::half::Half;
use crate::layout::Layout;

/// How a weight is stored: what its numbers are, and in which order they stand. What the groups of a grouped codec share stands
/// in the records of [`Layout::Strips`]; in other orders behind the codes, at the next multiple of [`ALIGN`], in the order of the
/// codes: that of a row's groups in place of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Format {
    /// What a stored number is.
    pub codec: Codec,
    /// The order of the numbers.
    pub layout: Layout,
}

impl Format {
    /// The order of what groups share, where that stands behind the codes.
    pub fn shares(&self) -> Option<Layout> {
        let groups = |n: u64| self.codec.group().map(|group| n.div_ceil(group.max(1)));
        Some(match self.layout {
            Layout::Vector { len } => Layout::Vector { len: groups(len)? },
            Layout::Rows { rows, cols } => Layout::Rows { rows, cols: groups(cols)? },
            Layout::Panels { count, out_features: out, in_features, group } => {
                Layout::Panels { count, out_features: out, in_features: groups(in_features)?, group }
            }
            Layout::Tiles { count, out_features: out, in_features } => {
                Layout::Tiles { count, out_features: out, in_features: groups(in_features)? }
            }
            Layout::Strips { .. } => return None,
        })
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
            Layout::Vector { .. } | Layout::Panels { .. } | Layout::Tiles { .. } => {
                self.codec.code_bytes(self.layout.elements())
            }
        }
    }

    /// Bytes stored, padding included. The format must be possible: see [`Format::checked_bytes`].
    pub fn bytes(&self) -> u64 {
        let codes = self.code_bytes();
        match self.shares() {
            Some(shares) => Format::shares_at(codes) + shares.elements() * self.codec.shared_bytes(),
            None => codes,
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
