//! `Router`: the experts of each row, and their shares. Reference: `reference::moe`.

use hyc_plan::Extent;

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Int, LANES, WARP};
use crate::gpu::select::argmax;

/// `Router`. Block: one warp, one row.
pub fn router(k: &mut Kernel<'_, '_>, experts: u64, active: u64) {
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("", grid, WARP), |e| {
        let row = e.block_x();
        let [logits, index, weights] = ["logits", "index", "weight"].map(|name| e.row(name, row));
        let (copy, chosen) = (e.shared(experts), e.shared(active));
        // Logits that are no numbers choose nobody, but some expert has to stand there: one such logit makes all the
        // shares none, as in the whole softmax.
        let poison = e.float_var(0.0);
        e.each(e.thread(), e.int(experts), WARP, |e, i| {
            let x = e.load(logits, i);
            e.store(copy, i, x.into());
            e.set(poison, e.pick_float(e.same(x, x), e.get_float(poison), x).into());
        });
        let poison = e.warp_sum(e.get_float(poison), &LANES);
        e.warp_barrier();
        e.each(e.int(0), e.int(active), 1, |e, slot| {
            let (value, expert) = argmax(e, copy, e.int(experts), WARP);
            e.when(e.eq(e.thread(), e.int(0)), |e| {
                let expert = e.pick(e.lt(expert, e.int(experts)), expert, e.int(0));
                e.store(index, slot, expert.into());
                e.store(chosen, slot, value.into());
                e.store(copy, expert, e.float(f32::NEG_INFINITY).into());
            });
            e.warp_barrier();
        });
        // The full softmax's denominator cancels: what is left is a softmax over the chosen.
        let most = e.load(chosen, e.int(0));
        let sum = e.float_var(0.0);
        e.set(sum, poison.into());
        e.each(e.int(0), e.int(active), 1, |e, slot| {
            let x = e.exp(e.fsub(e.load(chosen, slot), most));
            e.set(sum, e.fadd(e.get_float(sum), x).into());
        });
        e.each(e.thread(), e.int(active), WARP, |e, slot| {
            let x = e.exp(e.fsub(e.load(chosen, slot), most));
            e.store(weights, slot, e.fdiv(x, e.get_float(sum)).into());
        });
    });
}

/// The expert of a row's choice `slot`.
pub fn chosen<'c>(e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
    e.load_int(e.operand("index"), e.add(e.mul_const(row, e.stride("index")), slot))
}
