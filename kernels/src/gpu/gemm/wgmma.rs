//! Products of many rows: bound by the tensor cores.
//!
//! ```text
//! cluster: two blocks, as many as the chip has room for; each takes every so many pairs of tiles
//! tile:    128 rows x 256 (or 192, or 128) outputs: two warp groups of 64 rows, and one thread that keeps a ring of k tiles full
//! k tile:  rows 2 x 8 KiB, outputs 4 (3, 2) x 8 KiB, as they lie; outputs that both tiles of a pair read, half by either block
//!          for both
//! ```
//! Shared memory: 4 stages of 48 KiB, 20 KiB to write results through. Registers: 128 sums of 232.
//! Floors of a tile: 2 x 128 x 256 x K operations; 768 K bytes, of which 512 K are halved by the pair, from the second
//! cache.

use hyc_plan::{Extent, TILE};

use super::epilogue::STAGING_BYTES;
use super::matrices::Section;
use super::pack_rows::{BLOCK_ROWS, k_tiles};
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::tile::{TILE_BYTES, TiledRows};

/// Outputs of a wide tile, and of one for products that have few tiles; of two weights half as many each, side by side.
pub const WIDE: u64 = 256;
pub const NARROW: u64 = 128;
/// Bytes of the ring: 4 stages of a wide tile, 6 of a narrow one.
const RING_BYTES: u64 = 192 << 10;
/// Threads of the two warp groups that multiply and of the one that copies.
const THREADS: u64 = 3 * 128;
/// Registers of a thread that copies, and of one that multiplies: three times 168 are there.
pub const REGISTERS: [u64; 2] = [40, 232];
const ROWS_BYTES: u64 = BLOCK_ROWS / TILE * TILE_BYTES;

/// A tile of results.
#[derive(Clone, Copy)]
pub struct Tile<'c> {
    /// Its outputs, of `up` too where there are two weights.
    pub section: Section<'c>,
    pub up: Option<Ptr<'c>>,
    /// What it has in common with the tiles of the same outputs.
    pub outputs: Int<'c>,
    /// Its first row, and how many rows there are.
    pub row: Int<'c>,
    pub rows: Int<'c>,
    /// Where row 0 stands among the packed rows.
    pub place: Int<'c>,
}

impl<'c> Tile<'c> {
    /// Row `i` of the tile, or the step's last, and whether it is one.
    pub fn row_of(&self, e: &Emit<'c>, i: Int<'c>) -> (Int<'c>, Int<'c>) {
        let row = e.add(self.row, i);
        let inside = e.lt(row, self.rows);
        (e.max(e.min(row, e.add_const(self.rows, -1)), e.int(0)), inside)
    }
}

/// A tile's sums, of which a lane has half as many as the tile has outputs.
pub struct Sums<'a, 'c> {
    pub of: &'a [Var<'c>],
    /// Waits until they are there; until then they must not be touched.
    pub ready: &'a dyn Fn(&Emit<'c>),
}

/// What is done with a tile's sums.
pub type Finish<'f, 'c> = Box<dyn FnOnce(&Emit<'c>, &Sums<'_, 'c>) + 'f>;
/// Begins a tile, before its sums, for the 16 rows of a warp from `.2` on, and says how it ends. `.3`: where the warp may
/// write through.
pub type Begin<'a, 'f, 'c> = &'a dyn Fn(&Emit<'c>, Tile<'c>, Int<'c>, Ptr<'c>) -> Finish<'f, 'c>;

/// What a function computes.
pub struct Job<'a, 'f, 'c> {
    pub in_features: u64,
    pub rows: TiledRows,
    /// Outputs of a tile.
    pub width: u64,
    /// Whether it is common that a tile has no more than 64 rows: its second warp group then has nothing to multiply.
    pub half_tiles: bool,
    /// How many tiles there are.
    pub count: &'a dyn Fn(&Emit<'c>) -> Int<'c>,
    /// The tile of an index. Neighbours have the same outputs where they can.
    pub tile: &'a dyn Fn(&Emit<'c>, Int<'c>) -> Tile<'c>,
    pub begin: Begin<'a, 'f, 'c>,
}

impl Job<'_, '_, '_> {
    /// Bytes of a k tile of both operands.
    fn stage_bytes(&self) -> u64 {
        ROWS_BYTES + self.width / TILE * TILE_BYTES
    }

    /// k tiles under way.
    fn stages(&self) -> u64 {
        RING_BYTES / self.stage_bytes()
    }
}

