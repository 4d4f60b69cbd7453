//! `Rope`. Reference: `reference::pointwise::rotate`.
//!
//! A thread rotates pairs `(i, i + dims/2)` of a head; what is not rotated is copied. Angles are counted in f64
//! turns, of which the whole ones go before the sine is taken in f32: positions may be in the millions.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{Elem, RopeSpec};

use super::text::{Kernel, Team, Value, vector};

/// RoPE over `heads` heads of `dim` elements.
pub fn rope(k: &mut Kernel<'_>, heads: u64, dim: u64, rope: RopeSpec) {
    let half = rope.dims / 2;
    let (team, row) = (k.block(), k.row());
    let (x, out) = (k.tensor_row("x", &row), k.tensor_row("out", &row));
    if half > 0 {
        let position = k.context_list(offset_of!(StepContext, positions), &row);
        let position = k.value(format!("arith.uitofp {position} : i64 to f64"));
        let turn = |i: u64| rope.frequency(i) / std::f64::consts::TAU;
        let table = k.table(&(0..half).map(turn).collect::<Vec<_>>());
        let lanes = if half % 4 == 0 && dim % 4 == 0 { 4 } else { 1 };
        k.columns(&team, heads * half, lanes, |k, columns| {
            for column in columns {
                let (head, i) = (k.with("divui", column, half), k.with("remui", column, half));
                let head = k.with("muli", &head, dim);
                let near = k.add(&head, &i);
                let far = k.with("addi", &near, half);
                let [a, b] = [&near, &far].map(|at| k.load(Elem::F32, lanes, &x, at));
                let (sin, cos) = sin_cos(k, lanes, &table, &i, &position);
                let (sin, cos) = (grown(k, lanes, sin, rope), grown(k, lanes, cos, rope));
                let [near_cos, near_sin] = [&cos, &sin].map(|f| k.floats_with(lanes, "mulf", &a, f));
                let [far_cos, far_sin] = [&cos, &sin].map(|f| k.floats_with(lanes, "mulf", &b, f));
                let first = k.floats_with(lanes, "subf", &near_cos, &far_sin);
                let second = k.floats_with(lanes, "addf", &far_cos, &near_sin);
                k.store(lanes, &out, &near, &first);
                k.store(lanes, &out, &far, &second);
            }
        });
    }
    copy_rest(k, &team, heads, dim, rope.dims, &x, &out);
}

/// Sine and cosine of the position times the turns of pairs from i on.
fn sin_cos(k: &mut Kernel<'_>, lanes: u64, table: &str, i: &str, position: &str) -> (Value, Value) {
    let (wide, narrow) = (vector(lanes, "f64"), vector(lanes, "f32"));
    let place = k.at(table, i, "f64");
    let align = (8 * lanes).min(16);
    let turns = k.value(format!("llvm.load {place} {{alignment = {align} : i64}} : !llvm.ptr<1> -> {wide}"));
    let all = |k: &mut Kernel<'_>, x: &str| match lanes {
        1 => x.to_string(),
        _ => k.value(format!("vector.broadcast {x} : f64 to {wide}")),
    };
    let position = all(k, position);
    let turns = k.value(format!("arith.mulf {turns}, {position} : {wide}"));
    let whole = k.value(format!("math.roundeven {turns} : {wide}"));
    let rest = k.value(format!("arith.subf {turns}, {whole} : {wide}"));
    let tau = k.value(format!("arith.constant {:?} : f64", std::f64::consts::TAU));
    let tau = all(k, &tau);
    let angle = k.value(format!("arith.mulf {rest}, {tau} : {wide}"));
    let angle = k.value(format!("arith.truncf {angle} : {wide} to {narrow}"));
    let sin = k.value(format!("math.sin {angle} fastmath<afn> : {narrow}"));
    (sin, k.value(format!("math.cos {angle} fastmath<afn> : {narrow}")))
}

/// A sine or cosine times the magnitude.
fn grown(k: &mut Kernel<'_>, lanes: u64, x: Value, rope: RopeSpec) -> Value {
    if rope.magnitude() == 1.0 {
        return x;
    }
    let ty = vector(lanes, "f32");
    let constant = match lanes {
        1 => format!("{:?}", rope.magnitude() as f32),
        _ => format!("dense<{:?}>", rope.magnitude() as f32),
    };
    let magnitude = k.value(format!("arith.constant {constant} : {ty}"));
    k.floats_with(lanes, "mulf", &x, &magnitude)
}

/// Copies what follows the rotated dims of each head.
fn copy_rest(k: &mut Kernel<'_>, team: &Team, heads: u64, dim: u64, dims: u64, x: &str, out: &str) {
    let rest = dim - dims;
    if rest == 0 {
        return;
    }
    let lanes = if [rest, dims].iter().all(|n| n % 4 == 0) { 4 } else { 1 };
    k.columns(team, heads * rest, lanes, |k, columns| {
        for column in columns {
            let (head, i) = (k.with("divui", column, rest), k.with("remui", column, rest));
            let head = k.with("muli", &head, dim);
            let place = k.add(&head, &i);
            let place = k.with("addi", &place, dims);
            let value = k.load(Elem::F32, lanes, x, &place);
            k.store(lanes, out, &place, &value);
        }
    });
}
