//! What the warps of a block leave of their softmaxes, and the sum of it (Milakov and Gimelshein, 1805.02867).

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::warp_mma::{Reader, State};
use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::work_item::{WorkItem, group};

/// Where warps leave their states: `[warp][group]` twice and `[warp][group][v_dim]`.
pub struct Partials<'c> {
    pub max: Ptr<'c>,
    pub sum: Ptr<'c>,
    pub acc: Ptr<'c>,
}

/// One head over some warps.
pub struct Closed<'c> {
    pub max: Float<'c>,
    pub sum: Float<'c>,
    factors: Vec<(Int<'c>, Float<'c>)>,
}

impl Reader {
    /// From the beginning of dynamic shared memory on.
    pub fn partials<'c>(&self, e: &Emit<'c>) -> Partials<'c> {
        let states = self.warps * group(self.shape);
        let acc = e.dynamic_shared();
        Partials { max: e.shared(states), sum: e.shared(states), acc }
    }

    /// Leaves the warp's state in shared memory; a barrier of the block follows inside.
    pub fn store_partial<'c>(&self, e: &Emit<'c>, state: &State<'c>, to: &Partials<'c>) {
        let group = group(self.shape);
        let (g, t) = e.lane_pair();
        let warp = e.div_rem(e.thread(), WARP).0;
        for half in 0..self.halves() {
            let row = e.add_const(g, 8 * half as i64);
            let sum = [1, 2]
                .iter()
                .fold(e.get_float(state.sum[half]), |sum, mask| e.fadd(sum, e.shuffle(sum, *mask)));
            e.when(e.lt(row, e.int(group)), |e| {
                let at = e.add(e.mul_const(warp, group), row);
                e.when(e.eq(t, e.int(0)), |e| {
                    e.store(to.max, at, e.get(state.max[half]));
                    e.store(to.sum, at, sum.into());
                });
                for (m, acc) in state.acc.iter().enumerate() {
                    let column = e.add_const(e.mul_const(t, 2), 8 * m as i64);
                    let at = e.add(e.mul_const(at, self.shape.v_dim), column);
                    let words = [0, 1].map(|i| e.bits(e.get_float(acc[2 * half + i])));
                    e.store_words(to.acc, at, &words);
                }
            });
        }
        e.barrier();
    }

    /// Head `h` over `warps`: the maximum, the sum, and each warp's place and factor.
    pub fn closed<'c>(&self, e: &Emit<'c>, h: Int<'c>, warps: Range<u64>, from: &Partials<'c>) -> Closed<'c> {
        let heads = group(self.shape);
        let places: Vec<Int<'c>> = warps.map(|warp| e.add_const(h, (warp * heads) as i64)).collect();
        let none = e.float(f32::NEG_INFINITY);
        let max = places.iter().fold(none, |most, at| e.fmax(most, e.load(from.max, *at)));
        let origin = e.pick_float(e.above(max, none), max, e.float(0.0));
        let factor = |at: &Int<'c>| e.exp2(e.fsub(e.load(from.max, *at), origin));
        let factors: Vec<(Int<'c>, Float<'c>)> = places.iter().map(|at| (*at, factor(at))).collect();
        let zero = e.float(0.0);
        let sum = factors.iter().fold(zero, |sum, (at, f)| e.fma(e.load(from.sum, *at), *f, sum));
        Closed { max, sum, factors }
    }

    /// The sums of `warps`, four elements at a time, by all threads of the block: `to` gets which four of `[group][v_dim]`.
    pub fn sums<'c>(
        &self,
        e: &Emit<'c>,
        warps: Range<u64>,
        from: &Partials<'c>,
        to: impl FnOnce(&Emit<'c>, Int<'c>, [Int<'c>; 4]),
    ) {
        let v_dim = self.shape.v_dim;
        e.each(e.thread(), e.int(group(self.shape) * v_dim / 4), self.warps * WARP, |e, four| {
            let (h, element) = e.div_rem(e.mul_const(four, 4), v_dim);
            let closed = self.closed(e, h, warps, from);
            let total = closed.factors.iter().fold([e.float(0.0); 4], |total, (at, factor)| {
                let words = e.load4(from.acc, e.add(e.mul_const(*at, v_dim), element));
                std::array::from_fn(|i| e.fma(e.widen(words[i]), *factor, total[i]))
            });
            to(e, four, total.map(|x| e.bits(x)));
        });
    }

    /// The sink of head `h` of the group, in units of log2.
    pub fn sink<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        name: Option<&str>,
        h: Int<'c>,
    ) -> Option<Float<'c>> {
        name.map(|name| {
            let head = e.add(e.mul_const(item.kv_head, group(self.shape)), h);
            e.fmul(e.load(e.operand(name), head), e.float(LOG2_E))
        })
    }
}
