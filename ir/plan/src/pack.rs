//! Weights between row-major order and the artefact's formats; see [`Format`] and [`Layout`] for what each one is.
//!
//! A weight is packed band by band ([`Layout::bands`]): the numbers of a band become codes, still row by row, and the codes
//! are then put in the layout's order. Who has codes of the very codec already hands those over ([`Packer::push_codes`]).

mod panels;
mod strips;

use crate::align::{PANEL, TILE};
use crate::codec::Codec;
use crate::elem::Elem;
use crate::format::Format;
use crate::layout::Layout;
use crate::shared::Shared;

pub use crate::elem::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use crate::half::Half;
pub use crate::panel::Panel;

const LANES: usize = PANEL as usize;
const SIDE: usize = TILE as usize;

/// Element offset of (`row`, `col`), `col < 64`, in rows of 64 bf16: the 16-byte chunks of a row are exchanged
/// by the row's number, the 128-byte swizzle of PTX's matrix descriptors (PTX ISA 8.7, 9.7.15.5.1).
pub const fn swizzle(row: u64, col: u64) -> u64 {
    row * TILE + (((col / 8) ^ (row % 8)) * 8) + col % 8
}

/// Lane (0..16) of a panel's column that is stored at place `slot` of it.
fn lane(codec: Codec, slot: usize) -> usize {
    match codec {
        // Word j of an 8-lane half holds lanes j (low) and 4 + j (high).
        Codec::Bf16 => 8 * (slot / 8) + slot % 8 / 2 + 4 * (slot % 2),
        _ => slot,
    }
}

/// The inverse of [`lane`].
fn slot(codec: Codec, lane: usize) -> usize {
    match codec {
        Codec::Bf16 => 8 * (lane / 8) + 2 * (lane % 4) + lane % 8 / 4,
        _ => lane,
    }
}

/// Appends the codes of a band, row by row in `codes`, in the layout's order; what is missing to a whole panel or tile
/// is zeros. `N`: bytes of a code, of panels' a number that shares nothing.
fn arrange<const N: usize>(format: Format, codes: &[u8], out: &mut Vec<u8>) {
    let (codes, _) = codes.as_chunks::<N>();
    match format.layout {
        Layout::Vector { .. } | Layout::Rows { .. } => out.extend_from_slice(codes.as_flattened()),
        Layout::Panels { in_features, .. } => {
            let lanes: [usize; LANES] = std::array::from_fn(|slot| lane(format.codec, slot));
            for k in 0..in_features as usize {
                for lane in lanes {
                    out.extend_from_slice(codes.get(lane * in_features as usize + k).unwrap_or(&[0; N]));
                }
            }
        }
        Layout::Tiles { in_features, .. } => {
            let mut tile = [[0; N]; SIDE * SIDE];
            for first in (0..in_features as usize).step_by(SIDE) {
                tile.fill([0; N]);
                for (r, row) in codes.chunks_exact(in_features as usize).enumerate() {
                    for (c, code) in row[first..row.len().min(first + SIDE)].iter().enumerate() {
                        tile[swizzle(r as u64, c as u64) as usize] = *code;
                    }
                }
                out.extend_from_slice(tile.as_flattened());
            }
        }
        // Those go with what their groups share: `strips::arrange`.
        Layout::Strips { .. } => {}
    }
}

/// Rows of codes of a byte each, two of them in one; each row begins with a byte of its own.
fn halved(cols: u64, codes: &[u8]) -> impl Iterator<Item = u8> {
    let pair = |pair: &[u8]| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4);
    codes.chunks(cols.max(1) as usize).flat_map(move |row| row.chunks(2).map(pair))
}

/// Packs a weight, one band after the other.
#[derive(Debug)]
pub struct Packer {
    format: Format,
    /// Bytes of codes that came out.
    written: u64,
    /// Row by row, where they stand behind all codes.
    shared: Vec<Shared>,
    codes: Vec<u8>,
}

