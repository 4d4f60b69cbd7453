//! Products of many rows with weights in strips: bound by the tensor cores, weights being numbers of bf16 in registers alone.
//!
//! ```text
//! cluster: two blocks, as many as the chip has room for; each takes every so many pairs of tiles
//! tile:    128 outputs (or 64 of each of two weights) x 64, 128 or 256 rows, of experts 256 x 64: two (or four) warp groups of 64
//!          outputs, a warp 16; one warp that keeps a ring of k tiles of the rows full, and one that does so with records of the weights
//! k tile:  rows, 8 KiB for each 64, as they lie; where both tiles of a pair read the same, half by either block for both
//! span:    four k tiles of the weights: a record a warp of one weight, or half records of two, or of both elements of pairs that
//!          RoPE turns
//! ```
//! `wgmma` has weights on its left, from registers ([`fragments`](super::fragments)): those of the next k tile are made while the one before
//! is multiplied. A warp's sums are 16 outputs by all rows, so results are [turned](super::turned) on their way.
//! Floors of a tile: 2 x 128 x rows x K operations; 128 K codes from the second cache, and rows x K bf16, halved by the pair.

mod multiply;
mod notes;
mod product;
mod rows;

use hyc_plan::pack::Half;
use hyc_plan::{Codec, Extent, SPAN, STRIP, TILE};

use super::matrices::Section;
use super::stored::Stored;
use super::turned::{List, ROUND, STAGING_BYTES, Turned};
use super::wgmma::{REGISTERS, Tile};
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, Var, WARP};
use crate::gpu::tile::TILE_BYTES;
use crate::gpu::tile::pipeline::Ring;
use multiply::multiply;
use notes::Notes;
pub use product::{finish, strips_large_m, strips_large_m_with};
pub use rows::ManyRows;
use rows::{RowCopies, rows_of};

/// Warps that multiply.
pub const WARPS: u64 = 8;
/// The same of experts' tiles of 64 rows. What a warp does for a k tile of so few takes it longer than the tensor cores: more of them
/// hide each other's waits.
pub const MANY_WARPS: u64 = 16;

/// Shared memory of a block.
const SHARED: u64 = 224 << 10;
/// Registers of a thread that copies, and of one that multiplies, of sixteen warps.
const REGISTERS_OF_MANY: [u64; 2] = [32, 112];

/// What a function computes.
pub struct Job<'a, 'f, 'c> {
    pub in_features: u64,
    pub rows: ManyRows,
    /// Rows of a tile.
    pub width: u64,
    /// A list in device memory of what rows stand for, by their places, which a tile's end wants. Tiles have then as many rows as there
    /// are, in 32s, where most end before.
    pub list: Option<&'a dyn Fn(&Emit<'c>) -> Ptr<'c>>,
    pub codec: Codec,
    /// How many tiles there are.
    pub count: &'a dyn Fn(&Emit<'c>) -> Int<'c>,
    /// The tile of an index; its section's blocks are of [`outputs`]. Neighbours have the same rows where they can.
    pub tile: &'a dyn Fn(&Emit<'c>, Int<'c>) -> Tile<'c>,
    /// Whether there are two weights.
    pub two: bool,
    pub turns: Option<Turns>,
    pub begin: Begin<'a, 'f, 'c>,
    /// Warps that multiply.
    pub warps: u64,
}

