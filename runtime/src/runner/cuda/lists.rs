//! A pass's context and lists in one block: each list at a place that depends on the plan's maxima alone, so
//! that a captured pass finds them where they were. Those whose lengths change come last: the page table, and
//! right behind what is used of it the tokens that penalties look at, so that a pass without any copies none. Kernels
//! find both through the context.

use std::mem::size_of;

use hyc_plan::ModelInfo;
use hyc_plan::abi::StepContext;
use hyc_plan::sample::{SampleParams, Seen};

/// Words of one row's sampling.
const SAMPLE_WORDS: u64 = size_of::<SampleParams>() as u64 / 4;
/// Words of a token that penalties look at.
const SEEN_WORDS: u64 = size_of::<Seen>() as u64 / 4;

/// Where the lists lie, in bytes from the block's beginning; the context is at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListLayout {
    token_ids: u64,
    positions: u64,
    sequence: u64,
    ring_slot: u64,
    out_rows: u64,
    sampling: u64,
    page_table: u64,
    /// Bytes of the block.
    pub bytes: u64,
}

impl ListLayout {
    /// The layout for a model's maxima.
    pub fn new(m: &ModelInfo) -> ListLayout {
        let mut at = (size_of::<StepContext>() as u64).next_multiple_of(256);
        let mut take = |words: u64| {
            let place = at;
            at += (4 * words).next_multiple_of(64);
            place
        };
        let mut layout = ListLayout {
            token_ids: take(m.chunk),
            positions: take(m.chunk),
            sequence: take(m.chunk),
            ring_slot: take(m.max_batch),
            out_rows: take(m.max_outputs),
            sampling: take(m.max_outputs * SAMPLE_WORDS),
            page_table: take(m.max_batch * m.max_context.div_ceil(m.page)),
            bytes: 0,
        };
        take(m.most_seen() * SEEN_WORDS);
        layout.bytes = at;
        layout
    }

    /// Writes `context`, its lists behind it, as a block at device address `base` shall hold them. Returns the
    /// bytes from the beginning that matter.
    ///
    /// # Safety
    /// The context's lists have the lengths that it states, which are within the plan's maxima, and `out` has
    /// [`ListLayout::bytes`].
    pub unsafe fn write(&self, context: &StepContext, base: u64, out: &mut [u8]) -> u64 {
        let c = *context;
        let mut put = |list: *const i32, words: u64, place: u64| -> *const i32 {
            if words > 0 {
                // SAFETY: the caller's promise.
                let words = unsafe { std::slice::from_raw_parts(list.cast::<u8>(), 4 * words as usize) };
                out[place as usize..place as usize + words.len()].copy_from_slice(words);
            }
            (base + place) as *const i32
        };
        let table = c.batch * c.max_pages;
        let seen = self.page_table + (4 * table).next_multiple_of(64);
        let moved = StepContext {
            token_ids: put(c.token_ids, c.tokens, self.token_ids),
            positions: put(c.positions, c.tokens, self.positions),
            sequence: put(c.sequence, c.tokens, self.sequence),
            ring_slot: put(c.ring_slot, c.batch, self.ring_slot),
            out_rows: put(c.out_rows, c.outputs, self.out_rows),
            page_table: put(c.page_table, table, self.page_table),
            sampling: match c.sampling.is_null() {
                true => std::ptr::null(),
                false => put(c.sampling.cast(), c.outputs * SAMPLE_WORDS, self.sampling).cast(),
            },
            seen: match c.seen.is_null() {
                true => std::ptr::null(),
                false => put(c.seen.cast(), c.seen_count * SEEN_WORDS, seen).cast(),
            },
            ..c
        };
        // SAFETY: a plain struct of 64-bit integers and addresses, without padding, copied as its bytes.
        let head = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(&moved).cast::<u8>(), size_of::<StepContext>())
        };
        out[..head.len()].copy_from_slice(head);
        match c.seen.is_null() {
            true => self.page_table + 4 * table,
            false => seen + 4 * c.seen_count * SEEN_WORDS,
        }
    }

    /// Bytes that a captured pass copies for `used`: few different lengths, so that few graphs are made.
    pub fn copied(&self, used: u64) -> u64 {
        used.next_power_of_two().max(4096).min(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelInfo {
        ModelInfo {
            name: String::new(),
            layers: 1,
            hidden: 1,
            vocab: 9,
            named: None,
            max_context: 1000,
            max_batch: 3,
            chunk: 17,
            max_outputs: 5,
            page: 64,
        }
    }

    #[test]
    fn lists_are_found_where_the_context_points() {
        let layout = ListLayout::new(&model());
        let list = |n: i32, from: i32| (from..from + n).collect::<Vec<i32>>();
        for (tokens, batch, outputs, pages, seen) in
            [(1, 1, 1, 1, 0), (17, 3, 5, 16, 27), (3, 3, 0, 7, 0), (3, 1, 1, 5, 9)]
        {
            let lists = [
                list(tokens, 100),
                list(tokens, 200),
                list(tokens, 300),
                list(batch * pages, 400),
                list(batch, 500),
                list(outputs, 600),
                list(SAMPLE_WORDS as i32 * outputs, 700),
                list(SEEN_WORDS as i32 * seen, 800),
            ];
            let context = StepContext {
                tokens: tokens as u64,
                batch: batch as u64,
                outputs: outputs as u64,
                max_pages: pages as u64,
                token_ids: lists[0].as_ptr(),
                positions: lists[1].as_ptr(),
                sequence: lists[2].as_ptr(),
                page_table: lists[3].as_ptr(),
                ring_slot: lists[4].as_ptr(),
                out_rows: lists[5].as_ptr(),
                sampling: if outputs > 0 { lists[6].as_ptr().cast() } else { std::ptr::null() },
                seen_count: seen as u64,
                seen: if seen > 0 { lists[7].as_ptr().cast() } else { std::ptr::null() },
            };
            let (base, mut out) = (1 << 40, vec![0u8; layout.bytes as usize]);
            // SAFETY: the lists have the lengths that the context states.
            let used = unsafe { layout.write(&context, base, &mut out) };
            assert!(
                used <= layout.bytes && used <= layout.copied(used) && layout.copied(used) <= layout.bytes
            );
            let word = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
            assert_eq!(
                [word(0), word(8), word(16), word(24)].map(|n| n as i32),
                [tokens, batch, outputs, pages]
            );
            for (i, list) in lists.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
                // The count of the last list stands before its address.
                let at = (word(32 + 8 * (i + i / 7)) - base) as usize;
                assert_eq!(at % 64, 0);
                let found: Vec<i32> = out[at..at + 4 * list.len()]
                    .chunks_exact(4)
                    .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                    .collect();
                assert_eq!(found, *list, "list {i}");
                assert!(at + 4 * list.len() <= used as usize);
            }
        }
    }

    #[test]
    fn few_lengths_are_copied() {
        let layout = ListLayout::new(&ModelInfo { max_context: 1 << 20, max_batch: 64, ..model() });
        let lengths: std::collections::BTreeSet<u64> = (0..layout.bytes).map(|n| layout.copied(n)).collect();
        assert!(lengths.len() < 20, "{lengths:?}");
    }
}
