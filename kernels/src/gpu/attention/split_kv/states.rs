//! The states that blocks leave, and who makes the result of them: the block that arrives last at a counter. Many parts are made fewer
//! first, by the last of each few of them.

use hyc_plan::abi::COUNTER_BYTES;

use super::shares::Piece;
use crate::gpu::attention::rows::store_output;
use crate::gpu::attention::states::{States, Sum, arrive};
use crate::gpu::attention::warp_mma::Reader;
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Int, Var, WARP};
use crate::gpu::select::Heads;
use crate::gpu::work_item::group;

/// States that a block alone makes one of, and those of them that are looked up at once.
pub const FEW: u64 = 16;
const LOOK: u64 = 8;

/// Most blocks that there are counters for.
pub const MOST_COUNTED: u64 = COUNTER_BYTES / 4 / 3;

/// States of blocks. Counters: `[block][2]` of the few parts that begin with that state, `[block]` of the item whose first page it has.
pub struct Counted {
    /// `[block][2]`: of what began in an earlier block, and of what begins in this one.
    pub all: States,
    blocks: u64,
}

/// States of an item: parts `first`, `first + step`, ..., `count` of them.
#[derive(Clone, Copy)]
pub struct Parts<'c> {
    first: Int<'c>,
    step: Int<'c>,
    count: Int<'c>,
}

impl Counted {
    /// For two of each block, or `others` that have no counters.
    pub fn new(k: &mut Kernel<'_, '_>, reader: Reader, blocks: u64, others: u64) -> Counted {
        Counted { all: States::new(k, reader, others.max(2 * blocks)), blocks }
    }

    /// The number of a part's state where blocks have [`Shares`](super::shares::Shares): two a block.
    pub fn number<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, part: Int<'c>) -> Int<'c> {
        let begins = e.flag(e.eq(part, e.int(0)));
        e.add(e.add(piece.states, e.mul_const(part, 2)), begins)
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
            let last = arrive(e, flag, counter, parts.count);
            e.set(go, last.into());
            let many = e.lt(e.int(FEW), piece.parts);
            e.when(e.and(many, e.eq(last, e.int(1))), |e| {
                self.reduce(e, piece, parts);
                let groups = e.div_rem(e.add_const(piece.parts, FEW as i64 - 1), FEW).0;
                let counter = e.add_const(e.div_rem(piece.states, 2).0, 2 * self.blocks as i64);
                e.set(go, arrive(e, flag, counter, groups).into());
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

    /// Calls `body` with each head and element of the block's threads, by fours, and their sums over `parts`.
    fn each<'c>(
        &self,
        e: &Emit<'c>,
        piece: Piece<'c>,
        parts: Parts<'c>,
        body: impl FnOnce(&Emit<'c>, (Int<'c>, Int<'c>), Sum<'c>),
    ) {
        let shape = self.all.reader.shape;
        e.each(e.thread(), e.int(group(shape) * shape.v_dim / 4), self.all.reader.warps * WARP, |e, four| {
            let place = e.div_rem(e.mul_const(four, 4), shape.v_dim);
            let number = |e: &Emit<'c>, i: Int<'c>| {
                let part = e.add(parts.first, e.mul(i, parts.step));
                self.number(e, piece, part)
            };
            let sum = self.all.sum(e, (parts.count, LOOK), &number, place);
            body(e, place, sum);
        });
    }

    /// A few states become the first of them. A barrier follows inside.
    fn reduce<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, parts: Parts<'c>) {
        let heads = group(self.all.reader.shape);
        let scalars = e.shared(2 * heads);
        let to = self.all.state(e, self.number(e, piece, parts.first));
        self.each(e, piece, parts, |e, (h, element), sum| {
            let at = e.add(e.mul_const(h, self.all.reader.shape.v_dim), element);
            e.store_words(to, at, &sum.elements.map(|x| e.bits(x)));
            // Others still read those in the state.
            e.when(e.eq(element, e.int(0)), |e| {
                e.store(scalars, h, sum.max.into());
                e.store(scalars, e.add_const(h, heads as i64), sum.sum.into());
            });
        });
        e.barrier();
        e.each(e.thread(), e.int(heads), self.all.reader.warps * WARP, |e, h| {
            let (max, sum) = (e.load(scalars, h), e.load(scalars, e.add_const(h, heads as i64)));
            self.all.store_scalars(e, to, h, max, sum);
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
        let r = &self.all.reader;
        let rows = group(r.shape);
        let heads = selects.then(|| Heads::new(e, rows, rows, r.warps, sink));
        self.each(e, piece, parts, |e, (h, element), sum| {
            let sink = r.sink(e, piece.item, sink.then_some("sink"), h);
            let (top, total, factor) = sum.closed(e, sink);
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
