//! `Router`: the experts of each row, and their shares. Reference: `reference::moe`.

use hyc_plan::ops::Router;
use hyc_plan::{Extent, RouterRule, Scores};

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, WARP};
use crate::gpu::select::{Candidates, best_of_warp};
use crate::gpu::tile::RegisterTile;

/// `Router`. Block: one warp, one row.
pub fn router(k: &mut Kernel<'_, '_>, op: Router) {
    match op.rule.scores {
        Scores::Softmax => of_softmax(k, op),
        Scores::Sigmoid => of_sigmoids(k, op),
    }
}

fn of_softmax(k: &mut Kernel<'_, '_>, op: Router) {
    let Router { experts, active, rule } = op;
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("", grid, WARP), |e| {
        let row = e.block_x();
        let [logits, index, weights] = ["logits", "index", "weight"].map(|name| e.row(name, row));
        let chosen = e.shared(active);
        // Logits that are no numbers choose nobody, but some expert has to stand there: one such logit makes all the
        // shares none, as in the whole softmax.
        let poison = e.float_var(0.0);
        let none = e.float(f32::NEG_INFINITY);
        // Keys of the same order, 0 for what is not chosen; both zeroes are one.
        let keys = RegisterTile::load(e, experts.div_ceil(WARP), |e, expert| {
            let inside = e.lt(expert, e.int(experts));
            let x = e.load(logits, e.min(expert, e.int(experts - 1)));
            e.set(poison, e.pick_float(e.same(x, x), e.get_float(poison), x).into());
            let key = e.ordered(e.fadd(x, e.float(0.0)));
            e.pick(e.and(inside, e.above(x, none)), key, e.int(0))
        });
        let candidates = Candidates { keys, first: e.lane() };
        let poison = e.warp_sum(e.get_float(poison), &LANES);
        choose(e, &candidates, active, &|e, slot, expert, (found, key)| {
            e.store(index, slot, expert.into());
            e.store(chosen, slot, e.pick_float(found, e.unordered(key), none).into());
        });
        // The full softmax's denominator cancels: what is left is a softmax over the chosen.
        let most = e.load(chosen, e.int(0));
        let sum = e.float_var(0.0);
        if rule.whole {
            e.each(e.thread(), e.int(experts), WARP, |e, expert| {
                let x = e.exp(e.fsub(e.load(logits, expert), most));
                e.set(sum, e.fadd(e.get_float(sum), x).into());
            });
            e.set(sum, e.fadd(e.warp_sum(e.get_float(sum), &LANES), poison).into());
        } else {
            e.set(sum, poison.into());
            e.each(e.int(0), e.int(active), 1, |e, slot| {
                let x = e.exp(e.fsub(e.load(chosen, slot), most));
                e.set(sum, e.fadd(e.get_float(sum), x).into());
            });
        }
        e.each(e.thread(), e.int(active), WARP, |e, slot| {
            let x = e.exp(e.fsub(e.load(chosen, slot), most));
            let share = e.fdiv(x, e.get_float(sum));
            e.store(weights, slot, scaled(e, share, rule).into());
        });
    });
}

fn of_sigmoids(k: &mut Kernel<'_, '_>, op: Router) {
    let Router { experts, active, rule } = op;
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("", grid, WARP), |e| {
        let row = e.block_x();
        let [logits, index, weights] = ["logits", "index", "weight"].map(|name| e.row(name, row));
        let bias = rule.bias.then(|| e.operand("bias"));
        let (chosen, scores) = (e.shared(active), e.shared(active));
        // As above; an infinite logit has a sigmoid.
        let poison = e.float_var(0.0);
        let keys = RegisterTile::load(e, experts.div_ceil(WARP), |e, expert| {
            let inside = e.lt(expert, e.int(experts));
            let expert = e.min(expert, e.int(experts - 1));
            let score = e.sigmoid(e.load(logits, expert));
            let score = bias.map_or(score, |bias| e.fadd(score, e.load(bias, expert)));
            let number = e.same(score, score);
            e.set(poison, e.pick_float(number, e.get_float(poison), score).into());
            let key = e.ordered(e.fadd(score, e.float(0.0)));
            e.pick(e.and(inside, number), key, e.int(0))
        });
        let candidates = Candidates { keys, first: e.lane() };
        let poison = e.warp_sum(e.get_float(poison), &LANES);
        choose(e, &candidates, active, &|e, slot, expert, _| {
            e.store(index, slot, expert.into());
            e.store(chosen, slot, expert.into());
        });
        // The bias counts in the choice alone.
        e.each(e.thread(), e.int(active), WARP, |e, slot| {
            let score = e.sigmoid(e.load(logits, e.load_int(chosen, slot)));
            e.store(scores, slot, score.into());
        });
        e.warp_barrier();
        let sum = e.float_var(0.0);
        if rule.whole {
            e.set(sum, e.fadd(poison, e.float(1.0)).into());
        } else {
            e.set(sum, poison.into());
            e.each(e.int(0), e.int(active), 1, |e, slot| {
                e.set(sum, e.fadd(e.get_float(sum), e.load(scores, slot)).into());
            });
            e.set(sum, e.fadd(e.get_float(sum), e.float(RouterRule::LEAST)).into());
        }
        e.each(e.thread(), e.int(active), WARP, |e, slot| {
            let share = e.fdiv(e.load(scores, slot), e.get_float(sum));
            e.store(weights, slot, scaled(e, share, rule).into());
        });
    });
}

/// What the first lane notes of a choice: its slot, the expert (0 where nobody is left), whether one was found, and its key.
type Note<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, (Int<'c>, Int<'c>));

/// Takes out the best of a warp's candidates, so many times; their keys are above 0. What was noted is there for all lanes.
fn choose<'c>(e: &Emit<'c>, candidates: &Candidates<'c>, active: u64, note: Note<'_, 'c>) {
    e.each(e.int(0), e.opaque(e.int(active)), 1, |e, slot| {
        let (mine, own) = candidates.best(e);
        let (key, expert) = best_of_warp(e, mine, own);
        let found = e.above_unsigned(key, e.int(0));
        e.when(e.eq(e.thread(), e.int(0)), |e| note(e, slot, e.pick(found, expert, e.int(0)), (found, key)));
        candidates.take_out(e, expert);
    });
    e.warp_barrier();
}

fn scaled<'c>(e: &Emit<'c>, share: Float<'c>, rule: RouterRule) -> Float<'c> {
    if rule.scale == 1.0 { share } else { e.fmul(share, e.float(rule.scale as f32)) }
}
