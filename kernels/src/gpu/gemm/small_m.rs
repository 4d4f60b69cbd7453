//! Products of few rows: bound by the bytes of the weights.
//!
//! ```text
//! block: 16 outputs x 8 (or 32) rows by mma.sync; warp w of 8: k tiles w, w + 8, ...; each keeps a ring of its own full
//! ```
//! The order of k inside a dot product is free, so that a lane takes eight neighbouring k's of its row with one
//! load: words 0 and 1 are its pairs of one `mma` step, words 2 and 3 of the next. Both operands do the same.
//! Loads into registers would do without shared memory, but `ptxas` sinks them to their uses, and then too few
//! bytes are under way.

use hyc_plan::Extent;

use super::matrices::{Product, blocks, section};
use super::pack_rows::{k_tiles, strip_offset};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::pipeline::{Fill, WarpRing};
use crate::gpu::tile::{Fragment, Swizzle, TILE_BYTES};
use crate::gpu::work_item::row_count;

/// Threads of a block.
pub const THREADS: u64 = 256;
pub const WARPS: u64 = THREADS / 32;

/// Products of 16 outputs of each of some weights by `8 * tiles` rows, by one warp, over its share of the k tiles.
///
/// A stage of the warp's ring is one k tile: 2 KiB of each weight, then 1 KiB of each eight rows, as they lie.
pub struct Strip<'c> {
    /// Addresses of the 16 outputs in the first of their 64 x 64 tiles, one a weight.
    pub weights: Vec<Ptr<'c>>,
    /// Where the second eight outputs of the first weight lie, where that is not behind the first eight.
    pub far: Option<Ptr<'c>>,
    /// Address of the packed rows in the first of their tiles.
    pub rows: Ptr<'c>,
    /// How many times eight rows.
    pub eights: u64,
    /// First k tile of this warp.
    pub first: Int<'c>,
    /// Step from k tile to k tile.
    pub step: u64,
    /// k tiles in all.
    pub tiles: u64,
    /// Whether the launch has not waited for the rows yet.
    pub early: bool,
}

/// Bytes of one stage.
fn stage_bytes(weights: u64, eights: u64) -> u64 {
    2048 * weights + 1024 * eights
}

/// Stages of each warp: about 100 KiB under way a block, so that two blocks share a multiprocessor.
fn stages(weights: u64, eights: u64) -> u64 {
    ((100 << 10) / (WARPS * stage_bytes(weights, eights))).max(2)
}

/// Dynamic shared memory of a block whose warps keep such rings.
pub fn strip_shared(weights: u64, eights: u64) -> u64 {
    WARPS * stages(weights, eights) * stage_bytes(weights, eights) + SHARED_SLACK
}

/// The rings of a block's warps, for [`Strip`]s of one size; all threads of the block must come here.
pub fn strip_ring<'c>(e: &Emit<'c>, weights: u64, eights: u64) -> WarpRing<'c> {
    WarpRing::new(e, WARPS, stages(weights, eights), stage_bytes(weights, eights))
}

impl<'c> Strip<'c> {
    /// `[weight][rows / 8][4]` sums: outputs g, g + 8 by rows 2t, 2t + 1.
    pub fn sums(&self, e: &Emit<'c>, ring: &WarpRing<'c>) -> Vec<Vec<Vec<Var<'c>>>> {
        let four = || (0..4).map(|_| e.float_var(0.0)).collect::<Vec<_>>();
        let sums: Vec<Vec<Vec<Var<'c>>>> =
            self.weights.iter().map(|_| (0..self.eights).map(|_| four()).collect()).collect();
        let (g, t) = e.lane_pair();
        // This lane's two 16-byte pieces of row g; rows g + 8 have the same swizzle.
        let pieces = [0, 4].map(|first| Swizzle::words(e, g, e.add_const(t, first)));
        let bytes = stage_bytes(self.weights.len() as u64, self.eights);
        let weights = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let at = e.mul_const(e.wide(k), TILE_BYTES);
            for (i, weight) in self.weights.iter().enumerate() {
                let to = e.add_const(to, 2048 * i as i64);
                match self.far.filter(|_| i == 0) {
                    Some(far) => {
                        e.bulk_copy(to, e.byte_offset(*weight, at), 1024, full);
                        e.bulk_copy(e.add_const(to, 1024), e.byte_offset(far, at), 1024, full);
                    }
                    None => e.bulk_copy(to, e.byte_offset(*weight, at), 2048, full),
                }
            }
        };
        let inputs = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let at = e.mul_const(e.wide(k), TILE_BYTES);
            let to = e.add_const(to, 2048 * self.weights.len() as i64);
            e.bulk_copy(to, e.byte_offset(self.rows, at), 1024 * self.eights, full);
        };
        let fill = Fill { bytes, weights: &weights, inputs: &inputs, early: self.early };
        ring.run(e, (self.first, self.step, self.tiles), &fill, &|e, stage| {
            let chunk = |words: u64, piece: Int<'c>| e.load4(stage, e.add_const(piece, words as i64));
            let rows_at = 512 * self.weights.len() as u64;
            let x: Vec<[Chunk<'c>; 2]> =
                (0..self.eights).map(|n| pieces.map(|p| chunk(rows_at + 256 * n, p))).collect();
            for (i, sums) in sums.iter().enumerate() {
                let w = pieces.map(|p| {
                    let [low, high] = [0, 256].map(|eight| chunk(512 * i as u64 + eight, p));
                    Fragment { low, high: Some(high) }
                });
                for (sums, x) in sums.iter().zip(&x) {
                    for (w, x) in w.iter().zip(x) {
                        w.multiply(e, sums, *x);
                    }
                }
            }
        });
        sums
    }
}