impl Packer {
    /// For a weight of this format, which must be possible ([`Format::bytes`]).
    pub fn new(format: Format) -> Packer {
        Packer { format, written: 0, shared: Vec::new(), codes: Vec::new() }
    }

    /// Appends the next band, whose rows stand one after the other in `rows`.
    pub fn push(&mut self, rows: &[f32], out: &mut Vec<u8>) {
        let codec = self.format.codec;
        let (mut codes, mut shared) = (std::mem::take(&mut self.codes), Vec::new());
        codes.clear();
        match codec.group() {
            None => {
                codec.encode(rows, &mut codes);
            }
            Some(group) => {
                let cols = self.format.layout.cols().max(1) as usize;
                let groups = rows.chunks(cols).flat_map(|row| row.chunks(group.max(1) as usize));
                shared.extend(groups.map(|group| codec.encode(group, &mut codes)));
            }
        }
        self.push_codes(&codes, &shared, out);
        self.codes = codes;
    }

    /// The same of a band that is in the format's codec already: its codes, each in bytes of its own, and what its groups share, row
    /// by row.
    pub fn push_codes(&mut self, codes: &[u8], shared: &[Shared], out: &mut Vec<u8>) {
        let (before, format) = (out.len(), self.format);
        match (format.layout, format.codec) {
            (Layout::Strips { .. }, _) => strips::arrange(format, codes, shared, out),
            (_, Codec::F32) => arrange::<4>(format, codes, out),
            (_, Codec::Bf16) => arrange::<2>(format, codes, out),
            (Layout::Panels { .. }, _) => panels::arrange(format, codes, shared, out),
            (_, Codec::Int8 { .. } | Codec::Fp8 { .. }) => arrange::<1>(format, codes, out),
            (_, Codec::Int4 { .. }) => out.extend(halved(format.layout.cols(), codes)),
        }
        if format.row_groups().is_some() {
            self.shared.extend_from_slice(shared);
        }
        self.written += (out.len() - before) as u64;
    }

    /// Takes over from a packer of the bands that come next, which has packed them apart.
    pub fn absorb(&mut self, next: Packer) {
        self.written += next.written;
        self.shared.extend(next.shared);
    }

    /// Appends what stands behind the codes.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.format.row_groups().is_none() {
            return;
        }
        let pad = Format::shares_at(self.written) - self.written;
        out.resize(out.len() + pad as usize, 0);
        let codec = self.format.codec;
        for shared in &self.shared {
            out.extend(&codec.shared_to_bytes(*shared)[..codec.shared_bytes() as usize]);
        }
    }
}

/// A whole weight. `data` is row-major; for panels and tiles `[count][out][in_features]`.
pub fn pack(format: Format, data: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(format.bytes() as usize);
    let (mut packer, cols) = (Packer::new(format), format.layout.cols());
    for (first, rows) in format.layout.bands() {
        packer.push(&data[(first * cols) as usize..((first + rows) * cols) as usize], &mut out);
    }
    packer.finish(&mut out);
    out
}

/// Where element (`row`, `col`) stands, in codes of its codec from the beginning; `row` counts through all matrices.
pub fn index(format: Format, row: u64, col: u64) -> u64 {
    match format.layout {
        Layout::Vector { .. } => col,
        Layout::Rows { cols, .. } => {
            let codec = format.codec;
            row * (codec.code_bytes(cols) * 8 / codec.code_bits()) + col
        }
        Layout::Panels { .. } if format.codec.group().is_some() => panels::index(format, row, col),
        Layout::Panels { in_features, .. } => {
            let (panel, lane) = panels::of_row(format.layout, row);
            (panel * in_features + col) * PANEL + slot(format.codec, lane as usize) as u64
        }
        Layout::Tiles { out_features: out, in_features, .. } => {
            let (matrix, row) = (row / out, row % out);
            let tile = (matrix * out.div_ceil(TILE) + row / TILE) * in_features.div_ceil(TILE) + col / TILE;
            tile * TILE * TILE + swizzle(row % TILE, col % TILE)
        }
        Layout::Strips { .. } => strips::index(format, row, col),
    }
}

