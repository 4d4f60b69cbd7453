//! Weights between row-major order and the artefact's layouts; see [`Layout`] for what each one is.

use crate::align::{PANEL, TILE};
use crate::elem::Elem;
use crate::layout::Layout;

const LANES: usize = PANEL as usize;

/// Nearest bfloat16, ties to even. NaN stays NaN.
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let round = 0x7fff + ((bits >> 16) & 1);
    (bits.wrapping_add(round) >> 16) as u16
}

/// The binary32 of a bfloat16.
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Place of lane `lane` (0..16) among the 16 stored elements of a panel's column.
fn slot(elem: Elem, lane: usize) -> usize {
    match elem {
        // Word j of an 8-lane half holds lanes j (low) and 4 + j (high).
        Elem::Bf16 => 8 * (lane / 8) + 2 * (lane % 4) + (lane % 8) / 4,
        _ => lane,
    }
}

/// Appends elements in their order.
pub fn pack_row(elem: Elem, row: &[f32], out: &mut Vec<u8>) {
    match elem {
        Elem::Bf16 => row.iter().for_each(|x| out.extend(f32_to_bf16(*x).to_le_bytes())),
        _ => row.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}

/// Appends one panel: up to [`PANEL`] rows of `inn` elements, one after the other in `rows`, zero-padded.
pub fn pack_panel(elem: Elem, inn: usize, rows: &[f32], out: &mut Vec<u8>) {
    let mut column = [0f32; LANES];
    for k in 0..inn {
        column.fill(0.0);
        for (lane, row) in rows.chunks_exact(inn).take(LANES).enumerate() {
            column[slot(elem, lane)] = row[k];
        }
        pack_row(elem, &column, out);
    }
}

/// Element offset of (`row`, `col`), `col < 64`, in rows of 64 bf16: the 16-byte chunks of a row are exchanged
/// by the row's number, the 128-byte swizzle of PTX's matrix descriptors (PTX ISA 8.7, 9.7.15.5.1).
pub const fn swizzle(row: u64, col: u64) -> u64 {
    row * TILE + (((col / 8) ^ (row % 8)) * 8) + col % 8
}

/// Appends the tiles of up to [`TILE`] rows of `inn` elements, zero-padded.
pub fn pack_tiles(inn: usize, rows: &[f32], out: &mut Vec<u8>) {
    const SIDE: usize = TILE as usize;
    let mut tile = [0f32; SIDE * SIDE];
    for first in (0..inn).step_by(SIDE) {
        tile.fill(0.0);
        for (r, row) in rows.chunks_exact(inn).take(SIDE).enumerate() {
            for (c, x) in row[first..inn.min(first + SIDE)].iter().enumerate() {
                tile[swizzle(r as u64, c as u64) as usize] = *x;
            }
        }
        pack_row(Elem::Bf16, &tile, out);
    }
}

/// A whole weight. `data` is row-major; for panels `[count][out][inn]`.
pub fn pack(layout: Layout, elem: Elem, data: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity((layout.elements() * elem.bytes()) as usize);
    match layout {
        Layout::Vector { .. } | Layout::Rows { .. } => pack_row(elem, data, &mut out),
        Layout::Panels { inn, group, .. } => {
            let (inn, group) = (inn as usize, group as usize);
            for rows in data.chunks(inn * group) {
                rows.chunks(inn * LANES).for_each(|panel| pack_panel(elem, inn, panel, &mut out));
            }
        }
        Layout::Tiles { out: outputs, inn, .. } => {
            let (inn, outputs) = (inn as usize, outputs as usize);
            for matrix in data.chunks(inn * outputs) {
                matrix.chunks(inn * TILE as usize).for_each(|rows| pack_tiles(inn, rows, &mut out));
            }
        }
    }
    out
}

/// Index of element (`row`, `col`) among the stored elements; `row` counts through all matrices.
pub fn index(layout: Layout, elem: Elem, row: u64, col: u64) -> u64 {
    match layout {
        Layout::Vector { .. } => col,
        Layout::Rows { cols, .. } => row * cols + col,
        Layout::Panels { inn, group, .. } => {
            let panel = (row / group) * group.div_ceil(PANEL) + (row % group) / PANEL;
            let lane = (row % group) % PANEL;
            (panel * inn + col) * PANEL + slot(elem, lane as usize) as u64
        }
        Layout::Tiles { out, inn, .. } => {
            let (matrix, row) = (row / out, row % out);
            let tile = (matrix * out.div_ceil(TILE) + row / TILE) * inn.div_ceil(TILE) + col / TILE;
            tile * TILE * TILE + swizzle(row % TILE, col % TILE)
        }
    }
}

/// The first `width` elements of a row. Panics where it is out of range.
pub fn load_row(layout: Layout, elem: Elem, bytes: &[u8], row: u64, width: u64) -> Vec<f32> {
    // Elements from one column to the next, and columns for which that holds.
    let (step, run) = match layout {
        Layout::Vector { .. } | Layout::Rows { .. } => (1, width.max(1)),
        Layout::Panels { .. } => (PANEL, width.max(1)),
        Layout::Tiles { .. } => (1, 8),
    };
    let mut out = Vec::with_capacity(width as usize);
    for first in (0..width).step_by(run as usize) {
        let at = index(layout, elem, row, first);
        out.extend((0..run.min(width - first)).map(|i| load(elem, bytes, at + i * step)));
    }
    out
}

/// Element `index` of stored bytes. Panics where it is out of range.
pub fn load(elem: Elem, bytes: &[u8], index: u64) -> f32 {
    let at = (index * elem.bytes()) as usize;
    match elem {
        Elem::Bf16 => bf16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]])),
        _ => f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_even_and_keeps_nan() {
        assert_eq!(f32_to_bf16(1.0), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert!(bf16_to_f32(f32_to_bf16(f32::NAN)).is_nan());
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
    }

    #[test]
    fn every_element_is_found_where_it_was_put() {
        for (count, out, inn, group) in [(1, 16, 3, 16), (1, 40, 5, 20), (3, 7, 4, 7), (2, 130, 70, 130)] {
            let panels = Layout::Panels { count, out, inn, group };
            let tiles = Layout::Tiles { count, out, inn };
            for (layout, elem) in [(panels, Elem::F32), (panels, Elem::Bf16), (tiles, Elem::Bf16)] {
                let data: Vec<f32> = (0..count * out * inn).map(|i| i as f32).collect();
                let bytes = pack(layout, elem, &data);
                assert_eq!(bytes.len() as u64, layout.elements() * elem.bytes());
                for (row, want) in data.chunks(inn as usize).enumerate() {
                    let want: Vec<f32> = match elem {
                        Elem::Bf16 => want.iter().map(|x| bf16_to_f32(f32_to_bf16(*x))).collect(),
                        _ => want.to_vec(),
                    };
                    assert_eq!(load_row(layout, elem, &bytes, row as u64, inn), want, "{layout:?} {row}");
                }
                for (i, want) in data.iter().enumerate() {
                    let (row, col) = (i as u64 / inn, i as u64 % inn);
                    let want = if elem == Elem::Bf16 { bf16_to_f32(f32_to_bf16(*want)) } else { *want };
                    assert_eq!(
                        load(elem, &bytes, index(layout, elem, row, col)),
                        want,
                        "{layout:?} {elem} {i}"
                    );
                }
            }
        }
    }
}
