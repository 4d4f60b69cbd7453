//! Router and experts.

use super::attention::select_top;
use super::pointwise::sigmoid;
use super::view::Views;

pub fn router(v: &Views, experts: u64, active: u64) {
    for row in v.rows() {
        let logits = v.row(0, row, experts);
        let top = select_top(&logits, active as usize);
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |e: i32| (logits[e as usize] - max).exp();
        // One logit that is no number makes the whole softmax none.
        let poison: f64 = logits.iter().filter(|x| x.is_nan()).sum();
        let sum: f64 = top.iter().map(|e| weight(*e)).sum::<f64>() + poison;
        for (expert, slot) in top.iter().zip(0..) {
            v.set_int(1, row, slot, *expert);
            v.set(2, row, slot, weight(*expert) / sum);
        }
    }
}

pub fn up(v: &Views, active: u64, inn: u64, ffn: u64) {
    let (gate, up) = (v.weight(2), v.weight(3));
    for row in v.rows() {
        let x = v.row(0, row, inn);
        for slot in 0..active {
            let expert = v.get_int(1, row, slot) as u64;
            for col in 0..ffn {
                let g = gate.dot(expert * ffn + col, &x);
                v.set(4, row, slot * ffn + col, g * sigmoid(g) * up.dot(expert * ffn + col, &x));
            }
        }
    }
}

pub fn down(v: &Views, active: u64, out: u64, ffn: u64) {
    let down = v.weight(3);
    for row in v.rows() {
        let h = v.row(0, row, active * ffn);
        for col in 0..out {
            let part = |slot: u64| {
                let expert = v.get_int(1, row, slot) as u64;
                let h = &h[(slot * ffn) as usize..((slot + 1) * ffn) as usize];
                v.get(2, row, slot) * down.dot(expert * out + col, h)
            };
            v.set(5, row, col, v.get(4, row, col) + (0..active).map(part).sum::<f64>());
        }
    }
}