/// What the group of element (`row`, `col`) shares.
fn shared(format: Format, bytes: &[u8], row: u64, col: u64) -> Shared {
    let (codec, Some(group)) = (format.codec, format.codec.group()) else { return Shared::NONE };
    let at = match (format.layout, format.row_groups()) {
        (Layout::Panels { .. }, _) => panels::shared_at(format, row, col),
        (_, Some(groups)) => {
            let place = row * groups + col / group.max(1);
            Format::shares_at(format.code_bytes()) + place * codec.shared_bytes()
        }
        (_, None) => strips::shared_at(format, row, col),
    };
    codec.shared_of_bytes(&bytes[at as usize..])
}

/// The number of the code at `at`, in codes.
fn decoded(format: Format, bytes: &[u8], at: u64, shared: Shared) -> f32 {
    let codec = format.codec;
    match codec {
        Codec::Int4 { .. } => {
            let code = bytes[(at / 2) as usize] >> (4 * (at % 2));
            let in_panels = matches!(format.layout, Layout::Panels { .. });
            codec.decode(&[if in_panels { panels::stored(codec, code) } else { code }], shared)
        }
        _ => codec.decode(&bytes[codec.code_bytes(at) as usize..], shared),
    }
}

/// Element (`row`, `col`) of a stored weight; a vector has row 0 alone. Panics where it is out of range.
pub fn get(format: Format, bytes: &[u8], row: u64, col: u64) -> f32 {
    decoded(format, bytes, index(format, row, col), shared(format, bytes, row, col))
}

/// The first `width` elements of a row. Panics where it is out of range.
pub fn load_row(format: Format, bytes: &[u8], row: u64, width: u64) -> Vec<f32> {
    if let Layout::Strips { .. } = format.layout {
        return strips::load_row(format, bytes, row, width);
    }
    if let Some(group) = format.codec.group() {
        let group_of = |first: u64| {
            let shared = shared(format, bytes, row, first);
            (first..width.min(first.saturating_add(group)))
                .map(move |col| decoded(format, bytes, index(format, row, col), shared))
        };
        return (0..width).step_by(group.max(1) as usize).flat_map(group_of).collect();
    }
    // Elements from one column to the next, and columns for which that holds.
    let (step, run) = match format.layout {
        Layout::Vector { .. } | Layout::Rows { .. } => (1, width.max(1)),
        Layout::Panels { .. } => (PANEL, width.max(1)),
        Layout::Tiles { .. } => (1, 8),
        Layout::Strips { .. } => (1, 1),
    };
    let mut out = Vec::with_capacity(width as usize);
    for first in (0..width).step_by(run as usize) {
        let at = index(format, row, first);
        out.extend((0..run.min(width - first)).map(|i| decoded(format, bytes, at + i * step, Shared::NONE)));
    }
    out
}

/// Appends a row of activations or of a cache in its order; what is i32 goes by its bits.
pub fn pack_row(elem: Elem, row: &[f32], out: &mut Vec<u8>) {
    match elem {
        Elem::Bf16 => row.iter().for_each(|x| out.extend(f32_to_bf16(*x).to_le_bytes())),
        Elem::F32 | Elem::I32 => row.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}

/// Element `index` of a tensor or a cache; what is i32 comes by its bits. Panics where it is out of range.
pub fn load(elem: Elem, bytes: &[u8], index: u64) -> f32 {
    let at = (index * elem.bytes()) as usize;
    match elem {
        Elem::Bf16 => bf16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]])),
        Elem::F32 | Elem::I32 => f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
    }
}

#[cfg(test)]
mod tests;
