//! Products of one row by strips: the weights are so few bytes that a block of one strip is through before it is under way.
//!
//! ```text
//! block: strips b, b + blocks, ...; a warp's ring goes on from strip to strip
//!   row, normalised, to shared memory once
//!   strip: warp w spans w, w + 8, ...; sums through one of two places, a barrier, one thread an output ends it
//! ```
//! A multiprocessor's share is on its way from the first instruction, and what a block leaves of shared memory is the next
//! launch's, whose rings fill beside it.

use hyc_plan::{Codec, Extent};

use super::feed::{THREADS, WARPS};
use super::matrices::{Inputs, Product, RawRows, blocks, section};
use super::pack_rows::{RowPieces, k_tiles};
use super::small_m::keep_row;
use super::stored::{Record, Stored};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::Swizzle;
use crate::gpu::tile::pipeline::{Fill, WarpRing};
use crate::gpu::work_item::row_count;

/// Stages of a warp, and blocks of a multiprocessor: what they leave is the next launch's.
const STAGES: u64 = 2;
const BLOCKS: u64 = 2;

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

/// The row.
#[derive(Clone, Copy)]
pub struct Row<'c> {
    /// Its address in its first bf16 tile, and its number.
    tiles: Ptr<'c>,
    number: Int<'c>,
    /// It as it lies, where it is read so.
    raw: Option<(Ptr<'c>, RawRows)>,
}

impl<'c> Row<'c> {
    pub fn new(e: &Emit<'c>, inputs: Inputs, row: Int<'c>, in_features: u64) -> Row<'c> {
        let tiles = inputs.tiles.row(e, row, in_features);
        let raw = inputs.raw.map(|raw| (e.row("x", row), raw));
        Row { tiles, number: if raw.is_some() { e.int(0) } else { row }, raw }
    }
}

impl Stream {
    pub fn new(
        (weights, stored): (u64, Stored),
        in_features: u64,
        strips: u64,
        multiprocessors: u64,
    ) -> Stream {
        let most = BLOCKS * multiprocessors;
        // As many strips for each block as for the next.
        let blocks = strips.div_ceil(strips.div_ceil(most).max(1));
        Stream { weights, stored, in_features, strips, blocks }
    }

    fn stage_bytes(self) -> u64 {
        self.weights * self.stored.bytes()
    }

    fn kept_at(self) -> u64 {
        WARPS * STAGES * self.stage_bytes()
    }

    /// Where the sums of each 32 inputs of the row stand.
    fn totals_at(self) -> u64 {
        self.kept_at() + 128 * k_tiles(self.in_features)
    }

    fn sums_at(self) -> u64 {
        self.totals_at() + (8 * k_tiles(self.in_features)).next_multiple_of(16)
    }

