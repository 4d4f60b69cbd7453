//! How the tensors of the arena lie.
//!
//! * f32 and i32: rows, each at a multiple of [`ROW_ALIGN`] elements.
//! * bf16: tiles `[rows / 64][width / 64][64][64]`, rows of 64 elements swizzled by [`pack::swizzle`](crate::pack::swizzle), as the
//!   matrices of [`Layout::Tiles`](crate::Layout::Tiles) lie. The width is whole tiles, the rows are padded to [`BLOCK_ROWS`]: what a
//!   kernel on tensor cores copies at once.

use crate::align::{ROW_ALIGN, TILE, round_up};
use crate::elem::Elem;
use crate::pack::swizzle;

/// Rows that tiles are padded to.
pub const BLOCK_ROWS: u64 = 128;

/// Elements from row to row; in tiles, elements of a row.
pub fn stride(width: u64) -> u64 {
    round_up(width, ROW_ALIGN)
}

/// Whether a tensor of this width can lie in tiles.
pub fn can_tile(width: u64) -> bool {
    width > 0 && width.is_multiple_of(TILE)
}

/// Bytes of `rows` rows; `None` where there can be no such tensor, or 64 bits do not hold them.
pub fn bytes(elem: Elem, rows: u64, width: u64) -> Option<u64> {
    let elements = match elem {
        Elem::F32 | Elem::I32 => rows.checked_mul(width.checked_next_multiple_of(ROW_ALIGN)?)?,
        Elem::Bf16 if can_tile(width) => rows.checked_next_multiple_of(BLOCK_ROWS)?.checked_mul(width)?,
        Elem::Bf16 => return None,
    };
    elements.checked_mul(elem.bytes())
}

/// Where element (`row`, `col`) stands, in elements.
pub fn index(elem: Elem, stride: u64, row: u64, col: u64) -> u64 {
    match elem {
        Elem::F32 | Elem::I32 => row * stride + col,
        Elem::Bf16 => {
            let tile = row / TILE * (stride / TILE) + col / TILE;
            tile * TILE * TILE + swizzle(row % TILE, col % TILE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_element_of_a_tensor_has_a_place_of_its_own() {
        for (elem, width) in [(Elem::F32, 21), (Elem::I32, 16), (Elem::Bf16, 192)] {
            let all = bytes(elem, 130, width).unwrap() / elem.bytes();
            let places = (0..130).flat_map(|row| (0..width).map(move |col| (row, col)));
            let places: HashSet<u64> =
                places.map(|(row, col)| index(elem, stride(width), row, col)).collect();
            assert_eq!(places.len() as u64, 130 * width);
            assert!(places.iter().all(|place| *place < all));
        }
    }

    #[test]
    fn what_cannot_be_has_no_bytes() {
        assert_eq!(bytes(Elem::Bf16, 1, 96), None);
        assert_eq!(bytes(Elem::Bf16, 1, 64), Some(128 * 128));
        assert_eq!(bytes(Elem::F32, 3, 17), Some(3 * 32 * 4));
        assert_eq!(bytes(Elem::F32, u64::MAX, 1), None);
        assert_eq!(bytes(Elem::F32, 1, u64::MAX), None);
    }
}
