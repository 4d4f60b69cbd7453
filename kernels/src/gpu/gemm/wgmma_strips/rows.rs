//! Rows of a tile of [`wgmma_strips`](super): how they lie, and how the k tiles of a tile's reach a stage of shared memory.

use hyc_plan::TILE;

use super::Job;
use crate::gpu::gemm::fp8_rows::{FP8_TILE, Fp8Rows};
use crate::gpu::gemm::wgmma::Tile;
use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::tile::{TILE_BYTES, TiledRows};

/// Rows of a product in device memory.
#[derive(Clone, Copy)]
pub enum ManyRows {
    Bf16(TiledRows),
    Fp8(Fp8Rows),
}

impl ManyRows {
    /// Inputs of a k tile, which are 128 bytes of a row.
    pub fn inputs(self) -> u64 {
        match self {
            ManyRows::Bf16(_) => TILE,
            ManyRows::Fp8(_) => FP8_TILE,
        }
    }

    /// k tiles of a row.
    pub fn k_tiles(self, in_features: u64) -> u64 {
        in_features.div_ceil(self.inputs())
    }

    /// The address of a row in the first of its k tiles.
    fn row<'c>(self, e: &Emit<'c>, row: Int<'c>, in_features: u64) -> Ptr<'c> {
        match self {
            ManyRows::Bf16(rows) => rows.row(e, row, in_features),
            ManyRows::Fp8(rows) => rows.row(e, row, in_features),
        }
    }
}

/// Where the k tiles of a tile's rows come from.
pub struct RowCopies<'c> {
    /// Place in a stage, address of the first, bytes.
    pieces: Vec<(u64, Ptr<'c>, u64)>,
    rank: Int<'c>,
}

impl<'c> RowCopies<'c> {
    pub fn new(e: &Emit<'c>, job: &Job<'_, '_, 'c>, tile: &Tile<'c>, rank: Int<'c>) -> RowCopies<'c> {
        // Rows beyond the last 64 are those once more.
        let last = e.div_rem(e.max(e.add_const(tile.rows, -1), e.int(0)), TILE).0;
        let from = |i: u64| {
            let block = e.min(e.add_const(e.div_rem(tile.row, TILE).0, i as i64), last);
            job.rows.row(e, e.add(tile.place, e.mul_const(block, TILE)), job.in_features)
        };
        let pieces = match job.width / TILE {
            1 => {
                let half = TILE_BYTES / 2;
                vec![(0, from(0), half), (half, e.byte_offset(from(0), e.int(half)), half)]
            }
            tiles => (0..tiles).map(|i| (i * TILE_BYTES, from(i), TILE_BYTES)).collect(),
        };
        RowCopies { pieces, rank }
    }

    /// Starts those of k tile `k` to `to`, counted by `full`. `shared`: the pair's other block does half of them.
    pub fn start(&self, e: &Emit<'c>, (k, to, full): (Int<'c>, Int<'c>, Int<'c>), shared: Int<'c>) {
        let at = e.mul_const(e.wide(k), TILE_BYTES);
        let (first, second) = self.pieces.split_at(self.pieces.len() / 2);
        e.either(
            shared,
            |e| {
                let is_second = e.eq(self.rank, e.int(1));
                for ((place, from, bytes), (other_place, other, _)) in first.iter().zip(second) {
                    let from = e.byte_offset(e.pick_ptr(is_second, *other, *from), at);
                    let place = e.pick(is_second, e.int(*other_place), e.int(*place));
                    e.bulk_copy_to_both(e.add(to, place), from, *bytes, full);
                }
            },
            |e| {
                for (place, from, bytes) in &self.pieces {
                    e.bulk_copy(e.add_const(to, *place as i64), e.byte_offset(*from, at), *bytes, full);
                }
            },
        );
    }
}
