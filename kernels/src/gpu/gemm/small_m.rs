//! Products of few rows: bound by the bytes of the weights.
//!
//! ```text
//! block: 16 outputs x one (or 8, or 32) rows by mma.sync, or 32 x 8; warp w of 8: k tiles w, w + 8, ...; each keeps a ring of its own full
//!        of an expert's down product: all k tiles of a choice
//! ```
//! The order of k inside a dot product is free, so that a lane takes eight neighbouring k's of its row with one
//! load: words 0 and 1 are its pairs of one `mma` step, words 2 and 3 of the next. Both operands do the same.
//! Loads into registers would do without shared memory, but `ptxas` sinks them to their uses, and then too few
//! bytes are under way.

use std::cell::RefCell;

use hyc_plan::Extent;

use super::feed::{Feed, Shape, THREADS, WARPS};
use super::kept::{Factors, KeptRow, Source};
use super::matrices::{Inputs, Product, RawRows, blocks, section};
use super::pack_rows::k_tiles;
use super::stored::{Pieces, Record, Stored, inside};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::pipeline::{Fill, WarpRing};
use crate::gpu::tile::{Fragment, Swizzle, TILE_BYTES};
use crate::gpu::work_item::row_count;

/// A block's rows.
#[derive(Clone, Copy)]
pub struct StripRows<'c> {
    /// Address of the packed rows in the first of their tiles.
    pub tiles: Ptr<'c>,
    /// Which of its tile's rows the only one is, where it is kept.
    pub row: Int<'c>,
    /// The only one as it lies in f32, where it is read so.
    pub raw: Option<(Ptr<'c>, RawRows)>,
}

impl<'c> StripRows<'c> {
    /// Those from `row` on, as `feed` reads them.
    pub fn new(e: &Emit<'c>, inputs: Inputs, feed: Feed, row: Int<'c>, in_features: u64) -> StripRows<'c> {
        let raw = inputs.raw.filter(|_| feed == Feed::Whole);
        StripRows {
            tiles: inputs.tiles.row(e, row, in_features),
            row: if raw.is_some() { e.int(0) } else { row },
            raw: raw.map(|raw| (e.row("x", row), raw)),
        }
    }
}

