//! Tiles in shared memory.

use super::swizzle::{Swizzle, TILE_BYTES};
use crate::gpu::isa::{Emit, Int, Ptr};

/// A matrix of bf16 in shared memory as `wgmma` reads it: `[columns / 64][rows][64]`, rows swizzled.
#[derive(Clone, Copy)]
pub struct SharedTile<'c> {
    memory: Ptr<'c>,
    rows: u64,
}

impl<'c> SharedTile<'c> {
    /// Bytes of a matrix.
    pub fn bytes(rows: u64, columns: u64) -> u64 {
        2 * rows * columns
    }

    /// A matrix of `rows` rows at `memory`, aligned to 1024 bytes.
    pub fn new(memory: Ptr<'c>, rows: u64) -> SharedTile<'c> {
        SharedTile { memory, rows }
    }

    /// Stores eight elements: piece `piece` of a row in the columns `64 * panel ..`.
    pub fn store(&self, e: &Emit<'c>, row: Int<'c>, (panel, piece): (u64, Int<'c>), words: &[Int<'c>; 4]) {
        let at = e.add_const(Swizzle::words(e, row, piece), (panel * self.rows * 32) as i64);
        e.store_words(self.memory, at, words);
    }

    /// What `wgmma` takes for the rows `64 * block ..`.
    pub fn descriptor(&self, e: &Emit<'c>, block: Int<'c>) -> Int<'c> {
        e.descriptor(e.add(e.shared_address(self.memory), e.mul_const(block, TILE_BYTES)))
    }
}

/// Zeroes of eight elements of bf16 at byte address `at`, the columns `first ..`, those from column `end` on.
pub fn clear_from<'c>(e: &Emit<'c>, at: Int<'c>, first: Int<'c>, end: Int<'c>) {
    for word in 0..4u64 {
        let column = e.add_const(first, 2 * word as i64);
        let low = e.pick(e.lt(column, end), e.int(0xffff), e.int(0));
        let high = e.pick(e.lt(e.add_const(column, 1), end), e.int(0xffff_0000), e.int(0));
        e.mask_shared(e.add_const(at, 4 * word as i64), e.or(low, high));
    }
}
