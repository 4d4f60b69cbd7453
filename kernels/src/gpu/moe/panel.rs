//! `ExpertsUp` and `ExpertsDown` of weights in panels, in f32. Reference: `reference::moe`.

use hyc_plan::{Extent, PANEL};

use crate::gpu::function::{Function, Kernel};
use crate::gpu::gemm::choice::Choice;
use crate::gpu::gemm::panel::{self, Input, Place, THREADS};
use crate::gpu::isa::{Emit, Float, Int};

/// A weight of all experts, in panels.
#[derive(Clone, Copy)]
struct Panels {
    name: &'static str,
    /// Panels of one expert.
    count: u64,
}

impl Panels {
    /// The products of the rows with one panel of one expert's matrix.
    fn product<'c>(
        &self,
        e: &Emit<'c>,
        expert: Int<'c>,
        panel: Int<'c>,
        input: &Input<'c>,
    ) -> (Place<'c>, Float<'c>) {
        let elem = e.elem(self.name);
        let panel = e.add(e.mul_const(e.wide(expert), self.count), e.wide(panel));
        let at = e.at_elem(elem, e.operand(self.name), e.mul_const(panel, input.in_features * PANEL));
        panel::panel(e, elem, at, input)
    }
}

/// Why a shared expert is refused; `candidates` has refused it before.
const SHARED: &str = "a shared expert beside those that are chosen, in panels";

/// `ExpertsUp`, `count` panels an expert. Block: one panel of one (row, chosen expert).
pub fn up(k: &mut Kernel<'_, '_>, count: u64, (in_features, ffn): (u64, u64), choice: Choice) {
    if choice.shared {
        return k.refuse(SHARED);
    }
    let active = choice.count();
    let grid = [Extent::fixed(count), k.rows(active, 1)];
    k.function(Function::new("", grid, THREADS), |e| {
        let (row, slot) = e.div_rem(e.block_y(), active);
        let expert = choice.expert(e, row, slot);
        let input = Input { rows: vec![e.row("x", row)], norm: None, in_features };
        let panel = e.block_x();
        let (place, gate) = Panels { name: "gate", count }.product(e, expert, panel, &input);
        let (_, up) = Panels { name: "up", count }.product(e, expert, panel, &input);
        let column = e.add(e.mul_const(panel, PANEL), place.column);
        let inside = e.and(e.eq(place.row, e.int(0)), e.lt(column, e.int(ffn)));
        e.when(inside, |e| {
            let at = e.add(e.mul_const(row, e.stride("h")), e.add(e.mul_const(slot, ffn), column));
            e.store(e.operand("h"), at, e.fmul(e.silu(gate), up).into());
        });
    });
}

/// `ExpertsDown`, `count` panels an expert. Block: one panel of one row, over its experts in order.
pub fn down(k: &mut Kernel<'_, '_>, count: u64, active: u64, ffn: u64, out: u64) {
    let grid = [Extent::fixed(count), k.rows(1, 1)];
    k.function(Function::new("", grid, THREADS), |e| {
        let (panel, row) = (e.block_x(), e.block_y());
        let [h, index, weights] = ["h", "index", "weight"].map(|name| e.row(name, row));
        let down = Panels { name: "down", count };
        let total = e.float_var(0.0);
        e.each(e.int(0), e.int(active), 1, |e, slot| {
            let input = Input { rows: vec![e.at(h, e.mul_const(slot, ffn))], norm: None, in_features: ffn };
            let (_, sum) = down.product(e, e.load_int(index, slot), panel, &input);
            e.accumulate(total, e.load(weights, slot), sum);
            e.barrier();
        });
        let (place, column) = e.div_rem(e.thread(), PANEL);
        let column = e.add(e.mul_const(panel, PANEL), column);
        let inside = e.and(e.eq(place, e.int(0)), e.lt(column, e.int(out)));
        e.when(inside, |e| {
            let sum = e.fadd(e.get_float(total), e.load(e.row("residual", row), column));
            e.store(e.row("out", row), column, sum.into());
        });
    });
}