    /// Bytes of the sums of a strip.
    fn sums_bytes(self) -> u64 {
        WARPS * 128 * 4 * self.weights / 8
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u64 {
        self.sums_at() + 2 * self.sums_bytes() + SHARED_SLACK
    }

    pub fn grid(self) -> Extent {
        Extent::fixed(self.blocks)
    }

    /// The body of the function. `place`: of a strip.
    pub fn run<'c>(
        self,
        e: &Emit<'c>,
        row: Row<'c>,
        place: &dyn Fn(&Emit<'c>, Int<'c>) -> Places<'c>,
        end: End<'_, 'c>,
    ) {
        let Stored::Strips(codec) = self.stored else { return };
        let spans = self.stored.stages(self.in_features);
        let ring = WarpRing::new(e, WARPS, STAGES, self.stage_bytes());
        let memory = e.dynamic_shared();
        let row = Kept::new(e, self, row);
        let warp = e.div_rem(e.thread(), 32).0;
        let count = e
            .div_rem(e.add_const(e.sub(e.int(self.strips), e.block_x()), self.blocks as i64 - 1), self.blocks)
            .0;
        let strip = |e: &Emit<'c>, turn| e.add(e.block_x(), e.mul_const(turn, self.blocks));
        let bytes = self.stored.bytes();
        // Unit by unit: a span of a strip.
        let weights = |e: &Emit<'c>, unit: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let (turn, span) = e.div_rem(unit, spans);
            let places = place(e, strip(e, turn));
            let at = e.mul_const(e.wide(span), bytes);
            for (i, (near, far)) in (0..).zip(places) {
                let first = if far.is_some() { bytes / 2 } else { bytes };
                e.bulk_copy(e.add_const(to, (bytes * i) as i64), e.byte_offset(near, at), first, full);
                far.inspect(|far| {
                    let to = e.add_const(to, (bytes * i + first) as i64);
                    e.bulk_copy(to, e.byte_offset(*far, at), first, full);
                });
            }
        };
        let units = e.mul_const(count, spans);
        let (inputs, then) = (|_: &Emit<'c>, _, _, _| {}, |e: &Emit<'c>| row.keep(e));
        let fill =
            Fill { bytes: self.stage_bytes(), weights: &weights, inputs: &inputs, early: true, then: &then };
        let sums: Vec<Vec<Vec<Var<'c>>>> =
            (0..self.weights).map(|_| vec![(0..4).map(|_| e.float_var(0.0)).collect()]).collect();
        ring.begin(e, (warp, WARPS, units), &fill);
        let unit = e.var(warp.into());
        e.each(e.int(0), count, 1, |e, turn| {
            sums.iter().flatten().flatten().for_each(|sum| e.set(*sum, e.float(0.0).into()));
            let last = e.mul_const(e.add_const(turn, 1), spans);
            e.advance(unit, last, WARPS, |e, unit| {
                let span = e.sub(unit, e.mul_const(turn, spans));
                ring.turn(e, (unit, WARPS, units), &fill, &|e, stage| {
                    for (i, sums) in (0..).zip(&sums) {
                        let at = e.byte_offset(stage, e.int(bytes * i));
                        let (x, total) = (
                            |e: &Emit<'c>, tile| vec![row.pieces(e, span, tile)],
                            |e: &Emit<'c>, half| row.total(e, span, half),
                        );
                        Record::new(e, codec, at).multiply(e, sums, &x, Some(&total));
                    }
                });
            });
            // In one of two places, so that the next strip's sums wait for nobody who reads these.
            let parity = e.mul_const(e.and(turn, e.int(1)), self.sums_bytes());
            let parts = e.byte_offset(memory, e.add_const(parity, self.sums_at() as i64));
            row.store_sums(e, parts, &sums);
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
                let results: Vec<Float<'c>> = (0..self.weights).map(result).collect();
                end(e, strip(e, turn), output, &results);
            });
        });
    }
}

/// The row in shared memory, as it lies in tiles.
struct Kept<'c> {
    of: Stream,
    row: Row<'c>,
    /// Of a row that is read in f32.
    raw: Option<(Ptr<'c>, RowPieces<'c>)>,
    at: Ptr<'c>,
    /// Sums of each 32 inputs.
    totals: Ptr<'c>,
}

