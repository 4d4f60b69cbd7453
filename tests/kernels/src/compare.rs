//! Compares what a kernel left in memory with what the reference left there.

use hyc_plan::*;
use hyc_plan::{pack, tensor};

use std::collections::HashSet;

use crate::memory::memory_rows;
use crate::reference::{result_rows, scores};
use crate::{Batch, Memory};

/// How far results may be from the reference.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// ||out - reference|| / ||reference|| of a tensor.
    pub error: f64,
    /// The same of what was appended to a bf16 cache.
    pub bf16_cache: f64,
    /// Scores (in logs; a router's logits or sigmoids) that are closer than this may change places in a selection; where this is 0
    /// not even those that are equal.
    pub margin: f64,
}

/// An element further off than this many times the limit is an error whatever the norm says: one wrong column
/// of thousands is lost in a norm.
const OUTLIER: f64 = 10.0;

/// A step before and after.
pub struct Step<'a> {
    /// The kernel.
    pub spec: &'a KernelSpec,
    /// Its rows.
    pub batch: &'a Batch,
    /// Operands before the step.
    pub before: &'a [Memory],
    /// Operands after the reference ran; those that are only read may be missing.
    pub want: &'a [Memory],
    /// Operands after the kernel ran.
    pub got: &'a [Memory],
    /// The rows that the reference computed.
    pub rows: &'a [u64],
}

/// Error of a set of elements, and the one that is furthest off.
#[derive(Default)]
struct Distance {
    difference: f64,
    norm: f64,
    outlier: f64,
    place: String,
}

impl Distance {
    /// Takes in one row: (where, ours, reference) of each element.
    fn row(&mut self, elements: &[(u64, f32, f32)], name: impl Fn(u64) -> String) {
        let norm: f64 = elements.iter().map(|(_, _, w)| f64::from(*w).powi(2)).sum();
        let rms = (norm / elements.len().max(1) as f64).sqrt();
        self.norm += norm;
        for (at, g, w) in elements {
            let off = (f64::from(*g) - f64::from(*w)).abs();
            self.difference += off * off;
            let relative = off / rms.max(f64::from(w.abs())).max(1e-30);
            // A NaN of ours is further off than anything.
            if relative > self.outlier || !relative.is_finite() && self.outlier.is_finite() {
                self.outlier = if relative.is_finite() { relative } else { f64::INFINITY };
                self.place = format!("{}: {g:e}, reference {w:e}", name(*at));
            }
        }
    }

    fn error(&self) -> f64 {
        let error = (self.difference / self.norm.max(1e-30)).sqrt();
        if error.is_nan() { f64::INFINITY } else { error }
    }

    fn check(&self, limit: f64, name: &str) -> Result<f64, String> {
        let error = self.error();
        if error < limit && self.outlier < OUTLIER * limit {
            return Ok(error);
        }
        Err(format!("{name}: error {error:.1e} (limit {limit:.0e}), furthest at {}", self.place))
    }
}

