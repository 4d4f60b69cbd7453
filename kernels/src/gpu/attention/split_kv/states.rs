//! The states that blocks leave, and who makes the result of them: the block that arrives last at a counter. Many parts are made fewer
//! first, by the last of each few of them.

use hyc_plan::abi::COUNTER_BYTES;

use super::shares::Piece;
use crate::gpu::attention::combine::Partials;
use crate::gpu::attention::rows::store_output;
use crate::gpu::attention::warp_mma::Reader;
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Float, Int, Ptr, Var, WARP};
use crate::gpu::select::Heads;
use crate::gpu::work_item::group;

/// States that a block alone makes one of, and those of them that are looked up at once.
pub const FEW: u64 = 16;
const LOOK: u64 = 8;

/// Most blocks that there are counters for.
pub const MOST_COUNTED: u64 = COUNTER_BYTES / 4 / 3;

/// Where they are. A state is `[group][v_dim]` sums, `[group]` maxima, `[group]` sums of exponentials.
///
/// Counters: `[block][2]` of the few parts that begin with that state, `[block]` of the item whose first page it has.
pub struct States {
    reader: Reader,
    blocks: u64,
    /// Scratch: `[block][2]` states: of what began in an earlier block, and of what begins in this one.
    at: u64,
}

/// States of an item: parts `first`, `first + step`, ..., `count` of them.
#[derive(Clone, Copy)]
pub struct Parts<'c> {
    first: Int<'c>,
    step: Int<'c>,
    count: Int<'c>,
}

/// The larger of a head's largest logit and its sink, and the sink's exponential relative to that.
pub fn beside<'c>(e: &Emit<'c>, max: Float<'c>, sink: Option<Float<'c>>) -> (Float<'c>, Float<'c>) {
    let top = sink.map_or(max, |sink| e.fmax(max, sink));
    (top, sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, top))))
}

/// A few elements of a head over some states.
struct Sum<'c> {
    max: Float<'c>,
    sum: Float<'c>,
    elements: [Float<'c>; 4],
}

impl States {
    /// For two of each block, or `others` that have no counters.
    pub fn new(k: &mut Kernel<'_, '_>, reader: Reader, blocks: u64, others: u64) -> States {
        let states = others.max(2 * blocks);
        States { reader, blocks, at: k.scratch(4 * states * Self::words(&reader)) }
    }

    /// Words of a state: whole pieces of 16 bytes.
    fn words(reader: &Reader) -> u64 {
        (group(reader.shape) * (reader.shape.v_dim + 2)).next_multiple_of(4)
    }

    /// State `number` of all.
    pub fn state<'c>(&self, e: &Emit<'c>, number: Int<'c>) -> Ptr<'c> {
        let at = e.mul_const(e.wide(number), Self::words(&self.reader));
        e.at(e.at(e.scratch(), e.int(self.at)), at)
    }

    /// The number of a part's state where blocks have [`Shares`](super::shares::Shares): two a block.
    pub fn number<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, part: Int<'c>) -> Int<'c> {
        let begins = e.flag(e.eq(part, e.int(0)));
        e.add(e.add(piece.states, e.mul_const(part, 2)), begins)
    }