/// Adds the warps' sums; thread i of the block gets result (row i / 16, output i % 16) for i < 128 * tiles.
pub fn reduce<'c>(e: &Emit<'c>, sums: &[Vec<Var<'c>>], parts: Ptr<'c>, warps: u64) -> Vec<Float<'c>> {
    let count = 128 * sums.len() as u64;
    let (g, t) = e.lane_pair();
    let warp = e.div_rem(e.thread(), 32).0;
    for (n, sums) in sums.iter().enumerate() {
        for (i, sum) in sums.iter().enumerate() {
            let row = e.add_const(e.mul_const(t, 2), (8 * n + i % 2) as i64);
            let output = e.add_const(g, 8 * (i as i64 / 2));
            let at = e.add(e.mul_const(warp, count), e.add(e.mul_const(row, 16), output));
            e.store(parts, at, e.get(*sum));
        }
    }
    e.barrier();
    let rounds = count.div_ceil(THREADS);
    let results = (0..rounds).map(|round| {
        let mine = e.min(e.add_const(e.thread(), (round * THREADS) as i64), e.int(count - 1));
        (0..warps)
            .fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(parts, e.add_const(mine, (w * count) as i64))))
    });
    results.collect()
}

/// Adds the function of a variant whose blocks have `eights` times eight rows.
pub fn small_m(k: &mut Kernel<'_, '_>, variant: &str, p: &Product, eights: u64) {
    let spec = k.spec;
    let grid = [Extent::fixed(blocks(p, 16)), k.rows(1, 8 * eights)];
    let weights = 1 + u64::from(p.up.is_some());
    let shared = strip_shared(weights, eights);
    k.function(
        Function::new(&part(variant), grid, THREADS).of(&[variant]).shared_bytes(shared).waits_itself(),
        |e| {
            let ring = strip_ring(e, weights, eights);
            let s = section(e, p, e.block_x(), 16);
            let first_row = e.mul_const(e.block_y(), 8 * eights);
            let outputs = strip_offset(e, s.block, p.in_features);
            let weights = [Some(s.matrix), p.up.map(|name| e.operand(name))];
            let strip = Strip {
                weights: weights.into_iter().flatten().map(|w| e.byte_offset(w, outputs)).collect(),
                far: None,
                rows: p.rows.row(e, first_row, p.in_features),
                eights,
                first: e.div_rem(e.thread(), 32).0,
                step: WARPS,
                tiles: k_tiles(p.in_features),
                early: true,
            };
            let sums = strip.sums(e, &ring);
            let parts = e.shared(WARPS * 128 * eights);
            let mut results = reduce(e, &sums[0], parts, WARPS);
            if let Some(up) = sums.get(1) {
                e.barrier();
                let ups = reduce(e, up, parts, WARPS);
                results = results.iter().zip(ups).map(|(gate, up)| e.fmul(e.silu(*gate), up)).collect();
            }
            for (round, value) in results.iter().enumerate() {
                let mine = e.add_const(e.thread(), (round as u64 * THREADS) as i64);
                let (row, output) = e.div_rem(mine, 16);
                let local = e.add(e.mul_const(s.block, 16), output);
                let row_inside =
                    e.and(e.lt(row, e.int(8 * eights)), e.lt(e.add(first_row, row), row_count(e, spec)));
                e.when(e.and(row_inside, e.lt(local, s.out)), |e| {
                    p.store(e, e.add(first_row, row), e.add(s.column, local), *value);
                });
            }
        },
    );
}
