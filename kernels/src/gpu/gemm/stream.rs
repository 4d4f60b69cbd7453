//! Products of one row, strip by strip of 16 outputs: of weights of so few bytes that a block of one strip is through before it is under
//! way, and of bf16 where there are so many strips that blocks would come in waves.
//!
//! ```text
//! block: strips b, b + blocks, ...; a warp's ring goes on from strip to strip
//!   row, normalised, to shared memory once
//!   strip: warp w spans w, w + 8, ...; sums through one of two places, a barrier, one thread an output ends it
//! ```
//! A multiprocessor's share is on its way from the first instruction, and what a block leaves of shared memory is the next
//! launch's, whose rings fill beside it.

use hyc_plan::Extent;

use super::feed::{Feed, THREADS, WARPS};
use super::kept::{Factors, KeptRow, Source};
use super::matrices::{Product, blocks, section};
use super::small_m::StripRows;
use super::stored::Stored;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::pipeline::{Fill, WarpRing};
use crate::gpu::work_item::row_count;

/// Stages of a warp, and blocks of a multiprocessor, of strips: what they leave is the next launch's.
const STAGES: u64 = 2;
const BLOCKS: u64 = 2;
/// The same of bf16 tiles: k tiles of a warp's ring, of all weights, and blocks by their number. Three fill a multiprocessor's shared
/// memory up to 4,096 features; of blocks that leave room for the attention behind them steps took longer.
const TILES_OF_A_WARP: u64 = 4;
const BLOCKS_OF_TILES: [u64; 2] = [3, 2];
const FEW_WAVES: u64 = 8;

/// Most blocks of a product of so many weights.
fn most_blocks((weights, stored): (u64, Stored), multiprocessors: u64) -> u64 {
    match stored {
        Stored::Tiles => BLOCKS_OF_TILES[weights as usize - 1] * multiprocessors,
        Stored::Strips(_) => BLOCKS * multiprocessors,
    }
}

/// Whether a product of one row is streamed: of bf16 where blocks of a strip would come in a few waves, the last of which takes as long as
/// any. Of many waves it costs little, and who comes when there is room leaves nobody idle.
pub fn streams((weights, stored): (u64, Stored), strips: u64, multiprocessors: u64) -> bool {
    let most = most_blocks((weights, stored), multiprocessors);
    stored != Stored::Tiles || (most + 1..=FEW_WAVES * most).contains(&strips)
}

/// What is streamed.
#[derive(Clone, Copy)]
pub struct Stream {
    pub weights: u64,
    pub stored: Stored,
    pub in_features: u64,
    /// Strips in all.
    pub strips: u64,
    pub blocks: u64,
}

/// Where a strip's weights lie: of each weight its first eight outputs, and its second where those are not behind them.
pub type Places<'c> = Vec<(Ptr<'c>, Option<Ptr<'c>>)>;

