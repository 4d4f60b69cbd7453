//! Selecting the best blocks, and experts: a sorted list of k, filled by insertion.
//!
//! ```text
//! score(block) = max over heads of (maximum logit of the block - the head's log-sum-exp)   = ln S_t,g(block)
//! ```
//! The logarithm of the normalised probability keeps the order where the probability itself would underflow
//! (HySparse 2602.03560, eq. 3). Blocks come in ascending order and move up past strictly smaller scores
//! alone, so that ties stay with the lower index.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::IntCC;

use super::emit::Emit;
use super::softmax::SCALAR;

/// Block maxima of one group, `[G][blocks]`, and its heads' lse.
pub struct Maxima {
    /// Address of `[G][blocks]` floats.
    pub table: Value,
    /// Bytes from head to head.
    pub row_bytes: u64,
    group: u64,
    lse: Value,
    best: Best,
}

impl Maxima {
    /// Reserves scratch for contexts of up to `blocks` blocks, of which `keep` are kept.
    pub fn new(e: &mut Emit<'_>, group: u64, blocks: u64, keep: u64) -> Maxima {
        let row_bytes = (4 * blocks).next_multiple_of(64);
        let table = e.scratch(group * row_bytes);
        Maxima { table, row_bytes, group, lse: e.scratch(4 * group), best: Best::new(e, keep) }
    }

    /// Notes a head's log-sum-exp.
    pub fn set_lse(&self, e: &mut Emit<'_>, head: u64, lse: Value) {
        e.store(lse, self.lse, 4 * head as i32);
    }

    /// Writes the list of the best of `visible` blocks, -1 where there are fewer.
    pub fn select(&self, e: &mut Emit<'_>, visible: Value, to: Value) {
        self.best.clear(e, to);
        let zero = e.int(0);
        e.each(zero, visible, 1, |e, block| {
            let at = e.at(self.table, block, 4);
            let mut score = None;
            for head in 0..self.group {
                let (raw, lse) =
                    (e.load(at, (head * self.row_bytes) as i32), e.load(self.lse, 4 * head as i32));
                let own = e.fsub(raw, lse);
                score = Some(match score {
                    Some(other) => e.fmax(own, other),
                    None => own,
                });
            }
            if let Some(score) = score {
                self.best.offer(e, block, score, to);
            }
        });
    }
}

/// The scores of a sorted list of `keep` indices; the indices themselves are written where they go.
pub struct Best {
    scores: Value,
    keep: u64,
}

impl Best {
    /// Reserves scratch.
    pub fn new(e: &mut Emit<'_>, keep: u64) -> Best {
        Best { scores: e.scratch(4 * keep), keep }
    }

    /// Empties the list at `to`.
    pub fn clear(&self, e: &mut Emit<'_>, to: Value) {
        let (zero, end) = (e.int(0), e.int(self.keep as i64));
        e.each(zero, end, 1, |e, i| {
            let (index, score) = (e.at(to, i, 4), e.at(self.scores, i, 4));
            let (none, least) = (e.int(-1), e.float(f32::NEG_INFINITY));
            e.store_index(none, index, 0);
            e.store(least, score, 0);
        });
    }

    /// Puts an index into the list where its score is above the last one's.
    pub fn offer(&self, e: &mut Emit<'_>, index: Value, score: Value, to: Value) {
        let last = e.load(self.scores, 4 * (self.keep as i32 - 1));
        let enters = e.greater(score, last);
        e.when(enters, |e| {
            let end = e.int(self.keep as i64 - 1);
            let place = e.int_var(end);
            let infinity = e.float(f32::INFINITY);
            let above = e.var(SCALAR, infinity);
            let look = |e: &mut Emit<'_>| {
                // The score above the place; infinite at the top, where the loop must end.
                let i = e.get(place);
                let zero = e.int(0);
                let inside = e.cmp(IntCC::SignedGreaterThan, i, zero);
                let before = e.add_const(i, -1);
                let before = e.max(before, zero);
                let at = e.at(self.scores, before, 4);
                let (found, top) = (e.load(at, 0), e.float(f32::INFINITY));
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
                let at = e.at(self.scores, i, 4);
                let moved = e.get(above);
                e.store(moved, at, 0);
                e.set(place, before);
            });
            let i = e.get(place);
            let (index_at, score_at) = (e.at(to, i, 4), e.at(self.scores, i, 4));
            e.store_index(index, index_at, 0);
            e.store(score, score_at, 0);
        });
    }

    /// Score `i` of the list.
    pub fn score(&self, e: &mut Emit<'_>, i: u64) -> Value {
        e.load(self.scores, 4 * i as i32)
    }
}
