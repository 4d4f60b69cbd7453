//! A slice: products of one row, one after the other, in one launch that never stops streaming their weights.
//!
//! ```text
//! warp 8, producer:   for each part: for each stage of this block's share: wait until it is empty, start its copies
//!                     (weights alone, so that it waits for nobody's results: across parts it runs ahead as far as the ring goes)
//! warps 0 .. 8:       for each part: wait for its counters; the row to shared memory, normalised;
//!                       for each strip of the share: for each stage: warp w multiplies k tile 8 g + w; sums to the finisher
//! warp 9, finisher:   for each part: for each strip: add the eight warps' sums, what follows the product, store,
//!                       raise the part's counter
//! ```
//! A task is a strip of 16 outputs, a stage eight of its k tiles. A part's stages are split evenly over the blocks, each of which
//! has a contiguous range; ranges are no shorter than a strip, so that two blocks at most share one. The later of the two has
//! the end of the strip, computes it first and hands its sums over; the earlier one, whose last it is, finishes the strip. Sums
//! of k tiles are added in the order in which `small_m` adds them, so that strips which are not shared have the same bits.

mod ends;
mod finish;
mod part;

use std::mem::offset_of;
use std::rc::Rc;

use hyc_plan::{Counters, Extent, Hang, KernelSpec, Launch, Part as Step, Watch};
use inkwell::context::Context;
use inkwell::module::Module;

use self::part::Part;
use super::feed::{THREADS, WARPS};
use super::pack_rows::{RowPieces, k_tiles};
use super::small_m::keep_row;
use crate::gpu::isa::{Chunk, Emit, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::tile::{Fragment, Swizzle, TILE_BYTES};
use crate::slices::OUTPUTS;

/// Bytes of a stage: of each of eight k tiles the rows of a strip.
const STAGE: u64 = WARPS * ROWS;
/// Bytes of a strip's rows of a k tile.
const ROWS: u64 = OUTPUTS * 128;
/// Shared memory of a block, which has a multiprocessor to itself; what the ring leaves is barriers, sums and the row.
const SHARED: u64 = 227 << 10;
const STATIC: u64 = 6 << 10;
/// Stages of a block that are on their way at a time, where the ring has room for more: enough for all of the memory's
/// bandwidth. With the whole ring on its way some multiprocessors were served a quarter faster than others, which then were late
/// at the part's end.
const ON_THE_WAY: u64 = 4;
/// Strips whose sums wait for the finisher.
const WAITING: u64 = 2;
/// All threads: those that multiply, the producer's warp, the finisher's.
const ALL: u64 = THREADS + 64;

/// A slice to generate.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its name, unique among all kernels that are generated together.
    pub name: &'a str,
    /// Its steps, and what each is split into.
    pub steps: Vec<(KernelSpec, Step)>,
    /// Blocks of its launch.
    pub blocks: u64,
    /// Whether it writes down the times of its blocks.
    pub clocked: bool,
}

/// The slice being made.
struct Slice<'c> {
    parts: Vec<Part>,
    /// Operands of all.
    operands: usize,
    counters: Counters,
    /// Weights on their way; sums on theirs.
    ring: Ring<'c>,
    sums: Ring<'c>,
    /// The row, and the sums: `[strip % WAITING][weight][warp][output]`.
    row: Ptr<'c>,
    partial: Ptr<'c>,
}

/// Makes the function of a slice.
pub fn slice<'c>(
    context: &'c Context,
    module: &'c Module<'c>,
    request: &Request<'_>,
) -> Result<Launch, String> {
    let mut operands = 0;
    let mut parts = Vec::new();
    for (number, step) in (0..).zip(&request.steps) {
        parts.push(Part::new(step, operands, number)?);
        operands += step.0.operands.len();
    }
    let kept = parts.iter().map(|part| 128 * k_tiles(part.in_features)).max().unwrap_or(0);
    let stages = (SHARED - STATIC - SHARED_SLACK - kept) / STAGE;
    let counters = Counters { parts: parts.len() as u64, blocks: request.blocks };
    let named = parts.first().map(|part| Rc::clone(&part.operands)).ok_or("a slice of nothing")?;
    // Behind the operands the number of the first step, and the watch.
    let e =
        Emit::new(context, module, request.name, (named, operands + 2), (ALL as u32, request.clocked, false));
    e.note_by(THREADS + 32);
    let ring = Ring::new(&e, stages, WARPS);
    // Every thread that multiplies speaks for itself: they pass on what they have stored, once a strip.
    let sums = Ring::between(&e, WAITING, (THREADS, 1));
    let row = e.byte_offset(e.dynamic_shared(), e.int(stages * STAGE));
    let partial = e.shared(WAITING * 2 * WARPS * OUTPUTS);
    let s = Slice { parts, operands, counters, ring, sums, row, partial };
    let warp = e.uniform(e.div_rem(e.thread(), 32).0);
    e.either(
        e.lt(warp, e.int(WARPS)),
        |e| s.multiply(e),
        |e| e.either(e.eq(warp, e.int(WARPS)), |e| s.produce(e), |e| s.finish(e)),
    );
    let faults: Vec<String> = s.parts.iter().filter_map(|part| part.operands.fault()).collect();
    e.finish();
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    Ok(Launch {
        entry: request.name.to_string(),
        grid: [Extent::fixed(request.blocks), Extent::fixed(1)],
        threads: ALL as u32,
        shared_bytes: (stages * STAGE + kept + SHARED_SLACK) as u32,
        overlaps: true,
        clocked: request.clocked,
        variants: vec![],
    })
}