impl<'c> Kept<'c> {
    /// Begins to read what does not wait for inputs.
    fn new(e: &Emit<'c>, of: Stream, row: Row<'c>) -> Kept<'c> {
        let raw = row.raw.map(|(x, raw)| {
            let norm = raw.norm.map(|eps| (eps, "norm"));
            (x, RowPieces::new(e, of.in_features, THREADS, norm))
        });
        let place = |at| e.byte_offset(e.dynamic_shared(), e.int(at));
        Kept { of, row, raw, at: place(of.kept_at()), totals: place(of.totals_at()) }
    }

    /// Stores it, and its sums where codes are multiplied as they come. All threads of the block come here, behind the wait.
    fn keep(&self, e: &Emit<'c>) {
        let tiles = k_tiles(self.of.in_features);
        match &self.raw {
            Some((x, pieces)) => {
                for (place, words) in pieces.read(e, *x) {
                    e.store_words(self.at, e.mul_const(place, 4), &words);
                }
            }
            None => keep_row(e, (self.row.tiles, self.at), tiles, (e.thread(), THREADS)),
        }
        e.barrier();
        if matches!(self.of.stored, Stored::Strips(Codec::Int4 { .. })) {
            add_up(e, (self.at, self.row.number), tiles, self.totals);
            e.barrier();
        }
    }

    /// k tile `i` of a span, and whether there is one, where that is not certain: then the last one.
    fn tile(&self, e: &Emit<'c>, span: Int<'c>, i: u64) -> (Int<'c>, Option<Int<'c>>) {
        let (each, tiles) = (self.of.stored.tiles(), k_tiles(self.of.in_features));
        let tile = e.add_const(e.mul_const(span, each), i as i64);
        match tiles.is_multiple_of(each) {
            true => (tile, None),
            false => (e.min(tile, e.int(tiles - 1)), Some(e.lt(tile, e.int(tiles)))),
        }
    }

    /// This lane's pieces of k tile `i` of a span; zeros where there is none, since a group's numbers go on there.
    fn pieces(&self, e: &Emit<'c>, span: Int<'c>, i: u64) -> [Chunk<'c>; 2] {
        let (tile, there) = self.tile(e, span, i);
        let t = e.lane_pair().1;
        [0, 4].map(|first| {
            let piece = Swizzle::piece(e, self.row.number, e.add_const(t, first));
            let words = e.load4(self.at, e.add(e.mul_const(tile, 32), e.mul_const(piece, 4)));
            there.map_or(words, |there| words.map(|word| e.pick(there, word, e.int(0))))
        })
    }

    /// The sum of half k tile `i` of a span.
    fn total(&self, e: &Emit<'c>, span: Int<'c>, i: u64) -> Float<'c> {
        let (tile, there) = self.tile(e, span, i / 2);
        let total = e.load(self.totals, e.add_const(e.mul_const(tile, 2), (i % 2) as i64));
        there.map_or(total, |there| e.pick_float(there, total, e.float(0.0)))
    }

    /// Stores a warp's sums to `[weight][warp][16 outputs]`: of the eight columns one is the row's, and two of its outputs are a
    /// lane's, g and g + 8.
    fn store_sums(&self, e: &Emit<'c>, parts: Ptr<'c>, sums: &[Vec<Vec<Var<'c>>>]) {
        let ((g, t), warp) = (e.lane_pair(), e.div_rem(e.thread(), 32).0);
        let column = e.and(self.row.number, e.int(7));
        let odd = e.eq(e.and(column, e.int(1)), e.int(1));
        e.when(e.eq(t, e.div_rem(column, 2).0), |e| {
            for (i, sums) in sums.iter().enumerate() {
                for half in 0..2 {
                    let [low, high] = [0, 1].map(|j| e.get_float(sums[0][2 * half + j]));
                    let at = e.add(e.mul_const(warp, 16), e.add_const(g, (128 * i + 8 * half) as i64));
                    e.store(parts, at, e.pick_float(odd, high, low).into());
                }
            }
        });
    }
}

/// Sums of each 32 inputs of the row at `kept`, of that number, to `totals`; a barrier follows.
fn add_up<'c>(e: &Emit<'c>, (kept, number): (Ptr<'c>, Int<'c>), tiles: u64, totals: Ptr<'c>) {
    let pieces = 8 * tiles;
    e.each(e.thread(), e.int(pieces.next_multiple_of(THREADS)), THREADS, |e, piece| {
        let (tile, inside) = e.div_rem(e.min(piece, e.int(pieces - 1)), 8);
        let at = e.add(e.mul_const(tile, 32), e.mul_const(Swizzle::piece(e, number, inside), 4));
        let halves = e
            .load4(kept, at)
            .into_iter()
            .flat_map(|word| [e.widen(e.shift_left(word, 16)), e.widen(e.and(word, e.int(0xffff_0000)))]);
        let own = halves.reduce(|a, b| e.fadd(a, b)).unwrap_or(e.float(0.0));
        let sum = e.warp_sum(own, &[1, 2]);
        let first = e.eq(e.and(e.thread(), e.int(3)), e.int(0));
        e.when(e.and(first, e.lt(piece, e.int(pieces))), |e| {
            e.store(totals, e.div_rem(piece, 4).0, sum.into())
        });
    });
}

/// Adds the function of a `Linear` of one row.
pub fn linear<'c>(k: &mut Kernel<'c, '_>, variant: &str, p: &Product) {
    let spec = k.spec;
    let weights = 1 + u64::from(p.up.is_some());
    let stream = Stream::new((weights, p.stored), p.in_features, blocks(p, 16), k.multiprocessors);
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
        stream.run(e, Row::new(e, p.inputs, row, p.in_features), &place, &|e, strip, output, results| {
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
        });
    });
}
