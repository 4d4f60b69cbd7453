//! RMSNorm. Reference: `reference::pointwise::normalise`.
//!
//! One slice per row: the block shares it, a warp's sums meet by shuffles and the warps' in shared memory. Several
//! slices per row (heads): a warp per slice. Either way the row is read once and kept in registers, and the order of
//! the sum is that of the width alone.

use hyc_plan::Elem;

use super::text::{Kernel, THREADS, Team, Value, WARP, vector};

const WARPS: u64 = THREADS / WARP;

/// RMSNorm over each of `groups` slices of `width`.
pub fn rms_norm(k: &mut Kernel<'_>, groups: u64, width: u64, eps: f64) {
    let row = k.row();
    let (x, out) = (k.tensor_row("x", &row), k.tensor_row("out", &row));
    if groups == 1 {
        let block = k.block();
        return slice(k, &block, width, eps, &x, &out);
    }
    let (warp, number) = k.warp();
    let (end, step) = (k.int(groups), k.int(WARPS));
    k.line(format!("scf.for %group = {number} to {end} step {step} : i64 {{"));
    let from = k.with("muli", "%group", width);
    let (x, out) = (k.at(&x, &from, "f32"), k.at(&out, &from, "f32"));
    slice(k, &warp, width, eps, &x, &out);
    k.line("}");
}

fn slice(k: &mut Kernel<'_>, team: &Team, width: u64, eps: f64, x: &str, out: &str) {
    let lanes = if width % 4 == 0 { 4 } else { 1 };
    let kept = k.held(team, width, lanes, x);
    let weights = k.held(team, width, lanes, &k.operand("weight"));
    let sum = sum_of_squares(k, team, lanes, &kept);
    let (width_float, eps, one) = (k.float(width as f32), k.float(eps as f32), k.float(1.0));
    let mean = k.floats_with(1, "divf", &sum, &width_float);
    let mean = k.floats_with(1, "addf", &mean, &eps);
    let root = k.value(format!("math.sqrt {mean} : f32"));
    let scale = k.floats_with(1, "divf", &one, &root);
    let scale = k.splat(lanes, &scale);
    let mut each = kept.iter().zip(&weights);
    k.columns(team, width, lanes, |k, columns| {
        for (column, (x, weight)) in columns.iter().zip(&mut each) {
            let y = k.floats_with(lanes, "mulf", x, &scale);
            let y = k.floats_with(lanes, "mulf", &y, weight);
            k.store(lanes, out, column, &y);
        }
    });
}

/// Every thread of the team gets the sum.
fn sum_of_squares(k: &mut Kernel<'_>, team: &Team, lanes: u64, kept: &[Value]) -> Value {
    let ty = vector(lanes, "f32");
    let mut sum = k.floats(lanes, 0.0);
    for x in kept {
        sum = k.value(format!("math.fma {x}, {x}, {sum} : {ty}"));
    }
    if lanes > 1 {
        sum = k.value(format!("vector.reduction <add>, {sum} : {ty} into f32"));
    }
    let all = k.value("arith.constant -1 : i32");
    let clamp = k.value("arith.constant 31 : i32");
    for mask in [16, 8, 4, 2, 1] {
        let mask = k.value(format!("arith.constant {mask} : i32"));
        let other = k.value(format!("nvvm.shfl.sync bfly {all}, {sum}, {mask}, {clamp} : f32 -> f32"));
        sum = k.floats_with(1, "addf", &sum, &other);
    }
    if team.threads == WARP { sum } else { over_warps(k, &sum) }
}

fn over_warps(k: &mut Kernel<'_>, sum: &str) -> Value {
    let partial = k.shared(WARPS);
    let (warp, number) = k.warp();
    let first = k.below(&warp.index, 1);
    k.line(format!("scf.if {first} {{"));
    let place = shared_at(k, &partial, &number);
    k.line(format!("llvm.store {sum}, {place} : f32, !llvm.ptr<3>\n}}\nnvvm.barrier"));
    let mut total = k.float(0.0);
    for warp in 0..WARPS {
        let number = k.int(warp);
        let place = shared_at(k, &partial, &number);
        let part = k.value(format!("llvm.load {place} : !llvm.ptr<3> -> f32"));
        total = k.floats_with(1, "addf", &total, &part);
    }
    total
}

fn shared_at(k: &mut Kernel<'_>, base: &str, index: &str) -> Value {
    let ty = "!llvm.ptr<3>";
    k.value(format!("llvm.getelementptr {base}[{index}] : ({ty}, i64) -> {ty}, {}", Elem::F32))
}
