//! What a branch gives: kept for the branch behind it, or written with what was kept.

use std::f32::consts::LOG2_E;

use super::visit::{Place, State};
use super::{CONSUMERS, SharedPages};
use crate::gpu::attention::branch::Branch;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::work_item::{WorkItem, group, output_index};

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
        for (i, accs) in state.acc.chunks(2 * PAIRS).enumerate() {
            let words = before.first().map(|branch| {
                let four = |j: usize| e.load4(kept, e.int((i * PAIRS / 4 + j) as u64 * CONSUMERS * 4));
                (branch, (0..accs.len() / 8).flat_map(four).collect::<Vec<_>>())
            });
            let pairs: Vec<_> = (accs.chunks(2).enumerate())
                .map(|(j, pair)| {
                    let half = j % 2;
                    let (token, head, there) = rows[half];
                    let item = WorkItem { row: token, kv_head, position: token, sequence: token };
                    let element = e.add_const(e.mul_const(place.t, 2), 8 * ((i * PAIRS + j) / 2) as i64);
                    let gate = |branch: &Branch| branch.gate_pair(e, self.shape, item, (head, element));
                    let to = e.at(e.operand("out"), output_index(e, self.shape, item, head, element));
                    let y = [0, 1].map(|c| e.fmul(e.get_float(pair[c]), factors[half]));
                    let kept = words.as_ref().map(|(branch, words)| (words[j], gate(branch)));
                    (there, to, y, gate(last), kept)
                })
                .collect();
            for (there, to, y, gates, kept) in pairs {
                let mut y = gated(e, y, gates);
                if let Some((word, gates)) = kept {
                    let low = e.widen(e.shift_left(word, 16));
                    let high = e.widen(e.and(word, e.int(0xffff_0000)));
                    let kept = gated(e, [low, high], gates);
                    y = [0, 1].map(|c| e.fadd(y[c], kept[c]));
                }
                e.when(there, |e| e.store_words(to, e.int(0), &y.map(|y| e.bits(y))));
            }
        }
    }
}

/// Two elements by their gates.
fn gated<'c>(e: &Emit<'c>, y: [Float<'c>; 2], gates: Option<[Float<'c>; 2]>) -> [Float<'c>; 2] {
    let Some(gates) = gates else { return y };
    [0, 1].map(|c| e.fmul(y[c], e.sigmoid(gates[c])))
}