/// Products of 16 outputs of each of some weights by the rows of a block, by one warp, over its share of the k tiles.
///
/// A stage of the warp's ring is one k tile (or four, as the weights are [stored](Stored)): 2 KiB of each weight, then 1 KiB of each
/// eight rows and k tile where those are copied, as they lie.
pub struct Strip<'c> {
    /// Addresses of the 16 outputs in their first stage, one a weight.
    pub weights: Vec<Ptr<'c>>,
    /// Where the second eight outputs of the first weight lie, where that is not behind the first eight.
    pub far: Option<Ptr<'c>>,
    pub rows: StripRows<'c>,
    pub shape: Shape,
    /// First stage of this warp.
    pub first: Int<'c>,
    /// Step from stage to stage.
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
        let (feed, stored) = (self.shape.feed, self.shape.stored);
        let eights = feed.eights();
        let sums: Vec<Vec<Vec<Var<'c>>>> =
            self.weights.iter().map(|_| (0..eights).map(|_| Factors::sums(e)).collect()).collect();
        let pieces = lane_pieces(e, e.lane_pair());
        let bytes = self.shape.stage_bytes();
        let weights = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let (at, bytes) = (e.mul_const(e.wide(k), stored.next()), stored.bytes());
            for (i, weight) in self.weights.iter().enumerate() {
                let far = self.far.filter(|_| i == 0);
                stored.copy(e, (*weight, far), at, (e.add_const(to, bytes as i64 * i as i64), full));
            }
        };
        let inputs = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let Feed::Tiles(eights) = feed else { return };
            for i in 0..stored.tiles() {
                let at = e.mul_const(e.wide(self.k_tile(e, k, i).0), TILE_BYTES);
                let behind = stored.bytes() * self.weights.len() as u64 + 1024 * eights * i;
                let to = e.add_const(to, behind as i64);
                e.bulk_copy(to, e.byte_offset(self.rows.tiles, at), 1024 * eights, full);
            }
        };
        let kept = KeptRow::new((stored, self.shape.in_features), self.rows.row, self.shape.kept(e));
        let in_features = self.shape.in_features;
        let held: RefCell<Vec<[Chunk<'c>; 2]>> = RefCell::default();
        let source = Source::new(e, self.rows.raw, self.rows.tiles, (in_features, THREADS));
        let then = |e: &Emit<'c>| {
            there(e);
            match feed {
                Feed::Tiles(_) => {}
                Feed::Registers => {
                    *held.borrow_mut() =
                        held_rows(e, self.shape, self.rows.tiles, (self.first, self.step), pieces)
                }
                Feed::Whole => {
                    kept.keep(e, (e.thread(), THREADS), &source);
                    e.barrier();
                }
                Feed::Own => {
                    kept.keep(e, (e.lane(), 32), &source);
                    e.warp_barrier();
                }
            }
        };
        let fill = Fill { bytes, weights: &weights, inputs: &inputs, early: self.early, then: &then };
        // `x`: a lane's pieces of k tile `.1` of a stage, of each eight rows.
        let multiply = |e: &Emit<'c>, stage: Ptr<'c>, x: Pieces<'_, 'c>| {
            if let Stored::Strips(codec) = stored {
                for (i, sums) in sums.iter().enumerate() {
                    let at = e.byte_offset(stage, e.int(stored.bytes() * i as u64));
                    Record::new(e, codec, at).multiply(e, sums, x);
                }
                return;
            }
            let x = x(e, 0);
            for (i, sums) in sums.iter().enumerate() {
                let w = pieces.map(|p| {
                    let [low, high] =
                        [0, 256].map(|eight| e.load4(stage, e.add_const(p, (512 * i + eight) as i64)));
                    Fragment { low, high: Some(high) }
                });
                for (sums, x) in sums.iter().zip(&x) {
                    for (w, x) in w.iter().zip(x) {
                        w.multiply(e, sums, *x);
                    }
                }
            }
        };
        let range = (self.first, self.step, stored.stages(in_features));
        match feed {
            Feed::Registers => ring.run_unrolled(e, range, &fill, &|e, turn, stage| {
                multiply(e, stage, &|_, i| {
                    let at = turn * stored.tiles() as usize + i as usize;
                    held.borrow()[at..=at].to_vec()
                });
            }),
            Feed::Tiles(eights) => ring.run(e, range, &fill, &|e, k, stage| {
                multiply(e, stage, &|e, i| {
                    let there = self.k_tile(e, k, i).1;
                    let rows_at = (stored.bytes() * self.weights.len() as u64 + 1024 * eights * i) / 4;
                    let of = |n| pieces.map(|p| e.load4(stage, e.add_const(p, (rows_at + 256 * n) as i64)));
                    (0..eights).map(|n| inside(e, there, of(n))).collect()
                });
            }),
            Feed::Whole | Feed::Own => {
                ring.run(e, range, &fill, &|e, k, stage| {
                    let x = kept.factors(e, k);
                    for (i, sums) in (0..).zip(&sums) {
                        x.multiply(e, e.byte_offset(stage, e.int(stored.bytes() * i)), &sums[0]);
                    }
                });
                // All columns are the row's.
                sums.iter().for_each(|sums| kept.spread(e, &sums[0]));
            }
        }
        sums
    }

    /// k tile `i` of a stage, as [`Stored::k_tile`] has it.
    fn k_tile(&self, e: &Emit<'c>, stage: Int<'c>, i: u64) -> (Int<'c>, Option<Int<'c>>) {
        self.shape.stored.k_tile(e, (stage, i), self.shape.in_features)
    }
}

/// This lane's two pieces of a row of those at `tiles` in each k tile of its warp, whose first stage and step these are; the last tile's
/// again where there are no more.
pub fn held_rows<'c>(
    e: &Emit<'c>,
    shape: Shape,
    tiles: Ptr<'c>,
    (first, step): (Int<'c>, u64),
    pieces: [Int<'c>; 2],
) -> Vec<[Chunk<'c>; 2]> {
    let (stored, in_features) = (shape.stored, shape.in_features);
    let tile = |turn: u64, i: u64| {
        let stage = e.add_const(first, (turn * step) as i64);
        let (tile, there) = stored.k_tile(e, (stage, i), in_features);
        let tile = e.mul_const(e.wide(e.min(tile, e.int(k_tiles(in_features) - 1))), TILE_BYTES);
        inside(e, there, pieces.map(|piece| e.load4(e.byte_offset(tiles, tile), piece)))
    };
    let turns = stored.stages(in_features).div_ceil(step);
    (0..turns)
        .flat_map(|turn| (0..stored.tiles()).map(move |i| (turn, i)))
        .map(|(turn, i)| tile(turn, i))
        .collect()
}

/// This lane's two 16-byte pieces of row g of a tile; rows g + 8 have the same swizzle.
pub fn lane_pieces<'c>(e: &Emit<'c>, (g, t): (Int<'c>, Int<'c>)) -> [Int<'c>; 2] {
    [0, 4].map(|first| Swizzle::words(e, g, e.add_const(t, first)))
}

