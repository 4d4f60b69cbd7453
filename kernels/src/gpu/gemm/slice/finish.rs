//! The finishers of a slice: warps that add what the others have of a strip, and hand over what another block finishes.

use hyc_plan::Counters;

use super::ends::Ends;
use super::part::Part;
use super::{FINISHERS, OUTPUTS, Slice, TEAMS, WARPS};
use crate::gpu::isa::{Emit, Float, Int};

impl<'c> Slice<'c> {
    /// A finisher's warp: lane `16 w + i` has output i of weight w, or of both teams.
    pub fn finish(&self, e: &Emit<'c>, finisher: Int<'c>) {
        e.wait_for_inputs();
        let lane = e.lane();
        let leader = e.eq(lane, e.int(0));
        let last_part = self.counters.parts - 1;
        self.each(e, |e, part, share| {
            let ends = Ends::new(e, part);
            e.when(leader, |e| self.wait(e, part));
            e.warp_barrier();
            let finished = e.var(e.int(0).into());
            part.strips(e, share, |e, strip, place| {
                let turn = e.div_rem(self.sums.stage(e), FINISHERS).1;
                e.either(
                    e.eq(turn, finisher),
                    |e| {
                        let whole = self.strip(e, (part, &ends), (strip, place));
                        e.set(finished, e.add(e.get(finished).into_int_value(), whole).into());
                    },
                    |e| self.sums.advance(e),
                );
            });
            // All at once, since that waits until what was stored is there; nobody waits for the last part.
            if part.number < last_part {
                e.warp_barrier();
                let (counter, by) = (self.counters.of(part.number), e.get(finished).into_int_value());
                e.when(leader, |e| e.raise(e.scratch(), e.int(counter), by));
            }
        });
    }

    /// A strip, whose stages of this block are from `first` to `last`. Returns 1 where it is finished here.
    fn strip(
        &self,
        e: &Emit<'c>,
        (part, ends): (&Part, &Ends<'_, 'c>),
        (strip, (first, last)): (Int<'c>, (Int<'c>, Int<'c>)),
    ) -> Int<'c> {
        let lane = e.lane();
        let plus = ends.plus(e, (strip, lane));
        let stage = self.sums.full(e);
        let sum = self.sum(e, part, (stage, lane));
        e.warp_barrier();
        self.sums.release(e, e.first_lane_behind(e.bits(sum)));
        let begins_here = e.eq(first, e.int(0));
        e.either(
            begins_here,
            |e| {
                let all = e.var(sum.into());
                e.when(e.lt(last, e.int(part.groups())), |e| {
                    let rest = self.handed_over(e, part, lane);
                    e.set(all, e.fadd(sum, rest).into());
                });
                ends.store(e, (strip, lane), e.get_float(all), plus);
            },
            |e| self.hand_over(e, part, (lane, sum)),
        );
        e.flag(begins_here)
    }

    /// What the warps have of this lane's output: of its weight, where there are two.
    fn sum(&self, e: &Emit<'c>, part: &Part, (stage, lane): (Int<'c>, Int<'c>)) -> Float<'c> {
        let (team, output) = e.div_rem(lane, OUTPUTS);
        let at = e.add(self.partial_at(e, (stage, team), e.int(0)), output);
        let own = (0..WARPS).fold(e.float(0.0), |sum, warp| {
            e.fadd(sum, e.load(self.partial, e.add_const(at, (warp * OUTPUTS) as i64)))
        });
        if part.weights == TEAMS { own } else { e.fadd(own, e.shuffle(own, OUTPUTS)) }
    }

    /// Where a block hands over its sums of a part.
    fn handed_at(&self, e: &Emit<'c>, part: &Part, block: Int<'c>) -> Int<'c> {
        let at = e.mul_const(block, Counters::HANDED);
        e.add_const(at, (part.number * self.counters.blocks * Counters::HANDED) as i64)
    }

    /// The end of a strip whose beginning the block before has.
    fn hand_over(&self, e: &Emit<'c>, part: &Part, (lane, sum): (Int<'c>, Float<'c>)) {
        let (handed, at) = (self.handed(e), self.handed_at(e, part, e.block_x()));
        e.store(handed, e.add(at, lane), sum.into());
        e.warp_barrier();
        let there = e.add_const(at, Counters::SUMS as i64);
        e.when(e.eq(lane, e.int(0)), |e| e.store_released(handed, there, e.int(1)));
    }

    /// What the block behind has of this block's last strip.
    fn handed_over(&self, e: &Emit<'c>, part: &Part, lane: Int<'c>) -> Float<'c> {
        let (handed, at) = (self.handed(e), self.handed_at(e, part, e.add_const(e.block_x(), 1)));
        let there = e.add_const(at, Counters::SUMS as i64);
        e.when(e.eq(lane, e.int(0)), |e| {
            self.wait_until(e, (part.number, part.number), (handed, there), 1);
            e.store(handed, there, e.int(0).into());
        });
        e.warp_barrier();
        e.widen(e.load_int_anew(handed, e.add(at, lane)))
    }
}
