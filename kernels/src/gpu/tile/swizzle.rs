//! How a tile of 64 columns of bf16 lies in memory.
//!
//! ```text
//! row r of 128 bytes:  piece 0 ^ r % 8 | piece 1 ^ r % 8 | ... | piece 7 ^ r % 8     a piece is eight elements, 16 bytes
//! ```
//! Eight rows' pieces of one column then stand in eight places of a row, so that lanes that read down a column meet no bank
//! twice. It is PTX's swizzle of 128 bytes, which `wgmma` reads by itself, and `hyc_plan::pack::swizzle`.

use hyc_plan::TILE;

use crate::gpu::isa::{Emit, Int};

/// Bytes of 64 x 64 bf16.
pub const TILE_BYTES: u64 = 8192;

/// The one order of tiles: weights, packed rows, caches and shared memory have it.
pub struct Swizzle;

impl Swizzle {
    /// Where piece `piece` of row `row` stands in the row.
    pub fn piece<'c>(e: &Emit<'c>, row: Int<'c>, piece: Int<'c>) -> Int<'c> {
        e.xor(piece, e.and(row, e.int(7)))
    }

    /// Where it stands in the tile, in words of 4 bytes.
    pub fn words<'c>(e: &Emit<'c>, row: Int<'c>, piece: Int<'c>) -> Int<'c> {
        let piece = Swizzle::piece(e, row, piece);
        e.add(e.mul_const(row, 32), e.mul_const(piece, 4))
    }

    /// The same in bytes.
    pub fn bytes<'c>(e: &Emit<'c>, row: Int<'c>, piece: Int<'c>) -> Int<'c> {
        e.add(e.mul_const(row, 128), e.mul_const(Swizzle::piece(e, row, piece), 16))
    }

    /// Where column `column` of a row stands in the tile, in elements.
    pub fn element<'c>(e: &Emit<'c>, row: Int<'c>, column: Int<'c>) -> Int<'c> {
        let (piece, rest) = e.div_rem(column, 8);
        let piece = Swizzle::piece(e, row, piece);
        e.add(e.mul_const(row, TILE), e.add(e.mul_const(piece, 8), rest))
    }
}
