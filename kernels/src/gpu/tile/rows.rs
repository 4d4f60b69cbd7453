//! Rows in tiles in device memory: `[rows / 64][width / 64][64][64]`, as `hyc_plan::tensor` has them.

use hyc_plan::{Elem, TILE};

use super::{Swizzle, TILE_BYTES};
use crate::gpu::isa::{Emit, Float, Int, Ptr};

/// Where such rows are.
#[derive(Clone, Copy)]
pub enum TiledRows {
    /// Those of an operand.
    Operand(&'static str),
    /// Those at this offset in scratch, in 4-byte elements.
    Scratch(u64),
}

impl TiledRows {
    /// The address of a row of `width` elements in the first of its tiles.
    pub fn row<'c>(self, e: &Emit<'c>, row: Int<'c>, width: u64) -> Ptr<'c> {
        let matrix = match self {
            TiledRows::Operand(name) => e.operand(name),
            TiledRows::Scratch(at) => e.at(e.scratch(), e.int(at)),
        };
        tile_row(e, matrix, row, width)
    }

    /// The address of piece `piece` of a row, elements `8 piece ..`.
    pub fn piece<'c>(self, e: &Emit<'c>, row: Int<'c>, piece: Int<'c>, width: u64) -> Ptr<'c> {
        let (tile, piece) = e.div_rem(piece, TILE / 8);
        let place = e.and(row, e.int(TILE - 1));
        let at = e.add(e.mul_const(tile, TILE_BYTES), e.mul_const(Swizzle::piece(e, place, piece), 16));
        e.byte_offset(self.row(e, row, width), e.wide(at))
    }

    /// One element.
    pub fn load<'c>(self, e: &Emit<'c>, row: Int<'c>, column: Int<'c>, width: u64) -> Float<'c> {
        let (piece, inside) = e.div_rem(column, 8);
        e.load_elem(Elem::Bf16, self.piece(e, row, piece, width), inside)
    }

    /// Stores one.
    pub fn store<'c>(self, e: &Emit<'c>, (row, column): (Int<'c>, Int<'c>), width: u64, value: Float<'c>) {
        let (piece, inside) = e.div_rem(column, 8);
        e.store_elem(Elem::Bf16, self.piece(e, row, piece, width), inside, value);
    }
}

/// The address of row `row` of a matrix of tiles in the first of its tiles.
pub fn tile_row<'c>(e: &Emit<'c>, matrix: Ptr<'c>, row: Int<'c>, width: u64) -> Ptr<'c> {
    let (tile, place) = e.div_rem(row, TILE);
    let tile = e.mul_const(e.wide(tile), width.div_ceil(TILE) * TILE_BYTES);
    e.byte_offset(e.byte_offset(matrix, tile), e.mul_const(place, 128))
}

/// Four words of each lane of a quad, turned: word j of lane t becomes word t of lane j. Whole warps come here.
///
/// Lane t has pairs of columns `8 j + 2 t` as a product leaves them; turned, it has all eight of piece t.
pub fn turn<'c>(e: &Emit<'c>, mut words: [Int<'c>; 4]) -> [Int<'c>; 4] {
    let t = e.lane_pair().1;
    for (mask, pairs) in [(1, [(0, 1), (2, 3)]), (2, [(0, 2), (1, 3)])] {
        let upper = e.lt(e.int(0), e.and(t, e.int(mask)));
        for (low, high) in pairs {
            let got = e.shuffle_int(e.pick(upper, words[low], words[high]), mask);
            words[low] = e.pick(upper, got, words[low]);
            words[high] = e.pick(upper, words[high], got);
        }
    }
    words
}
