//! Records of [`Layout::Strips`], by their halves.

use crate::align::{SPAN, STRIP};
use crate::codec::Codec;
use crate::format::Format;
use crate::half::{EIGHT, Half};
use crate::layout::Layout;
use crate::shared::Shared;

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

/// The first `width` elements of a row, record by record.
pub fn load_row(format: Format, bytes: &[u8], row: u64, width: u64) -> Vec<f32> {
    let (codec, of) = (format.codec, Half::of(format.codec));
    let mut out = Vec::with_capacity(width as usize);
    for first in (0..width).step_by(SPAN as usize) {
        let (half, g) = half(format, row, first);
        let record = &bytes[(half * of.bytes()) as usize..][..of.bytes() as usize];
        let shared_at = |group: u64| of.code_bytes() + (g * of.groups() + group) * codec.shared_bytes();
        let shared = |group: u64| codec.shared_of_bytes(&record[shared_at(group) as usize..]);
        let groups: Vec<Shared> = (0..of.groups()).map(shared).collect();
        out.extend((first..width.min(first + SPAN)).map(|col| {
            let shared = groups[(col % SPAN * of.groups() / SPAN) as usize];
            let at = place(codec, g, col);
            match codec {
                Codec::Int4 { .. } => codec.decode(&[record[(at / 2) as usize] >> (4 * (at % 2))], shared),
                _ => codec.decode(&record[at as usize..], shared),
            }
        }));
    }
    out
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
