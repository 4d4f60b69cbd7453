//! Products of few rows: bound by the bytes of the weights.
//!
//! ```text
//! block: 16 outputs x one (or 8, or 32) rows by mma.sync; warp w of 8: k tiles w, w + 8, ...; each keeps a ring of its own full
//!        of an expert's down product: all k tiles of a choice
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

/// Rows of a block, and how they reach its warps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// So many times eight rows, copied beside each k tile of the weights.
    Tiles(u64),
    /// One row, all of which is in shared memory before the first product: the rings have weights alone, in more stages.
    Whole,
    /// The same of a row for each warp, which has a strip of its own.
    Own,
}

impl Feed {
    /// Eights of rows that `mma` multiplies.
    fn eights(self) -> u64 {
        match self {
            Feed::Tiles(eights) => eights,
            Feed::Whole | Feed::Own => 1,
        }
    }

    /// Rows of a block.
    pub fn rows(self) -> u64 {
        match self {
            Feed::Tiles(eights) => 8 * eights,
            Feed::Whole | Feed::Own => 1,
        }
    }

    /// Bytes of one stage: a k tile of `weights` weights, and of the rows.
    fn stage_bytes(self, weights: u64) -> u64 {
        match self {
            Feed::Tiles(eights) => 2048 * weights + 1024 * eights,
            Feed::Whole | Feed::Own => 2048 * weights,
        }
    }

    /// Bytes of what is in shared memory from the beginning to the end.
    fn kept_bytes(self, in_features: u64) -> u64 {
        match self {
            Feed::Tiles(_) => 0,
            Feed::Whole => 128 * k_tiles(in_features),
            Feed::Own => WARPS * 128 * k_tiles(in_features),
        }
    }
}

/// Most input features of a row that is kept whole.
pub const MOST_WHOLE: u64 = 32768;
/// Most bytes of rows that experts' products keep.
const MOST_KEPT: u64 = 40 << 10;
/// Shared memory of a block: two share a multiprocessor.
const SHARED: u64 = 100 << 10;
const SHARED_WHOLE: u64 = 108 << 10;
/// The same where a block ends so soon that a third one had better begin meanwhile: that of one weight's short strip.
const SHARED_SHORT: u64 = 73 << 10;
const SHORT: u64 = 4096;

/// What a block's warps keep in shared memory.
#[derive(Clone, Copy)]
pub struct Shape {
    pub weights: u64,
    pub feed: Feed,
    pub in_features: u64,
}

impl Shape {
    /// One row of so many weights, kept as `feed` says where that leaves the rings enough.
    pub fn of_row(weights: u64, feed: Feed, in_features: u64) -> Shape {
        let kept = feed.kept_bytes(in_features) <= MOST_KEPT;
        Shape { weights, feed: if kept { feed } else { Feed::Tiles(1) }, in_features }
    }

    /// The first of the rows that a block copies with a row.
    pub fn first<'c>(self, e: &Emit<'c>, row: Int<'c>) -> Int<'c> {
        match self.feed {
            Feed::Tiles(_) => e.sub(row, e.and(row, e.int(7))),
            Feed::Whole | Feed::Own => row,
        }
    }

    /// Stages of each warp. Of one row three quarters of its k tiles at most: what is left of shared memory is the next blocks'.
    fn stages(self) -> u64 {
        let short = self.weights == 1 && self.in_features <= SHORT;
        let tiles = k_tiles(self.in_features);
        let most = |turns: u64| (3 * turns).div_ceil(4);
        let (all, most) = match self.feed {
            Feed::Tiles(_) => (SHARED, u64::MAX),
            Feed::Whole => (if short { SHARED_SHORT } else { SHARED_WHOLE }, most(tiles.div_ceil(WARPS))),
            Feed::Own => (SHARED_WHOLE, most(tiles)),
        };
        let rings = all.saturating_sub(self.feed.kept_bytes(self.in_features));
        (rings / (WARPS * self.feed.stage_bytes(self.weights))).min(most).max(2)
    }

    fn ring_bytes(self) -> u64 {
        WARPS * self.stages() * self.feed.stage_bytes(self.weights)
    }

    /// Dynamic shared memory of the block.
    pub fn shared_bytes(self) -> u64 {
        self.ring_bytes() + self.feed.kept_bytes(self.in_features) + SHARED_SLACK
    }

    /// The rings of the warps; all threads of the block must come here.
    pub fn ring<'c>(self, e: &Emit<'c>) -> WarpRing<'c> {
        WarpRing::new(e, WARPS, self.stages(), self.feed.stage_bytes(self.weights))
    }
}

