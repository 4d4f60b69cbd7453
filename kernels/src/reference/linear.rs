//! Matrix products and what is fused around them.

use hyc_plan::ops::{QkvAppend, gates};
use hyc_plan::{AttnShape, Epilogue};

use super::pointwise::{normalise, rotate, sigmoid};
use super::view::{Views, dot};

/// The rows of `x` with their numbers, normalised where there is a fused norm.
fn inputs(v: &Views, in_features: u64, norm: Option<f64>) -> Vec<(u64, Vec<f64>)> {
    let (x, norm) = (v.tensor("x"), norm.map(|eps| (eps, v.weight("norm"))));
    let input = |row: u64| match &norm {
        Some((eps, weight)) => normalise(&x.row(row, in_features), *eps, |i| weight.get(0, i)),
        None => x.row(row, in_features),
    };
    v.rows().map(|row| (row, input(row))).collect()
}

pub fn linear(v: &Views, in_features: u64, out: u64, norm: Option<f64>, epilogue: Epilogue) {
    let (weight, to) = (v.weight("weight"), v.tensor("out"));
    let inputs = inputs(v, in_features, norm);
    for col in 0..out {
        let w = weight.row(col, in_features as usize);
        let products = inputs.iter().map(|(row, x)| (*row, x, dot(&w, x)));
        match epilogue {
            Epilogue::Store => products.for_each(|(row, _, y)| to.set(row, col, y)),
            Epilogue::Residual => {
                let residual = v.tensor("residual");
                products.for_each(|(row, _, y)| to.set(row, col, y + residual.get(row, col)));
            }
            Epilogue::SwiGlu => {
                let up = v.weight("up").row(col, in_features as usize);
                products.for_each(|(row, x, y)| to.set(row, col, y * sigmoid(y) * dot(&up, x)));
            }
        }
    }
}

pub fn qkv_append(v: &Views, c: &QkvAppend) {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = c.shape;
    let inputs = inputs(v, c.in_features, c.norm);
    let project = |weight: &str, h: u64, dim: u64| {
        let weight = v.weight(weight);
        (h * dim..(h + 1) * dim).map(|row| weight.row(row, c.in_features as usize)).collect::<Vec<_>>()
    };
    let finish = |mut y: Vec<f64>, norm: &str, position: u64| {
        if let Some(eps) = c.qk_norm {
            let weight = v.weight(norm);
            y = normalise(&y, eps, |i| weight.get(0, i));
        }
        rotate(&mut y, position, c.rope);
        y
    };
    let product = |weights: &[Vec<f64>], x: &[f64]| weights.iter().map(|w| dot(w, x)).collect::<Vec<_>>();
    let q_rows = v.tensor("q");
    for h in 0..heads {
        let weights = project("wq", h, qk_dim);
        for (row, x) in &inputs {
            let q = finish(product(&weights, x), "q_norm", v.position(*row));
            q.iter().zip(h * qk_dim..).for_each(|(q, col)| q_rows.set(*row, col, *q));
        }
    }
    for (weight, logits) in gates(c.gates) {
        let to = v.tensor(logits);
        for h in 0..heads {
            let weights = project(weight, h, v_dim);
            for (row, x) in &inputs {
                product(&weights, x).iter().zip(h * v_dim..).for_each(|(y, col)| to.set(*row, col, *y));
            }
        }
    }
    if !c.own_kv {
        return;
    }
    let cache = v.cache("cache");
    for h in 0..kv_heads {
        let (keys, values) = (project("wk", h, qk_dim), project("wv", h, v_dim));
        for (row, x) in &inputs {
            let (sequence, position) = (v.sequence(*row), v.position(*row));
            let k = finish(product(&keys, x), "k_norm", position);
            k.iter().zip(0..).for_each(|(k, d)| cache.set_key(sequence, position, h, d, *k));
            let values = product(&values, x);
            values.iter().zip(0..).for_each(|(x, d)| cache.set_value(sequence, position, h, d, *x));
        }
    }
}
