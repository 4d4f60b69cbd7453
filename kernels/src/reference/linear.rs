//! Matrix products and what is fused around them.

use hyc_ir::plan::{AttnShape, Epilogue, RopeSpec};

use super::pointwise::{normalise, rotate, sigmoid};
use super::view::{Views, dot};

/// A row of operand 0, normalised with operand 1 where there is a fused norm.
fn input(v: &Views, row: u64, inn: u64, norm: Option<f64>) -> Vec<f64> {
    let x = v.row(0, row, inn);
    match norm {
        Some(eps) => {
            let weight = v.weight(1);
            normalise(&x, eps, |i| weight.get(0, i))
        }
        None => x,
    }
}

/// All rows' inputs with their numbers.
fn inputs(v: &Views, inn: u64, norm: Option<f64>) -> Vec<(u64, Vec<f64>)> {
    v.rows().map(|row| (row, input(v, row, inn, norm))).collect()
}

pub fn linear(v: &Views, inn: u64, out: u64, norm: Option<f64>, epilogue: Epilogue) {
    let at = 1 + usize::from(norm.is_some());
    let weight = v.weight(at);
    let inputs = inputs(v, inn, norm);
    for col in 0..out {
        let w = weight.row(col, inn as usize);
        let u = (epilogue == Epilogue::SwiGlu).then(|| v.weight(at + 1).row(col, inn as usize));
        for (row, x) in &inputs {
            let product = dot(&w, x);
            match (epilogue, &u) {
                (Epilogue::Residual, _) => v.set(at + 2, *row, col, product + v.get(at + 1, *row, col)),
                (Epilogue::SwiGlu, Some(u)) => {
                    v.set(at + 2, *row, col, product * sigmoid(product) * dot(u, x));
                }
                _ => v.set(at + 1, *row, col, product),
            }
        }
    }
}

/// The constants of a `QkvAppend`.
pub struct Qkv {
    pub inn: u64,
    pub shape: AttnShape,
    pub norm: Option<f64>,
    pub qk_norm: Option<f64>,
    pub rope: RopeSpec,
    pub own_kv: bool,
}

pub fn qkv_append(v: &Views, c: &Qkv) {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = c.shape;
    let wq = 1 + usize::from(c.norm.is_some());
    let norms = wq + if c.own_kv { 3 } else { 1 };
    let q_out = norms + usize::from(c.qk_norm.is_some()) * (1 + usize::from(c.own_kv));
    let inputs = inputs(v, c.inn, c.norm);
    let project = |weight: usize, h: u64, dim: u64| {
        let weight = v.weight(weight);
        (h * dim..(h + 1) * dim).map(|row| weight.row(row, c.inn as usize)).collect::<Vec<_>>()
    };
    let finish = |mut y: Vec<f64>, norm: usize, position: u64| {
        if let Some(eps) = c.qk_norm {
            let weight = v.weight(norm);
            y = normalise(&y, eps, |i| weight.get(0, i));
        }
        rotate(&mut y, position, c.rope);
        y
    };
    let product = |weights: &[Vec<f64>], x: &[f64]| weights.iter().map(|w| dot(w, x)).collect::<Vec<_>>();
    for h in 0..heads {
        let weights = project(wq, h, qk_dim);
        for (row, x) in &inputs {
            let q = finish(product(&weights, x), norms, v.position(*row));
            q.iter().zip(h * qk_dim..).for_each(|(q, col)| v.set(q_out, *row, col, *q));
        }
    }
    if !c.own_kv {
        return;
    }
    let cache = v.cache(q_out + 1);
    for h in 0..kv_heads {
        let (keys, values) = (project(wq + 1, h, qk_dim), project(wq + 2, h, v_dim));
        for (row, x) in &inputs {
            let (sequence, position) = (v.sequence(*row), v.position(*row));
            let k = finish(product(&keys, x), norms + 1, position);
            k.iter().zip(0..).for_each(|(k, d)| cache.set_key(sequence, position, h, d, *k));
            let values = product(&values, x);
            values.iter().zip(0..).for_each(|(x, d)| cache.set_value(sequence, position, h, d, *x));
        }
    }
}
