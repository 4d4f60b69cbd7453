//! `Linear`: y = W x with a fused norm before and SwiGLU or a residual sum after.
//!
//! Block: one panel of 16 outputs for a tile of rows. Reference: `reference::linear::linear`.

use hyc_ir::abi::PANEL;
use hyc_ir::plan::{Elem, Epilogue, Extent, KernelSpec, Layout};

use super::dense::{self, Matrix};
use super::emit::{Emit, Int, Ptr};
use super::product::{self, Input, Place, THREADS};
use super::{Maker, stride, weight};

/// Rows of a tile: eight sums of a row are eight registers of every thread.
const TILE: u64 = 4;

/// Rows of a tile of this kernel.
pub fn tile(spec: &KernelSpec) -> u64 {
    TILE.min(spec.max_rows)
}

/// The step's rows.
pub fn row_count<'c>(e: &Emit<'c>, spec: &KernelSpec) -> Int<'c> {
    use std::mem::offset_of;
    e.count(match spec.rows {
        hyc_ir::plan::Rows::Tokens => offset_of!(hyc_ir::abi::StepContext, tokens),
        hyc_ir::plan::Rows::Outputs => offset_of!(hyc_ir::abi::StepContext, outputs),
    })
}

/// The input rows of this block's tile (rows past the end are the last one again), with their norm; and the
/// tile's first row.
pub fn input<'c>(e: &Emit<'c>, spec: &KernelSpec, inn: u64, norm: Option<f64>) -> (Input<'c>, Int<'c>) {
    let last = e.add_const(row_count(e, spec), -1);
    let first = e.mul_const(e.block_y(), tile(spec));
    let x = e.operand(0);
    let rows: Vec<Ptr<'c>> = (0..tile(spec))
        .map(|i| {
            let row = e.min(e.add_const(first, i as i64), last);
            e.at(x, e.mul_const(row, stride(spec, 0)))
        })
        .collect();
    let norm = norm.map(|eps| (e.operand(1), product::inverse_rms(e, &rows, inn, eps)));
    (Input { rows, norm, inn }, first)
}

/// The address of a panel.
pub fn panel_at<'c>(e: &Emit<'c>, elem: Elem, matrix: Ptr<'c>, panel: Int<'c>, inn: u64) -> Ptr<'c> {
    let at = e.mul_const(e.wide(panel), PANEL * inn);
    e.at_elem(elem, matrix, at)
}

/// Whether this thread has a result, and the row it is for.
pub fn mine<'c>(e: &Emit<'c>, spec: &KernelSpec, first: Int<'c>, place: &Place<'c>) -> (Int<'c>, Int<'c>) {
    let row = e.add(first, place.row);
    let inside = e.and(e.lt(place.row, e.int(tile(spec))), e.lt(row, row_count(e, spec)));
    (inside, row)
}

/// The kernel for weights in tiles.
fn tiled(k: &mut Maker<'_, '_>, inn: u64, out: u64, norm: Option<f64>, epilogue: Epilogue) {
    let spec = k.spec;
    let at = 1 + usize::from(norm.is_some());
    let out_at = spec.operands.len() - 1;
    let up = (epilogue == Epilogue::SwiGlu).then_some(at + 1);
    let matrices = vec![Matrix { at, out, column: 0 }];
    dense::product(k, inn, norm, matrices, up, None, &|e, row, column, value| {
        let place = |i: usize| e.add(e.mul_const(row, stride(spec, i)), column);
        let value = match epilogue {
            Epilogue::Residual => e.fadd(value, e.load(e.operand(at + 1), place(at + 1))),
            _ => value,
        };
        e.store(e.operand(out_at), place(out_at), value.into());
    });
}

/// Makes the kernel.
pub fn linear(k: &mut Maker<'_, '_>, inn: u64, norm: Option<f64>, epilogue: Epilogue) {
    let spec = k.spec;
    let at = 1 + usize::from(norm.is_some());
    let (elem, layout) = weight(spec, at);
    let out = match layout {
        Layout::Panels { out, .. } => out,
        Layout::Tiles { out, .. } => return tiled(k, inn, out, norm, epilogue),
        _ => return,
    };
    let grid = [Extent::fixed(layout.panels()), k.rows(1, tile(spec))];
    k.launch("", grid, THREADS, |e| {
        let (input, first) = input(e, spec, inn, norm);
        let panel = e.block_x();
        let (place, sum) = product::panel(e, elem, panel_at(e, elem, e.operand(at), panel, inn), &input);
        let column = e.add(e.mul_const(panel, PANEL), place.column);
        let value = match epilogue {
            Epilogue::SwiGlu => {
                let up = panel_at(e, weight(spec, at + 1).0, e.operand(at + 1), panel, inn);
                let (_, up) = product::panel(e, weight(spec, at + 1).0, up, &input);
                e.fmul(e.silu(sum), up)
            }
            _ => sum,
        };
        let (inside, row) = mine(e, spec, first, &place);
        let inside = e.and(inside, e.lt(column, e.int(out)));
        let out_at = spec.operands.len() - 1;
        e.when(inside, |e| {
            let mut value = value;
            if epilogue == Epilogue::Residual {
                let residual =
                    e.load(e.operand(at + 1), e.add(e.mul_const(row, stride(spec, at + 1)), column));
                value = e.fadd(value, residual);
            }
            e.store(e.operand(out_at), e.add(e.mul_const(row, stride(spec, out_at)), column), value.into());
        });
    });
}
