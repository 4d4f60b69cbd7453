//! `Sample`: a token for each row of logits. Reference: `reference::pointwise::sample`, and with it
//! [`hyc_plan::sample::choose`], whose arithmetic this is to the bit.
//!
//! Block: one row after the other, [`THREADS`] threads, each with the row's elements `thread + i * THREADS`, of which the largest is found by fours. The
//! order of the tokens is that of the numbers `(key << 32) | !id` ([`hyc_plan::sample::key`]), their places, all of them
//! different. Every step (top-k, top-p, the draw) looks for the place in that order where a sum passes a target, by
//! bisection: first over keys, then over ids where keys are equal. A sum is one look at all elements that have a
//! weight; their ids are in scratch, each thread's own in a column of its own, so that nobody waits for anybody.
//!
//! Penalties come first: the block changes the logits of the row's list in place, each by one thread, and puts them
//! back when the token is known; the list's ids differ. A row without a list passes by.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::sample::{EXP2, FLOOR, SampleParams, Seen};
use hyc_plan::sampling::MAX_PENALTY_WINDOW;
use hyc_plan::{Extent, ops};

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, Var, WARP};

/// Threads of a block: 32 warps, as many as one shuffle adds up.
const THREADS: u64 = 1024;
/// Pieces of four logits that a thread has under way.
const PIECES: u64 = 8;
/// All but the sign.
const MAGNITUDE: u64 = 0x7fff_ffff;
/// An exponent of all ones: no finite number.
const NO_NUMBER: u64 = 0x7f80_0000;

/// Makes the kernel. Logits behind the op's choices are not looked at; penalties may change them, as those of any token
/// of the vocabulary.
pub fn sample(k: &mut Kernel<'_, '_>, op: ops::Sample) {
    let (vocab, choices) = (op.vocab, op.choices());
    // Rows beyond the blocks take turns.
    let blocks = k.multiprocessors.min(k.spec.max_rows);
    let column = choices.next_multiple_of(THREADS);
    let ids_at = k.scratch(4 * blocks * column);
    let most_seen = vocab.min(u64::from(MAX_PENALTY_WINDOW));
    let kept_at = k.scratch(4 * blocks * most_seen);
    k.function(Function::new("", [Extent::fixed(blocks), Extent::fixed(1)], THREADS), |e| {
        let own =
            |at: u64, each: u64| e.at(e.at(e.scratch(), e.int(at)), e.mul_const(e.wide(e.block_x()), each));
        let (ids, kept) = (e.at(own(ids_at, column), e.thread()), own(kept_at, most_seen));
        let partial = e.shared(2 * THREADS / WARP);
        let rows = e.count(offset_of!(StepContext, outputs));
        e.each(e.block_x(), rows, blocks, |e, index| {
            let params = Params::load(e, index);
            let logits = e.at(e.operand("logits"), e.mul_const(e.wide(index), e.stride("logits")));
            let penalised = e.lt_unsigned(e.int(0), params.seen);
            e.when(penalised, |e| penalise(e, &params, logits, kept));
            let row = Row { vocab: choices, logits, ids, partial, params };
            let token = row.token(e);
            e.when(penalised, |e| {
                e.barrier();
                row.params.each_seen(e, |e, i, id, _| e.store(logits, id, e.load(kept, i).into()));
            });
            e.when(e.eq(e.thread(), e.int(0)), |e| {
                let at = e.mul_const(e.wide(index), e.stride("token"));
                e.store(e.operand("token"), at, token.into());
            });
        });
    });
}

/// What a row's [`SampleParams`] say, and its part of the list of tokens that were seen.
struct Params<'c> {
    scale: Float<'c>,
    top_k: Int<'c>,
    top_p: Float<'c>,
    least: Int<'c>,
    draw: Int<'c>,
    seen: Int<'c>,
    repeat: Float<'c>,
    presence: Float<'c>,
    frequency: Float<'c>,
    list: Ptr<'c>,
}

