//! Router and experts.

use super::attention::select_top;
use super::pointwise::sigmoid;
use super::view::Views;

pub fn router(v: &Views, experts: u64, active: u64) {
    let (logits, index, share) = (v.tensor("logits"), v.tensor("index"), v.tensor("weight"));
    for row in v.rows() {
        let logits = logits.row(row, experts);
        let top = select_top(&logits, active as usize);
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |e: i32| (logits[e as usize] - max).exp();
        // One logit that is no number makes the whole softmax none.
        let poison: f64 = logits.iter().filter(|x| x.is_nan()).sum();
        let sum: f64 = top.iter().map(|e| weight(*e)).sum::<f64>() + poison;
        for (expert, slot) in top.iter().zip(0..) {
            index.set_int(row, slot, *expert);
            share.set(row, slot, weight(*expert) / sum);
        }
    }
}

pub fn up(v: &Views, active: u64, in_features: u64, ffn: u64) {
    let (x, index, h) = (v.tensor("x"), v.tensor("index"), v.tensor("h"));
    let (gate, up) = (v.weight("gate"), v.weight("up"));
    for row in v.rows() {
        let x = x.row(row, in_features);
        for slot in 0..active {
            let expert = index.get_int(row, slot) as u64;
            for col in 0..ffn {
                let g = gate.dot(expert * ffn + col, &x);
                h.set(row, slot * ffn + col, g * sigmoid(g) * up.dot(expert * ffn + col, &x));
            }
        }
    }
}

pub fn down(v: &Views, active: u64, out: u64, ffn: u64) {
    let (h, index, share) = (v.tensor("h"), v.tensor("index"), v.tensor("weight"));
    let (down, residual, to) = (v.weight("down"), v.tensor("residual"), v.tensor("out"));
    for row in v.rows() {
        let h = h.row(row, active * ffn);
        for col in 0..out {
            let part = |slot: u64| {
                let expert = index.get_int(row, slot) as u64;
                let h = &h[(slot * ffn) as usize..((slot + 1) * ffn) as usize];
                share.get(row, slot) * down.dot(expert * out + col, h)
            };
            to.set(row, col, residual.get(row, col) + (0..active).map(part).sum::<f64>());
        }
    }
}
