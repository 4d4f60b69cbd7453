//! States that blocks leave in scratch, each of a softmax over some of its pages, and the sum of them (Milakov and Gimelshein,
//! 1805.02867).

use std::ops::Range;

use super::combine::Partials;
use super::warp_mma::Reader;
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Float, Int, Ptr, Var, WARP};
use crate::gpu::work_item::group;

/// Where they are. A state is `[group][v_dim]` sums, `[group]` maxima, `[group]` sums of exponentials.
pub struct States {
    pub reader: Reader,
    /// In scratch.
    at: u64,
}

/// The larger of a head's largest logit and its sink, and the sink's exponential relative to that.
pub fn beside<'c>(e: &Emit<'c>, max: Float<'c>, sink: Option<Float<'c>>) -> (Float<'c>, Float<'c>) {
    let top = sink.map_or(max, |sink| e.fmax(max, sink));
    (top, sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, top))))
}

/// A few elements of a head over some states.
pub struct Sum<'c> {
    pub max: Float<'c>,
    pub sum: Float<'c>,
    pub elements: [Float<'c>; 4],
}

impl<'c> Sum<'c> {
    /// The larger of the largest logit and the sink, the sum of exponentials relative to that, and what the elements are multiplied by.
    pub fn closed(&self, e: &Emit<'c>, sink: Option<Float<'c>>) -> (Float<'c>, Float<'c>, Float<'c>) {
        let (top, extra) = beside(e, self.max, sink);
        let grow = e.exp2(e.fsub(self.max, top));
        let total = e.fma(self.sum, grow, extra);
        (top, total, e.fdiv(grow, total))
    }
}

impl States {
    /// Room for so many.
    pub fn new(k: &mut Kernel<'_, '_>, reader: Reader, states: u64) -> States {
        States { reader, at: k.scratch(4 * states * Self::words(&reader)) }
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

    /// Where a head's largest logit and its sum of exponentials stand in a state.
    pub fn scalars_at<'c>(&self, e: &Emit<'c>, h: Int<'c>) -> (Int<'c>, Int<'c>) {
        let heads = group(self.reader.shape);
        let max = e.add_const(h, (heads * self.reader.shape.v_dim) as i64);
        (max, e.add_const(max, heads as i64))
    }

    pub fn store_scalars<'c>(&self, e: &Emit<'c>, to: Ptr<'c>, h: Int<'c>, max: Float<'c>, sum: Float<'c>) {
        let (max_at, sum_at) = self.scalars_at(e, h);
        e.store(to, max_at, max.into());
        e.store(to, sum_at, sum.into());
    }

    /// Leaves what `warps` of the block have as state `number`.
    pub fn leave<'c>(&self, e: &Emit<'c>, number: Int<'c>, warps: Range<u64>, memory: &Partials<'c>) {
        let r = &self.reader;
        let to = self.state(e, number);
        r.sums(e, warps.clone(), memory, |e, four, words| e.store_words(to, e.mul_const(four, 4), &words));
        e.each(e.thread(), e.int(group(r.shape)), r.warps * WARP, |e, h| {
            let of = r.closed(e, h, warps, memory);
            self.store_scalars(e, to, h, of.max, of.sum);
        });
    }

    /// Elements `element ..` of head `h` over `count` states, of which so many are looked up at once; `number`: that of the i-th.
    pub fn sum<'c>(
        &self,
        e: &Emit<'c>,
        (count, look): (Int<'c>, u64),
        number: &dyn Fn(&Emit<'c>, Int<'c>) -> Int<'c>,
        (h, element): (Int<'c>, Int<'c>),
    ) -> Sum<'c> {
        let none = e.float(f32::NEG_INFINITY);
        let (max, sum) = (e.float_var(f32::NEG_INFINITY), e.float_var(0.0));
        let elements: [Var<'c>; 4] = std::array::from_fn(|_| e.float_var(0.0));
        let at = e.add(e.mul_const(h, self.reader.shape.v_dim), element);
        let (max_at, sum_at) = self.scalars_at(e, h);
        let last = e.add_const(count, -1);
        e.each(e.int(0), count, look, |e, begin| {
            let looks: Vec<_> = (0..look)
                .map(|i| {
                    let i = e.add_const(begin, i as i64);
                    let there = e.lt(i, count);
                    let state = self.state(e, number(e, e.min(i, last)));
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
}

/// Whether this block is the last of `of` to come to a counter of scratch, 0 or 1, which it puts back to zero. What the others wrote
/// before is seen then. Behind a barrier, with all threads; `flag` is a word of shared memory.
pub fn arrive<'c>(e: &Emit<'c>, flag: Ptr<'c>, counter: Int<'c>, of: Int<'c>) -> Int<'c> {
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
