//! Products of bf16 tiles on tensor cores, `y = W x`: for a few rows (bound by the bytes of W) and for many (bound by
//! the tensor cores). The rows are packed first.

use super::pack_rows::{Packed, pack, packed_bytes};
use crate::gpu::function::Kernel;

/// Products of 8 and of 32 rows per block by `small_m`, and of 128 by `wgmma`, in wide and in narrow tiles.
pub const M8: &str = "m8";
pub const M32: &str = "m32";
pub const WGMMA: &str = "wgmma";
pub const WGMMA128: &str = "wgmma128";

/// Adds the launch that packs the rows of the operand `x`, with the weight of their norm in `norm`. Returns where they are
/// in scratch.
pub fn pack_x(k: &mut Kernel<'_, '_>, in_features: u64, norm: Option<f64>) -> u64 {
    let rows_at = k.scratch(packed_bytes(k.spec.max_rows, in_features));
    let rows = Packed { part: "_pack", grid: k.rows(1, 1), in_features, norm, to: rows_at, variants: &[] };
    pack(k, &rows, &|e, row| {
        let from = e.mul_const(e.wide(row), e.stride("x"));
        (e.at(e.operand("x"), from), row)
    });
    rows_at
}
