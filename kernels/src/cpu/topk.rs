//! Selecting the best blocks, and experts: a sorted list of k, filled by insertion.
//!
//! ```text
//! score(block) = max over heads of (maximum logit of the block - the head's log-sum-exp)   = ln S_t,g(block)
//! ```
//! The logarithm of the normalised probability keeps the order where the probability itself would underflow
//! (HySparse 2602.03560, eq. 3). The difference is taken in f64: two f32 of 10,000 are a thousandth apart, which is
//! more than what separates blocks. A group of one head ranks the maxima themselves. Blocks come in ascending order
//! and move up past strictly smaller scores alone, so that ties stay with the lower index.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64};
use cranelift_codegen::ir::{Type, Value};

use super::emit::Emit;
use super::softmax::Closed;

/// Block maxima of one group, `[G][blocks]`, and its heads' lse.
pub struct Maxima {
    /// Address of `[G][blocks]` f32.
    pub table: Value,
    /// Bytes from head to head.
    pub row_bytes: u64,
    group: u64,
    /// `[G]` f64; unused by a group of one.
    lse: Value,
    best: Best,
}

impl Maxima {
    /// Reserves scratch for contexts of up to `blocks` blocks, of which `keep` are kept.
    pub fn new(e: &mut Emit<'_>, group: u64, blocks: u64, keep: u64) -> Maxima {
        let row_bytes = (4 * blocks).next_multiple_of(64);
        let table = e.scratch(group * row_bytes);
        let lse = e.scratch(8 * group);
        let score = if group == 1 { F32 } else { F64 };
        Maxima { table, row_bytes, group, lse, best: Best::new(e, keep, score) }
    }

    /// Notes a head's log-sum-exp.
    pub fn set_lse(&self, e: &mut Emit<'_>, head: u64, closed: &Closed) {
        if self.group == 1 {
            return;
        }
        let ln = e.ln(closed.sum);
        let (max, ln) = (e.promote(closed.max), e.promote(ln));
        let lse = e.fadd(max, ln);
        e.store(lse, self.lse, 8 * head as i32);
    }

    /// Writes the list of the best of `visible` blocks, -1 where there are fewer.
    pub fn select(&self, e: &mut Emit<'_>, visible: Value, to: Value) {
        self.best.clear(e, to, |e, _| e.int(-1));
        let zero = e.int(0);
        e.each(zero, visible, 1, |e, block| {
            let at = e.at(self.table, block, 4);
            let score = match self.group {
                1 => e.load(at, 0),
                _ => self.group_score(e, at),
            };
            self.best.offer(e, block, score, to);
        });
    }

    /// The largest of the heads' f64 scores of a block, whose maxima start at `at`.
    fn group_score(&self, e: &mut Emit<'_>, at: Value) -> Value {
        let of = |e: &mut Emit<'_>, head: u64| {
            let raw = e.load(at, (head * self.row_bytes) as i32);
            let (raw, lse) = (e.promote(raw), e.load_float(F64, self.lse, 8 * head as i32));
            e.fsub(raw, lse)
        };
        let first = of(e, 0);
        (1..self.group).fold(first, |most, head| {
            let own = of(e, head);
            e.fmax(own, most)
        })
    }
}

/// The scores of a sorted list of `keep` indices; the indices themselves are written where they go.
pub struct Best {
    scores: Value,
    keep: u64,
    /// F32 or F64.
    score: Type,
}

impl Best {
    /// Reserves scratch for scores of type `score`.
    pub fn new(e: &mut Emit<'_>, keep: u64, score: Type) -> Best {
        Best { scores: e.scratch(u64::from(score.bytes()) * keep), keep, score }
    }

    fn size(&self) -> u64 {
        u64::from(self.score.bytes())
    }

    fn number(&self, e: &mut Emit<'_>, x: f32) -> Value {
        if self.score == F32 { e.float(x) } else { e.double(f64::from(x)) }
    }

    /// Empties the list at `to`; `none` is what stands in place `i` where fewer are offered.
    pub fn clear(&self, e: &mut Emit<'_>, to: Value, none: impl FnOnce(&mut Emit<'_>, Value) -> Value) {
        let (zero, end) = (e.int(0), e.int(self.keep as i64));
        e.each(zero, end, 1, |e, i| {
            let (index, score) = (e.at(to, i, 4), e.at(self.scores, i, self.size()));
            let (none, least) = (none(e, i), self.number(e, f32::NEG_INFINITY));
            e.store_index(none, index, 0);
            e.store(least, score, 0);
        });
    }

    /// Puts an index into the list where its score is above the last one's.
    pub fn offer(&self, e: &mut Emit<'_>, index: Value, score: Value, to: Value) {
        let last = e.load_float(self.score, self.scores, (self.size() * (self.keep - 1)) as i32);
        let enters = e.greater(score, last);
        e.when(enters, |e| {
            let end = e.int(self.keep as i64 - 1);
            let place = e.int_var(end);
            let infinity = self.number(e, f32::INFINITY);
            let above = e.var(self.score, infinity);
            let look = |e: &mut Emit<'_>| {
                // The score above the place; infinite at the top, where the loop must end.
                let i = e.get(place);
                let zero = e.int(0);
                let inside = e.cmp(IntCC::SignedGreaterThan, i, zero);
                let before = e.add_const(i, -1);
                let before = e.max(before, zero);
                let at = e.at(self.scores, before, self.size());
                let (found, top) = (e.load_float(self.score, at, 0), self.number(e, f32::INFINITY));
                let found = e.select(inside, found, top);
                e.set(above, found);
                e.greater(score, found)
            };
            e.repeat(look, |e| {
                let i = e.get(place);
                let before = e.add_const(i, -1);
                let here = e.at(to, i, 4);
                let moved = e.load_index(to, before);
                e.store_index(moved, here, 0);
                let at = e.at(self.scores, i, self.size());
                let moved = e.get(above);
                e.store(moved, at, 0);
                e.set(place, before);
            });
            let i = e.get(place);
            let (index_at, score_at) = (e.at(to, i, 4), e.at(self.scores, i, self.size()));
            e.store_index(index, index_at, 0);
            e.store(score, score_at, 0);
        });
    }

    /// Score `i` of the list.
    pub fn score(&self, e: &mut Emit<'_>, i: u64) -> Value {
        e.load_float(self.score, self.scores, (self.size() * i) as i32)
    }
}
