//! Products of bf16 tiles on tensor cores, `y = W x`: for a few rows (bound by the bytes of W) and for many (bound by
//! the tensor cores). The rows are packed first.

use super::matrices::{Matrix, Product, Store};
use super::pack_rows::{Packed, pack, packed_bytes};
use super::small_m::small_m;
use super::wgmma::wgmma;
use crate::gpu::function::Kernel;

/// Rows that `small_m` takes at most; more go to `wgmma`.
pub const SMALL_M: u64 = 64;

/// Adds the functions for few rows: they are packed at `.1` in scratch, and at most `.2`.
pub type SmallM<'a, 'c> = &'a dyn Fn(&mut Kernel<'c, '_>, u64, u64);

/// Adds the launches of a product over the rows of the operand `x`, with the weight of its norm in `norm`. `small`
/// takes the place of `small_m`: it gets where the packed rows are in scratch, and up to how many there are.
pub fn product<'c>(
    k: &mut Kernel<'c, '_>,
    inn: u64,
    norm: Option<f64>,
    matrices: Vec<Matrix>,
    up: Option<&'static str>,
    small: Option<SmallM<'_, 'c>>,
    store: Store<'_, 'c>,
) {
    let spec = k.spec;
    let rows_at = k.scratch(packed_bytes(spec.max_rows, inn));
    let rows = Packed { part: "_pack", grid: k.rows(1, 1), inn, norm, to: rows_at, when: None };
    pack(k, &rows, &|e, row| {
        let from = e.mul_const(e.wide(row), e.stride("x"));
        (e.at(e.operand("x"), from), row)
    });
    let p = Product { inn, matrices, up, rows_at };
    let max = spec.max_rows;
    match small {
        Some(small) => small(k, rows_at, SMALL_M.min(max)),
        None => {
            small_m(k, "_few", &p, 1, (1, max.min(8)), store);
            if max > 8 {
                small_m(k, "_some", &p, 4, (9, SMALL_M.min(max)), store);
            }
        }
    }
    if max > SMALL_M {
        wgmma(k, "_many", &p, SMALL_M + 1, max, store);
    }
}
