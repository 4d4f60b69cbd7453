//! Router and experts. Reference: `reference::moe`.

use hyc_ir::abi::PANEL;
use hyc_ir::plan::{Extent, KernelSpec, Layout};

use super::emit::{Emit, Int, LANES, Ptr, WARP};
use super::product::{self, Input, THREADS};
use super::topk::argmax;
use super::{Maker, experts, stride, weight};

/// `Router`. Block: one warp, one row.
pub fn router(k: &mut Maker<'_, '_>, experts: u64, active: u64) {
    let spec = k.spec;
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.launch("", grid, WARP, |e| {
        let row = e.block_x();
        let at = |i: usize| e.at(e.operand(i), e.mul_const(row, stride(spec, i)));
        let (logits, index, weights) = (at(0), at(1), at(2));
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

/// The expert of a row's choice `slot`, in operand 1.
pub fn chosen<'c>(e: &Emit<'c>, spec: &KernelSpec, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
    e.load_int(e.operand(1), e.add(e.mul_const(row, stride(spec, 1)), slot))
}

/// The address of a panel of one expert's matrix.
fn expert_panel<'c>(e: &Emit<'c>, spec: &KernelSpec, at: usize, expert: Int<'c>, panel: Int<'c>) -> Ptr<'c> {
    let (elem, layout) = weight(spec, at);
    let inn = match layout {
        Layout::Panels { inn, .. } => inn,
        _ => 0,
    };
    let panel = e.add(e.mul_const(e.wide(expert), layout.panels()), e.wide(panel));
    e.at_elem(elem, e.operand(at), e.mul_const(panel, inn * PANEL))
}

/// `ExpertsUp`. Block: one panel of one (row, chosen expert).
pub fn up(k: &mut Maker<'_, '_>, inn: u64, ffn: u64, active: u64) {
    let spec = k.spec;
    if let Layout::Tiles { .. } = weight(spec, 2).1 {
        return experts::up(k, inn, ffn, active);
    }
    let grid = [Extent::fixed(weight(spec, 2).1.panels()), k.rows(active, 1)];
    k.launch("", grid, THREADS, |e| {
        let (row, slot) = e.div_rem(e.block_y(), active);
        let expert = chosen(e, spec, row, slot);
        let x = e.at(e.operand(0), e.mul_const(row, stride(spec, 0)));
        let input = Input { rows: vec![x], norm: None, inn };
        let panel = e.block_x();
        let (place, gate) =
            product::panel(e, weight(spec, 2).0, expert_panel(e, spec, 2, expert, panel), &input);
        let (_, up) = product::panel(e, weight(spec, 3).0, expert_panel(e, spec, 3, expert, panel), &input);
        let column = e.add(e.mul_const(panel, PANEL), place.column);
        let inside = e.and(e.eq(place.row, e.int(0)), e.lt(column, e.int(ffn)));
        e.when(inside, |e| {
            let at = e.add(e.mul_const(row, stride(spec, 4)), e.add(e.mul_const(slot, ffn), column));
            e.store(e.operand(4), at, e.fmul(e.silu(gate), up).into());
        });
    });
}

/// `ExpertsDown`. Block: one panel of one row, over its experts in order.
pub fn down(k: &mut Maker<'_, '_>, active: u64, ffn: u64, out: u64) {
    let spec = k.spec;
    if let Layout::Tiles { .. } = weight(spec, 3).1 {
        return experts::down(k, active, ffn, out);
    }
    let grid = [Extent::fixed(weight(spec, 3).1.panels()), k.rows(1, 1)];
    k.launch("", grid, THREADS, |e| {
        let (panel, row) = (e.block_x(), e.block_y());
        let at = |i: usize| e.at(e.operand(i), e.mul_const(row, stride(spec, i)));
        let (h, index, weights) = (at(0), at(1), at(2));
        let total = e.float_var(0.0);
        e.each(e.int(0), e.int(active), 1, |e, slot| {
            let input = Input { rows: vec![e.at(h, e.mul_const(slot, ffn))], norm: None, inn: ffn };
            let address = expert_panel(e, spec, 3, e.load_int(index, slot), panel);
            let (_, sum) = product::panel(e, weight(spec, 3).0, address, &input);
            e.accumulate(total, e.load(weights, slot), sum);
            e.barrier();
        });
        let (place, column) = e.div_rem(e.thread(), PANEL);
        let column = e.add(e.mul_const(panel, PANEL), column);
        let inside = e.and(e.eq(place, e.int(0)), e.lt(column, e.int(out)));
        e.when(inside, |e| {
            let sum = e.fadd(e.get_float(total), e.load(at(4), column));
            e.store(at(5), column, sum.into());
        });
    });
}
