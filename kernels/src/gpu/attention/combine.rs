//! What the warps of a block leave of their softmaxes, and the sum of it (Milakov and Gimelshein, 1805.02867).

use std::f32::consts::LOG2_E;

use super::warp_mma::{Reader, State};
use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::work_item::{WorkItem, group};

/// Where warps leave their states: `[warp][group]` twice and `[warp][group][v_dim]`.
pub struct Partials<'c> {
    pub max: Ptr<'c>,
    pub sum: Ptr<'c>,
    pub acc: Ptr<'c>,
}

impl Reader {
    pub fn partials<'c>(&self, e: &Emit<'c>) -> Partials<'c> {
        let states = self.warps * group(self.shape);
        let acc = e.dynamic_shared();
        Partials { max: e.shared(states), sum: e.shared(states), acc }
    }

    /// Dynamic shared memory of that.
    pub fn partials_bytes(&self) -> u64 {
        4 * self.warps * group(self.shape) * self.shape.v_dim
    }

    /// Leaves the warp's state in shared memory; a barrier of the block follows.
    pub fn store_partial<'c>(&self, e: &Emit<'c>, state: &State<'c>, to: &Partials<'c>) {
        self.leave_partial(e, state, to);
        e.barrier();
    }

    /// The same without the barrier.
    pub fn leave_partial<'c>(&self, e: &Emit<'c>, state: &State<'c>, to: &Partials<'c>) {
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
    }

    /// (maximum, sum, factors) of head `h` over `count` states that `place` finds, with a sink.
    pub fn closed<'c>(
        &self,
        e: &Emit<'c>,
        places: &[Int<'c>],
        from: (Ptr<'c>, Ptr<'c>),
        sink: Option<Float<'c>>,
    ) -> (Float<'c>, Float<'c>, Vec<Float<'c>>) {
        let none = e.float(f32::NEG_INFINITY);
        let most = places.iter().fold(sink.unwrap_or(none), |most, at| e.fmax(most, e.load(from.0, *at)));
        let origin = e.pick_float(e.above(most, none), most, e.float(0.0));
        let factors: Vec<Float<'c>> =
            places.iter().map(|at| e.exp2(e.fsub(e.load(from.0, *at), origin))).collect();
        let extra = sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, origin)));
        let sum = places.iter().zip(&factors).fold(extra, |sum, (at, f)| e.fma(e.load(from.1, *at), *f, sum));
        (most, sum, factors)
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

    /// Merges the warps; `out` gets (head, element, value), each once and always in the same thread. A barrier of
    /// the block follows.
    pub fn combine<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        from: &Partials<'c>,
        sink: Option<&str>,
        out: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>),
    ) {
        let (group, v_dim) = (group(self.shape), self.shape.v_dim);
        e.each(e.thread(), e.int(group * v_dim), self.warps * WARP, |e, i| {
            let (h, element) = e.div_rem(i, v_dim);
            let places: Vec<Int<'c>> = (0..self.warps).map(|w| e.add_const(h, (w * group) as i64)).collect();
            let (_, sum, factors) =
                self.closed(e, &places, (from.max, from.sum), self.sink(e, item, sink, h));
            let total = places.iter().zip(&factors).fold(e.float(0.0), |total, (at, factor)| {
                e.fma(e.load(from.acc, e.add(e.mul_const(*at, v_dim), element)), *factor, total)
            });
            out(e, h, element, e.fdiv(total, sum));
        });
        e.barrier();
    }
}
