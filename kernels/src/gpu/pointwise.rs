//! Row-wise ops. Block: one row. Reference: `reference::pointwise`.

use std::mem::offset_of;

use hyc_ir::abi::{StepContext, TILE};
use hyc_ir::pack;
use hyc_ir::plan::{Elem, Extent, GateMode, Layout};

use super::emit::{Emit, Float, Int};
use super::product::{THREADS, block_sum_of_squares};
use super::{Maker, stride, weight};

/// One block a row; `body` gets the row.
fn by_row<'c>(k: &mut Maker<'c, '_>, body: impl FnOnce(&Emit<'c>, Int<'c>)) {
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.launch("", grid, THREADS, |e| body(e, e.block_x()));
}

/// `out[t] = table[token_ids[t]]`. The table may be panels, where a product reads it too.
pub fn embed(k: &mut Maker<'_, '_>, hidden: u64) {
    let spec = k.spec;
    let (elem, layout) = weight(spec, 0);
    by_row(k, |e, row| {
        let token = e.wide(e.load_int(e.list(offset_of!(StepContext, token_ids)), row));
        let out = e.at(e.operand(1), e.mul_const(row, stride(spec, 1)));
        e.each(e.thread(), e.int(hidden), THREADS, |e, column| {
            let index = match layout {
                Layout::Panels { inn, .. } => {
                    let (panel, lane) = e.div_rem(token, hyc_ir::abi::PANEL);
                    // The lane's slot among the panel's sixteen: `pack::index` of row `lane`, column 0.
                    let one = Layout::Panels { count: 1, out: 16, inn: 1, group: 16 };
                    let slots: Vec<u64> = (0..16).map(|lane| pack::index(one, elem, lane, 0)).collect();
                    let zero = e.wide(e.int(0));
                    let slot = slots.iter().enumerate().fold(zero, |slot, (i, at)| {
                        let at = e.wide(e.int(*at));
                        e.pick(e.eq(lane, e.wide(e.int(i as u64))), at, slot)
                    });
                    let at = e.add(e.mul_const(panel, inn), e.wide(column));
                    e.add(e.mul_const(at, hyc_ir::abi::PANEL), slot)
                }
                Layout::Tiles { inn, .. } => {
                    let ((tile, row), (k, col)) = (e.div_rem(token, TILE), e.div_rem(column, TILE));
                    let tile = e.add(e.mul_const(tile, inn.div_ceil(TILE)), e.wide(k));
                    let (chunk, rest) = e.div_rem(e.wide(col), 8);
                    let chunk = e.xor(chunk, e.div_rem(row, 8).1);
                    let inside = e.add(e.mul_const(row, TILE), e.add(e.mul_const(chunk, 8), rest));
                    e.add(e.mul_const(tile, TILE * TILE), inside)
                }
                _ => e.add(e.mul_const(token, hidden), e.wide(column)),
            };
            e.store(out, column, e.load_elem(elem, e.operand(0), index).into());
        });
    });
}

/// RMSNorm over each of `groups` slices of `width`.
pub fn rms_norm(k: &mut Maker<'_, '_>, groups: u64, width: u64, eps: f64) {
    let spec = k.spec;
    by_row(k, |e, row| {
        let partial = e.shared(THREADS / 32);
        let x = e.at(e.operand(0), e.mul_const(row, stride(spec, 0)));
        let out = e.at(e.operand(2), e.mul_const(row, stride(spec, 2)));
        e.each(e.int(0), e.int(groups), 1, |e, group| {
            let at = e.mul_const(group, width);
            let (x, out) = (e.at(x, at), e.at(out, at));
            let sum = block_sum_of_squares(e, x, width, partial);
            let mean = e.fdiv(sum, e.float(width as f32));
            let scale = e.inverse_sqrt(e.fadd(mean, e.float(eps as f32)));
            e.each(e.thread(), e.int(width), THREADS, |e, i| {
                let y = e.fmul(e.fmul(e.load(x, i), scale), e.load(e.operand(1), i));
                e.store(out, i, y.into());
            });
            e.barrier();
        });
    });
}

/// `out = f(a, b)`, element by element.
pub fn binary<'c>(
    k: &mut Maker<'c, '_>,
    width: u64,
    f: impl FnOnce(&Emit<'c>, Float<'c>, Float<'c>) -> Float<'c>,
) {
    let spec = k.spec;
    by_row(k, |e, row| {
        let at = |i: usize| e.at(e.operand(i), e.mul_const(row, stride(spec, i)));
        let (a, b, out) = (at(0), at(1), at(2));
        e.each(e.thread(), e.int(width), THREADS, |e, i| {
            e.store(out, i, f(e, e.load(a, i), e.load(b, i)).into());
        });
    });
}

/// `out = x * sigmoid(g)`, one g an element or a head.
pub fn gate(k: &mut Maker<'_, '_>, heads: u64, v_dim: u64, mode: GateMode) {
    let spec = k.spec;
    by_row(k, |e, row| {
        let at = |i: usize| e.at(e.operand(i), e.mul_const(row, stride(spec, i)));
        let (x, gates, out) = (at(0), at(1), at(2));
        e.each(e.thread(), e.int(heads * v_dim), THREADS, |e, i| {
            let place = if mode == GateMode::Head { e.div_rem(i, v_dim).0 } else { i };
            let y = e.fmul(e.load(x, i), e.sigmoid(e.load(gates, place)));
            e.store(out, i, y.into());
        });
    });
}

/// `out[o] = x[out_rows[o]]`.
pub fn gather(k: &mut Maker<'_, '_>, width: u64) {
    let spec = k.spec;
    by_row(k, |e, row| {
        let from = e.load_int(e.list(offset_of!(StepContext, out_rows)), row);
        let x = e.at(e.operand(0), e.mul_const(from, stride(spec, 0)));
        let out = e.at(e.operand(1), e.mul_const(row, stride(spec, 1)));
        e.each(e.thread(), e.int(width), THREADS, |e, i| {
            e.store(out, i, e.load_elem(Elem::F32, x, i).into());
        });
    });
}