impl<'c> Params<'c> {
    fn load(e: &Emit<'c>, index: Int<'c>) -> Params<'c> {
        let row = e.mul_const(e.wide(index), size_of::<SampleParams>() as u64);
        let row = e.byte_offset(e.list(offset_of!(StepContext, sampling)), row);
        let word = |at: usize| e.load_int(row, e.int(at as u64 / 4));
        let float = |at: usize| e.load(row, e.int(at as u64 / 4));
        let first = e.wide_unsigned(word(offset_of!(SampleParams, first_seen)));
        let first = e.mul_const(first, size_of::<Seen>() as u64);
        Params {
            scale: float(offset_of!(SampleParams, scale)),
            top_k: word(offset_of!(SampleParams, top_k)),
            top_p: float(offset_of!(SampleParams, top_p)),
            least: word(offset_of!(SampleParams, least)),
            draw: e.load_long(row, e.int(offset_of!(SampleParams, draw) as u64 / 8)),
            seen: word(offset_of!(SampleParams, seen)),
            repeat: float(offset_of!(SampleParams, repeat)),
            presence: float(offset_of!(SampleParams, presence)),
            frequency: float(offset_of!(SampleParams, frequency)),
            list: e.byte_offset(e.list(offset_of!(StepContext, seen)), first),
        }
    }

    /// This thread's part of the list: `body` gets an entry's number, its id, and how often that was generated.
    fn each_seen(
        &self,
        e: &Emit<'c>,
        body: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>, &dyn Fn(&Emit<'c>) -> Int<'c>),
    ) {
        e.each(e.thread(), self.seen, THREADS, |e, i| {
            let seen = e.byte_offset(self.list, e.mul_const(e.wide(i), size_of::<Seen>() as u64));
            let word = |e: &Emit<'c>, at: usize| e.load_int(seen, e.int(at as u64 / 4));
            body(e, i, word(e, offset_of!(Seen, id)), &|e| word(e, offset_of!(Seen, generated)));
        });
    }
}

/// Changes the logits of the row's list as [`hyc_plan::sample::penalised`] does, and keeps them as they were in `kept`;
/// the others wait for them.
fn penalise<'c>(e: &Emit<'c>, p: &Params<'c>, logits: Ptr<'c>, kept: Ptr<'c>) {
    p.each_seen(e, |e, i, id, generated| {
        let x = e.load(logits, id);
        e.store(kept, i, x.into());
        e.when(finite(e, x), |e| {
            let repeated = e.pick_float(e.above(x, e.float(0.0)), e.fdiv(x, p.repeat), e.fmul(x, p.repeat));
            let generated = generated(e);
            let less_often = e.fsub(repeated, e.fmul(e.to_float(generated), p.frequency));
            let never = e.eq(generated, e.int(0));
            let less = e.fsub(less_often, e.pick_float(never, e.float(0.0), p.presence));
            let less = e.fmax(e.fmin(less, e.float(f32::MAX)), e.float(f32::MIN));
            e.store(logits, id, less.into());
        });
    });
    e.barrier();
}

fn finite<'c>(e: &Emit<'c>, x: Float<'c>) -> Int<'c> {
    e.lt_unsigned(e.and(e.bits(x), e.int(NO_NUMBER)), e.int(NO_NUMBER))
}

/// Where a token stands in the order: its key, -0 taken for 0, then its id, the lowest last.
fn place<'c>(e: &Emit<'c>, x: Float<'c>, id: Int<'c>) -> Int<'c> {
    e.join(e.ordered(e.fadd(x, e.float(0.0))), e.not(id))
}

/// The row that a block is at.
struct Row<'c> {
    vocab: u64,
    logits: Ptr<'c>,
    /// This thread's column of ids that have a weight.
    ids: Ptr<'c>,
    /// Shared memory: a number a warp.
    partial: Ptr<'c>,
    params: Params<'c>,
}

/// The elements that have a weight: this thread's number of them, and the largest logit of the row.
#[derive(Clone, Copy)]
struct Weighed<'c> {
    count: Int<'c>,
    most: Float<'c>,
}

/// What a stage adds up.
#[derive(Clone, Copy)]
struct Measure<'c> {
    weighed: Weighed<'c>,
    /// Places below it are out.
    cut: Int<'c>,
    /// Whether each token counts one, and not its weight.
    unit: Int<'c>,
    /// Weights below it count nothing.
    least: Int<'c>,
}

