//! What a branch gives: kept for the branch behind it, or written with what was kept.

use std::f32::consts::LOG2_E;

use super::visit::{Place, State};
use super::{CONSUMERS, SharedPages};
use crate::gpu::attention::branch::Branch;
use crate::gpu::attention::rows::store_pairs;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::work_item::{WorkItem, group};

/// Pairs of columns whose gates are loaded together.
const PAIRS: usize = 8;

impl SharedPages<'_, '_> {
    /// What this thread's rows are multiplied with at the end of a branch.
    fn factors<'c>(
        &self,
        e: &Emit<'c>,
        state: &State<'c>,
        branch: &Branch,
        (place, kv_head): (Place<'c>, Int<'c>),
    ) -> [Float<'c>; 2] {
        [0, 1].map(|half| {
            let sum = [1, 2]
                .iter()
                .fold(e.get_float(state.sum[half]), |sum, mask| e.fadd(sum, e.shuffle(sum, *mask)));
            let Some(name) = branch.sink else { return e.reciprocal(sum) };
            let head = e.div_rem(place.rows[half], group(self.shape)).1;
            let head = e.add(e.mul_const(kv_head, group(self.shape)), head);
            let sink = e.fmul(e.load(e.operand(name), head), e.float(LOG2_E));
            // The larger of the logits and the sink, under which nothing overflows.
            let reference = e.get_float(state.reference[half]);
            let top = e.fmax(reference, sink);
            let shrink = e.exp2(e.fsub(reference, top));
            e.fmul(shrink, e.reciprocal(e.fma(sum, shrink, e.exp2(e.fsub(sink, top)))))
        })
    }

    /// This thread's words of what is kept: word `w` of 4 stands at `[w / 4][thread][w % 4]`, pairs of bf16.
    fn kept_words<'c>(&self, e: &Emit<'c>) -> Ptr<'c> {
        let block = e.mul_const(e.block_x(), CONSUMERS * self.shape.v_dim / 4);
        let own = e.add(block, e.mul_const(e.opaque(e.thread()), 4));
        e.at(e.at(e.scratch(), e.int(self.kept)), own)
    }

    /// Keeps what the first of two branches gives, without its gate.
    pub(super) fn keep<'c>(&self, e: &Emit<'c>, state: &State<'c>, branch: &Branch, kv_head: Int<'c>) {
        let factors = self.factors(e, state, branch, (Place::anew(e), kv_head));
        let words: Vec<Int<'c>> = (state.acc.chunks(2).enumerate())
            .map(|(i, pair)| {
                let [low, high] = [0, 1].map(|j| e.fmul(e.get_float(pair[j]), factors[i % 2]));
                e.pack_bf16(low, high)
            })
            .collect();
        let to = self.kept_words(e);
        for (i, four) in words.chunks(4).enumerate() {
            e.store_words(to, e.int(i as u64 * CONSUMERS * 4), four);
        }
    }

    /// Writes the output: what the last branch gives, with what was kept of the one before.
    pub(super) fn finish<'c>(&self, e: &Emit<'c>, state: &State<'c>, tile: Int<'c>, kv_head: Int<'c>) {
        let Some((last, before)) = self.branches.split_last() else { return };
        let place = Place::anew(e);
        let factors = self.factors(e, state, last, (place, kv_head));
        let rows = place.rows.map(|row| self.row(e, (tile, place.part), row));
        let kept = self.kept_words(e);
        // Loads of many columns together, so that they wait for memory together.
        for (accs, i) in state.acc.chunks(2 * PAIRS).zip(0..) {
            let (first, count) = (i * 4 * PAIRS as u64, accs.len() as u64 / 4);
            let words: Vec<Int<'c>> = (before.iter())
                .flat_map(|_| (0..accs.len() as u64 / 8).map(|j| i * PAIRS as u64 / 4 + j))
                .flat_map(|four| e.load4(kept, e.int(four * CONSUMERS * 4)))
                .collect();
            let item = |half: usize| {
                let token = rows[half].0;
                WorkItem { row: token, kv_head, position: token, sequence: token }
            };
            let gates = |half: usize| {
                let gates = |branch: &Branch| {
                    branch.gate_pairs(e, self.shape, item(half), (rows[half].1, first, count))
                };
                (gates(last), before.first().map(gates))
            };
            let gates = [gates(0), gates(1)];
            for (half, (own, kept)) in gates.into_iter().enumerate() {
                let (_, head, there) = rows[half];
                let pair = |m: usize| {
                    let at = 2 * m + half;
                    let y = [0, 1].map(|c| e.fmul(e.get_float(accs[2 * at + c]), factors[half]));
                    let y = gated(e, y, own.as_ref().map(|own| own[m]));
                    let Some(kept) = &kept else { return y };
                    let low = e.widen(e.shift_left(words[at], 16));
                    let high = e.widen(e.and(words[at], e.int(0xffff_0000)));
                    let kept = gated(e, [low, high], kept.as_ref().map(|kept| kept[m]));
                    [0, 1].map(|c| e.fadd(y[c], kept[c]))
                };
                let pairs: Vec<[Float<'c>; 2]> = (0..count as usize).map(pair).collect();
                store_pairs(e, self.shape, item(half), (head, first, there), &pairs);
            }
        }
    }
}

/// Two elements by their gates.
fn gated<'c>(e: &Emit<'c>, y: [Float<'c>; 2], gates: Option<[Float<'c>; 2]>) -> [Float<'c>; 2] {
    let Some(gates) = gates else { return y };
    [0, 1].map(|c| e.fmul(y[c], e.sigmoid(gates[c])))
}
