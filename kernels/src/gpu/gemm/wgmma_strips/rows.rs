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
    /// In bf16, of each half tile of 32 inputs word t of piece c where word c of piece t would stand: a lane's words of a record are
    /// then its left operands as they come.
    ByLanes(TiledRows),
    Fp8(Fp8Rows),
}

impl ManyRows {
    /// Inputs of a k tile, which are 128 bytes of a row.
    pub fn inputs(self) -> u64 {
        match self {
            ManyRows::Bf16(_) | ManyRows::ByLanes(_) => TILE,
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
            ManyRows::Bf16(rows) | ManyRows::ByLanes(rows) => rows.row(e, row, in_features),
            ManyRows::Fp8(rows) => rows.row(e, row, in_features),
        }
    }
}

/// Rows of a tile that there are.
pub fn rows_of<'c>(e: &Emit<'c>, job: &Job<'_, '_, 'c>, tile: &Tile<'c>) -> Int<'c> {
    let rows = e.sub(tile.rows, tile.row);
    e.max(e.min(rows, e.int(job.width)), e.int(0))
}

/// Where the k tiles of a tile's rows come from.
pub struct RowCopies<'c> {
    pieces: Vec<Piece<'c>>,
    /// Blocks of 64 rows that are copied; `None`: all.
    some: Option<Int<'c>>,
    rank: Int<'c>,
}

/// A part of a k tile: of which block of 64 rows, its place in a stage, the address of the first.
struct Piece<'c> {
    block: u64,
    place: u64,
    from: Ptr<'c>,
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
                let second = e.byte_offset(from(0), e.int(half));
                vec![
                    Piece { block: 0, place: 0, from: from(0) },
                    Piece { block: 0, place: half, from: second },
                ]
            }
            tiles => (0..tiles).map(|i| Piece { block: i, place: i * TILE_BYTES, from: from(i) }).collect(),
        };
        let some = (job.list.is_some() && job.width > TILE)
            .then(|| e.div_rem(e.add_const(e.max(rows_of(e, job, tile), e.int(1)), TILE as i64 - 1), TILE).0);
        RowCopies { pieces, some, rank }
    }

    /// Blocks of 64 rows that are copied.
    pub fn blocks(&self, e: &Emit<'c>, job: &Job<'_, '_, 'c>) -> Int<'c> {
        self.some.unwrap_or(e.int(job.width / TILE))
    }

    /// Bytes that they bring in all.
    pub fn bytes(&self, e: &Emit<'c>, job: &Job<'_, '_, 'c>) -> Int<'c> {
        e.mul_const(self.blocks(e, job), TILE_BYTES)
    }

    /// Starts those of k tile `k` to `to`, counted by `full`. `shared`: the pair's other block does half of them.
    pub fn start(&self, e: &Emit<'c>, (k, to, full): (Int<'c>, Int<'c>, Int<'c>), shared: Int<'c>) {
        let at = e.mul_const(e.wide(k), TILE_BYTES);
        let bytes = if self.pieces.iter().any(|piece| piece.block > 0) { TILE_BYTES } else { TILE_BYTES / 2 };
        let where_some = |e: &Emit<'c>, block: Int<'c>, copy: &dyn Fn(&Emit<'c>)| match self.some {
            Some(blocks) => e.when(e.lt(block, blocks), copy),
            None => copy(e),
        };
        e.either(
            shared,
            |e| {
                // Every other piece, of an odd number the first block one more.
                let is_second = e.eq(self.rank, e.int(1));
                for two in self.pieces.chunks(2) {
                    let [one, other] = two else {
                        let Piece { block, place, from } = two[0];
                        let block = e.pick(is_second, e.int(u64::from(u32::MAX) >> 1), e.int(block));
                        where_some(e, block, &|e| {
                            let to = e.add_const(to, place as i64);
                            e.bulk_copy_to_both(to, e.byte_offset(from, at), bytes, full);
                        });
                        continue;
                    };
                    let pick = |one: u64, other: u64| e.pick(is_second, e.int(other), e.int(one));
                    let from = e.byte_offset(e.pick_ptr(is_second, other.from, one.from), at);
                    let place = pick(one.place, other.place);
                    where_some(e, pick(one.block, other.block), &|e| {
                        e.bulk_copy_to_both(e.add(to, place), from, bytes, full);
                    });
                }
            },
            |e| {
                for Piece { block, place, from } in &self.pieces {
                    where_some(e, e.int(*block), &|e| {
                        e.bulk_copy(e.add_const(to, *place as i64), e.byte_offset(*from, at), bytes, full);
                    });
                }
            },
        );
    }
}
