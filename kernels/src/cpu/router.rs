//! `Router`. Items: a row. Reference: `reference::moe`.
//!
//! Logits that are no numbers choose nobody, but some expert has to stand there: one such logit makes all the shares none,
//! as in the whole softmax.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::F32;
use hyc_plan::ops::Router;
use hyc_plan::{RouterRule, Scores};

use super::emit::Emit;
use super::topk::Best;

/// Emits `Router`.
pub fn emit(e: &mut Emit<'_>, op: Router) {
    let Router { experts, active, rule } = op;
    let (logits, index, share) = (e.operand("logits"), e.operand("index"), e.operand("weight"));
    let bias = rule.bias.then(|| e.operand("bias"));
    let best = Best::new(e, active, F32);
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, row| {
        let logits = e.at(logits, row, e.stride("logits"));
        let index = e.at(index, row, e.stride("index"));
        let share = e.at(share, row, e.stride("weight"));
        best.clear(e, index, |_, i| i);
        let zero = e.float(0.0);
        let poison = e.var(F32, zero);
        let (zero, end) = (e.int(0), e.int(experts as i64));
        e.each(zero, end, 1, |e, expert| {
            let at = e.at(logits, expert, 4);
            let mut score = e.load(at, 0);
            if rule.scores == Scores::Sigmoid {
                score = sigmoid(e, score);
            }
            if let Some(bias) = bias {
                let at = e.at(bias, expert, 4);
                let bias = e.load(at, 0);
                score = e.fadd(score, bias);
            }
            best.offer(e, expert, score, index);
            let (none, so_far) = (e.fcmp(FloatCC::Unordered, score, score), e.get(poison));
            let so_far = e.select(none, score, so_far);
            e.set(poison, so_far);
        });
        let poison = e.get(poison);
        // What is divided, and by what.
        let sum = match rule.scores {
            Scores::Softmax => {
                // The first is the largest.
                let top = best.score(e, 0);
                let power = |e: &mut Emit<'_>, logit: Value| {
                    let x = e.fsub(logit, top);
                    e.exp(x)
                };
                let mut sum = poison;
                for i in 0..active {
                    let score = best.score(e, i);
                    let x = power(e, score);
                    e.store(x, share, 4 * i as i32);
                    sum = e.fadd(sum, x);
                }
                if rule.whole { whole_sum(e, (logits, experts), poison, power) } else { sum }
            }
            Scores::Sigmoid => {
                let mut sum = poison;
                for i in 0..active {
                    let i = e.int(i as i64);
                    let expert = e.load_index(index, i);
                    let at = e.at(logits, expert, 4);
                    let logit = e.load(at, 0);
                    let x = sigmoid(e, logit);
                    let at = e.at(share, i, 4);
                    e.store(x, at, 0);
                    sum = e.fadd(sum, x);
                }
                let addend = if rule.whole { 1.0 } else { RouterRule::LEAST };
                let addend = e.float(addend);
                if rule.whole { e.fadd(poison, addend) } else { e.fadd(sum, addend) }
            }
        };
        for i in 0..active {
            let x = e.load(share, 4 * i as i32);
            let mut x = e.fdiv(x, sum);
            if rule.scale != 1.0 {
                let scale = e.float(rule.scale as f32);
                x = e.fmul(x, scale);
            }
            e.store(x, share, 4 * i as i32);
        }
    });
}

/// The whole softmax's denominator.
fn whole_sum(
    e: &mut Emit<'_>,
    (logits, experts): (Value, u64),
    poison: Value,
    power: impl Fn(&mut Emit<'_>, Value) -> Value,
) -> Value {
    let sum = e.var(F32, poison);
    let (zero, end) = (e.int(0), e.int(experts as i64));
    e.each(zero, end, 1, |e, expert| {
        let at = e.at(logits, expert, 4);
        let logit = e.load(at, 0);
        let (x, so_far) = (power(e, logit), e.get(sum));
        let so_far = e.fadd(so_far, x);
        e.set(sum, so_far);
    });
    e.get(sum)
}

/// 1 / (1 + exp(-x)) of one float.
fn sigmoid(e: &mut Emit<'_>, x: Value) -> Value {
    let x = e.splat(x);
    let y = e.sigmoid4(x);
    e.lane(y, 0)
}
