//! Matrix products and what is fused around them.

use hyc_ir::plan::{AttnShape, Epilogue, RopeSpec};

use super::pointwise::{normalise, rotate, sigmoid};
use super::view::Views;

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

pub fn linear(v: &Views, inn: u64, out: u64, norm: Option<f64>, epilogue: Epilogue) {
    let at = 1 + usize::from(norm.is_some());
    let weight = v.weight(at);
    for row in 0..v.rows() {
        let x = input(v, row, inn, norm);
        for col in 0..out {
            let product = weight.dot(col, &x);
            match epilogue {
                Epilogue::Store => v.set(at + 1, row, col, product),
                Epilogue::Residual => v.set(at + 2, row, col, product + v.get(at + 1, row, col)),
                Epilogue::SwiGlu => {
                    v.set(at + 2, row, col, product * sigmoid(product) * v.weight(at + 1).dot(col, &x));
                }
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
    let head = |x: &[f64], weight: usize, norm: usize, head: u64, position: u64| {
        let weight = v.weight(weight);
        let mut y: Vec<f64> = (head * qk_dim..(head + 1) * qk_dim).map(|row| weight.dot(row, x)).collect();
        if let Some(eps) = c.qk_norm {
            let weight = v.weight(norm);
            y = normalise(&y, eps, |i| weight.get(0, i));
        }
        rotate(&mut y, position, c.rope);
        y
    };
    for row in 0..v.rows() {
        let x = input(v, row, c.inn, c.norm);
        let (sequence, position) = (v.sequence(row), v.position(row));
        for h in 0..heads {
            let q = head(&x, wq, norms, h, position);
            q.iter().zip(h * qk_dim..).for_each(|(q, col)| v.set(q_out, row, col, *q));
        }
        if !c.own_kv {
            continue;
        }
        let (cache, wv) = (v.cache(q_out + 1), v.weight(wq + 2));
        for h in 0..kv_heads {
            let k = head(&x, wq + 1, norms + 1, h, position);
            k.iter().zip(0..).for_each(|(k, d)| cache.set_key(sequence, position, h, d, *k));
            (0..v_dim).for_each(|d| cache.set_value(sequence, position, h, d, wv.dot(h * v_dim + d, &x)));
        }
    }
}
