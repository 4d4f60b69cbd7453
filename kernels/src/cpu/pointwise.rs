//! Rows in, rows out: an item is a row. Reference: `reference::pointwise`.

use cranelift_codegen::ir::Value;
use hyc_plan::{Elem, GateMode, Layout};

use super::emit::Emit;

/// Runs `body` with the addresses of a row in each of these tensors.
fn rows<const N: usize>(
    e: &mut Emit<'_>,
    tensors: [&str; N],
    body: impl FnOnce(&mut Emit<'_>, Value, [Value; N]),
) {
    let bases = tensors.map(|name| (e.operand(name), e.stride(name)));
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, row| {
        let at = bases.map(|(base, stride)| e.at(base, row, stride));
        body(e, row, at);
    });
}

/// Emits `Embed`, from rows or from a product's panels.
pub fn emit_embed(e: &mut Emit<'_>, hidden: u64) {
    let (elem, layout) = e.weight("table");
    let table = e.operand("table");
    rows(e, ["out"], |e, row, [out]| {
        let id = e.token_id(row);
        let (zero, end) = (e.int(0), e.int(hidden as i64));
        match layout {
            Layout::Panels { in_features, .. } => {
                let (panel, lane) = e.div_rem(id, 16);
                let slot = match elem {
                    Elem::Bf16 => bf16_slot(e, lane),
                    Elem::F32 | Elem::I32 => lane,
                };
                let from = e.at(table, panel, in_features * 16 * elem.bytes());
                let from = e.at(from, slot, elem.bytes());
                e.each(zero, end, 1, |e, i| {
                    let (from, to) = (e.at(from, i, 16 * elem.bytes()), e.at(out, i, 4));
                    let x = e.load_elem(elem, from, 0);
                    e.store(x, to, 0);
                });
            }
            Layout::Rows { .. } | Layout::Vector { .. } | Layout::Tiles { .. } | Layout::Strips { .. } => {
                let from = e.at(table, id, hidden * elem.bytes());
                e.each(zero, end, 1, |e, i| {
                    let (from, to) = (e.at(from, i, elem.bytes()), e.at(out, i, 4));
                    let x = e.load_elem(elem, from, 0);
                    e.store(x, to, 0);
                });
            }
        }
    });
}

/// Where a panel of bf16 keeps a lane: 8 (lane / 8) + 2 (lane % 4) + (lane % 8) / 4.
fn bf16_slot(e: &mut Emit<'_>, lane: Value) -> Value {
    let (half, inside) = e.div_rem(lane, 8);
    let (high, word) = e.div_rem(inside, 4);
    let (half, word) = (e.mul_const(half, 8), e.mul_const(word, 2));
    let slot = e.add(half, word);
    e.add(slot, high)
}

/// Emits `RmsNorm`.
pub fn emit_rmsnorm(e: &mut Emit<'_>, groups: u64, width: u64, eps: f64) {
    let weight = e.operand("weight");
    rows(e, ["x", "out"], |e, _, [x, out]| {
        let (zero, end) = (e.int(0), e.int(groups as i64));
        e.each(zero, end, 1, |e, group| {
            let (x, to) = (e.at(x, group, 4 * width), e.at(out, group, 4 * width));
            e.normalise(x, weight, to, width, eps);
        });
    });
}

/// Emits an op that maps the rows of the first two tensors to that of the third, element by element; the scalar form
/// computes on a splat.
pub fn emit_binary(
    e: &mut Emit<'_>,
    tensors: [&str; 3],
    width: u64,
    op: impl Fn(&mut Emit<'_>, Value, Value) -> Value,
) {
    rows(e, tensors, |e, _, row| elements(e, row, width, &op));
}

/// The same of two rows and a third, at these addresses.
fn elements(
    e: &mut Emit<'_>,
    [a, b, out]: [Value; 3],
    width: u64,
    op: &impl Fn(&mut Emit<'_>, Value, Value) -> Value,
) {
    e.row_loop(
        width,
        |e, i| {
            let (a, b, to) = (e.at(a, i, 4), e.at(b, i, 4), e.at(out, i, 4));
            let (a, b) = (e.load4(a, 0), e.load4(b, 0));
            let y = op(e, a, b);
            e.store(y, to, 0);
        },
        |e, i| {
            let (a, b, to) = (e.at(a, i, 4), e.at(b, i, 4), e.at(out, i, 4));
            let (a, b) = (e.load_splat(a, 0), e.load_splat(b, 0));
            let y = op(e, a, b);
            let y = e.lane(y, 0);
            e.store(y, to, 0);
        },
    );
}

/// Emits `Bias`.
pub fn emit_bias(e: &mut Emit<'_>, width: u64) {
    let weight = e.operand("weight");
    rows(e, ["x", "out"], |e, _, [x, out]| {
        elements(e, [x, weight, out], width, &|e: &mut Emit<'_>, x, b| e.fadd(x, b));
    });
}

/// Emits `Gate`.
pub fn emit_gate(e: &mut Emit<'_>, heads: u64, v_dim: u64, mode: GateMode) {
    if mode != GateMode::Head {
        return emit_binary(e, ["x", "gate", "out"], heads * v_dim, |e, x, g| {
            let g = e.sigmoid4(g);
            e.fmul(x, g)
        });
    }
    rows(e, ["x", "gate", "out"], |e, _, [x, gate, out]| {
        let (zero, end) = (e.int(0), e.int(heads as i64));
        e.each(zero, end, 1, |e, head| {
            let g = e.at(gate, head, 4);
            let g = e.load_splat(g, 0);
            let g = e.sigmoid4(g);
            let g = e.lane(g, 0);
            let (from, to) = (e.at(x, head, 4 * v_dim), e.at(out, head, 4 * v_dim));
            let (zero, end) = (e.int(0), e.int(v_dim as i64));
            e.each(zero, end, 1, |e, i| {
                let (from, to) = (e.at(from, i, 4), e.at(to, i, 4));
                let x = e.load(from, 0);
                let y = e.fmul(x, g);
                e.store(y, to, 0);
            });
        });
    });
}

/// Emits `GatherRows`.
pub fn emit_gather(e: &mut Emit<'_>, width: u64) {
    let x = e.operand("x");
    rows(e, ["out"], |e, output, [out]| {
        let row = e.out_row(output);
        let from = e.at(x, row, e.stride("x"));
        let (zero, end) = (e.int(0), e.int(width as i64));
        e.each(zero, end, 1, |e, i| {
            let (from, to) = (e.at(from, i, 4), e.at(out, i, 4));
            let x = e.load(from, 0);
            e.store(x, to, 0);
        });
    });
}