/// Results of a thread behind [`reduce`].
pub fn rounds(feed: Feed) -> u64 {
    (128 * feed.eights()).div_ceil(THREADS)
}

/// Adds the warps' sums, each through the memory of its own ring, which is used up; thread i of the block gets result (row
/// i / 16, output i % 16) for i < 128 * tiles.
pub fn reduce<'c>(e: &Emit<'c>, sums: &[Vec<Var<'c>>], shape: Shape) -> Vec<Float<'c>> {
    let count = 128 * sums.len() as u64;
    let (parts, between) = (e.dynamic_shared(), shape.ring_bytes() / shape.warps / 4);
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
    let results = (0..rounds(shape.feed)).map(|round| {
        let mine = e.min(e.add_const(e.thread(), (round * THREADS) as i64), e.int(count - 1));
        (0..shape.warps)
            .fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(parts, e.add_const(mine, (w * between) as i64))))
    });
    results.collect()
}

/// Adds the function of a variant whose blocks have these rows.
pub fn small_m(k: &mut Kernel<'_, '_>, variant: &str, p: &Product, feed: Feed) {
    let spec = k.spec;
    let strips = blocks(p, 16);
    let two = feed == Feed::Tiles(1) && in_twos(p, strips, k.multiprocessors);
    let (each, weights) = (1 + u64::from(two), p.weights() + u64::from(two));
    let grid = [Extent::fixed(strips / each), k.rows(1, feed.rows())];
    let shape = Shape::new((weights, p.stored), feed, p.in_features);
    // More rows have more blocks than the grid's first axis says.
    let shape = if feed.eights() == 1 { shape.of_blocks(strips / each, k.multiprocessors) } else { shape };
    let (name, variants) = (part(variant), [variant]);
    let function = Function::new(&name, grid, THREADS).of(&variants);
    k.function(function.shared_bytes(shape.shared_bytes()).waits_itself(), |e| {
        let ring = shape.ring(e);
        let first = e.mul_const(e.block_x(), each);
        let s = section(e, p, first, 16);
        let first_row = e.mul_const(e.block_y(), feed.rows());
        let at = |i: i64| p.stored.strip(e, e.add_const(s.block, i), p.in_features);
        let weights = match p.up {
            _ if two => [0, 1].map(|i| e.byte_offset(s.matrix, at(i))).to_vec(),
            up => {
                let weights = [Some(s.matrix), up.map(|name| e.operand(name))];
                weights.into_iter().flatten().map(|w| e.byte_offset(w, at(0))).collect()
            }
        };
        let strip = Strip {
            weights,
            far: None,
            rows: StripRows::new(e, p.inputs, feed, first_row, p.in_features),
            shape,
            first: e.div_rem(e.thread(), 32).0,
            step: WARPS,
            early: true,
        };
        let sums = strip.sums(e, &ring);
        let mut results = vec![reduce(e, &sums[0], shape)];
        if let Some(second) = sums.get(1) {
            e.barrier();
            let second = reduce(e, second, shape);
            match two {
                true => results.push(second),
                false => {
                    let gated = results[0].iter().zip(second).map(|(gate, up)| e.fmul(e.silu(*gate), up));
                    results = vec![gated.collect()];
                }
            }
        }
        for (i, results) in (0..).zip(results) {
            for (round, value) in results.into_iter().enumerate() {
                let mine = e.add_const(e.thread(), (round as u64 * THREADS) as i64);
                let (row, output) = e.div_rem(mine, 16);
                let local = e.add(e.mul_const(e.add_const(s.block, i), 16), output);
                let row_inside =
                    e.and(e.lt(row, e.int(feed.rows())), e.lt(e.add(first_row, row), row_count(e, spec)));
                e.when(e.and(row_inside, e.lt(local, s.out)), |e| {
                    p.store(e, e.add(first_row, row), e.add(s.column, local), value);
                });
            }
        }
    });
}

/// Whether a block takes two strips, beside which rows are copied once: where that leaves no more than an eighth of the multiprocessors
/// without one. Rows that one strip's warps would have in registers are copied then, too.
fn in_twos(p: &Product, strips: u64, multiprocessors: u64) -> bool {
    let enough = 8 * (strips / 2) >= 7 * multiprocessors;
    p.stored == Stored::Tiles && p.up.is_none() && p.matrices.len() == 1 && strips.is_multiple_of(2) && enough
}
