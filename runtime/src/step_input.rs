//! The input of one pass, and what of it no kernel could take.

use hyc_plan::ModelInfo;
use hyc_plan::sample::{ONE, SampleParams, Seen};
use hyc_plan::sampling::MAX_PENALTY_WINDOW;

use crate::error::{Error, ErrorKind, Result};

/// What a step runs on: rows of one or more sequences.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepInput {
    /// `[tokens]` vocabulary ids.
    pub token_ids: Vec<i32>,
    /// `[tokens]` positions.
    pub positions: Vec<i32>,
    /// `[tokens]` index of the row's sequence, `0..batch`.
    pub sequence: Vec<i32>,
    /// `[batch][max_pages]` physical pages.
    pub page_table: Vec<i32>,
    /// `[batch]` ring slots.
    pub ring_slot: Vec<i32>,
    /// `[outputs]` rows whose logits are wanted.
    pub out_rows: Vec<i32>,
    /// `[outputs]` how a token is chosen from each, where the plan has a step for it; empty: none is.
    pub sampling: Vec<SampleParams>,
    /// The tokens that penalties look at, of all rows of `sampling`, which say where theirs are.
    pub seen: Vec<Seen>,
}

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::BadInput, what))
}

impl StepInput {
    /// Errors: a list of the wrong length; an id, a position, a page, a slot, a row or a parameter out of range; rows
    /// in another order than kernels take them; a page or a slot that one sequence would write and another has. `pages` and
    /// `slots`: how many there are.
    pub(crate) fn check(&self, m: &ModelInfo, pages: u64, slots: u64) -> Result<()> {
        let (tokens, batch) = (self.token_ids.len(), self.ring_slot.len());
        if tokens == 0 || tokens as u64 > m.chunk || batch as u64 > m.max_batch || batch == 0 {
            return bad(format!(
                "a step of {tokens} tokens in {batch} sequences; at most {} in {}",
                m.chunk, m.max_batch
            ));
        }
        let outputs = self.out_rows.len();
        if outputs as u64 > m.max_outputs {
            return bad(format!("{outputs} rows of logits in a step; at most {}", m.max_outputs));
        }
        if self.positions.len() != tokens
            || self.sequence.len() != tokens
            || self.page_table.len() % batch != 0
            || !self.sampling.is_empty() && self.sampling.len() != outputs
        {
            return bad("the parts of a step's input differ in length");
        }
        let max_pages = self.page_table.len() / batch;
        if max_pages as u64 > m.max_context.div_ceil(m.page) {
            return bad(format!("{max_pages} pages of a sequence are more than its context has"));
        }
        if let Some(id) = self.token_ids.iter().find(|id| **id < 0 || **id as u64 >= m.vocab) {
            return bad(format!("token id {id} is not in the vocabulary of {}", m.vocab))
                .map_err(|e: Error| e.help("is the tokenizer this model's?"));
        }
        let last = self.check_rows(m, max_pages)?;
        self.check_places(m, max_pages, pages, &last)?;
        if self.ring_slot.iter().any(|slot| *slot < 0 || *slot as u64 >= slots) {
            return bad("a ring slot is out of range");
        }
        if self.out_rows.iter().any(|row| *row < 0 || *row as usize >= tokens) {
            return bad("a row of logits is out of range");
        }
        self.check_sampling(m)
    }

    /// Every row's position is within its sequence; the last of each sequence.
    fn check_rows(&self, m: &ModelInfo, max_pages: usize) -> Result<Vec<Option<i32>>> {
        let mut last: Vec<Option<i32>> = vec![None; self.ring_slot.len()];
        let mut before = None;
        for (position, sequence) in self.positions.iter().zip(&self.sequence) {
            let place = usize::try_from(*sequence).ok().and_then(|place| last.get_mut(place));
            let logical = usize::try_from(*position).ok().map(|p| p / m.page as usize);
            match place {
                Some(place)
                    if logical.is_some_and(|l| l < max_pages) && (*position as u64) < m.max_context =>
                {
                    // Kernels take runs of rows for one sequence's, and a run's last row for its newest.
                    if before != Some(*sequence) && place.is_some() {
                        return bad(format!("the rows of sequence {sequence} do not stand together"));
                    }
                    // Kernels count back from a row to what the step writes first.
                    if place.is_some_and(|last| last + 1 != *position) {
                        return bad(format!(
                            "the positions of sequence {sequence} do not ascend one by one at {position}"
                        ));
                    }
                    *place = Some(*position);
                    before = Some(*sequence);
                }
                _ => return bad(format!("position {position} of sequence {sequence} is out of range")),
            }
        }
        Ok(last)
    }

