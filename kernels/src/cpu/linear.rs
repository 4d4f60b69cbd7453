//! `Linear`: y = W x with a fused norm before and SwiGLU or a residual sum after.
//!
//! Item: one panel of 16 outputs, all rows. Reference: `reference::linear::linear`. Scratch: the normalised
//! rows, where there is a norm; each call makes them anew, which costs one row's norm per `out / 16 / calls`
//! panels of products.

use cranelift_codegen::ir::Value;
use hyc_plan::{Epilogue, KernelSpec};
use hyc_plan::{PANEL, ROW_ALIGN, round_up};

use super::emit::Emit;
use super::product::Product;

/// The input rows of a product: `x`, or its normalised rows in scratch. Returns address and stride.
pub fn input(e: &mut Emit<'_>, spec: &KernelSpec, in_features: u64, norm: Option<f64>) -> (Value, u64) {
    let x = e.operand("x");
    let Some(eps) = norm else { return (x, e.stride("x")) };
    let bytes = 4 * round_up(in_features, ROW_ALIGN);
    let to = e.scratch(spec.max_rows * bytes);
    let weight = e.operand("norm");
    let (zero, rows) = (e.int(0), e.rows(spec));
    e.each(zero, rows, 1, |e, row| {
        let (x, to) = (e.at(x, row, e.stride("x")), e.at(to, row, bytes));
        e.normalise(x, weight, to, in_features, eps);
    });
    (to, bytes)
}

/// Emits the kernel.
pub fn emit(e: &mut Emit<'_>, spec: &KernelSpec, in_features: u64, norm: Option<f64>, epilogue: Epilogue) {
    let (x, x_stride) = input(e, spec, in_features, norm);
    let product = Product::of(e, "weight", in_features, x_stride);
    let (w, out, rows) = (e.operand("weight"), e.operand("out"), e.rows(spec));
    let second = match epilogue {
        Epilogue::Store => None,
        Epilogue::Residual => Some(e.operand("residual")),
        Epilogue::SwiGlu => Some(e.operand("up")),
    };
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, panel| {
        let w = e.at(w, panel, product.panel_bytes());
        let column = e.mul_const(panel, 4 * PANEL);
        let out = e.add(out, column);
        let place = |e: &mut Emit<'_>, base: Value, name: &str, row: Value| e.at(base, row, e.stride(name));
        match (epilogue, second) {
            (Epilogue::Residual, Some(residual)) => {
                let residual = e.add(residual, column);
                product.all_rows(e, x, rows, w, &|e, quad| {
                    let to = place(e, out, "out", quad.row);
                    let from = place(e, residual, "residual", quad.row);
                    let offset = 16 * quad.vector as i32;
                    let r = e.load4(from, offset);
                    let y = e.fadd(quad.sum, r);
                    e.store(y, to, offset);
                });
            }
            (Epilogue::SwiGlu, Some(up)) => {
                // The gate's products wait in the output for those of up: both tiles at once do not fit
                // in sixteen registers.
                product.all_rows(e, x, rows, w, &|e, quad| {
                    let to = place(e, out, "out", quad.row);
                    e.store(quad.sum, to, 16 * quad.vector as i32);
                });
                let product = Product::of(e, "up", in_features, x_stride);
                let up = e.at(up, panel, product.panel_bytes());
                product.all_rows(e, x, rows, up, &|e, quad| {
                    let to = place(e, out, "out", quad.row);
                    let offset = 16 * quad.vector as i32;
                    let gate = e.load4(to, offset);
                    let gate = e.silu4(gate);
                    let y = e.fmul(gate, quad.sum);
                    e.store(y, to, offset);
                });
            }
            (Epilogue::Store, _) | (Epilogue::Residual | Epilogue::SwiGlu, None) => {
                product.all_rows(e, x, rows, w, &|e, quad| {
                    let to = place(e, out, "out", quad.row);
                    e.store(quad.sum, to, 16 * quad.vector as i32);
                })
            }
        }
    });
}
