//! Rows in, rows out.

use hyc_plan::{GateMode, RopeSpec, ops};

use super::view::{TensorView, Views};

/// 1 / (1 + exp(-x)).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 1910.07467).
pub fn normalise(x: &[f64], eps: f64, weight: impl Fn(u64) -> f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(0..).map(|(x, i)| x * scale * weight(i)).collect()
}

/// Rotates one head in place; see [`RopeSpec`].
pub fn rotate(head: &mut [f64], position: u64, rope: RopeSpec) {
    let half = rope.dims as usize / 2;
    for i in 0..half {
        let (sin, cos) = (position as f64 * rope.frequency(i as u64)).sin_cos();
        let (sin, cos) = (sin * rope.magnitude(), cos * rope.magnitude());
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}

fn store(out: TensorView<'_>, row: u64, from: u64, values: &[f64]) {
    for (value, col) in values.iter().zip(from..) {
        out.set(row, col, *value);
    }
}

pub fn embed(v: &Views, hidden: u64) {
    let (table, out) = (v.weight("table"), v.tensor("out"));
    for row in v.rows() {
        let id = v.token_id(row);
        (0..hidden).for_each(|col| out.set(row, col, table.get(id, col)));
    }
}

pub fn rmsnorm(v: &Views, groups: u64, width: u64, eps: f64) {
    let (x, weight, out) = (v.tensor("x"), v.weight("weight"), v.tensor("out"));
    for row in v.rows() {
        let x = x.row(row, groups * width);
        for (group, from) in x.chunks(width as usize).zip((0..).step_by(width as usize)) {
            store(out, row, from, &normalise(group, eps, |i| weight.get(0, i)));
        }
    }
}

pub fn rope(v: &Views, heads: u64, dim: u64, rope: RopeSpec) {
    let (x, out) = (v.tensor("x"), v.tensor("out"));
    for row in v.rows() {
        let mut x = x.row(row, heads * dim);
        x.chunks_mut(dim as usize).for_each(|head| rotate(head, v.position(row), rope));
        store(out, row, 0, &x);
    }
}

pub fn append(v: &Views, kv_heads: u64, qk_dim: u64, v_dim: u64) {
    let (k, v_rows, cache) = (v.tensor("k"), v.tensor("v"), v.cache("cache"));
    for row in v.rows() {
        let (sequence, position) = (v.sequence(row), v.position(row));
        for head in 0..kv_heads {
            (0..qk_dim)
                .for_each(|d| cache.set_key(sequence, position, head, d, k.get(row, head * qk_dim + d)));
            (0..v_dim).for_each(|d| {
                cache.set_value(sequence, position, head, d, v_rows.get(row, head * v_dim + d))
            });
        }
    }
}

pub fn quantise_kv(v: &Views, kv_heads: u64) {
    let (from, cache) = (v.cache("from"), v.cache("cache"));
    for row in v.rows() {
        let (sequence, position) = (v.sequence(row), v.position(row));
        for head in 0..kv_heads {
            cache.quantise((sequence, position), head, false, &from.key(sequence, position, head));
            cache.quantise((sequence, position), head, true, &from.value(sequence, position, head));
        }
    }
}

pub fn binary(v: &Views, width: u64, f: impl Fn(f64, f64) -> f64) {
    let (a, b, out) = (v.tensor("a"), v.tensor("b"), v.tensor("out"));
    for row in v.rows() {
        (0..width).for_each(|col| out.set(row, col, f(a.get(row, col), b.get(row, col))));
    }
}

pub fn bias(v: &Views, width: u64) {
    let (x, weight, out) = (v.tensor("x"), v.weight("weight"), v.tensor("out"));
    for row in v.rows() {
        (0..width).for_each(|col| out.set(row, col, x.get(row, col) + weight.get(0, col)));
    }
}

pub fn gate(v: &Views, heads: u64, v_dim: u64, mode: GateMode) {
    let (x, gate, out) = (v.tensor("x"), v.tensor("gate"), v.tensor("out"));
    for row in v.rows() {
        for col in 0..heads * v_dim {
            let g = if mode == GateMode::Head { col / v_dim } else { col };
            out.set(row, col, x.get(row, col) * sigmoid(gate.get(row, g)));
        }
    }
}

pub fn gather(v: &Views, width: u64) {
    let (x, out) = (v.tensor("x"), v.tensor("out"));
    for output in v.rows() {
        let row = v.out_row(output);
        (0..width).for_each(|col| out.set(output, col, x.get(row, col)));
    }
}

pub fn sample(v: &Views, op: ops::Sample) {
    let (logits, out) = (v.tensor("logits"), v.tensor("token"));
    for output in v.rows() {
        // Logits are f32 in memory: nothing is lost.
        let mut logits: Vec<f32> = logits.row(output, op.vocab).into_iter().map(|x| x as f32).collect();
        let token =
            hyc_plan::sample::penalise_and_choose(&mut logits, op.choices(), &v.sampling(output), v.seen());
        out.set_int(output, 0, token.map_or(-1, |token| token as i32));
    }
}