/// Products of 16 outputs of each of some weights by the rows of a block, by one warp, over its share of the k tiles.
///
/// A stage of the warp's ring is one k tile: 2 KiB of each weight, then 1 KiB of each eight rows where those are copied, as they lie.
pub struct Strip<'c> {
    /// Addresses of the 16 outputs in the first of their 64 x 64 tiles, one a weight.
    pub weights: Vec<Ptr<'c>>,
    /// Where the second eight outputs of the first weight lie, where that is not behind the first eight.
    pub far: Option<Ptr<'c>>,
    /// Address of the packed rows in the first of their tiles.
    pub rows: Ptr<'c>,
    /// Which of its tile's rows the only one is, where it is kept.
    pub row: Int<'c>,
    pub shape: Shape,
    /// First k tile of this warp.
    pub first: Int<'c>,
    /// Step from k tile to k tile.
    pub step: u64,
    /// Whether the launch has not waited for the rows yet.
    pub early: bool,
}

impl<'c> Strip<'c> {
    /// `[weight][rows / 8][4]` sums: outputs g, g + 8 by rows 2t, 2t + 1.
    pub fn sums(&self, e: &Emit<'c>, ring: &WarpRing<'c>) -> Vec<Vec<Vec<Var<'c>>>> {
        self.sums_then(e, ring, &|_| {})
    }

    /// The same; `there` is called when the inputs are there.
    pub fn sums_then(
        &self,
        e: &Emit<'c>,
        ring: &WarpRing<'c>,
        there: &dyn Fn(&Emit<'c>),
    ) -> Vec<Vec<Vec<Var<'c>>>> {
        let four = || (0..4).map(|_| e.float_var(0.0)).collect::<Vec<_>>();
        let (feed, tiles) = (self.shape.feed, k_tiles(self.shape.in_features));
        let eights = feed.eights();
        let sums: Vec<Vec<Vec<Var<'c>>>> =
            self.weights.iter().map(|_| (0..eights).map(|_| four()).collect()).collect();
        let (g, t) = e.lane_pair();
        // This lane's two 16-byte pieces of row g; rows g + 8 have the same swizzle.
        let pieces = [0, 4].map(|first| Swizzle::words(e, g, e.add_const(t, first)));
        let bytes = feed.stage_bytes(self.shape.weights);
        let kept = e.byte_offset(e.dynamic_shared(), e.int(self.shape.ring_bytes()));
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
            let Feed::Tiles(eights) = feed else { return };
            let at = e.mul_const(e.wide(k), TILE_BYTES);
            let to = e.add_const(to, 2048 * self.weights.len() as i64);
            e.bulk_copy(to, e.byte_offset(self.rows, at), 1024 * eights, full);
        };
        let kept = match feed {
            Feed::Tiles(_) | Feed::Whole => kept,
            Feed::Own => e.byte_offset(kept, e.mul_const(e.div_rem(e.thread(), 32).0, 128 * tiles)),
        };
        let then = |e: &Emit<'c>| {
            there(e);
            match feed {
                Feed::Tiles(_) => {}
                Feed::Whole => {
                    self.keep_row(e, kept, tiles, (e.thread(), THREADS));
                    e.barrier();
                }
                Feed::Own => {
                    self.keep_row(e, kept, tiles, (e.lane(), 32));
                    e.warp_barrier();
                }
            }
        };
        let fill = Fill { bytes, weights: &weights, inputs: &inputs, early: self.early, then: &then };
        ring.run(e, (self.first, self.step, tiles), &fill, &|e, k, stage| {
            let chunk = |words: u64, piece: Int<'c>| e.load4(stage, e.add_const(piece, words as i64));
            let rows_at = 512 * self.weights.len() as u64;
            let x: Vec<[Chunk<'c>; 2]> = match feed {
                Feed::Tiles(eights) => {
                    (0..eights).map(|n| pieces.map(|p| chunk(rows_at + 256 * n, p))).collect()
                }
                // All lanes g have the one row: columns that are not its are nobody's results.
                Feed::Whole | Feed::Own => vec![[0, 4].map(|first| {
                    let piece = Swizzle::piece(e, self.row, e.add_const(t, first));
                    e.load4(kept, e.add(e.mul_const(k, 32), e.mul_const(piece, 4)))
                })],
            };
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

    /// The row to shared memory, piece by piece as it lies, by some threads. A barrier of theirs follows.
    fn keep_row(&self, e: &Emit<'c>, kept: Ptr<'c>, tiles: u64, (thread, threads): (Int<'c>, u64)) {
        let pieces = 8 * tiles;
        let places: Vec<Int<'c>> = (0..pieces.div_ceil(threads))
            .map(|round| e.min(e.add_const(thread, (round * threads) as i64), e.int(pieces - 1)))
            .collect();
        let words: Vec<Chunk<'c>> = places
            .iter()
            .map(|place| {
                let (tile, piece) = e.div_rem(*place, 8);
                let at = e.add(e.mul_const(tile, TILE_BYTES / 4), e.mul_const(piece, 4));
                e.load4(self.rows, at)
            })
            .collect();
        for (place, words) in places.iter().zip(words) {
            e.store_words(kept, e.mul_const(*place, 4), &words);
        }
    }
}

/// Adds the warps' sums, each through the memory of its own ring, which is used up; thread i of the block gets result (row
/// i / 16, output i % 16) for i < 128 * tiles.
pub fn reduce<'c>(e: &Emit<'c>, sums: &[Vec<Var<'c>>], shape: Shape) -> Vec<Float<'c>> {
    let count = 128 * sums.len() as u64;
    let (parts, between) = (e.dynamic_shared(), shape.ring_bytes() / WARPS / 4);
    let (g, t) = e.lane_pair();
    let warp = e.div_rem(e.thread(), 32).0;
    for (n, sums) in sums.iter().enumerate() {
        for (i, sum) in sums.iter().enumerate() {
            let row = e.add_const(e.mul_const(t, 2), (8 * n + i % 2) as i64);
            let output = e.add_const(g, 8 * (i as i64 / 2));
            let at = e.add(e.mul_const(warp, between), e.add(e.mul_const(row, 16), output));
            e.store(parts, at, e.get(*sum));
        }
    }
    e.barrier();
    let rounds = count.div_ceil(THREADS);
    let results = (0..rounds).map(|round| {
        let mine = e.min(e.add_const(e.thread(), (round * THREADS) as i64), e.int(count - 1));
        (0..WARPS)
            .fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(parts, e.add_const(mine, (w * between) as i64))))
    });
    results.collect()
}

/// Adds the function of a variant whose blocks have these rows.
pub fn small_m(k: &mut Kernel<'_, '_>, variant: &str, p: &Product, feed: Feed) {
    let spec = k.spec;
    let grid = [Extent::fixed(blocks(p, 16)), k.rows(1, feed.rows())];
    let shape = Shape { weights: 1 + u64::from(p.up.is_some()), feed, in_features: p.in_features };
    let (name, variants) = (part(variant), [variant]);
    let function = Function::new(&name, grid, THREADS).of(&variants);
    k.function(function.shared_bytes(shape.shared_bytes()).waits_itself(), |e| {
        let ring = shape.ring(e);
        let s = section(e, p, e.block_x(), 16);
        let first_row = e.mul_const(e.block_y(), feed.rows());
        let outputs = strip_offset(e, s.block, p.in_features);
        let weights = [Some(s.matrix), p.up.map(|name| e.operand(name))];
        let strip = Strip {
            weights: weights.into_iter().flatten().map(|w| e.byte_offset(w, outputs)).collect(),
            far: None,
            rows: p.rows.row(e, first_row, p.in_features),
            row: first_row,
            shape,
            first: e.div_rem(e.thread(), 32).0,
            step: WARPS,
            early: true,
        };
        let sums = strip.sums(e, &ring);
        let mut results = reduce(e, &sums[0], shape);
        if let Some(up) = sums.get(1) {
            e.barrier();
            let ups = reduce(e, up, shape);
            results = results.iter().zip(ups).map(|(gate, up)| e.fmul(e.silu(*gate), up)).collect();
        }
        for (round, value) in results.iter().enumerate() {
            let mine = e.add_const(e.thread(), (round as u64 * THREADS) as i64);
            let (row, output) = e.div_rem(mine, 16);
            let local = e.add(e.mul_const(s.block, 16), output);
            let row_inside =
                e.and(e.lt(row, e.int(feed.rows())), e.lt(e.add(first_row, row), row_count(e, spec)));
            e.when(e.and(row_inside, e.lt(local, s.out)), |e| {
                p.store(e, e.add(first_row, row), e.add(s.column, local), *value);
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks of an expert's product share a multiprocessor, whatever its width.
    #[test]
    fn rows_that_are_kept_leave_room() {
        for in_features in (1..=1 << 17).step_by(61) {
            for (weights, feed) in [(2, Feed::Whole), (1, Feed::Own)] {
                let shape = Shape::of_row(weights, feed, in_features);
                let bytes = shape.shared_bytes();
                assert!(bytes <= 112 << 10, "{bytes} bytes of {weights} x {in_features}");
                assert!(shape.stages() >= 2, "{in_features}");
            }
        }
    }
}
