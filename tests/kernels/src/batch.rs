//! Where the rows of a step stand.

use hyc_plan::abi::StepContext;
use hyc_plan::sample::{SampleParams, Seen};
use hyc_plan::{CachePolicy, CacheSpec};

use crate::Rng;

/// Sequences of a step as (tokens in the cache before, rows of this step), with the lists that kernels see.
/// Pages and ring slots are permuted.
pub struct Batch {
    /// (tokens before, rows) of each sequence.
    pub sequences: Vec<(u64, u64)>,
    /// Row length of the page table.
    pub max_pages: u64,
    /// How each output row is sampled; empty: none is.
    pub sampling: Vec<SampleParams>,
    /// What its rows' penalties look at.
    pub seen: Vec<Seen>,
    positions: Vec<i32>,
    sequence: Vec<i32>,
    page_table: Vec<i32>,
    ring_slot: Vec<i32>,
    token_ids: Vec<i32>,
    out_rows: Vec<i32>,
}

/// Pages of a growing cache at most: pages of longer contexts stand for each other, so that a million tokens have room.
const POOL: u64 = 4096;

impl Batch {
    /// Random ids below `vocab` on random pages of `page` tokens; each sequence's last row is an output.
    pub fn new(rng: &mut Rng, page: u64, sequences: &[(u64, u64)], vocab: u64) -> Batch {
        let pages = sequences.iter().map(|(past, rows)| (past + rows).div_ceil(page));
        let max_pages = pages.max().unwrap_or(0) + 1;
        let count = sequences.len() as u64;
        let mut physical: Vec<i32> = (0..count * max_pages).map(|page| (page % POOL) as i32).collect();
        for i in (1..physical.len()).rev() {
            physical.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let mut batch = Batch {
            sequences: sequences.to_vec(),
            max_pages,
            sampling: vec![],
            seen: vec![],
            positions: vec![],
            sequence: vec![],
            page_table: physical,
            ring_slot: (0..count as i32).rev().collect(),
            token_ids: vec![],
            out_rows: vec![],
        };
        for (i, (past, rows)) in sequences.iter().enumerate() {
            for row in 0..*rows {
                batch.positions.push((past + row) as i32);
                batch.sequence.push(i as i32);
                batch.token_ids.push(rng.below(vocab) as i32);
            }
            batch.out_rows.push(batch.positions.len() as i32 - 1);
        }
        batch
    }

    /// Rows of the step.
    pub fn rows(&self) -> u64 {
        self.positions.len() as u64
    }

    /// Rows whose logits are wanted.
    pub fn outputs(&self) -> u64 {
        self.out_rows.len() as u64
    }

    /// Position of a row; 0 for rows that are not.
    pub fn position(&self, row: u64) -> u64 {
        self.positions.get(row as usize).copied().unwrap_or(0) as u64
    }

    /// Sequence of a row.
    pub fn sequence(&self, row: u64) -> usize {
        self.sequence[row as usize] as usize
    }

    /// Pages of a cache's pool.
    pub fn pages(&self, cache: &CacheSpec) -> u64 {
        match cache.policy {
            CachePolicy::Growing => (self.page_table.len() as u64).min(POOL),
            CachePolicy::Ring { pages, .. } => pages * self.sequences.len() as u64,
        }
    }

    /// Offset, in bytes, of the page that holds a position.
    pub fn page_base(&self, cache: &CacheSpec, sequence: usize, position: u64) -> u64 {
        let logical = position / cache.page;
        let physical = match cache.policy {
            CachePolicy::Growing => {
                self.page_table[sequence * self.max_pages as usize + logical as usize] as u64
            }
            CachePolicy::Ring { pages, .. } => self.ring_slot[sequence] as u64 * pages + logical % pages,
        };
        physical * cache.page_bytes()
    }

    /// The lists of a [`StepContext`], in its order.
    pub fn lists(&self) -> [&[i32]; 6] {
        [&self.token_ids, &self.positions, &self.sequence, &self.page_table, &self.ring_slot, &self.out_rows]
    }

    /// The context with its lists, the sampling and what it looks at at these addresses.
    pub fn context_at(
        &self,
        lists: [*const i32; 6],
        sampling: *const SampleParams,
        seen: *const Seen,
    ) -> StepContext {
        let [token_ids, positions, sequence, page_table, ring_slot, out_rows] = lists;
        StepContext {
            tokens: self.rows(),
            batch: self.sequences.len() as u64,
            outputs: self.outputs(),
            max_pages: self.max_pages,
            token_ids,
            positions,
            sequence,
            page_table,
            ring_slot,
            out_rows,
            sampling: if self.sampling.is_empty() { std::ptr::null() } else { sampling },
            seen_count: self.seen.len() as u64,
            seen: if self.seen.is_empty() { std::ptr::null() } else { seen },
        }
    }

    /// The context on this machine.
    pub fn context(&self) -> StepContext {
        self.context_at(self.lists().map(<[i32]>::as_ptr), self.sampling.as_ptr(), self.seen.as_ptr())
    }
}