/// Adds the function of these variants, `part` being the end of its name.
pub fn wgmma<'c>(k: &mut Kernel<'c, '_>, part: &str, variants: &[&str], job: &Job<'_, '_, 'c>) {
    let clusters = (k.multiprocessors / 2).max(1);
    let grid = [Extent::fixed(2 * clusters), Extent::fixed(1)];
    let (stages, stage_bytes) = (job.stages(), job.stage_bytes());
    let shared = RING_BYTES + 8 * STAGING_BYTES + SHARED_SLACK;
    let k_tiles = k_tiles(job.in_features);
    let function = Function::new(part, grid, THREADS).of(variants).shared_bytes(shared).clusters(2);
    k.function(function, |e| {
        let dynamic = e.dynamic_shared();
        let memory = e.shared_address(dynamic);
        let ring = Ring::of_pair(e, stages, 2);
        let (cluster, rank) = (e.div_rem(e.block_x(), 2).0, e.cluster_rank());
        let pairs = e.div_rem(e.add_const((job.count)(e), 1), 2).0;
        // The tile of a block of the pair; where there is none, the last one once more, without rows.
        let tile = |e: &Emit<'c>, pair: Int<'c>, rank: Int<'c>| {
            // Counted again: there is no register to keep it in.
            let (index, count) = (e.add(e.mul_const(pair, 2), rank), (job.count)(e));
            let tile = (job.tile)(e, e.min(index, e.add_const(count, -1)));
            Tile { rows: e.pick(e.lt(index, count), tile.rows, e.int(0)), ..tile }
        };
        let warp = e.div_rem(e.thread(), 32).0;
        let copies = |e: &Emit<'c>| {
            e.each(cluster, pairs, clusters, |e, pair| {
                let mine = tile(e, pair, rank);
                let other = tile(e, pair, e.xor(rank, e.int(1)));
                let shared = e.eq(mine.outputs, other.outputs);
                let copies = Copies::new(e, job, &mine, rank);
                e.each(e.int(0), e.int(k_tiles), 1, |e, k| {
                    ring.produce(e, stage_bytes, |e, stage, full| {
                        let to = e.add(memory, e.mul_const(stage, stage_bytes));
                        copies.start(e, (k, to, full), shared);
                    });
                });
            });
        };
        let products = |e: &Emit<'c>| {
            let group = e.div_rem(warp, 4).0;
            let staging = e.mul_const(warp, STAGING_BYTES);
            let staging = e.byte_offset(dynamic, e.add_const(staging, RING_BYTES as i64));
            e.each(cluster, pairs, clusters, |e, pair| {
                let tile = tile(e, pair, rank);
                let finish = (job.begin)(e, tile, e.add(tile.row, e.mul_const(warp, 16)), staging);
                let sums: Vec<Var<'c>> = (0..job.width / 2).map(|_| e.float_var(0.0)).collect();
                // The stage that the products under way read.
                let last = e.var(e.minus_one().into());
                let products =
                    |e: &Emit<'c>| multiply(e, &ring, (memory, last), (k_tiles, stage_bytes), &sums);
                let ready = |e: &Emit<'c>| {
                    e.wgmma_wait(&sums, 0);
                    release(e, &ring, last);
                };
                if job.half_tiles {
                    let any = e.lt(e.add(tile.row, e.mul_const(group, TILE)), tile.rows);
                    let all = |e: &Emit<'c>| {
                        products(e);
                        ready(e);
                    };
                    e.either(any, all, |e| pass(e, &ring, k_tiles));
                    finish(e, &Sums { of: &sums, ready: &|_| {} });
                } else {
                    products(e);
                    finish(e, &Sums { of: &sums, ready: &ready });
                }
            });
        };
        e.either(
            e.lt(warp, e.int(8)),
            |e| {
                e.take_registers(REGISTERS[1]);
                products(e);
            },
            |e| {
                e.give_registers(REGISTERS[0]);
                e.when(e.eq(e.thread(), e.int(256)), copies);
            },
        );
        e.cluster_barrier();
    });
}