    /// Every sequence has its pages, up to its last position, and none has one that another writes: kernels' threads would
    /// write there as well, and read there before. What is only read may be shared.
    fn check_places(&self, m: &ModelInfo, max_pages: usize, pages: u64, last: &[Option<i32>]) -> Result<()> {
        let row = |sequence: usize, position: i32| {
            &self.page_table[sequence * max_pages..][..=position as usize / m.page as usize]
        };
        let mut slots = Vec::new();
        for ((sequence, position), slot) in last.iter().enumerate().zip(&self.ring_slot) {
            let Some(position) = *position else { continue };
            if row(sequence, position).iter().any(|page| *page < 0 || *page as u64 >= pages) {
                return bad(format!("sequence {sequence} has no page for position {position}"));
            }
            slots.push((*slot, sequence));
        }
        let place = |(position, sequence): (&i32, &i32)| {
            let (logical, sequence) = (*position as usize / m.page as usize, *sequence as usize);
            (self.page_table[sequence * max_pages + logical], sequence, logical)
        };
        let mut written: Vec<_> = self.positions.iter().zip(&self.sequence).map(place).collect();
        written.dedup();
        written.sort_unstable();
        if let Some([(page, a, _), (_, b, _)]) = written.array_windows().find(|[a, b]| a.0 == b.0) {
            return bad(format!("sequences {a} and {b} would both write to page {page}"));
        }
        let mut marks = vec![0u64; (pages as usize).div_ceil(64)];
        for (page, ..) in &written {
            marks[*page as usize / 64] |= 1 << (page % 64);
        }
        for (sequence, position) in last.iter().enumerate() {
            let Some(position) = *position else { continue };
            let marked = |(_, page): &(usize, &i32)| marks[**page as usize / 64] & 1 << (**page % 64) != 0;
            for (logical, page) in row(sequence, position).iter().enumerate().filter(marked) {
                if written.binary_search(&(*page, sequence, logical)).is_ok() {
                    continue;
                }
                let writer = written.iter().find(|(written, ..)| written == page).map_or(sequence, |of| of.1);
                return bad(format!(
                    "sequence {writer} would write to page {page}, which sequence {sequence} has"
                ));
            }
        }
        slots.sort_unstable();
        if let Some([(slot, a), (_, b)]) = slots.array_windows().find(|[a, b]| a.0 == b.0) {
            return bad(format!("sequences {a} and {b} would both write to ring slot {slot}"));
        }
        Ok(())
    }

    /// Every parameter is in its range, and every row's tokens are in the list, ascend and are in the vocabulary.
    fn check_sampling(&self, m: &ModelInfo) -> Result<()> {
        if self.seen.len() as u64 > m.most_seen() {
            return bad("penalties look at more tokens than a step has room for");
        }
        for p in &self.sampling {
            if !(p.scale.is_finite() && p.scale >= 0.0 && p.top_p >= 0.0 && p.least <= ONE) {
                return bad("parameters of sampling are out of range");
            }
            let first = p.first_seen as usize;
            let row = first.checked_add(p.seen as usize).and_then(|end| self.seen.get(first..end));
            let Some(row) = row.filter(|row| row.len() <= MAX_PENALTY_WINDOW as usize) else {
                return bad("the tokens that a row's penalties look at are not in the list");
            };
            // Each once, so that a kernel's threads never share a logit.
            if !row.is_sorted_by(|a, b| a.id < b.id) || row.last().is_some_and(|s| u64::from(s.id) >= m.vocab)
            {
                return bad("the tokens that penalties look at do not ascend within the vocabulary");
            }
            let good = p.repeat > 0.0 && [p.repeat, p.presence, p.frequency].iter().all(|x| x.is_finite());
            if !(good || row.is_empty()) {
                return bad("penalties are out of range");
            }
        }
        Ok(())
    }
}
