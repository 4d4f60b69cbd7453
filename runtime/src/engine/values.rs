//! What a pass has written to a buffer, as numbers.

use hyc_plan::{Buffer, Elem, TILE, pack, tensor};

/// The elements of a buffer, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Activations: f32, or bf16 widened.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
}

/// Bytes of the first `rows` rows of a buffer, what pads them included.
pub(super) fn bytes(buffer: &Buffer, rows: usize) -> usize {
    tensor::bytes(buffer.elem, rows as u64, buffer.width).unwrap_or(0) as usize
}

/// The elements of the first `rows` rows, whose bytes these are.
pub(super) fn decode(buffer: &Buffer, rows: usize, bytes: &[u8]) -> Values {
    let (width, stride) = (buffer.width as usize, buffer.stride() as usize);
    let words = bytes.chunks_exact(stride * 4).take(rows).flat_map(|row| row[..width * 4].as_chunks::<4>().0);
    match buffer.elem {
        Elem::I32 => Values::I32(words.map(|word| i32::from_le_bytes(*word)).collect()),
        Elem::F32 => Values::F32(words.map(|word| f32::from_le_bytes(*word)).collect()),
        Elem::Bf16 => Values::F32((0..rows as u64).flat_map(|row| tiled_row(buffer, row, bytes)).collect()),
    }
}

/// Where the bytes are in a buffer that hold a row, how many, and which of the rows in them it is.
pub(super) fn span(buffer: &Buffer, row: u64) -> (u64, usize, u64) {
    match buffer.elem {
        Elem::F32 | Elem::I32 => (row * buffer.stride() * 4, buffer.width as usize * 4, 0),
        Elem::Bf16 => {
            let tiles = TILE * buffer.width * 2;
            (row / TILE * tiles, tiles as usize, row % TILE)
        }
    }
}

/// Row `row` of those that these bytes hold, as [`span`] says; f32 or bf16.
pub(super) fn decode_row(buffer: &Buffer, row: u64, bytes: &[u8]) -> Vec<f32> {
    match buffer.elem {
        Elem::F32 | Elem::I32 => {
            bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        Elem::Bf16 => tiled_row(buffer, row, bytes),
    }
}

fn tiled_row(buffer: &Buffer, row: u64, bytes: &[u8]) -> Vec<f32> {
    let at = |col| tensor::index(Elem::Bf16, buffer.stride(), row, col);
    (0..buffer.width).map(|col| pack::load(Elem::Bf16, bytes, at(col))).collect()
}

#[cfg(test)]
mod tests {
    use hyc_plan::Rows;

    use super::*;

    fn buffer(elem: Elem, width: u64) -> Buffer {
        let name = "b".to_string();
        Buffer { name, offset: 0, rows: Rows::Tokens, max_rows: 130, width, elem, selection: None }
    }

    /// A buffer whose element (r, c) is 128 r + c, as far as bf16 has it.
    fn filled(buffer: &Buffer, rows: u64) -> Vec<u8> {
        let mut all = vec![0xff; bytes(buffer, rows as usize)];
        for (row, col) in (0..rows).flat_map(|row| (0..buffer.width).map(move |col| (row, col))) {
            let (value, size) = ((row % 2 * 128 + col) as f32, buffer.elem.bytes() as usize);
            let at = tensor::index(buffer.elem, buffer.stride(), row, col) as usize * size;
            // The upper half of an f32 is a bf16.
            all[at..at + size].copy_from_slice(&value.to_le_bytes()[4 - size..]);
        }
        all
    }

    #[test]
    fn rows_and_tiles_are_read_alike() {
        let [rows, tiles] = [Elem::F32, Elem::Bf16].map(|elem| buffer(elem, 128));
        let (a, b) = (filled(&rows, 70), filled(&tiles, 70));
        assert_eq!(decode(&rows, 70, &a), decode(&tiles, 70, &b));
        for row in [0, 63, 64, 69] {
            let one = |buffer: &Buffer, all: &[u8]| {
                let (from, len, row) = span(buffer, row);
                decode_row(buffer, row, &all[from as usize..from as usize + len])
            };
            assert_eq!(one(&rows, &a), one(&tiles, &b), "row {row}");
            assert_eq!(one(&tiles, &b)[3], (row % 2 * 128 + 3) as f32);
        }
    }

    #[test]
    fn no_rows_are_no_bytes() {
        assert_eq!(bytes(&buffer(Elem::Bf16, 64), 0), 0);
        assert_eq!(decode(&buffer(Elem::Bf16, 64), 0, &[]), Values::F32(vec![]));
    }
}