/// What is done with a warp's sums.
pub type Finish<'f, 'c> = Box<dyn FnOnce(&Emit<'c>, &Turned<'_, 'c>) + 'f>;
/// Begins a tile, for a warp's outputs from that one of the section on, and says how it ends.
pub type Begin<'a, 'f, 'c> = &'a dyn Fn(&Emit<'c>, Tile<'c>, Int<'c>) -> Finish<'f, 'c>;

/// Heads that RoPE turns: a warp has elements `8 i ..` of a head's first half as its first eight outputs, and of its second half
/// as the others.
#[derive(Clone, Copy)]
pub struct Turns {
    /// Elements of a head.
    pub dim: u64,
    /// How many of the matrices, from the first on, have such heads.
    pub matrices: u64,
}

/// Outputs that a tile of so many warps has of each weight.
pub fn outputs(two: bool, warps: u64) -> u64 {
    warps * if two { STRIP / 2 } else { STRIP }
}

/// Most rows of so many outputs that tiles of 64 and of 128 are for: of 64 where they are for half the multiprocessors, of 128 as long
/// as there are no more tiles of 256 than that.
pub fn usual_rows(out: u64, two: bool, multiprocessors: u64) -> [u64; 2] {
    let (tiles, half) = (out.div_ceil(outputs(two, WARPS)), multiprocessors / 2);
    [if tiles < half { 0 } else { 64 }, half / tiles * 256]
}

impl Job<'_, '_, '_> {
    /// Bytes of a k tile of the rows.
    fn rows_bytes(&self) -> u64 {
        self.width / TILE * TILE_BYTES
    }

    /// Whether a tile's first product overwrites the sums of the tile before: a hundred registers less to clear. Where a last span is
    /// not whole, ptxas has all products wait for each other then.
    fn overwrites(&self) -> bool {
        self.in_features.is_multiple_of(SPAN)
    }

    /// Bytes of a record: a warp's weights of a span.
    fn record_bytes(&self) -> u64 {
        2 * Half::of(self.codec).bytes()
    }

    /// The first of a warp's outputs of a section, and the columns between its first eight and the others.
    fn first<'c>(&self, e: &Emit<'c>, s: &Section<'c>, warp: Int<'c>) -> (Int<'c>, Int<'c>) {
        let warp = e.add(e.mul_const(s.block, self.warps), warp);
        let plain = e.mul_const(warp, if self.two { STRIP / 2 } else { STRIP });
        let Some(Turns { dim, matrices }) = self.turns else { return (plain, e.int(0)) };
        let (head, eight) = e.div_rem(warp, dim / STRIP);
        let turned = e.add(e.mul_const(head, dim), e.mul_const(eight, 8));
        let turns = e.lt(s.number, e.int(matrices));
        (e.pick(turns, turned, plain), e.pick(turns, e.int(dim / 2 - 8), e.int(0)))
    }

    /// Stages of the rows and of the weights.
    fn stages(&self) -> (u64, u64) {
        let rows = match self.width {
            256 => 4,
            192 => 5,
            128 => 6,
            // Weights of a byte leave room for fewer.
            _ if self.codec.code_bits() > 4 => 4,
            _ => 8,
        };
        let rest = SHARED - rows * self.rows_bytes() - self.warps * STAGING_BYTES;
        (rows, (rest / (self.warps * self.record_bytes())).min(4))
    }
}

