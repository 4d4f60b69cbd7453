//! How a weight is stored: a codec and an order.

use serde::{Deserialize, Serialize};

use crate::align::MAX_BYTES;
use crate::artefact::ALIGN;
use crate::codec::Codec;
use crate::layout::Layout;

/// How a weight is stored: what its numbers are, and in which order they stand. Behind the codes of a grouped codec, at
/// the next multiple of [`ALIGN`], stand the scales, in the same order as numbers of f32: those of a row's groups in place
/// of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Format {
    /// What a stored number is.
    pub codec: Codec,
    /// The order of the numbers.
    pub layout: Layout,
}

impl Format {
    /// The order of the scales; `None` where numbers share none.
    pub fn scales(&self) -> Option<Layout> {
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
        })
    }

    /// Where the scales begin behind so many bytes of codes.
    pub const fn scales_at(codes: u64) -> u64 {
        codes.next_multiple_of(ALIGN)
    }

    /// Bytes stored, padding included. The format must be possible: see [`Format::checked_bytes`].
    pub fn bytes(&self) -> u64 {
        let codes = self.layout.elements() * self.codec.code_bytes();
        match self.scales() {
            Some(scales) => Format::scales_at(codes) + scales.elements() * 4,
            None => codes,
        }
    }

    /// The same of any format; `None` where it is not possible: vectors are f32, tiles bf16, no dimension is 0, a panel's
    /// group divides the rows, and all of it has at most 1 PiB.
    pub fn checked_bytes(&self) -> Option<u64> {
        let codec = match (self.layout, self.codec) {
            (Layout::Vector { .. }, codec) => codec == Codec::F32,
            (Layout::Tiles { .. }, codec) => codec == Codec::Bf16,
            (Layout::Rows { .. } | Layout::Panels { .. }, codec) => codec.group() != Some(0),
        };
        // The scales of the smallest groups take no more than four times the codes, and those may be 4 bytes.
        let elements = self.layout.checked_elements().filter(|n| *n <= MAX_BYTES / 8)?;
        (codec && elements > 0).then(|| self.bytes())
    }

    /// Element type and shape of the tensor in the artefact, as safetensors has them: what has scales is bytes.
    pub fn stored(&self) -> (&'static str, Vec<u64>) {
        match self.codec {
            Codec::F32 => ("F32", self.layout.shape()),
            Codec::Bf16 => ("BF16", self.layout.shape()),
            Codec::Int8 { .. } | Codec::Fp8 { .. } => ("U8", vec![self.bytes()]),
        }
    }
}
