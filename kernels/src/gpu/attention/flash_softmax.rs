//! The running softmax of `flash_prefill` (Milakov and Gimelshein, 1805.02867), in registers.
//!
//! ```text
//! p = exp2(s * scale - reference)       sum += p       O += p V
//! ```
//! `reference` is any number near the row's maximum: bf16 and f32 have the same exponents, and O and the sum have the same
//! reference. So it moves, and O is multiplied, only where a row of the warp has grown by more than [`SLACK`].

use hyc_plan::AttnShape;
use std::f32::consts::LOG2_E;

use crate::gpu::isa::{Emit, Float, Int, Var};

/// By how much a maximum may exceed its reference, in powers of two.
const SLACK: f32 = 8.0;

/// What a thread of a warp group keeps: rows g and g + 8 of its warp.
pub struct State<'c> {
    /// q . k of a step, then their exponentials.
    pub scores: Vec<Var<'c>>,
    /// P of the step before, as fragments.
    p: Vec<Var<'c>>,
    pub acc: Vec<Var<'c>>,
    pub reference: [Var<'c>; 2],
    /// The largest q . k.
    pub most: [Var<'c>; 2],
    pub sum: [Var<'c>; 2],
}

/// By what a step multiplies the sums before it, and whether by anything but 1.
pub struct Growth<'c> {
    some: Int<'c>,
    shrink: [Float<'c>; 2],
}

/// From q . k to a logit in units of log2.
pub fn scale<'c>(e: &Emit<'c>, shape: AttnShape) -> Float<'c> {
    e.float(LOG2_E / (shape.qk_dim as f32).sqrt())
}

impl<'c> Growth<'c> {
    /// Whether there is some, known behind all exponentials: sums are no numbers below zero.
    pub fn settled(&self, e: &Emit<'c>, state: &State<'c>) -> Int<'c> {
        let sum = e.fadd(e.get_float(state.sum[0]), e.get_float(state.sum[1]));
        let wrong = e.not(e.at_least(sum, e.float(0.0)));
        e.any(e.or(self.some, wrong))
    }
}

impl<'c> State<'c> {
    /// Before the first step, of `keys` keys each.
    pub fn new(e: &Emit<'c>, shape: AttnShape, keys: u64) -> State<'c> {
        let zeros = |n: u64| (0..n).map(|_| e.float_var(0.0)).collect();
        let pair = |first: f32| [e.float_var(first), e.float_var(first)];
        State {
            scores: zeros(keys / 2),
            p: (0..keys / 4).map(|_| e.var(e.int(0).into())).collect(),
            acc: zeros(shape.v_dim / 2),
            reference: pair(f32::NEG_INFINITY),
            most: pair(f32::NEG_INFINITY),
            sum: pair(0.0),
        }
    }

    /// Row (0: g, 1: g + 8) and column of score `i`, less 2 t.
    fn place(i: usize) -> (usize, u64) {
        (i / 2 % 2, (i / 4 * 8 + i % 2) as u64)
    }

    /// Minus infinity where a token is newer than the row's; the step's first token is `start`.
    pub fn mask(&self, e: &Emit<'c>, start: Int<'c>, positions: [Int<'c>; 2]) {
        let first = e.add(start, e.mul_const(e.lane_pair().1, 2));
        let seen = positions.map(|position| e.sub(position, first));
        let none = e.float(f32::NEG_INFINITY);
        for (i, score) in self.scores.iter().enumerate() {
            let (half, column) = State::place(i);
            let seen = e.ge(seen[half], e.int(column));
            e.set(*score, e.pick_float(seen, e.get_float(*score), none).into());
        }
    }

    /// The largest q . k of each page of the step in each of the two rows.
    pub fn page_maxima(&self, e: &Emit<'c>, pages: u64) -> Vec<[Float<'c>; 2]> {
        let each = self.scores.len() / pages as usize;
        let most = |page: usize, half: usize| {
            let mine = (page * each..(page + 1) * each).filter(|i| State::place(*i).0 == half);
            mine.map(|i| e.get_float(self.scores[i])).reduce(|a, b| e.fmax(a, b)).unwrap_or(e.float(0.0))
        };
        (0..pages as usize).map(|page| [0, 1].map(|half| most(page, half))).collect()
    }

    /// Scores become exponentials; `most` is the step's largest of each row.
    pub fn exponentials(&self, e: &Emit<'c>, scale: Float<'c>, most: [Float<'c>; 2]) -> Growth<'c> {
        let most = most.map(|most| e.fmul(most, scale));
        let old = self.reference.map(|reference| e.get_float(reference));
        let grown = [0, 1].map(|half| e.above(most[half], e.fadd(old[half], e.float(SLACK))));
        let some = e.any(e.or(grown[0], grown[1]));
        let new = [0, 1].map(|half| e.pick_float(some, e.fmax(old[half], most[half]), old[half]));
        let shrink = [0, 1].map(|half| e.exp2(e.fsub(old[half], new[half])));
        for half in 0..2 {
            let minus = e.fsub(e.float(0.0), new[half]);
            let mine = (0..self.scores.len()).filter(|i| State::place(*i).0 == half);
            let sum = mine.fold(e.fmul(e.get_float(self.sum[half]), shrink[half]), |sum, i| {
                let p = e.exp2(e.fma(e.get_float(self.scores[i]), scale, minus));
                e.set(self.scores[i], p.into());
                e.fadd(sum, p)
            });
            e.set(self.sum[half], sum.into());
            e.set(self.reference[half], new[half].into());
        }
        Growth { some, shrink }
    }

    /// O gets the reference of the exponentials: no product with it is under way.
    pub fn shrink(&self, e: &Emit<'c>, growth: &Growth<'c>) {
        for (i, acc) in self.acc.iter().enumerate() {
            e.set(*acc, e.fmul(e.get_float(*acc), growth.shrink[State::place(i).0]).into());
        }
    }

    /// Exponentials become P.
    pub fn pack(&self, e: &Emit<'c>) {
        for (i, word) in self.p.iter().enumerate() {
            let [low, high] = [0, 1].map(|plus| e.get_float(self.scores[2 * i + plus]));
            e.set(*word, e.pack_bf16(low, high).into());
        }
    }

    /// P by steps of 16 keys: words (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8).
    pub fn fragments(&self, e: &Emit<'c>) -> Vec<[Int<'c>; 4]> {
        let word = |i: usize| e.get(self.p[i]).into_int_value();
        (0..self.p.len() / 4).map(|step| [0, 1, 2, 3].map(|i| word(4 * step + i))).collect()
    }
}
