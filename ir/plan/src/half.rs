//! Halves of the records of [`Layout::Strips`](crate::Layout::Strips).

use crate::align::SPAN;
use crate::codec::Codec;

/// Output features of a half.
pub const EIGHT: u64 = 8;

/// A half of a record, eight outputs g by 256 inputs, for a lane 4 g + t of a warp: of each 64 inputs the lane has pieces t and
/// t + 4 of eight.
///
/// ```text
/// int4      codes  [128 inputs: 2][lane: 32][64 inputs: 2][piece: 2] words; halves j and 4 + j of a word are elements 2j, 2j + 1
/// of bytes  codes  [ 64 inputs: 4][lane: 32][piece: 2][four elements: 2] words; their bytes are elements 0, 2, 1, 3
/// both      shared [g: 8][group]
/// ```
/// So a mask of a word of int4 is two neighbours, in the halves of a word of bf16.
#[derive(Debug, Clone, Copy)]
pub struct Half {
    codec: Codec,
}

impl Half {
    /// Of a grouped codec whose groups it takes.
    pub fn of(codec: Codec) -> Half {
        Half { codec }
    }

    /// Whether groups of so many of a row's inputs are 32, 64 or 128, or whole spans, or all.
    pub fn takes(group: u64, in_features: u64) -> bool {
        [32, 64, 128].contains(&group) || (group > 0 && group.is_multiple_of(SPAN)) || group >= in_features
    }

    /// Groups of an output in a record.
    pub fn groups(self) -> u64 {
        SPAN / self.codec.group().unwrap_or(SPAN).clamp(1, SPAN)
    }

    /// Bytes of the codes.
    pub fn code_bytes(self) -> u64 {
        self.codec.code_bytes(EIGHT * SPAN)
    }

    /// Bytes in all: whole pieces of 16.
    pub fn bytes(self) -> u64 {
        self.code_bytes() + EIGHT * self.groups() * self.codec.shared_bytes()
    }
}
