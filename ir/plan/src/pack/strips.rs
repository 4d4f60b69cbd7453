//! Records of [`Layout::Strips`], by their halves.

use crate::align::{SPAN, STRIP};
use crate::codec::{Codec, Shared};
use crate::format::Format;
use crate::layout::Layout;

/// Output features of a half.
const EIGHT: u64 = 8;

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

/// The half of an output, in halves from the beginning, and which of its outputs that is.
fn half(format: Format, row: u64, col: u64) -> (u64, u64) {
    let Layout::Strips { out_features: out, in_features, .. } = format.layout else { return (0, 0) };
    let (matrix, row) = (row / out, row % out);
    let strip = matrix * out.div_ceil(STRIP) + row / STRIP;
    (2 * (strip * in_features.div_ceil(SPAN) + col / SPAN) + row % STRIP / EIGHT, row % EIGHT)
}

/// Where input `col` of output `g` of a half stands, in codes.
fn place(codec: Codec, g: u64, col: u64) -> u64 {
    let (tile, piece, k) = (col % SPAN / 64, col % 64 / 8, col % 8);
    let (lane, second) = (4 * g + piece % 4, piece / 4);
    match codec {
        Codec::Int4 { .. } => {
            let word = ((tile / 2) * 32 + lane) * 4 + 2 * (tile % 2) + second;
            word * 8 + k / 2 + 4 * (k % 2)
        }
        _ => {
            let word = (tile * 32 + lane) * 4 + 2 * second + k / 4;
            word * 4 + [0, 2, 1, 3][(k % 4) as usize]
        }
    }
}

/// Where element (`row`, `col`) stands, in codes from the beginning.
pub fn index(format: Format, row: u64, col: u64) -> u64 {
    let (half, g) = half(format, row, col);
    half * Half::of(format.codec).bytes() * 8 / format.codec.code_bits() + place(format.codec, g, col)
}

/// The byte at which what its group shares stands.
pub fn shared_at(format: Format, row: u64, col: u64) -> u64 {
    let ((half, g), of) = (half(format, row, col), Half::of(format.codec));
    let group = col % SPAN * of.groups() / SPAN;
    half * of.bytes() + of.code_bytes() + (g * of.groups() + group) * format.codec.shared_bytes()
}

/// Appends the records of a band of at most 16 rows, whose codes of a byte each stand row by row, with what their groups share.
pub fn arrange(format: Format, codes: &[u8], shared: &[Shared], out: &mut Vec<u8>) {
    let (codec, cols) = (format.codec, format.layout.cols());
    let (of, group) = (Half::of(codec), codec.group().unwrap_or(cols).max(1));
    let (rows, groups) = (codes.len() as u64 / cols, cols.div_ceil(group));
    // The code of the number 0.
    let zero = if matches!(codec, Codec::Int4 { zero: false, .. }) { 0x88 } else { 0 };
    for first in (0..cols).step_by(SPAN as usize) {
        for eight in [0, EIGHT] {
            let begin = out.len();
            out.resize(begin + of.code_bytes() as usize, zero);
            out.resize(begin + of.bytes() as usize, 0);
            let half = &mut out[begin..];
            for row in eight..rows.min(eight + EIGHT) {
                for col in first..cols.min(first + SPAN) {
                    let (code, at) = (codes[(row * cols + col) as usize], place(codec, row - eight, col));
                    match codec {
                        Codec::Int4 { .. } => {
                            let (byte, shift) = (&mut half[(at / 2) as usize], 4 * (at % 2));
                            *byte = *byte & !(15 << shift) | (code & 15) << shift;
                        }
                        _ => half[at as usize] = code,
                    }
                }
                for i in 0..of.groups() {
                    let col = first + i * SPAN / of.groups();
                    if col < cols {
                        let bytes = codec.shared_to_bytes(shared[(row * groups + col / group) as usize]);
                        let size = codec.shared_bytes() as usize;
                        let at = (of.code_bytes() + ((row - eight) * of.groups() + i) * size as u64) as usize;
                        half[at..at + size].copy_from_slice(&bytes[..size]);
                    }
                }
            }
        }
    }
}
