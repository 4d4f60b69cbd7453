//! Products of bf16 tiles on tensor cores, `y = W x`: for a few rows (bound by the bytes of W) and for many (bound by
//! the tensor cores). The rows are packed first.

use super::matrices::{Matrix, Product, Store};
use super::pack_rows::{Packed, pack, packed_bytes};
use super::small_m::small_m;
use super::wgmma::wgmma;
use crate::gpu::function::Kernel;

/// Products of 8 and of 32 rows per block by `small_m`, and of 128 by `wgmma`.
pub const M8: &str = "m8";
pub const M32: &str = "m32";
pub const WGMMA: &str = "wgmma";

/// Adds the functions of [`M8`] and [`M32`]: the rows are packed at `.1` in scratch.
pub type SmallM<'a, 'c> = &'a dyn Fn(&mut Kernel<'c, '_>, u64);

/// Adds the launches of a product over the rows of the operand `x`, with the weight of its norm in `norm`. `small`
/// takes the place of `small_m`: it gets where the packed rows are in scratch.
pub fn product<'c>(
    k: &mut Kernel<'c, '_>,
    in_features: u64,
    norm: Option<f64>,
    matrices: Vec<Matrix>,
    up: Option<&'static str>,
    small: Option<SmallM<'_, 'c>>,
    store: Store<'_, 'c>,
) {
    let spec = k.spec;
    let rows_at = k.scratch(packed_bytes(spec.max_rows, in_features));
    let rows = Packed { part: "_pack", grid: k.rows(1, 1), in_features, norm, to: rows_at, variants: &[] };
    pack(k, &rows, &|e, row| {
        let from = e.mul_const(e.wide(row), e.stride("x"));
        (e.at(e.operand("x"), from), row)
    });
    let p = Product { in_features, matrices, up, rows_at };
    match small {
        Some(small) => small(k, rows_at),
        None => {
            small_m(k, M8, &p, 1, store);
            small_m(k, M32, &p, 4, store);
        }
    }
    wgmma(k, WGMMA, &p, store);
}
