//! `Linear`: y = W x with a fused norm before and SwiGLU or a residual sum after.
//!
//! Block: one panel of 16 outputs for a tile of rows. Reference: `reference::linear::linear`.

use hyc_plan::PANEL;
use hyc_plan::{Elem, Epilogue, Extent, KernelSpec, Layout};

use crate::gpu::function::{Function, Kernel, NO_PRODUCT};
use crate::gpu::gemm::panel::{self, Input, Place, THREADS};
use crate::gpu::gemm::small_m::{self, Matrix};
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::work_item::row_count;

/// Rows of a tile: eight sums of a row are eight registers of every thread.
const TILE: u64 = 4;

/// Rows of a tile of this kernel.
pub fn tile(spec: &KernelSpec) -> u64 {
    TILE.min(spec.max_rows)
}

/// The input rows of this block's tile (rows past the end are the last one again), with their norm; and the
/// tile's first row.
pub fn input<'c>(e: &Emit<'c>, spec: &KernelSpec, inn: u64, norm: Option<f64>) -> (Input<'c>, Int<'c>) {
    let last = e.add_const(row_count(e, spec), -1);
    let first = e.mul_const(e.block_y(), tile(spec));
    let rows: Vec<Ptr<'c>> =
        (0..tile(spec)).map(|i| e.row("x", e.min(e.add_const(first, i as i64), last))).collect();
    let norm = norm.map(|eps| (e.operand("norm"), panel::inverse_rms(e, &rows, inn, eps)));
    (Input { rows, norm, inn }, first)
}

/// Where (row, column) stands in a tensor.
fn place<'c>(e: &Emit<'c>, name: &str, row: Int<'c>, column: Int<'c>) -> Int<'c> {
    e.add(e.mul_const(row, e.stride(name)), column)
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
fn tiled(k: &mut Kernel<'_, '_>, inn: u64, out: u64, norm: Option<f64>, epilogue: Epilogue) {
    let up = (epilogue == Epilogue::SwiGlu).then_some("up");
    let matrices = vec![Matrix { name: "weight", out, column: 0 }];
    small_m::product(k, inn, norm, matrices, up, None, &|e, row, column, value| {
        let value = match epilogue {
            Epilogue::Residual => {
                e.fadd(value, e.load(e.operand("residual"), place(e, "residual", row, column)))
            }
            Epilogue::Store | Epilogue::SwiGlu => value,
        };
        e.store(e.operand("out"), place(e, "out", row, column), value.into());
    });
}

/// The products of the rows with one panel of a weight.
fn panel_product<'c>(e: &Emit<'c>, name: &str, panel: Int<'c>, input: &Input<'c>) -> (Place<'c>, Float<'c>) {
    let elem = e.elem(name);
    panel::panel(e, elem, panel_at(e, elem, e.operand(name), panel, input.inn), input)
}

/// Makes the kernel.
pub fn linear(k: &mut Kernel<'_, '_>, inn: u64, norm: Option<f64>, epilogue: Epilogue) {
    let spec = k.spec;
    let layout = k.layout("weight");
    let out = match layout {
        Layout::Panels { out, .. } => out,
        Layout::Tiles { out, .. } => return tiled(k, inn, out, norm, epilogue),
        Layout::Rows { .. } | Layout::Vector { .. } => return k.refuse(NO_PRODUCT),
    };
    let grid = [Extent::fixed(layout.panels()), k.rows(1, tile(spec))];
    k.function(Function::new("", grid, THREADS), |e| {
        let (input, first) = input(e, spec, inn, norm);
        let panel = e.block_x();
        let (result, sum) = panel_product(e, "weight", panel, &input);
        let column = e.add(e.mul_const(panel, PANEL), result.column);
        let value = match epilogue {
            Epilogue::SwiGlu => {
                let (_, up) = panel_product(e, "up", panel, &input);
                e.fmul(e.silu(sum), up)
            }
            Epilogue::Store | Epilogue::Residual => sum,
        };
        let (inside, row) = mine(e, spec, first, &result);
        let inside = e.and(inside, e.lt(column, e.int(out)));
        e.when(inside, |e| {
            let mut value = value;
            if epilogue == Epilogue::Residual {
                let residual = e.load(e.operand("residual"), place(e, "residual", row, column));
                value = e.fadd(value, residual);
            }
            e.store(e.operand("out"), place(e, "out", row, column), value.into());
        });
    });
}