impl Step<'_> {
    /// The largest error of any operand; or what is wrong, an entry an operand.
    pub fn check(&self, limits: &Limits) -> Result<f64, Vec<String>> {
        let (mut worst, mut wrong) = (0f64, Vec::new());
        for (i, role) in self.spec.op.roles().iter().enumerate() {
            let name = format!("operand {i} ({})", role.name);
            let found = match self.spec.operands[i] {
                _ if !role.writes() => self.unchanged(i, &name).map(|()| 0.0),
                OperandSpec::Tensor { elem: Elem::I32, stride, .. }
                    if let Kind::PageLists { select, lists, .. } = role.kind =>
                {
                    self.lists(i, (select, lists), &name)
                        .and_then(|()| self.guard(i, stride, &name))
                        .map(|()| 0.0)
                }
                OperandSpec::Tensor { elem: Elem::I32, width, stride } => {
                    self.indices(i, (width, stride), limits.margin, &name).map(|()| 0.0)
                }
                OperandSpec::Tensor { elem, width, stride } => {
                    // Rounded results are as far apart as what was appended to a cache.
                    let limit = if elem == Elem::Bf16 { limits.bf16_cache } else { limits.error };
                    self.tensor(i, (elem, width, stride), limit, &name)
                }
                OperandSpec::Cache(cache) => match cache.codec.elem() {
                    Some(elem) => {
                        let limit = if elem == Elem::Bf16 { limits.bf16_cache } else { limits.error };
                        self.cache(i, (&cache, elem), limit, &name)
                    }
                    None => self.codes(i, &cache, &name).map(|()| 0.0),
                },
                OperandSpec::Weight(_) => Err(format!("{name}: weights are not written")),
            };
            match found {
                Ok(error) => worst = worst.max(error),
                Err(message) => wrong.push(message),
            }
        }
        if wrong.is_empty() { Ok(worst) } else { Err(wrong) }
    }

    fn unchanged(&self, i: usize, name: &str) -> Result<(), String> {
        let (before, got) = (self.before[i].bytes(), self.got[i].bytes());
        if before == got {
            return Ok(());
        }
        let at = before.iter().zip(got).position(|(a, b)| a != b).unwrap_or(0);
        Err(format!("{name}: an input changed, at byte {at}"))
    }

    /// Whether a router's row has a logit that leaves no share a number.
    fn hopeless(&self, row: u64) -> bool {
        let bad = |score: &f64| score.is_nan() || *score == f64::INFINITY;
        matches!(self.spec.op, StepOp::Router(_))
            && scores(self.spec, self.batch, self.before, row).iter().flatten().any(bad)
    }

    /// Where the reference has what stands in column `col` of a row: there; but of a router at the same expert, whose place
    /// another may have that scores as much and has another share. `None`: one of the row's experts is another, as good as the
    /// reference's ([`Self::indices`] sees to that), so that all shares are parts of another sum.
    fn same_expert(&self, row: u64, col: u64) -> Option<u64> {
        let StepOp::Router(ops::Router { active, .. }) = self.spec.op else { return Some(col) };
        let at = self.spec.op.roles().iter().position(|role| role.name == "index").expect("a router's index");
        let OperandSpec::Tensor { stride, .. } = self.spec.operands[at] else { return Some(col) };
        let experts = |memory: &Memory| -> Vec<u32> {
            let expert = |col| pack::load(Elem::F32, memory.bytes(), row * stride + col).to_bits();
            (0..active).map(expert).collect()
        };
        let (got, want) = (experts(&self.got[at]), experts(&self.want[at]));
        if got == want || self.hopeless(row) {
            return Some(col);
        }
        let place = |own: &u32| want.iter().position(|expert| expert == own).map(|place| place as u64);
        got.iter().all(|own| place(own).is_some()).then(|| place(&got[col as usize])).flatten()
    }

    /// Nothing behind the rows of a tensor may have changed.
    fn guard(&self, i: usize, stride: u64, name: &str) -> Result<(), String> {
        let end = (result_rows(self.spec, self.batch) * stride * 4) as usize;
        let (before, got) = (&self.before[i].bytes()[end..], &self.got[i].bytes()[end..]);
        match before.iter().zip(got).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => {
                let row = (end + at) as u64 / (4 * stride);
                let rows = memory_rows(self.batch);
                Err(format!("{name}: written behind its end: row {row} of {rows}, byte {at} behind"))
            }
        }
    }

    /// The same of one in tiles, whose rows end inside of them.
    fn guard_tiles(&self, i: usize, width: u64, name: &str) -> Result<(), String> {
        let rows = result_rows(self.spec, self.batch);
        let (before, got) = (self.before[i].bytes(), self.got[i].bytes());
        let of_rows: HashSet<u64> = (0..rows)
            .flat_map(|row| (0..width).map(move |col| tensor::index(Elem::Bf16, width, row, col)))
            .collect();
        let elements = (0..).zip(before.chunks(2).zip(got.chunks(2)));
        match elements.into_iter().find(|(at, (a, b))| a != b && !of_rows.contains(at)) {
            None => Ok(()),
            Some((at, _)) => Err(format!("{name}: element {at} of none of its {rows} rows was written")),
        }
    }

    fn tensor(
        &self,
        i: usize,
        (elem, width, stride): (Elem, u64, u64),
        limit: f64,
        name: &str,
    ) -> Result<f64, String> {
        let load = |memory: &Memory, row: u64, col: u64| {
            pack::load(elem, memory.bytes(), tensor::index(elem, stride, row, col))
        };
        let mut distance = Distance::default();
        for row in self.rows {
            let pair = |col| {
                let theirs = self.same_expert(*row, col)?;
                Some((col, load(&self.got[i], *row, col), load(&self.want[i], *row, theirs)))
            };
            let elements: Vec<(u64, f32, f32)> = (0..width).filter_map(pair).collect();
            if !self.hopeless(*row) {
                distance.row(&elements, |col| format!("row {row}, column {col}"));
            } else if let Some((col, got, _)) = elements.iter().find(|(_, got, _)| !got.is_nan()) {
                return Err(format!(
                    "{name}: row {row}, column {col} is {got:e} though a logit is no number"
                ));
            }
        }
        for row in (0..result_rows(self.spec, self.batch)).filter(|row| !self.hopeless(*row)) {
            if let Some(col) = (0..width).find(|col| load(&self.got[i], row, *col).is_nan()) {
                return Err(format!("{name}: row {row}, column {col} is NaN"));
            }
        }
        if elem == Elem::Bf16 {
            self.guard_tiles(i, width, name)?
        } else {
            self.guard(i, stride, name)?
        }
        distance.check(limit, name)
    }

    /// A selection, or a router's experts.
    fn indices(&self, i: usize, (width, stride): (u64, u64), margin: f64, name: &str) -> Result<(), String> {
        let list = |memory: &Memory, row: u64| -> Vec<i32> {
            let word = |col| pack::load(Elem::F32, memory.bytes(), row * stride + col).to_bits() as i32;
            (0..width).map(word).collect()
        };
        for row in self.rows {
            let (got, want) = (list(&self.got[i], *row), list(&self.want[i], *row));
            if let (StepOp::Router(ops::Router { experts, .. }), true) = (self.spec.op, self.hopeless(*row)) {
                // Any expert may stand there, but there it must be.
                if got.iter().any(|expert| !(0..experts as i32).contains(expert)) {
                    return Err(format!("{name}: row {row}: {got:?} of {experts} experts"));
                }
                continue;
            }
            if got == want {
                continue;
            }
            let scores = scores(self.spec, self.batch, self.before, *row);
            // Without a margin the order among equals counts too: the lower index is first.
            if scores.is_empty() || margin == 0.0 {
                return Err(format!("{name}: row {row}: {got:?}, reference {want:?}"));
            }
            let each = width as usize / scores.len().max(1);
            for ((got, want), (scores, n)) in
                got.chunks(each).zip(want.chunks(each)).zip(scores.iter().zip(0..))
            {
                same_choice(got, want, scores, margin).map_err(|message| {
                    format!("{name}: row {row}, list {n}: {message}: {got:?}, reference {want:?}")
                })?;
            }
        }
        self.guard(i, stride, name)
    }

    /// Page lists, each up to its end.
    fn lists(&self, i: usize, (select, lists): (SelectShape, ListShape), name: &str) -> Result<(), String> {
        let rows = self.batch.rows();
        if rows < lists.least {
            return self.unchanged(i, name);
        }
        let (width, entry) = (lists.width(select).unwrap_or_default(), lists.entry());
        let words = |memory: &Memory, at: u64| -> Vec<i32> {
            let word = |i| pack::load(Elem::F32, memory.bytes(), at + i).to_bits() as i32;
            (0..entry).map(word).collect()
        };
        for begin in (0..rows).step_by(lists.tile as usize) {
            let room = lists.tile.min(rows - begin) * select.blocks;
            for kv_head in 0..select.kv_heads {
                for n in 0..room {
                    let at = begin * width + (kv_head * room + n) * entry;
                    let (got, want) = (words(&self.got[i], at), words(&self.want[i], at));
                    match want[0] == -1 {
                        true if got[0] == -1 => break,
                        false if got == want => {}
                        _ => {
                            let place = format!("rows from {begin} on, KV head {kv_head}, entry {n}");
                            return Err(format!("{name}: {place}: {got:x?}, reference {want:x?}"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn cache(
        &self,
        i: usize,
        (cache, elem): (&CacheSpec, Elem),
        limit: f64,
        name: &str,
    ) -> Result<f64, String> {
        let load = |memory: &Memory, at: u64| pack::load(elem, memory.bytes(), at);
        let mut appended = vec![false; self.got[i].bytes().len() / elem.bytes() as usize];
        let mut distance = Distance::default();
        for row in 0..self.batch.rows() {
            let (sequence, position) = (self.batch.sequence(row), self.batch.position(row));
            let base = self.batch.page_base(cache, sequence, position) / elem.bytes();
            let place = position % cache.page;
            let mut elements = Vec::new();
            for head in 0..cache.kv_heads {
                let keys = (0..cache.qk_dim).map(|d| base + cache.key_index(head, place, d));
                let values = (0..cache.v_dim).map(|d| base + cache.value_index(head, place, d));
                elements.extend(keys.chain(values));
                // Padding may be written.
                for d in cache.v_dim..cache.v_pad() {
                    appended[(base + cache.value_index(head, place, d)) as usize] = true;
                }
            }
            elements.iter().for_each(|at| appended[*at as usize] = true);
            if self.rows.binary_search(&row).is_ok() {
                let pair = |at: &u64| (*at, load(&self.got[i], *at), load(&self.want[i], *at));
                let elements: Vec<(u64, f32, f32)> = elements.iter().map(pair).collect();
                distance.row(&elements, |at| format!("row {row}, element {at}"));
            } else if let Some(at) = elements.iter().find(|at| load(&self.got[i], **at).is_nan()) {
                return Err(format!("{name}: row {row}, element {at} is NaN"));
            }
        }
        let size = elem.bytes() as usize;
        let pairs = self.before[i].bytes().chunks(size).zip(self.got[i].bytes().chunks(size));
        if let Some(at) = pairs.zip(&appended).position(|((b, g), appended)| !appended && b != g) {
            return Err(format!("{name}: element {at} of nobody's position was written"));
        }
        distance.check(limit, name)
    }
}

impl Step<'_> {
    /// Codes and scales are the reference's, bit by bit; a scale that is NaN is any NaN.
    fn codes(&self, i: usize, cache: &CacheSpec, name: &str) -> Result<(), String> {
        let [got, want, before] = [&self.got[i], &self.want[i], &self.before[i]].map(|memory| memory.bytes());
        // What padding may be is left as it is found.
        let mut expected = before.to_vec();
        for row in 0..self.batch.rows() {
            let (sequence, position) = (self.batch.sequence(row), self.batch.position(row));
            let (base, place) = (self.batch.page_base(cache, sequence, position), position % cache.page);
            let source = if self.rows.binary_search(&row).is_ok() { want } else { got };
            for (head, values) in (0..cache.kv_heads).flat_map(|head| [(head, false), (head, true)]) {
                let dims = if values { cache.v_pad() } else { cache.qk_dim };
                for dim in 0..dims {
                    let at = (base + cache.index(head, place, dim, values)) as usize;
                    expected[at] = if values && dim >= cache.v_dim { got[at] } else { source[at] };
                }
                let at = (base + cache.scale_offset(head, values) + 4 * place) as usize;
                let scale = |bytes: &[u8]| {
                    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                };
                let source = if scale(got).is_nan() && scale(source).is_nan() { got } else { source };
                expected[at..at + 4].copy_from_slice(&source[at..at + 4]);
            }
        }
        match got.iter().zip(&expected).position(|(got, expected)| got != expected) {
            None => Ok(()),
            Some(at) => Err(format!(
                "{name}: byte {} of page {} is {}, and not {}",
                at as u64 % cache.page_bytes(),
                at as u64 / cache.page_bytes(),
                got[at],
                expected[at]
            )),
        }
    }
}

/// Whether `got` names the best of `scores`, best first, as `want` does but for changes of place between scores
/// closer than `margin`.
fn same_choice(got: &[i32], want: &[i32], scores: &[f64], margin: f64) -> Result<(), String> {
    let count = want.iter().filter(|index| **index >= 0).count();
    let (named, rest) = got.split_at(count);
    if rest.iter().any(|index| *index != -1) {
        return Err(format!("more than {count} entries"));
    }
    if let Some(index) = named.iter().find(|index| !(0..scores.len() as i32).contains(*index)) {
        return Err(format!("{index} is not one of {}", scores.len()));
    }
    let score = |index: &i32| scores[*index as usize];
    for (i, index) in named.iter().enumerate() {
        if named[..i].contains(index) {
            return Err(format!("{index} twice"));
        }
        let later = named[i..].iter().map(score).fold(f64::NEG_INFINITY, f64::max);
        if later - score(index) > margin {
            return Err(format!("{index} before one that is {:.1e} better", later - score(index)));
        }
    }
    let least = named.iter().map(score).fold(f64::INFINITY, f64::min);
    let missing = want[..count].iter().filter(|index| !named.contains(index)).map(score);
    let most = missing.fold(f64::NEG_INFINITY, f64::max);
    if most - least > margin {
        return Err(format!("one is missing that is {:.1e} better than one that is there", most - least));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::same_choice;

    #[test]
    fn near_scores_may_change_places_and_others_not() {
        let scores = [0.0, 1.0, 0.999, 0.5, -1.0];
        let choice = |got: &[i32], want: &[i32]| same_choice(got, want, &scores, 0.01).is_ok();
        assert!(choice(&[1, 2], &[1, 2]));
        assert!(choice(&[2, 1], &[1, 2]));
        assert!(choice(&[2], &[1]));
        assert!(!choice(&[3], &[1]));
        assert!(!choice(&[1, 1], &[1, 2]));
        assert!(!choice(&[1, 7], &[1, 2]));
        assert!(!choice(&[3, 1, 2], &[1, 2, 3]));
        assert!(choice(&[1, 2, -1], &[1, 2, -1]));
        assert!(!choice(&[1, -1, 2], &[1, 2, -1]));
        assert!(!choice(&[1, 2, 0], &[1, 2, -1]));
    }
}