/// Adds the function of these variants, `part` being the end of its name.
pub fn wgmma_strips<'c>(k: &mut Kernel<'c, '_>, part: &str, variants: &[&str], job: &Job<'_, '_, 'c>) {
    let clusters = (k.multiprocessors / 2).max(1);
    let grid = [Extent::fixed(2 * clusters), Extent::fixed(1)];
    let (row_stages, weight_stages) = job.stages();
    let (warps, span_bytes) = (job.warps, job.warps * job.record_bytes());
    let weights_at = row_stages * job.rows_bytes();
    let staging_at = weights_at + weight_stages * span_bytes;
    let shared = staging_at + warps * STAGING_BYTES + SHARED_SLACK;
    let registers = if warps == WARPS { REGISTERS } else { REGISTERS_OF_MANY };
    // A warp group more copies.
    let threads = warps * WARP + 128;
    let function = Function::new(part, grid, threads).of(variants).shared_bytes(shared).clusters(2);
    k.function(function, |e| {
        let dynamic = e.dynamic_shared();
        let memory = e.shared_address(dynamic);
        let weights = Ring::new(e, weight_stages, warps);
        let rows = Ring::of_pair(e, row_stages, warps / 4);
        let (cluster, rank) = (e.div_rem(e.block_x(), 2).0, e.cluster_rank());
        let pairs = e.div_rem(e.add_const((job.count)(e), 1), 2).0;
        let (warp, lane) = (e.div_rem(e.thread(), WARP).0, e.lane());
        let notes = job.list.map(|list| Notes::new(e, list, (job.width, warps)));
        // The tile of a block of the pair, and whether there is one; else it is the last one once more.
        let tile = |e: &Emit<'c>, pair: Int<'c>, rank: Int<'c>| {
            // Counted again: there is no register to keep it in.
            let (index, count) = (e.add(e.mul_const(pair, 2), rank), (job.count)(e));
            ((job.tile)(e, e.min(index, e.add_const(count, -1))), e.lt(index, count))
        };
        let copy_rows = |e: &Emit<'c>| {
            e.each(cluster, pairs, clusters, |e, pair| {
                let (mine, there) = tile(e, pair, rank);
                let other = tile(e, pair, e.xor(rank, e.int(1))).0;
                let first = |e: &Emit<'c>, tile: &Tile<'c>| e.add(tile.place, tile.row);
                let shared = e.eq(first(e, &mine), first(e, &other));
                let copies = RowCopies::new(e, job, &mine, rank);
                if let Some(notes) = &notes {
                    let rows = e.pick(there, rows_of(e, job, &mine), e.int(0));
                    notes.write(e, (&mine, rows), copies.blocks(e, job));
                }
                e.each(e.int(0), e.int(job.rows.k_tiles(job.in_features)), 1, |e, k| {
                    rows.produce_some(e, copies.bytes(e, job), |e, stage, full| {
                        let to = e.add(memory, e.mul_const(stage, job.rows_bytes()));
                        copies.start(e, (k, to, full), shared);
                    });
                });
            });
            if let Some(notes) = &notes {
                notes.end(e);
            }
        };
        let copy_weights = |e: &Emit<'c>| {
            let bytes = job.record_bytes() / 2;
            // A lane has a half record: of a warp's outputs, or of a weight's.
            let (of, half) = e.div_rem(lane, 2);
            let place = e.add_const(e.mul_const(lane, bytes), weights_at as i64);
            e.each(cluster, pairs, clusters, |e, pair| {
                let tile = tile(e, pair, rank).0;
                let (stored, s) = (Stored::Strips(job.codec), tile.section);
                let (first, gap) = job.first(e, &s, of);
                let is_first = e.eq(half, e.int(0));
                let (matrix, row) = match tile.up {
                    Some(up) => (e.pick_ptr(is_first, s.matrix, up), first),
                    None => (s.matrix, e.pick(is_first, first, e.add(e.add_const(first, 8), gap))),
                };
                // There are whole strips.
                let last = e.mul_const(e.div_rem(e.add_const(s.out, STRIP as i64 - 1), STRIP).0, STRIP);
                let row = e.min(row, e.add_const(last, -8));
                let from = stored.eight(e, matrix, row, job.in_features);
                e.each(e.int(0), e.int(stored.stages(job.in_features)), 1, |e, span| {
                    weights.produce_together(e, e.eq(lane, e.int(0)), span_bytes, |e, stage, full| {
                        let to = e.add(memory, e.mul_const(stage, span_bytes));
                        let at = e.mul_const(e.wide(span), stored.next());
                        e.bulk_copy(e.add(to, place), e.byte_offset(from, at), bytes, full);
                    });
                });
            });
        };
        let products = |e: &Emit<'c>| {
            let staging = e.add_const(e.mul_const(warp, STAGING_BYTES), staging_at as i64);
            let staging = e.byte_offset(dynamic, staging);
            let records = e.add_const(e.mul_const(warp, job.record_bytes()), weights_at as i64);
            let records = e.byte_offset(dynamic, records);
            let sums: Vec<Var<'c>> = (0..job.width / 2).map(|_| e.float_var(0.0)).collect();
            let finish = |e: &Emit<'c>, tile: Tile<'c>, list: Option<List<'c>>| {
                let of_warp = e.mul_const(warp, if job.two { STRIP / 2 } else { STRIP });
                let before = e.add(e.mul_const(tile.section.block, outputs(job.two, job.warps)), of_warp);
                let (first, gap) = job.first(e, &tile.section, warp);
                let left = e.sub(tile.section.out, before);
                let turned = Turned { of: &sums, two: job.two, staging, left, gap, list };
                (job.begin)(e, tile, first)(e, &turned);
            };
            let clear = |e: &Emit<'c>| {
                if !job.overwrites() {
                    sums.iter().for_each(|sum| e.set(*sum, e.float(0.0).into()));
                }
            };
            let multiply = |e: &Emit<'c>, sums: &[Var<'c>], first: &dyn Fn(&Emit<'c>) -> Int<'c>| {
                multiply(e, job, (&rows, memory), (&weights, records), sums, first);
            };
            let Some(notes) = &notes else {
                return e.each(cluster, pairs, clusters, |e, pair| {
                    clear(e);
                    multiply(e, &sums, &|e| {
                        let tile = tile(e, pair, rank).0;
                        e.add(tile.place, tile.row)
                    });
                    let (tile, there) = tile(e, pair, rank);
                    let tile = Tile { rows: e.pick(there, tile.rows, e.int(0)), ..tile };
                    finish(e, tile, None);
                });
            };
            notes.each(e, |e, there| {
                clear(e);
                // A loop for each number of rows that a product can have, in 32s. With one of 32 rows beside four and more others, or with
                // those of every 16, ptxas runs out of registers and lets all products wait for each other.
                let least = if job.width > TILE { 2 } else { 1 };
                let there = e.div_rem(e.add_const(there, ROUND as i64 - 1), ROUND).0;
                let there = e.max(there, e.int(least));
                for count in least..=job.width / ROUND {
                    let sums = &sums[..(count * ROUND / 2) as usize];
                    e.when(e.eq(there, e.int(count)), |e| multiply(e, sums, &|e| e.int(0)));
                }
                // What is not noted of a tile is the same of all, or nobody's.
                let (tile, list) = notes.noted(e, tile(e, cluster, rank).0);
                finish(e, tile, Some(list));
            });
        };
        e.either(
            e.lt(warp, e.int(warps)),
            |e| {
                e.take_registers(registers[1]);
                products(e);
            },
            |e| {
                e.give_registers(registers[0]);
                e.when(e.eq(e.thread(), e.int(warps * WARP)), copy_rows);
                e.when(e.and(e.eq(warp, e.int(warps + 1)), e.lt(lane, e.int(2 * warps))), copy_weights);
            },
        );
        e.cluster_barrier();
    });
}