impl<'c> Slice<'c> {
    /// Each part in turn, with its operands in hand.
    fn each(&self, e: &Emit<'c>, body: impl Fn(&Emit<'c>, &Part, (Int<'c>, Int<'c>))) {
        for part in &self.parts {
            e.with_operands(&part.operands, part.first, |e| {
                let share = part.share(e, self.counters.blocks);
                e.when(e.lt(share.0, share.1), |e| body(e, part, share));
            });
        }
    }

    /// The producer's warp: one lane starts copies.
    fn produce(&self, e: &Emit<'c>) {
        e.when(e.eq(e.lane(), e.int(0)), |e| {
            self.each(e, |e, part, share| {
                let (tiles, groups) = (k_tiles(part.in_features), part.groups());
                part.strips(e, share, |e, strip, (first, last)| {
                    let (weights, bytes) = part.rows(e, strip);
                    e.each(first, last, 1, |e, group| {
                        let at = e.mul_const(e.wide(group), WARPS * TILE_BYTES);
                        for pieces in &weights {
                            let from: Vec<Ptr<'c>> =
                                pieces.iter().map(|piece| e.byte_offset(*piece, at)).collect();
                            let copies = |e: &Emit<'c>, tiles| self.copies(e, (&from, bytes), tiles);
                            let rest = tiles % WARPS;
                            match rest {
                                0 => copies(e, WARPS),
                                _ => e.either(
                                    e.lt(group, e.int(groups - 1)),
                                    |e| copies(e, WARPS),
                                    |e| copies(e, rest),
                                ),
                            }
                        }
                    });
                });
            });
        });
    }

    /// Fills a stage with pieces of so many k tiles.
    fn copies(&self, e: &Emit<'c>, (pieces, bytes): (&[Ptr<'c>], u64), tiles: u64) {
        let memory = e.shared_address(e.dynamic_shared());
        self.ring.wait_behind(e, ON_THE_WAY);
        // Both arms of a branch fill one stage: the ring's place is a variable.
        self.ring.produce(e, tiles * ROWS, |e, stage, full| {
            let to = e.add(memory, e.mul_const(stage, STAGE));
            for tile in 0..tiles {
                for (piece, from) in (0..).zip(pieces) {
                    let to = e.add_const(to, (tile * ROWS + piece * bytes) as i64);
                    let from = e.byte_offset(*from, e.long(tile * TILE_BYTES));
                    e.bulk_copy(to, from, bytes, full);
                }
            }
        });
    }

    /// The warps that multiply.
    fn multiply(&self, e: &Emit<'c>) {
        e.among(THREADS, |e| {
            e.wait_for_inputs();
            let warp = e.div_rem(e.thread(), 32).0;
            let (g, t) = e.lane_pair();
            let pieces = [0, 4].map(|first| Swizzle::words(e, g, e.add_const(t, first)));
            let first_column = e.eq(t, e.int(0));
            self.each(e, |e, part, share| {
                self.keep(e, part);
                let tiles = k_tiles(part.in_features);
                part.strips(e, share, |e, _, (first, last)| {
                    let four = || (0..4).map(|_| e.float_var(0.0)).collect::<Vec<_>>();
                    let sums: Vec<Vec<Var<'c>>> = (0..part.weights).map(|_| four()).collect();
                    sums.iter().flatten().for_each(|sum| e.set(*sum, e.float(0.0).into()));
                    e.each(first, last, 1, |e, group| {
                        let k = e.add(e.mul_const(group, WARPS), warp);
                        let inside = e.lt(k, e.int(tiles));
                        let at = e.mul_const(e.min(k, e.int(tiles - 1)), 32);
                        // All lanes g have the one row: columns that are not its are nobody's results.
                        let row = [0, 4].map(|piece| {
                            let place = e.mul_const(e.add_const(t, piece), 4);
                            e.load4(self.row, e.add(at, place))
                        });
                        for sums in &sums {
                            let stage = self.ring.full(e);
                            let at = e.add(e.mul_const(stage, STAGE), e.mul_const(warp, ROWS));
                            let rows = e.byte_offset(e.dynamic_shared(), at);
                            let read = e.var(e.int(0).into());
                            let multiply = |e: &Emit<'c>| {
                                let word = products(e, rows, &pieces, &row, sums);
                                e.set(read, word.into());
                            };
                            if tiles % WARPS == 0 {
                                multiply(e)
                            } else {
                                e.when(inside, multiply)
                            }
                            e.warp_barrier();
                            let read = e.get(read).into_int_value();
                            self.ring.release(e, e.first_lane_behind(read));
                        }
                    });
                    let stage = self.sums.empty(e);
                    e.when(first_column, |e| {
                        for (weight, sums) in (0..).zip(&sums) {
                            let at = self.partial_at(e, (stage, weight), warp);
                            e.store(self.partial, e.add(at, g), e.get(sums[0]));
                            e.store(self.partial, e.add_const(e.add(at, g), 8), e.get(sums[2]));
                        }
                    });
                    self.sums.filled(e, e.holds());
                });
            });
        });
    }

    /// Where a warp's sums of a weight begin.
    fn partial_at(&self, e: &Emit<'c>, (stage, weight): (Int<'c>, u64), warp: Int<'c>) -> Int<'c> {
        let strip = e.add_const(e.mul_const(stage, 2), weight as i64);
        e.mul_const(e.add(e.mul_const(strip, WARPS), warp), OUTPUTS)
    }

    /// Waits for the part's counters, and keeps its row in shared memory. The threads that multiply.
    fn keep(&self, e: &Emit<'c>, part: &Part) {
        let tiles = k_tiles(part.in_features);
        let norm = part.norm.map(|eps| (eps, "norm"));
        let pieces = (!part.tiled).then(|| RowPieces::new(e, part.in_features, THREADS, norm));
        e.when(e.eq(e.thread(), e.int(0)), |e| self.wait(e, part));
        // Nobody multiplies by the row before any more.
        e.barrier();
        match pieces {
            Some(pieces) => {
                for (place, words) in pieces.read(e, e.operand("x")) {
                    e.store_words(self.row, e.mul_const(place, 4), &words);
                }
            }
            None => keep_row(e, (e.operand("x"), self.row), tiles, (e.thread(), THREADS)),
        }
        e.barrier();
    }

    /// One thread waits for the counters of a part.
    fn wait(&self, e: &Emit<'c>, part: &Part) {
        for wait in &part.step.waits {
            let counter = self.counters.of(u64::from(wait.part));
            self.wait_until(
                e,
                (part.number, u64::from(wait.part)),
                (e.scratch(), e.int(counter)),
                wait.count,
            );
        }
    }

    /// Waits until a word has come to `count`; gives up when the launch's patience is at its end, and says so.
    fn wait_until(
        &self,
        e: &Emit<'c>,
        (part, awaited): (u64, u64),
        (base, word): (Ptr<'c>, Int<'c>),
        count: u64,
    ) {
        let begin = e.nanoseconds();
        e.repeat(|e| {
            let now = e.load_acquired(base, word);
            let there = e.ge(now, e.int(count));
            let patience = e.load_long(self.watch(e), e.int((offset_of!(Watch, patience) / 8) as u64));
            let gone = e.sub(e.nanoseconds(), begin);
            e.when(e.and(e.lt(now, e.int(count)), e.lt(patience, gone)), |e| {
                let hang = e.load_long(self.watch(e), e.int((offset_of!(Watch, hang) / 8) as u64));
                let tell = |field: usize, value| e.tell_host(hang, field as u64 / 4, value);
                tell(offset_of!(Hang, part), e.int(part));
                tell(offset_of!(Hang, awaited), e.int(awaited));
                tell(offset_of!(Hang, count), now);
                tell(offset_of!(Hang, block), e.block_x());
                tell(offset_of!(Hang, step), self.first_step(e));
                tell(offset_of!(Hang, hung), e.int(1));
                e.fail();
            });
            there
        });
    }

    /// What the launch knows of hangs, behind the operands.
    fn watch(&self, e: &Emit<'c>) -> Ptr<'c> {
        e.operand_at(self.operands + 1)
    }

    /// Where blocks hand over sums, behind that.
    fn handed(&self, e: &Emit<'c>) -> Ptr<'c> {
        e.byte_offset(self.watch(e), e.long(size_of::<Watch>() as u64))
    }

    /// The number of the slice's first step, which stands where an address could.
    fn first_step(&self, e: &Emit<'c>) -> Int<'c> {
        let number = e.address(e.operand_at(self.operands));
        e.low(number)
    }
}

/// Adds the products of a strip's rows of one k tile with the row's. Returns what is not known before all its loads are through.
fn products<'c>(
    e: &Emit<'c>,
    rows: Ptr<'c>,
    pieces: &[Int<'c>; 2],
    x: &[Chunk<'c>; 2],
    sums: &[Var<'c>],
) -> Int<'c> {
    pieces.iter().zip(x).fold(e.int(0), |read, (piece, x)| {
        let [low, high] = [0, 256].map(|eight| e.load4(rows, e.add_const(*piece, eight)));
        Fragment { low, high: Some(high) }.multiply(e, sums, *x);
        e.xor(read, e.xor(low[0], high[0]))
    })
}
