//! `Linear`: y = W x with a fused norm before and SwiGLU or a residual sum after.
//!
//! Block: one panel of 16 outputs for a tile of rows. Reference: `reference::linear::linear`.

use hyc_plan::ops::Linear;
use hyc_plan::{Epilogue, Extent, Layout, PANEL};

use super::large_m::large_m;
use super::matrices::{Matrix, Product, To, blocks};
use super::panel::{self, Input, Place, THREADS, input, mine, panel_at, tile};
use super::product::{M1, MANY_ROWS_OF_STRIPS, WGMMA, WGMMA128, few_rows, pack_x};
use super::small_m::small_m;
use super::stored::Stored;
use super::stream;
use super::wgmma::{NARROW, WIDE};
use super::wgmma_strips::strips_large_m;
use crate::gpu::function::{Function, Kernel, NO_PRODUCT};
use crate::gpu::isa::{Emit, Float, Int};

/// Where (row, column) stands in a tensor.
fn place<'c>(e: &Emit<'c>, name: &str, row: Int<'c>, column: Int<'c>) -> Int<'c> {
    e.add(e.mul_const(row, e.stride(name)), column)
}

/// The kernel for weights in tiles or strips.
fn tiled(k: &mut Kernel<'_, '_>, c: &Linear) {
    let Linear { in_features, out_features: out, norm, epilogue, fp8_rows } = *c;
    let stored = Stored::of(k.format("weight"));
    let product = Product {
        in_features,
        matrices: vec![Matrix { name: "weight", out, column: 0 }],
        stored,
        up: (epilogue == Epilogue::SwiGlu).then_some("up"),
        inputs: pack_x(k, in_features, (norm, fp8_rows.is_some()), (stored, &[WGMMA, WGMMA128])),
        to: To::operand(k, "out"),
        plus: (epilogue == Epilogue::Residual).then_some("residual"),
    };
    let of = (product.weights(), stored);
    for (variant, feed) in few_rows(stored) {
        match variant == M1 && stream::streams(of, blocks(&product, 16), k.multiprocessors) {
            true => stream::linear(k, variant, &product),
            false => small_m(k, variant, &product, feed),
        }
    }
    if let Stored::Strips(codec) = stored {
        for tile in MANY_ROWS_OF_STRIPS {
            strips_large_m(k, tile, (&product, codec));
        }
        return;
    }
    large_m(k, WGMMA, WIDE, &product);
    large_m(k, WGMMA128, NARROW, &product);
}

/// The products of the rows with one panel of a weight.
fn panel_product<'c>(e: &Emit<'c>, name: &str, panel: Int<'c>, input: &Input<'c>) -> (Place<'c>, Float<'c>) {
    let elem = e.elem(name);
    panel::panel(e, elem, panel_at(e, elem, e.operand(name), panel, input.in_features), input)
}

/// Makes the kernel.
pub fn linear(k: &mut Kernel<'_, '_>, c: &Linear) {
    let (spec, Linear { in_features, norm, epilogue, .. }) = (k.spec, *c);
    let layout = k.layout("weight");
    let out = match layout {
        Layout::Panels { out_features: out, .. } => out,
        Layout::Tiles { .. } | Layout::Strips { .. } => return tiled(k, c),
        Layout::Rows { .. } | Layout::Vector { .. } => return k.refuse(NO_PRODUCT),
    };
    let grid = [Extent::fixed(layout.panels()), k.rows(1, tile(spec))];
    k.function(Function::new("", grid, THREADS), |e| {
        let (input, first) = input(e, spec, in_features, norm);
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