/// A warp group's sums over all k tiles; the last product is still under way, from stage `last`.
fn multiply<'c>(
    e: &Emit<'c>,
    ring: &Ring<'c>,
    (memory, last): (Int<'c>, Var<'c>),
    (tiles, stage_bytes): (u64, u64),
    sums: &[Var<'c>],
) {
    let group = e.div_rem(e.thread(), 128).0;
    let steps: Vec<(u64, u64)> = (0..4).map(|i| (32 * i, 32 * i)).collect();
    e.each(e.int(0), e.int(tiles), 1, |e, _| {
        let stage = ring.full(e);
        let base = e.add(memory, e.mul_const(stage, stage_bytes));
        let a = e.descriptor(e.add(base, e.mul_const(group, TILE_BYTES)));
        let b = e.descriptor(e.add_const(base, ROWS_BYTES as i64));
        e.wgmma_start(sums, a, b, &steps, true);
        e.wgmma_wait(sums, 1);
        release(e, ring, last);
        e.set(last, stage.into());
        ring.advance(e);
    });
}

/// Says that stage `last` is used up, where it is one.
fn release<'c>(e: &Emit<'c>, ring: &Ring<'c>, last: Var<'c>) {
    let last = e.get(last).into_int_value();
    ring.release_stage(e, last, e.and(ring.speaks(e), e.ge(last, e.int(0))));
}

/// The same of a warp group without rows.
fn pass<'c>(e: &Emit<'c>, ring: &Ring<'c>, tiles: u64) {
    e.each(e.int(0), e.int(tiles), 1, |e, _| {
        ring.full(e);
        ring.release(e, ring.speaks(e));
    });
}

/// Where the k tiles of a tile come from: addresses of their first.
struct Copies<'c> {
    rows: Ptr<'c>,
    /// Those of each 64 outputs.
    outputs: Vec<Ptr<'c>>,
    /// Bytes from 64 rows to the next.
    next: u64,
    rank: Int<'c>,
}

impl<'c> Copies<'c> {
    fn new(e: &Emit<'c>, job: &Job<'_, '_, 'c>, tile: &Tile<'c>, rank: Int<'c>) -> Copies<'c> {
        let next = k_tiles(job.in_features) * TILE_BYTES;
        let (all, s) = (job.width / TILE, tile.section);
        let each = if tile.up.is_some() { all / 2 } else { all };
        let last = e.add_const(e.div_rem(e.add_const(s.out, TILE as i64 - 1), TILE).0, -1);
        let output = |i| {
            let (from, i) = match tile.up {
                Some(up) if i >= each => (up, i - each),
                Some(_) | None => (s.matrix, i),
            };
            let row = e.min(e.add_const(e.mul_const(s.block, each), i as i64), last);
            e.byte_offset(from, e.mul_const(e.wide(row), next))
        };
        let rows = job.rows.row(e, e.add(tile.place, tile.row), job.in_features);
        Copies { rows, outputs: (0..all).map(output).collect(), next, rank }
    }

    /// Starts those of k tile `k` to `to`, counted by `full`. `shared`: the pair's other block does half of the outputs.
    fn start(&self, e: &Emit<'c>, (k, to, full): (Int<'c>, Int<'c>, Int<'c>), shared: Int<'c>) {
        let at = e.mul_const(e.wide(k), TILE_BYTES);
        let copy = |e: &Emit<'c>, from: Ptr<'c>, to: Int<'c>| {
            e.bulk_copy(to, e.byte_offset(from, at), TILE_BYTES, full);
        };
        for i in 0..BLOCK_ROWS / TILE {
            let from = e.byte_offset(self.rows, e.long(i * self.next));
            copy(e, from, e.add_const(to, (i * TILE_BYTES) as i64));
        }
        let place = |i: usize| e.add_const(to, (ROWS_BYTES + i as u64 * TILE_BYTES) as i64);
        let half = self.outputs.len().div_ceil(2);
        e.either(
            shared,
            |e| {
                let second = e.eq(self.rank, e.int(1));
                for i in 0..half {
                    let copy = |e: &Emit<'c>, from: Ptr<'c>, to: Int<'c>| {
                        e.bulk_copy_to_both(to, e.byte_offset(from, at), TILE_BYTES, full);
                    };
                    match self.outputs.get(half + i) {
                        Some(other) => copy(
                            e,
                            e.pick_ptr(second, *other, self.outputs[i]),
                            e.pick(second, place(half + i), place(i)),
                        ),
                        // Of an odd number the first block has one more.
                        None => e.when(e.eq(self.rank, e.int(0)), |e| copy(e, self.outputs[i], place(i))),
                    }
                }
            },
            |e| self.outputs.iter().enumerate().for_each(|(i, from)| copy(e, *from, place(i))),
        );
    }
}