    /// Where a head's largest logit and its sum of exponentials stand in a state.
    pub fn scalars_at<'c>(&self, e: &Emit<'c>, h: Int<'c>) -> (Int<'c>, Int<'c>) {
        let heads = group(self.reader.shape);
        let max = e.add_const(h, (heads * self.reader.shape.v_dim) as i64);
        (max, e.add_const(max, heads as i64))
    }

    fn store_scalars<'c>(&self, e: &Emit<'c>, to: Ptr<'c>, h: Int<'c>, max: Float<'c>, sum: Float<'c>) {
        let (max_at, sum_at) = self.scalars_at(e, h);
        e.store(to, max_at, max.into());
        e.store(to, sum_at, sum.into());
    }

    /// Leaves what the block's warps have of a piece as state `number`.
    pub fn leave<'c>(&self, e: &Emit<'c>, number: Int<'c>, memory: &Partials<'c>) {
        let r = &self.reader;
        let to = self.state(e, number);
        r.sums(e, 0..r.warps, memory, |e, four, words| e.store_words(to, e.mul_const(four, 4), &words));
        e.each(e.thread(), e.int(group(r.shape)), r.warps * WARP, |e, h| {
            let of = r.closed(e, h, 0..r.warps, memory);
            self.store_scalars(e, to, h, of.max, of.sum);
        });
    }

    /// Calls `result` in the block that is the last of the item's to come here, with states that cover the item. Behind a barrier,
    /// with all threads; a barrier follows where something was done.
    pub fn close<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, result: impl FnOnce(&Emit<'c>, Parts<'c>)) {
        let flag = e.shared(1);
        let var = |n: Int<'c>| e.var(n.into());
        let (step, count) = (var(e.int(1)), var(piece.parts));
        let go = var(e.flag(e.eq(piece.parts, e.int(1))));
        let few = e.div_rem(piece.part, FEW).0;
        let first = e.mul_const(few, FEW);
        let parts = Parts { first, step: e.int(1), count: e.min(e.sub(piece.parts, first), e.int(FEW)) };
        e.when(e.lt(e.int(1), piece.parts), |e| {
            let counter = self.number(e, piece, first);
            let last = self.arrive(e, flag, counter, parts.count);
            e.set(go, last.into());
            let many = e.lt(e.int(FEW), piece.parts);
            e.when(e.and(many, e.eq(last, e.int(1))), |e| {
                self.reduce(e, piece, parts);
                let groups = e.div_rem(e.add_const(piece.parts, FEW as i64 - 1), FEW).0;
                let counter = e.add_const(e.div_rem(piece.states, 2).0, 2 * self.blocks as i64);
                e.set(go, self.arrive(e, flag, counter, groups).into());
                e.set(step, e.int(FEW).into());
                e.set(count, groups.into());
            });
        });
        let get = |var: Var<'c>| e.get(var).into_int_value();
        e.when(e.eq(get(go), e.int(1)), |e| {
            result(e, Parts { first: e.int(0), step: get(step), count: get(count) });
            e.barrier();
        });
    }

    /// Whether this block is the last of `of` to come to a counter, 0 or 1, which it puts back to zero. What the others wrote before
    /// is seen then. Behind a barrier, with all threads.
    fn arrive<'c>(&self, e: &Emit<'c>, flag: Ptr<'c>, counter: Int<'c>, of: Int<'c>) -> Int<'c> {
        let counters = e.scratch();
        e.when(e.eq(e.thread(), e.int(0)), |e| {
            let last = e.eq(e.add_const(e.take_turn(counters, counter), 1), of);
            e.when(last, |e| e.store(counters, counter, e.int(0).into()));
            e.store(flag, e.int(0), e.flag(last).into());
        });
        e.barrier();
        let last = e.uniform(e.load_int(flag, e.int(0)));
        // Before the next one is stored there.
        e.barrier();
        last
    }

    /// Elements `element ..` of head `h` over all of `parts`.
    fn sum<'c>(
        &self,
        e: &Emit<'c>,
        piece: Piece<'c>,
        parts: Parts<'c>,
        (h, element): (Int<'c>, Int<'c>),
    ) -> Sum<'c> {
        let none = e.float(f32::NEG_INFINITY);
        let (max, sum) = (e.float_var(f32::NEG_INFINITY), e.float_var(0.0));
        let elements: [Var<'c>; 4] = std::array::from_fn(|_| e.float_var(0.0));
        let at = e.add(e.mul_const(h, self.reader.shape.v_dim), element);
        let (max_at, sum_at) = self.scalars_at(e, h);
        let last = e.add_const(parts.count, -1);
        e.each(e.int(0), parts.count, LOOK, |e, begin| {
            let looks: Vec<_> = (0..LOOK)
                .map(|i| {
                    let i = e.add_const(begin, i as i64);
                    let there = e.lt(i, parts.count);
                    let part = e.add(parts.first, e.mul(e.min(i, last), parts.step));
                    let state = self.state(e, self.number(e, piece, part));
                    let most = e.pick_float(there, e.load(state, max_at), none);
                    (there, most, e.load(state, sum_at), e.load4(state, at))
                })
                .collect();
            let before = e.get_float(max);
            let most = looks.iter().fold(before, |most, look| e.fmax(most, look.1));
            let origin = e.pick_float(e.above(most, none), most, e.float(0.0));
            let shrink = e.exp2(e.fsub(before, origin));
            let mut total = e.fmul(e.get_float(sum), shrink);
            let mut all = elements.map(|x| e.fmul(e.get_float(x), shrink));
            for (there, most, own, words) in looks {
                // What is not there is the last part once more.
                let factor = e.pick_float(there, e.exp2(e.fsub(most, origin)), e.float(0.0));
                total = e.fma(own, factor, total);
                all = std::array::from_fn(|i| e.fma(e.widen(words[i]), factor, all[i]));
            }
            e.set(max, most.into());
            e.set(sum, total.into());
            elements.iter().zip(all).for_each(|(x, value)| e.set(*x, value.into()));
        });
        Sum { max: e.get_float(max), sum: e.get_float(sum), elements: elements.map(|x| e.get_float(x)) }
    }

    /// Calls `body` with each head and element of the block's threads, by fours, and their sums over `parts`.
    fn each<'c>(
        &self,
        e: &Emit<'c>,
        piece: Piece<'c>,
        parts: Parts<'c>,
        body: impl FnOnce(&Emit<'c>, (Int<'c>, Int<'c>), Sum<'c>),
    ) {
        let shape = self.reader.shape;
        e.each(e.thread(), e.int(group(shape) * shape.v_dim / 4), self.reader.warps * WARP, |e, four| {
            let place = e.div_rem(e.mul_const(four, 4), shape.v_dim);
            let sum = self.sum(e, piece, parts, place);
            body(e, place, sum);
        });
    }

    /// A few states become the first of them. A barrier follows inside.
    fn reduce<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, parts: Parts<'c>) {
        let heads = group(self.reader.shape);
        let scalars = e.shared(2 * heads);
        let to = self.state(e, self.number(e, piece, parts.first));
        self.each(e, piece, parts, |e, (h, element), sum| {
            let at = e.add(e.mul_const(h, self.reader.shape.v_dim), element);
            e.store_words(to, at, &sum.elements.map(|x| e.bits(x)));
            // Others still read those in the state.
            e.when(e.eq(element, e.int(0)), |e| {
                e.store(scalars, h, sum.max.into());
                e.store(scalars, e.add_const(h, heads as i64), sum.sum.into());
            });
        });
        e.barrier();
        e.each(e.thread(), e.int(heads), self.reader.warps * WARP, |e, h| {
            let (max, sum) = (e.load(scalars, h), e.load(scalars, e.add_const(h, heads as i64)));
            self.store_scalars(e, to, h, max, sum);
        });
        e.barrier();
    }

    /// Stores the item's result. Where its blocks are chosen from, what their scores are compared by is returned; a barrier
    /// follows inside.
    pub fn store<'c>(
        &self,
        e: &Emit<'c>,
        piece: Piece<'c>,
        parts: Parts<'c>,
        sink: bool,
        selects: bool,
    ) -> Option<Heads<'c>> {
        let r = &self.reader;
        let rows = group(r.shape);
        let heads = selects.then(|| Heads::new(e, rows, rows, r.warps, sink));
        self.each(e, piece, parts, |e, (h, element), sum| {
            let sink = r.sink(e, piece.item, sink.then_some("sink"), h);
            let (top, extra) = beside(e, sum.max, sink);
            let grow = e.exp2(e.fsub(sum.max, top));
            let total = e.fma(sum.sum, grow, extra);
            let factor = e.fdiv(grow, total);
            for (i, x) in (0..).zip(sum.elements) {
                store_output(e, r.shape, piece.item, (h, e.add_const(element, i)), e.fmul(x, factor));
            }
            if let Some(heads) = heads {
                e.when(e.eq(element, e.int(0)), |e| heads.note(e, h, sum.max, top, e.log2(total)));
            }
        });
        if heads.is_some() {
            e.barrier();
        }
        heads
    }
}
