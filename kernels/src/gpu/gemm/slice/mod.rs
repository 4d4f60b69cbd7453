//! A slice: products of one row, one after the other, in one launch that never stops streaming their weights.
//!
//! ```text
//! warps 0 .. 16:      for each part: wait for its counters; the row to shared memory, normalised;
//!                       for each strip of the share: a team's stages g: warp w of it multiplies unit 8 g + w; sums to a finisher
//! warp 16, producer:  for each part: for each stage of this block's share: wait until it is empty, start its copies
//!                     (weights alone, so that it waits for nobody's results: across parts it runs ahead as far as the ring goes; of
//!                     experts it waits for the launch's inputs, which say of which)
//! warps 17 .. 20,     for each part: for each of its strips: add the warps' sums, what follows the product, store;
//!   finishers           then raise the part's counter by all of them
//! ```
//! A task is a strip of 16 outputs, a stage eight of its units: k tiles, or records of 256 inputs, as the weight is
//! [stored](super::stored::Stored). Of two weights each team has one, of one every other stage of a strip, from its first one on. A strip of experts' down goes from expert to
//! expert, of each in whole stages, whose sums count by its share. A part's stages are split evenly over
//! the blocks, each of which has a contiguous range; ranges are no shorter than a strip, so that two blocks at most share one. The later
//! of the two has the end of the strip, computes it first and hands its sums over; the earlier one, whose last it is, finishes the
//! strip. Whose sums are added when is the same in every run.

mod ends;
mod finish;
mod part;

use std::mem::offset_of;
use std::rc::Rc;

use hyc_plan::{Counters, Extent, Hang, KernelSpec, Launch, Part as Step, Watch};
use inkwell::context::Context;
use inkwell::module::Module;

use self::part::Part;
use super::feed::WARPS;
use super::kept::{Factors, KeptRow, Source};
use super::matrices::RawRows;
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::pipeline::Ring;
use crate::slices::OUTPUTS;

/// Shared memory of a block, which has a multiprocessor to itself; what the ring leaves is barriers, sums and the row.
const SHARED: u64 = 227 << 10;
const STATIC: u64 = 8 << 10;
/// Bytes of a block that are on their way at a time, where the ring has room for more: enough for all of the memory's
/// bandwidth. With the whole ring on its way some multiprocessors were served a quarter faster than others, which then were late
/// at the part's end.
const ON_THE_WAY: u64 = 64 << 10;
/// Stages of a ring that are never on their way. A team passes over a stage of the other's without a wait, and the round after that its
/// barrier says "full" for as long as the stage is not: so it must be full long before anybody comes to it again.
const BETWEEN: u64 = 3;
/// Warps that finish strips, which are theirs by turns; strips whose sums may wait for them.
const FINISHERS: u64 = 3;
const WAITING: u64 = 2 * FINISHERS;
// A place for sums is always the same finisher's, who alone waits for it.
const _: () = assert!(WAITING.is_multiple_of(FINISHERS));
/// Teams of eight warps: stages of a strip are theirs by turns.
const TEAMS: u64 = 2;
/// Threads that multiply; all, with the producer's warp and the finishers'.
const THREADS: u64 = TEAMS * WARPS * 32;
const ALL: u64 = THREADS + 32 * (1 + FINISHERS);

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
    /// Weights on their way, in stages of so many bytes; sums on theirs.
    ring: Ring<'c>,
    stage_bytes: u64,
    sums: Ring<'c>,
    /// The row, and the sums: `[strip % WAITING][team][warp][output]`.
    row: Ptr<'c>,
    partial: Ptr<'c>,
}

/// A warp's sums of a strip, and of a stage where that counts by a share.
struct Sums<'c> {
    all: Vec<Var<'c>>,
    of_stage: Option<Vec<Var<'c>>>,
}

