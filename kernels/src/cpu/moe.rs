//! `ExpertsUp`, `ExpertsDown`.
//!
//! Items: (expert, panel), expert-major; a panel. An item of the experts goes through the rows and
//! takes those routed to it, so an expert's panel is read once per step however many rows want it.
//! Reference: `reference::moe`.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::IntCC;
use hyc_plan::KernelSpec;
use hyc_plan::{PANEL, ROW_ALIGN, round_up};

use super::emit::Emit;
use super::product::Product;

/// Runs `body` with (row, slot) for each row and slot that chose `expert`.
fn routed(
    e: &mut Emit<'_>,
    spec: &KernelSpec,
    active: u64,
    expert: Value,
    body: impl FnOnce(&mut Emit<'_>, Value, Value),
) {
    let index = e.operand("index");
    let (zero, rows) = (e.int(0), e.rows(spec));
    e.each(zero, rows, 1, |e, row| {
        let index = e.at(index, row, e.stride("index"));
        let (zero, slots) = (e.int(0), e.int(active as i64));
        e.each(zero, slots, 1, |e, slot| {
            let chosen = e.load_index(index, slot);
            let hit = e.cmp(IntCC::Equal, chosen, expert);
            e.when(hit, |e| body(e, row, slot));
        });
    });
}

/// Emits `ExpertsUp`.
pub fn emit_up(e: &mut Emit<'_>, spec: &KernelSpec, in_features: u64, ffn: u64, active: u64) {
    let layout = e.format("gate").layout;
    let [of_gate, of_up] = ["gate", "up"].map(|name| Product::of(e, name, in_features, e.stride("x")));
    let (x, gate, up, out) = (e.operand("x"), e.operand("gate"), e.operand("up"), e.operand("h"));
    let sums = e.scratch(4 * PANEL);
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, item| {
        let (expert, panel) = e.div_rem(item, layout.panels());
        let (gate, up) = (e.at(gate, item, of_gate.panel_bytes()), e.at(up, item, of_up.panel_bytes()));
        routed(e, spec, active, expert, |e, row, slot| {
            let x = e.at(x, row, e.stride("x"));
            of_gate.one_row(e, x, gate, &|e, quad| e.store(quad.sum, sums, 16 * quad.vector as i32));
            of_up.one_row(e, x, up, &|e, quad| {
                let g = e.load4(sums, 16 * quad.vector as i32);
                let g = e.silu4(g);
                let y = e.fmul(g, quad.sum);
                e.store(y, sums, 16 * quad.vector as i32);
            });
            let out = e.at(out, row, e.stride("h"));
            let out = e.at(out, slot, 4 * ffn);
            store_panel(e, sums, out, panel, ffn);
        });
    });
}

/// Copies a panel's outputs to their columns, as many as the matrix has: what follows is the next slot's.
fn store_panel(e: &mut Emit<'_>, sums: Value, out: Value, panel: Value, width: u64) {
    let first = e.mul_const(panel, PANEL);
    let left = e.int(width as i64);
    let left = e.sub(left, first);
    let whole = e.int(PANEL as i64);
    let count = e.min(left, whole);
    let out = e.at(out, first, 4);
    let zero = e.int(0);
    e.each(zero, count, 1, |e, i| {
        let (from, to) = (e.at(sums, i, 4), e.at(out, i, 4));
        let x = e.load(from, 0);
        e.store(x, to, 0);
    });
}

/// Emits `ExpertsDown`.
pub fn emit_down(e: &mut Emit<'_>, spec: &KernelSpec, active: u64, ffn: u64) {
    let layout = e.format("down").layout;
    let product = Product::of(e, "down", ffn, 4 * round_up(ffn, ROW_ALIGN));
    let matrix_bytes = layout.panels() * product.panel_bytes();
    let (h, index, share) = (e.operand("h"), e.operand("index"), e.operand("weight"));
    let (down, residual, out) = (e.operand("down"), e.operand("residual"), e.operand("out"));
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, panel| {
        let (zero, rows) = (e.int(0), e.rows(spec));
        e.each(zero, rows, 1, |e, row| {
            let out = e.at(out, row, e.stride("out"));
            let out = e.at(out, panel, 4 * PANEL);
            let residual = e.at(residual, row, e.stride("residual"));
            let residual = e.at(residual, panel, 4 * PANEL);
            for vector in 0..4 {
                let r = e.load4(residual, 16 * vector);
                e.store(r, out, 16 * vector);
            }
            let (h, index, share) = (
                e.at(h, row, e.stride("h")),
                e.at(index, row, e.stride("index")),
                e.at(share, row, e.stride("weight")),
            );
            let (zero, slots) = (e.int(0), e.int(active as i64));
            e.each(zero, slots, 1, |e, slot| {
                let expert = e.load_index(index, slot);
                let matrix = e.at(down, expert, matrix_bytes);
                let w = e.at(matrix, panel, product.panel_bytes());
                let (h, share) = (e.at(h, slot, 4 * ffn), e.at(share, slot, 4));
                let share = e.load_splat(share, 0);
                product.one_row(e, h, w, &|e, quad| {
                    let old = e.load4(out, 16 * quad.vector as i32);
                    let y = e.fma(share, quad.sum, old);
                    e.store(y, out, 16 * quad.vector as i32);
                });
            });
        });
    });
}
