//! The states of an item to its result by a launch of its own: a block a head, and one that chooses. Where an item has many parts, that is
//! quicker than one block by itself.

use super::choose::choose;
use super::shares::Piece;
use super::{SELECTORS, Split, Table};
use crate::gpu::attention::rows::store_output;
use crate::gpu::attention::states::{States, beside};
use crate::gpu::isa::{Emit, Float, Int, LANES, WARP};
use crate::gpu::select::Heads;
use crate::gpu::work_item::group;

/// What a warp knows of one head: the maxima and sums of the parts, some a lane.
struct Scalars<'c> {
    /// `[ceil(most parts / 32)]`
    max: Vec<Float<'c>>,
    sum: Vec<Float<'c>>,
}

impl States {
    /// Looks up what the at most `parts` parts say of a head, lane by lane.
    fn scalars<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, h: Int<'c>, parts: u64) -> Scalars<'c> {
        let (mut max, mut sum) = (Vec::new(), Vec::new());
        let (max_at, sum_at) = self.scalars_at(e, h);
        for round in 0..parts.div_ceil(WARP) {
            let part = e.add_const(e.lane(), (round * WARP) as i64);
            let there = e.lt(part, piece.parts);
            let state = self.state(e, e.add(piece.states, e.pick(there, part, e.int(0))));
            let load = |at: Int<'c>, other: f32| e.pick_float(there, e.load(state, at), e.float(other));
            max.push(load(max_at, f32::NEG_INFINITY));
            sum.push(load(sum_at, 0.0));
        }
        Scalars { max, sum }
    }
}

impl<'c> Scalars<'c> {
    /// Largest logit, the larger of that and the sink, and the sum of exponentials relative to that.
    fn closed(&self, e: &Emit<'c>, sink: Option<Float<'c>>) -> (Float<'c>, Float<'c>, Float<'c>) {
        let logits = e.warp_max(self.max.iter().fold(e.float(f32::NEG_INFINITY), |most, x| e.fmax(most, *x)));
        let (top, extra) = beside(e, logits, sink);
        let sum = self.max.iter().zip(&self.sum);
        let sum = sum.fold(e.float(0.0), |sum, (max, part)| e.fma(*part, e.exp2(e.fsub(*max, top)), sum));
        (logits, top, e.fadd(e.warp_sum(sum, &LANES), extra))
    }
}

impl Split {
    /// What a block of the second launch does, of `items` a (row, KV head) and of `warps` warps.
    pub fn merge<'c>(&self, e: &Emit<'c>, items: u64, warps: u64) {
        let r = &self.reader;
        let (index, job) = e.div_rem(e.block_x(), items);
        let of = (r.shape.kv_heads, r.cache.page);
        let piece = Piece::of_item(e, (index, e.int(0)), of, self.splits);
        e.wait_for_inputs();
        let head = |e: &Emit<'c>| self.head(e, (piece, job), warps);
        let Some(table) = &self.table else { return head(e) };
        e.either(e.lt(job, e.int(group(r.shape))), head, |e| self.choose_merged(e, piece, table));
    }

    /// The k best blocks of the group.
    fn choose_merged<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, table: &Table) {
        let r = &self.reader;
        let heads = Heads::new(e, group(r.shape), group(r.shape), SELECTORS, self.sink);
        let warp = e.div_rem(e.thread(), WARP).0;
        e.each(warp, e.int(group(r.shape)), SELECTORS, |e, h| {
            let sink = r.sink(e, piece.item, self.sink.then_some("sink"), h);
            let (logits, top, sum) = self.states.all.scalars(e, piece, h, self.splits).closed(e, sink);
            e.when(e.eq(e.lane(), e.int(0)), |e| heads.note(e, h, logits, top, e.log2(sum)));
        });
        e.barrier();
        choose(e, SELECTORS, piece, table, &heads);
    }

    /// One head of the group over all parts.
    fn head<'c>(&self, e: &Emit<'c>, (piece, h): (Piece<'c>, Int<'c>), warps: u64) {
        let (r, states, parts) = (&self.reader, &self.states.all, self.splits);
        let fours = r.shape.v_dim / 4;
        // Threads that share an element: each has every so manieth part of it, all of which are looked up at once.
        let sharers = (warps * WARP / fours).clamp(1, parts);
        let (sharer, four) = e.div_rem(e.thread(), fours);
        let at = e.add(e.mul_const(h, r.shape.v_dim), e.mul_const(four, 4));
        let first = e.min(sharer, e.int(sharers - 1));
        let mine: Vec<(Int<'c>, [Int<'c>; 4])> = (0..parts.div_ceil(sharers))
            .map(|round| {
                let part = e.add_const(first, (round * sharers) as i64);
                let inside = e.pick(e.lt(part, piece.parts), part, e.int(0));
                (part, e.load4(states.state(e, e.add(piece.states, inside)), at))
            })
            .collect();
        let factors = e.shared(parts.next_multiple_of(WARP));
        let scalars = states.scalars(e, piece, h, parts);
        let sink = r.sink(e, piece.item, self.sink.then_some("sink"), h);
        e.when(e.lt(e.thread(), e.int(WARP)), |e| {
            let (_, top, sum) = scalars.closed(e, sink);
            for (round, max) in (0..).zip(&scalars.max) {
                let factor = e.fdiv(e.exp2(e.fsub(*max, top)), sum);
                e.store(factors, e.add_const(e.lane(), round * WARP as i64), factor.into());
            }
        });
        let sums = e.shared(sharers * r.shape.v_dim);
        e.barrier();
        e.when(e.lt(sharer, e.int(sharers)), |e| {
            let total = mine.iter().fold([e.float(0.0); 4], |total, (part, words)| {
                // Behind the last part factors are zero.
                let inside = e.min(*part, e.int(parts - 1));
                let factor = e.pick_float(e.lt(*part, piece.parts), e.load(factors, inside), e.float(0.0));
                std::array::from_fn(|i| e.fma(e.widen(words[i]), factor, total[i]))
            });
            let at = e.add(e.mul_const(sharer, r.shape.v_dim), e.mul_const(four, 4));
            e.store_words(sums, at, &total.map(|x| e.bits(x)));
        });
        e.barrier();
        e.each(e.thread(), e.int(r.shape.v_dim), warps * WARP, |e, element| {
            let all = (0..sharers).map(|i| e.load(sums, e.add_const(element, (i * r.shape.v_dim) as i64)));
            let y = all.reduce(|a, b| e.fadd(a, b)).unwrap_or(e.float(0.0));
            store_output(e, r.shape, piece.item, (h, element), y);
        });
    }
}