impl<'c> Row<'c> {
    /// The token: -1 for a row of no numbers.
    fn token(&self, e: &Emit<'c>) -> Int<'c> {
        let token = e.var(e.minus_one().into());
        let top = self.largest(e);
        e.when(e.lt_unsigned(top, e.long(u64::MAX)), |e| {
            let first = e.not(e.low(top));
            e.set(token, first.into());
            let greedy = e.same(self.params.scale, e.float(0.0));
            e.when(e.not(greedy), |e| {
                let weighed = self.collect(e, e.load(self.logits, first));
                self.stages(e, weighed, top, token);
            });
        });
        e.get(token).into_int_value()
    }

    /// The largest place of the row, ~0 where a logit is no finite number.
    ///
    /// A thread keeps the first of its largest logits, which most pieces of four have nothing above, and of all the largest magnitude.
    fn largest(&self, e: &Emit<'c>) -> Int<'c> {
        let (most, at, widest) =
            (e.float_var(f32::NEG_INFINITY), e.var(e.int(0).into()), e.var(e.int(0).into()));
        let take = |e: &Emit<'c>, id: Int<'c>, xs: &[Float<'c>]| {
            let bits = xs.iter().map(|x| e.and(e.bits(*x), e.int(MAGNITUDE)));
            let wide = bits.fold(e.get(widest).into_int_value(), |most, x| e.max_unsigned(most, x));
            e.set(widest, wide.into());
            let top = xs[1..].iter().fold(xs[0], |top, x| e.fmax(top, *x));
            e.when(e.above(top, e.get_float(most)), |e| {
                e.set(most, top.into());
                let first = (1..xs.len()).rev().fold(e.int(xs.len() as u64 - 1), |first, i| {
                    e.pick(e.same(xs[i - 1], top), e.int(i as u64 - 1), first)
                });
                e.set(at, e.add(id, first).into());
            });
        };
        // Pieces of 16 bytes, several under way, of rows that begin at such; the last again where there are no more, which changes nothing.
        let pieces = if e.stride("logits").is_multiple_of(4) { self.vocab / 4 } else { 0 };
        e.each(e.thread(), e.int(pieces), PIECES * THREADS, |e, first| {
            let piece = |i| e.min(e.add_const(first, (i * THREADS) as i64), e.int(pieces.max(1) - 1));
            let ids: Vec<Int<'c>> = (0..PIECES).map(|i| e.mul_const(piece(i), 4)).collect();
            let words: Vec<_> = ids.iter().map(|id| e.load4(self.logits, *id)).collect();
            for (id, words) in ids.into_iter().zip(words) {
                take(e, id, &words.map(|word| e.widen(word)));
            }
        });
        e.each(e.add_const(e.thread(), 4 * pieces as i64), e.int(self.vocab), THREADS, |e, id| {
            take(e, id, &[e.load(self.logits, id)]);
        });
        let finite = e.lt_unsigned(e.get(widest).into_int_value(), e.int(NO_NUMBER));
        let place = place(e, e.get_float(most), e.get(at).into_int_value());
        self.reduce(e, e.pick(finite, place, e.long(u64::MAX)), Emit::max_unsigned)
    }

    /// The sum or maximum over the block: every thread has it.
    fn reduce(&self, e: &Emit<'c>, mine: Int<'c>, op: fn(&Emit<'c>, Int<'c>, Int<'c>) -> Int<'c>) -> Int<'c> {
        let warp_wide =
            |mine: Int<'c>| LANES.iter().fold(mine, |all, mask| op(e, all, e.shuffle_long(all, *mask)));
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let all = warp_wide(mine);
        // Others may still read what the sum before left.
        e.barrier();
        e.when(e.eq(lane, e.int(0)), |e| e.store_long(self.partial, warp, all));
        e.barrier();
        warp_wide(e.load_long(self.partial, lane))
    }

    /// The distance of a logit from the largest, in powers of two.
    fn distance(&self, e: &Emit<'c>, x: Float<'c>, most: Float<'c>) -> Float<'c> {
        e.fmul(e.fsub(x, most), self.params.scale)
    }

    /// The ids of this thread's elements that have a weight, to its column.
    fn collect(&self, e: &Emit<'c>, most: Float<'c>) -> Weighed<'c> {
        let count = e.var(e.int(0).into());
        e.each(e.thread(), e.int(self.vocab), THREADS, |e, id| {
            let far = self.distance(e, e.load(self.logits, id), most);
            e.when(e.at_least(far, e.float(FLOOR)), |e| {
                let i = e.get(count).into_int_value();
                e.store(self.ids, e.mul_const(i, THREADS), id.into());
                e.set(count, e.add_const(i, 1).into());
            });
        });
        Weighed { count: e.get(count).into_int_value(), most }
    }

    /// This thread's elements that have a weight: `body` gets the logit and its place.
    fn each(&self, e: &Emit<'c>, w: Weighed<'c>, body: impl FnOnce(&Emit<'c>, Float<'c>, Int<'c>)) {
        e.each(e.int(0), w.count, 1, |e, i| {
            let id = e.load_int(self.ids, e.mul_const(i, THREADS));
            let x = e.load(self.logits, id);
            body(e, x, place(e, x, id));
        });
    }

    /// The weight of a logit that has one: [`hyc_plan::sample::weight`].
    fn weight(&self, e: &Emit<'c>, x: Float<'c>, most: Float<'c>) -> Int<'c> {
        let y = self.distance(e, x, most);
        let whole = e.round(y);
        let rest = e.fsub(y, whole);
        let power = EXP2[1..].iter().fold(e.float(EXP2[0]), |power, c| e.fma(power, rest, e.float(*c)));
        let mantissa = e.whole_unsigned(e.fmul(power, e.float((1 << 24) as f32)));
        e.shift_right_unsigned(e.shift_left(mantissa, 6), e.sub(e.int(0), e.whole(whole)))
    }

    /// The sum of what is measured over places from `from` up.
    fn sum(&self, e: &Emit<'c>, m: Measure<'c>, from: Int<'c>) -> Int<'c> {
        let sum = e.var(e.long(0).into());
        self.each(e, m.weighed, |e, x, place| {
            e.when(e.not(e.lt_unsigned(place, from)), |e| {
                let weight = self.weight(e, x, m.weighed.most);
                let weight = e.pick(e.lt_unsigned(weight, m.least), e.int(0), weight);
                let weight = e.wide_unsigned(e.pick(m.unit, e.int(1), weight));
                e.set(sum, e.add(e.get(sum).into_int_value(), weight).into());
            });
        });
        self.reduce(e, e.get(sum).into_int_value(), Emit::add)
    }

    /// Whether the sum over what is left from `from` up passes the target.
    fn passes(&self, e: &Emit<'c>, m: Measure<'c>, target: Int<'c>, from: Int<'c>) -> Int<'c> {
        e.lt_unsigned(target, self.sum(e, m, e.max_unsigned(from, m.cut)))
    }

    /// The largest number of `low..=high` at whose place the sum passes the target, as it does at `low`.
    fn bisect(
        &self,
        e: &Emit<'c>,
        (m, target): (Measure<'c>, Int<'c>),
        (low, high): (Int<'c>, Int<'c>),
        place: impl Fn(Int<'c>) -> Int<'c>,
    ) -> Int<'c> {
        let (low, high) = (e.var(low.into()), e.var(high.into()));
        let int = |e: &Emit<'c>, var: Var<'c>| e.get(var).into_int_value();
        e.during(
            |e| e.lt_unsigned(int(e, low), int(e, high)),
            |e| {
                let left = e.sub(int(e, high), int(e, low));
                let half = e.add(e.shift_right_unsigned(left, e.int(1)), e.and(left, e.int(1)));
                let middle = e.add(int(e, low), half);
                let passes = self.passes(e, m, target, place(middle));
                e.set(high, e.pick(passes, int(e, high), e.add_const(middle, -1)).into());
                e.set(low, e.pick(passes, middle, int(e, low)).into());
            },
        );
        int(e, low)
    }

    /// Top-k, top-p, the draw: of each the target, and the place where the sum passes it. The first two cut what is
    /// behind that place off, the last one's place is the token's.
    fn stages(&self, e: &Emit<'c>, weighed: Weighed<'c>, top: Int<'c>, token: Var<'c>) {
        let p = &self.params;
        let cut = e.var(e.long(0).into());
        e.each(e.int(0), e.int(3), 1, |e, stage| {
            let (unit, last) = (e.eq(stage, e.int(0)), e.eq(stage, e.int(2)));
            let least = e.pick(last, p.least, e.int(1));
            let m = Measure { weighed, cut: e.get(cut).into_int_value(), unit, least };
            let total = self.sum(e, m, m.cut);
            let rank = e.wide_unsigned(p.top_k);
            let by_rank = e.and(e.lt_unsigned(e.int(0), p.top_k), e.lt_unsigned(rank, total));
            let by_share = e.above(e.float(1.0), p.top_p);
            let share = e.max_unsigned(e.ceil_of_product(total, p.top_p), e.long(1));
            let target = e.add_const(e.pick(unit, rank, share), -1);
            let target = e.pick(last, e.mul_high(p.draw, total), target);
            e.when(e.or(last, e.pick(unit, by_rank, by_share)), |e| {
                let (key, low) = self.search(e, (m, target), e.high(top));
                e.set(cut, e.join(key, low).into());
                e.set(token, e.pick(last, e.not(low), e.get(token).into_int_value()).into());
            });
        });
    }

    /// The last place, as key and low word, at which the sum passes the target; `most` is the largest key.
    fn search(&self, e: &Emit<'c>, (m, target): (Measure<'c>, Int<'c>), most: Int<'c>) -> (Int<'c>, Int<'c>) {
        let nothing = e.int(0);
        let key = self.bisect(e, (m, target), (nothing, most), |middle| e.join(middle, nothing));
        // The first of the tokens with that key: mostly the only one.
        let first = e.var(e.long(0).into());
        self.each(e, m.weighed, |e, _, place| {
            let place = e.pick(e.eq(e.high(place), key), place, e.long(0));
            e.set(first, e.max_unsigned(e.get(first).into_int_value(), place).into());
        });
        let first = self.reduce(e, e.get(first).into_int_value(), Emit::max_unsigned);
        let low = e.var(e.low(first).into());
        e.when(e.not(self.passes(e, m, target, first)), |e| {
            let lowest = e.int(u64::from(!(self.vocab as u32 - 1)));
            let rest = (lowest, e.add_const(e.low(first), -1));
            let found = self.bisect(e, (m, target), rest, |middle| e.join(key, middle));
            e.set(low, found.into());
        });
        (key, e.get(low).into_int_value())
    }
}