/// What is done with a strip's results: its number, the lane's output of 16 where it has one (else it is 16), its sum by each
/// weight. A whole warp comes to it.
pub type End<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, &[Float<'c>]);

impl Stream {
    pub fn new(
        (weights, stored): (u64, Stored),
        in_features: u64,
        strips: u64,
        multiprocessors: u64,
    ) -> Stream {
        let most = most_blocks((weights, stored), multiprocessors);
        let blocks = match stored {
            Stored::Tiles => strips.min(most),
            // As many strips for each block as for the next.
            Stored::Strips(_) => strips.div_ceil(strips.div_ceil(most).max(1)),
        };
        Stream { weights, stored, in_features, strips, blocks }
    }

    fn stages(self) -> u64 {
        match self.stored {
            Stored::Tiles => TILES_OF_A_WARP / self.weights,
            Stored::Strips(_) => STAGES,
        }
    }

    fn stage_bytes(self) -> u64 {
        self.weights * self.stored.bytes()
    }

    fn kept_at(self) -> u64 {
        WARPS * self.stages() * self.stage_bytes()
    }

    fn sums_at(self) -> u64 {
        self.kept_at() + KeptRow::bytes(self.stored, self.in_features)
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u64 {
        self.sums_at() + Strips::bytes(self.weights) + SHARED_SLACK
    }

    pub fn grid(self) -> Extent {
        Extent::fixed(self.blocks)
    }

    /// The body of the function. `place`: of a strip.
    pub fn run<'c>(
        self,
        e: &Emit<'c>,
        row: StripRows<'c>,
        place: &dyn Fn(&Emit<'c>, Int<'c>) -> Places<'c>,
        end: End<'_, 'c>,
    ) {
        let spans = self.stored.stages(self.in_features);
        let ring = WarpRing::new(e, WARPS, self.stages(), self.stage_bytes());
        let memory = e.dynamic_shared();
        let source = Source::new(e, row.raw, row.tiles, (self.in_features, THREADS));
        let at = e.byte_offset(memory, e.int(self.kept_at()));
        let kept = KeptRow::new((self.stored, self.in_features), row.row, at);
        let warp = e.div_rem(e.thread(), 32).0;
        let of = (self.strips, self.blocks);
        let count = own_strips(e, of);
        let strip = |e: &Emit<'c>, turn| own_strip(e, of, turn);
        let bytes = self.stored.bytes();
        // Unit by unit: a span of a strip.
        let weights = |e: &Emit<'c>, unit: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let (turn, span) = e.div_rem(unit, spans);
            let places = place(e, strip(e, turn));
            let at = e.mul_const(e.wide(span), self.stored.next());
            for (i, place) in (0..).zip(places) {
                self.stored.copy(e, place, at, (e.add_const(to, (bytes * i) as i64), full));
            }
        };
        let units = e.mul_const(count, spans);
        let inputs = |_: &Emit<'c>, _, _, _| {};
        let then = |e: &Emit<'c>| {
            kept.keep(e, (e.thread(), THREADS), &source);
            e.barrier();
        };
        let fill =
            Fill { bytes: self.stage_bytes(), weights: &weights, inputs: &inputs, early: true, then: &then };
        let sums: Vec<Vec<Var<'c>>> = (0..self.weights).map(|_| Factors::sums(e)).collect();
        ring.begin(e, (warp, WARPS, units), &fill);
        let strips =
            Strips { count, spans, sums: &sums, parts: e.byte_offset(memory, e.int(self.sums_at())) };
        let multiply = |e: &Emit<'c>, _: Int<'c>, span: Int<'c>, weights: There<'_, 'c>| {
            let x = kept.factors(e, span);
            let stage = weights(e);
            for (i, sums) in (0..).zip(&sums) {
                x.multiply(e, e.byte_offset(stage, e.int(bytes * i)), sums);
            }
        };
        strips.run(e, (&ring, &fill), &multiply, &|e, turn, output, results| {
            end(e, strip(e, turn), output, results);
        });
    }
}

/// How many of so many strips a block has, of so many blocks: b, b + blocks, ...
pub fn own_strips<'c>(e: &Emit<'c>, (strips, blocks): (u64, u64)) -> Int<'c> {
    e.div_rem(e.add_const(e.sub(e.int(strips), e.block_x()), blocks as i64 - 1), blocks).0
}

/// The `turn`-th of them.
pub fn own_strip<'c>(e: &Emit<'c>, (_, blocks): (u64, u64), turn: Int<'c>) -> Int<'c> {
    e.add(e.block_x(), e.mul_const(turn, blocks))
}

/// A warp's part of strips one behind the other, unit by unit: of `spans` of each.
pub struct Strips<'a, 'c> {
    pub count: Int<'c>,
    pub spans: u64,
    /// Sums by each weight, of which outputs g and g + 8 are a lane's.
    pub sums: &'a [Vec<Var<'c>>],
    /// Where sums are handed over, in shared memory: [`Strips::bytes`].
    pub parts: Ptr<'c>,
}

/// Waits for the weights of a stage, and says where they are.
pub type There<'a, 'c> = &'a dyn Fn(&Emit<'c>) -> Ptr<'c>;

/// Multiplies by the weights of a strip and a span, and adds to the sums.
pub type Multiply<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, There<'_, 'c>);

