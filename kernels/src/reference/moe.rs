//! Router and experts.

use std::ops::Range;

use hyc_plan::ops::{ExpertsDown, ExpertsUp, Router};
use hyc_plan::{RouterRule, Scores};

use super::attention::select_top;
use super::pointwise::sigmoid;
use super::view::Views;

/// What the experts of row `row` are chosen by: a softmax's logits, which have its order, or sigmoids as f32 has them, with
/// their bias.
pub fn choice(v: &Views, op: Router, row: u64) -> Vec<f64> {
    let logits = v.tensor("logits").row(row, op.experts);
    match op.rule.scores {
        Scores::Softmax => logits,
        Scores::Sigmoid => {
            let bias = op.rule.bias.then(|| v.weight("bias"));
            let bias = |e| bias.as_ref().map_or(0.0, |bias| bias.get(0, e));
            logits.into_iter().zip(0..).map(|(x, e)| score(x) + bias(e)).collect()
        }
    }
}

/// A sigmoid as f32 has it: those that are the same there are a tie.
fn score(logit: f64) -> f64 {
    f64::from(sigmoid(logit) as f32)
}

pub fn router(v: &Views, op: Router) {
    let Router { experts, active, rule } = op;
    let (logits, index, share) = (v.tensor("logits"), v.tensor("index"), v.tensor("weight"));
    for row in v.rows() {
        let top = select_top(&choice(v, op, row), active as usize);
        let logits = logits.row(row, experts);
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |e: i32| match rule.scores {
            Scores::Softmax => (logits[e as usize] - max).exp(),
            Scores::Sigmoid => sigmoid(logits[e as usize]),
        };
        // One logit that is no number makes the whole softmax none, and of sigmoids all shares.
        let poison: f64 = logits.iter().filter(|x| x.is_nan()).sum();
        let of_chosen = || top.iter().map(|e| weight(*e)).sum::<f64>();
        let sum = match (rule.scores, rule.whole) {
            (Scores::Softmax, false) => of_chosen(),
            // The whole softmax's denominator, which cancels above.
            (Scores::Softmax, true) => (0..experts as i32).map(weight).sum::<f64>(),
            (Scores::Sigmoid, false) => of_chosen() + f64::from(RouterRule::LEAST),
            (Scores::Sigmoid, true) => 1.0,
        } + poison;
        for (expert, slot) in top.iter().zip(0..) {
            index.set_int(row, slot, *expert);
            share.set(row, slot, rule.scale * weight(*expert) / sum);
        }
    }
}

/// Columns `columns` of all rows: those of slot s are from `s ffn` on.
pub fn up(v: &Views, op: &ExpertsUp, columns: Range<u64>) {
    let ExpertsUp { active, in_features, ffn, shared, .. } = *op;
    let (x, index, h) = (v.tensor("x"), v.tensor("index"), v.tensor("h"));
    let of = |gate: &str, up: &str| (v.weight(gate), v.weight(up));
    let (chosen, shared) = (of("gate", "up"), shared.then(|| of("shared_gate", "shared_up")));
    for row in v.rows() {
        let x = x.row(row, in_features);
        for column in columns.clone() {
            let (slot, col) = (column / ffn, column % ffn);
            let (gate, up, first) = match &shared {
                Some((gate, up)) if slot == active => (gate, up, 0),
                _ => (&chosen.0, &chosen.1, index.get_int(row, slot) as u64 * ffn),
            };
            let g = gate.dot(first + col, &x);
            h.set(row, column, g * sigmoid(g) * up.dot(first + col, &x));
        }
    }
}

/// Columns `columns` of all rows.
pub fn down(v: &Views, op: &ExpertsDown, columns: Range<u64>) {
    let ExpertsDown { active, out_features: out, ffn, shared, .. } = *op;
    let (h, index, share) = (v.tensor("h"), v.tensor("index"), v.tensor("weight"));
    let (down, residual, to) = (v.weight("down"), v.tensor("residual"), v.tensor("out"));
    let shared = shared.then(|| v.weight("shared_down"));
    for row in v.rows() {
        let h = h.row(row, op.columns());
        let of_slot = |slot: u64| &h[(slot * ffn) as usize..((slot + 1) * ffn) as usize];
        for col in columns.clone() {
            let part = |slot: u64| {
                let expert = index.get_int(row, slot) as u64;
                share.get(row, slot) * down.dot(expert * out + col, of_slot(slot))
            };
            let shared = shared.as_ref().map_or(0.0, |shared| shared.dot(col, of_slot(active)));
            to.set(row, col, residual.get(row, col) + (0..active).map(part).sum::<f64>() + shared);
        }
    }
}
