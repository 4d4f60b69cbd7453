//! Rows in, rows out.

use hyc_ir::plan::{GateMode, RopeSpec};

use super::view::Views;

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
        let angle = position as f64 * rope.theta.powf(-2.0 * i as f64 / rope.dims as f64);
        let (sin, cos) = angle.sin_cos();
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}

fn store(v: &Views, i: usize, row: u64, from: u64, values: &[f64]) {
    for (value, col) in values.iter().zip(from..) {
        v.set(i, row, col, *value);
    }
}

pub fn embed(v: &Views, hidden: u64) {
    let table = v.weight(0);
    for row in v.rows() {
        let id = v.token_id(row);
        (0..hidden).for_each(|col| v.set(1, row, col, table.get(id, col)));
    }
}

pub fn rmsnorm(v: &Views, groups: u64, width: u64, eps: f64) {
    let weight = v.weight(1);
    for row in v.rows() {
        let x = v.row(0, row, groups * width);
        for (group, from) in x.chunks(width as usize).zip((0..).step_by(width as usize)) {
            store(v, 2, row, from, &normalise(group, eps, |i| weight.get(0, i)));
        }
    }
}

pub fn rope(v: &Views, heads: u64, dim: u64, rope: RopeSpec) {
    for row in v.rows() {
        let mut x = v.row(0, row, heads * dim);
        x.chunks_mut(dim as usize).for_each(|head| rotate(head, v.position(row), rope));
        store(v, 1, row, 0, &x);
    }
}

pub fn append(v: &Views, kv_heads: u64, qk_dim: u64, v_dim: u64) {
    let cache = v.cache(2);
    for row in v.rows() {
        let (sequence, position) = (v.sequence(row), v.position(row));
        for head in 0..kv_heads {
            (0..qk_dim)
                .for_each(|d| cache.set_key(sequence, position, head, d, v.get(0, row, head * qk_dim + d)));
            (0..v_dim)
                .for_each(|d| cache.set_value(sequence, position, head, d, v.get(1, row, head * v_dim + d)));
        }
    }
}

pub fn binary(v: &Views, width: u64, f: impl Fn(f64, f64) -> f64) {
    for row in v.rows() {
        (0..width).for_each(|col| v.set(2, row, col, f(v.get(0, row, col), v.get(1, row, col))));
    }
}

pub fn gate(v: &Views, heads: u64, v_dim: u64, mode: GateMode) {
    for row in v.rows() {
        for col in 0..heads * v_dim {
            let g = if mode == GateMode::Head { col / v_dim } else { col };
            v.set(2, row, col, v.get(0, row, col) * sigmoid(v.get(1, row, g)));
        }
    }
}

pub fn gather(v: &Views, width: u64) {
    for output in v.rows() {
        let row = v.out_row(output);
        (0..width).for_each(|col| v.set(1, output, col, v.get(0, row, col)));
    }
}

pub fn sample(v: &Views, vocab: u64) {
    for output in v.rows() {
        // Logits are f32 in memory: nothing is lost.
        let mut logits: Vec<f32> = v.row(0, output, vocab).into_iter().map(|x| x as f32).collect();
        let token = hyc_ir::sample::penalise_and_choose(&mut logits, &v.sampling(output), v.seen());
        v.set_int(1, output, 0, token.map_or(-1, |token| token as i32));
    }
}