impl<'c> Sums<'c> {
    /// Zeros.
    fn new(e: &Emit<'c>, part: &Part) -> Sums<'c> {
        let all = Factors::sums(e);
        let of_stage = part.sums_experts().then(|| Factors::sums(e));
        Factors::clear(e, &all);
        Sums { all, of_stage }
    }

    /// Adds a unit's products; returns what [`Factors::multiply`] does.
    fn add(&self, e: &Emit<'c>, share: Option<Float<'c>>, x: &Factors<'c>, weights: Ptr<'c>) -> Int<'c> {
        match share.zip(self.of_stage.as_ref()) {
            Some((share, own)) => x.multiply_share(e, weights, (&self.all, own), share),
            None => x.multiply(e, weights, &self.all),
        }
    }
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
    let most = |of: &dyn Fn(&Part) -> u64| parts.iter().map(of).max().unwrap_or(0);
    let kept = most(&|part| KeptRow::bytes(part.stored, part.in_features));
    let stage_bytes = most(&Part::stage_bytes);
    let stages = (SHARED - STATIC - SHARED_SLACK).saturating_sub(kept) / stage_bytes;
    if stages <= BETWEEN {
        return Err(format!("a slice has room for {stages} stages of {stage_bytes} bytes"));
    }
    let counters = Counters { parts: parts.len() as u64, blocks: request.blocks };
    let named = parts.first().map(|part| Rc::clone(&part.operands)).ok_or("a slice of nothing")?;
    // Behind the operands the number of the first step, and the watch.
    let e =
        Emit::new(context, module, request.name, (named, operands + 2), (ALL as u32, request.clocked, false));
    e.note_by(THREADS + 32);
    let ring = Ring::new(&e, stages, WARPS);
    // Every thread that multiplies speaks for itself: they pass on what they have stored, once a strip.
    let sums = Ring::between(&e, WAITING, (THREADS, 1));
    let row = e.byte_offset(e.dynamic_shared(), e.int(stages * stage_bytes));
    let partial = e.shared(WAITING * TEAMS * WARPS * OUTPUTS);
    let s = Slice { parts, operands, counters, ring, stage_bytes, sums, row, partial };
    let warp = e.uniform(e.div_rem(e.thread(), 32).0);
    e.either(
        e.lt(warp, e.int(TEAMS * WARPS)),
        |e| s.multiply(e),
        |e| {
            e.either(
                e.eq(warp, e.int(TEAMS * WARPS)),
                |e| s.produce(e),
                |e| s.finish(e, e.add_const(warp, -((TEAMS * WARPS + 1) as i64))),
            )
        },
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
        shared_bytes: (stages * stage_bytes + kept + SHARED_SLACK) as u32,
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
                if part.experts.is_some() {
                    // Which experts, launches before this one say.
                    e.wait_for_inputs();
                }
                part.strips(e, share, |e, strip, (first, last)| {
                    let one = (!part.sums_experts()).then(|| part.rows(e, strip, e.int(0)));
                    e.each(first, last, 1, |e, group| {
                        let (chunk, group) = part.chunk(e, group);
                        let (weights, bytes) = one.clone().unwrap_or_else(|| part.rows(e, strip, chunk));
                        let at = e.mul_const(e.wide(group), WARPS * part.stored.next());
                        for pieces in &weights {
                            let from: Vec<Ptr<'c>> =
                                pieces.iter().map(|piece| e.byte_offset(*piece, at)).collect();
                            let copies = |e: &Emit<'c>, units| self.copies(e, part, (&from, bytes), units);
                            let rest = part.units() % WARPS;
                            match rest {
                                0 => copies(e, WARPS),
                                _ => e.either(
                                    e.lt(group, e.int(part.units() / WARPS)),
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

    /// Fills a stage with pieces of so many units.
    fn copies(&self, e: &Emit<'c>, part: &Part, (pieces, bytes): (&[Ptr<'c>], u64), units: u64) {
        let memory = e.shared_address(e.dynamic_shared());
        // Units that lie one behind the other are one copy.
        let (units, bytes) = if bytes == part.stored.next() { (1, bytes * units) } else { (units, bytes) };
        let unit_bytes = pieces.len() as u64 * bytes;
        self.ring.wait_behind(e, ON_THE_WAY.div_ceil(part.stage_bytes()).min(self.ring.stages() - BETWEEN));
        // Both arms of a branch fill one stage: the ring's place is a variable.
        self.ring.produce(e, units * unit_bytes, |e, stage, full| {
            let to = e.add(memory, e.mul_const(stage, self.stage_bytes));
            for unit in 0..units {
                for (piece, from) in (0..).zip(pieces) {
                    let to = e.add_const(to, (unit * unit_bytes + piece * bytes) as i64);
                    let from = e.byte_offset(*from, e.long(unit * part.stored.next()));
                    e.bulk_copy(to, from, bytes, full);
                }
            }
        });
    }

    /// The warps that multiply.
    fn multiply(&self, e: &Emit<'c>) {
        e.among(THREADS, |e| {
            e.wait_for_inputs();
            let (team, warp) = e.div_rem(e.div_rem(e.thread(), 32).0, WARPS);
            let (g, t) = e.lane_pair();
            let first_column = e.eq(t, e.int(0));
            self.each(e, |e, part, share| {
                let row = self.keep(e, part);
                part.strips(e, share, |e, _, (first, last)| {
                    let sums = Sums::new(e, part);
                    let stage = |e: &Emit<'c>, group| self.stage(e, (part, &row), (group, warp), &sums);
                    e.each(first, last, 1, |e, group| match part.weights {
                        // A team has one of both.
                        TEAMS => {
                            e.when(e.eq(team, e.int(1)), |e| self.ring.advance(e));
                            stage(e, group);
                            e.when(e.eq(team, e.int(0)), |e| self.ring.advance(e));
                        }
                        _ => e.either(
                            e.eq(e.and(group, e.int(1)), team),
                            |e| stage(e, group),
                            |e| self.ring.advance(e),
                        ),
                    });
                    let stage = self.sums.empty(e);
                    e.when(first_column, |e| {
                        let at = self.partial_at(e, (stage, team), warp);
                        e.store(self.partial, e.add(at, g), e.get(sums.all[0]));
                        e.store(self.partial, e.add_const(e.add(at, g), 8), e.get(sums.all[2]));
                    });
                    self.sums.filled(e, e.holds());
                });
            });
        });
    }

    /// A warp's unit of stage `group` of a strip, by the row.
    fn stage(
        &self,
        e: &Emit<'c>,
        (part, row): (&Part, &KeptRow<'c>),
        (group, warp): (Int<'c>, Int<'c>),
        sums: &Sums<'c>,
    ) {
        let (units, bytes) = (part.units(), part.stored.bytes());
        let (chunk, group) = part.chunk(e, group);
        let unit = e.add(e.mul_const(group, WARPS), warp);
        let inside = e.lt(unit, e.int(units));
        // Before the weights are there.
        let x = row.factors(e, e.add(e.mul_const(chunk, units), e.min(unit, e.int(units - 1))));
        let share = part.share_of(e, chunk);
        let stage = self.ring.full(e);
        let at = e.add(e.mul_const(stage, self.stage_bytes), e.mul_const(warp, bytes));
        let weights = e.byte_offset(e.dynamic_shared(), at);
        let read = e.var(e.int(0).into());
        let multiply = |e: &Emit<'c>| e.set(read, sums.add(e, share, &x, weights).into());
        if units % WARPS == 0 {
            multiply(e)
        } else {
            e.when(inside, multiply)
        }
        e.warp_barrier();
        let read = e.get(read).into_int_value();
        self.ring.release(e, e.first_lane_behind(read));
    }

    /// Where a warp's sums begin.
    fn partial_at(&self, e: &Emit<'c>, (stage, team): (Int<'c>, Int<'c>), warp: Int<'c>) -> Int<'c> {
        let strip = e.add(e.mul_const(stage, TEAMS), team);
        e.mul_const(e.add(e.mul_const(strip, WARPS), warp), OUTPUTS)
    }

    /// Waits for the part's counters, and keeps its row in shared memory. The threads that multiply.
    fn keep(&self, e: &Emit<'c>, part: &Part) -> KeptRow<'c> {
        let x = e.operand(part.row);
        let raw = (!part.tiled).then_some((x, RawRows { norm: part.norm }));
        let source = Source::new(e, raw, x, (part.in_features, THREADS));
        e.when(e.eq(e.thread(), e.int(0)), |e| self.wait(e, part));
        // Nobody multiplies by the row before any more.
        e.barrier();
        // All lanes g have the one row.
        let row = KeptRow::new((part.stored, part.in_features), e.int(0), self.row);
        row.keep(e, (e.thread(), THREADS), &source);
        e.barrier();
        row
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
        let patience = e.load_long(self.watch(e), e.int((offset_of!(Watch, patience) / 8) as u64));
        e.repeat(|e| {
            let now = e.load_acquired(base, word);
            let there = e.ge(now, e.int(count));
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