impl<'c> Strips<'_, 'c> {
    /// Bytes of the sums of a strip by so many weights, in two places.
    pub fn bytes(weights: u64) -> u64 {
        2 * Self::strip_bytes(weights)
    }

    fn strip_bytes(weights: u64) -> u64 {
        WARPS * 16 * 4 * weights
    }

    /// Goes through the strips, of which the first's units are on their way. Both are given a strip's number here.
    pub fn run(
        &self,
        e: &Emit<'c>,
        (ring, fill): (&WarpRing<'c>, &Fill<'_, 'c>),
        multiply: Multiply<'_, 'c>,
        end: End<'_, 'c>,
    ) {
        let warp = e.div_rem(e.thread(), 32).0;
        let (weights, units) = (self.sums.len() as u64, e.mul_const(self.count, self.spans));
        let unit = e.var(warp.into());
        e.each(e.int(0), self.count, 1, |e, turn| {
            self.sums.iter().for_each(|sums| Factors::clear(e, sums));
            let last = e.mul_const(e.add_const(turn, 1), self.spans);
            e.advance(unit, last, WARPS, |e, unit| {
                let span = e.sub(unit, e.mul_const(turn, self.spans));
                multiply(e, turn, span, &|e| ring.full(e));
                ring.used(e, (unit, WARPS, units), fill);
            });
            // In one of two places, so that the next strip's sums wait for nobody who reads these.
            let parity = e.mul_const(e.and(turn, e.int(1)), Self::strip_bytes(weights));
            let parts = e.byte_offset(self.parts, parity);
            store_sums(e, parts, self.sums);
            e.barrier();
            // Warps end strips by turns.
            e.when(e.eq(warp, e.and(turn, e.int(WARPS - 1))), |e| {
                let output = e.min(e.lane(), e.int(16));
                let from = e.min(output, e.int(15));
                let result = |i: u64| {
                    (0..WARPS).fold(e.float(0.0), |sum, w| {
                        e.fadd(sum, e.load(parts, e.add_const(from, (128 * i + 16 * w) as i64)))
                    })
                };
                let results: Vec<Float<'c>> = (0..weights).map(result).collect();
                end(e, turn, output, &results);
            });
        });
    }
}

/// Stores a warp's sums to `[weight][warp][16 outputs]`, of which outputs g and g + 8 are a lane's.
fn store_sums<'c>(e: &Emit<'c>, parts: Ptr<'c>, sums: &[Vec<Var<'c>>]) {
    let ((g, t), warp) = (e.lane_pair(), e.div_rem(e.thread(), 32).0);
    e.when(e.eq(t, e.int(0)), |e| {
        for (i, sums) in (0..).zip(sums) {
            for half in 0..2 {
                let at = e.add(e.mul_const(warp, 16), e.add_const(g, 128 * i + 8 * half));
                e.store(parts, at, e.get(sums[2 * half as usize]));
            }
        }
    });
}

/// Adds the function of a `Linear` of one row.
pub fn linear<'c>(k: &mut Kernel<'c, '_>, variant: &str, p: &Product) {
    let spec = k.spec;
    let stream = Stream::new((p.weights(), p.stored), p.in_features, blocks(p, 16), k.multiprocessors);
    let (name, variants) = (part(variant), [variant]);
    let function = Function::new(&name, [stream.grid(), k.rows(1, 1)], THREADS).of(&variants);
    k.function(function.shared_bytes(stream.shared_bytes()).waits_itself(), |e| {
        let row = e.block_y();
        let place = |e: &Emit<'c>, strip: Int<'c>| {
            let s = section(e, p, strip, 16);
            let outputs = p.stored.strip(e, s.block, p.in_features);
            let weights = [Some(s.matrix), p.up.map(|name| e.operand(name))];
            weights.into_iter().flatten().map(|w| (e.byte_offset(w, outputs), None)).collect()
        };
        stream.run(
            e,
            StripRows::new(e, p.inputs, Feed::Whole, row, p.in_features),
            &place,
            &|e, strip, output, results| {
                let s = section(e, p, strip, 16);
                let value = match results {
                    [gate, up] => e.fmul(e.silu(*gate), *up),
                    _ => results[0],
                };
                let local = e.add(e.mul_const(s.block, 16), output);
                let inside = e.and(e.lt(output, e.int(16)), e.lt(local, s.out));
                e.when(e.and(inside, e.lt(row, row_count(e, spec))), |e| {
                    p.store(e, row, e.add(s.column, local), value);
                });
            },
        );
    });
}
