//! The warp that copies, or the warp group that makes bf16 tiles of codes: along the tile's list and then along the window, so that the ring is full.

use hyc_plan::CacheSpec;
use hyc_plan::lists::EDGE;

use super::{CONSUMERS, Item, SharedPages, Stages};
use crate::gpu::attention::branch::{Branch, Source};
use crate::gpu::attention::page_lists::{PageLists, Segment, rows_of_tile, segments};
use crate::gpu::isa::{Emit, Int};
use crate::gpu::kv_codes::{Codes, Expander};
use crate::gpu::paged_kv::{HeadPages, page_address, physical_page};
use crate::gpu::work_item::group;
use crate::lists::{query_bytes, stage_bytes};

/// Gives a word of the bits of the queries that take a page.
type Takers<'a, 'c> = &'a dyn Fn(u64) -> Int<'c>;

/// Notes what is in a stage, and starts copies to it, counted by a barrier.
type Note<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>);
type Start<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>);

/// Fills a stage with a page: its physical number, its flags, who takes it.
type Copy<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Takers<'_, 'c>);

impl SharedPages<'_, '_> {
    /// The pages of each branch, K then V, as they lie, and a stage that says that the branch ends.
    pub(super) fn produce<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, item: Item<'c>, next_item: Item<'c>) {
        let (tile, kv_head) = item;
        let note = |e: &Emit<'c>, stage: Int<'c>, flags: Int<'c>, takers: Takers<'_, 'c>| {
            let at = e.mul_const(stage, self.note_words());
            e.store(stages.notes, at, flags.into());
            for i in 0..self.taker_words() {
                e.store(stages.notes, e.add_const(at, 1 + i as i64), takers(i).into());
            }
        };
        // The producer, or the first of them.
        let first = |e: &Emit<'c>| e.eq(e.thread(), e.int(CONSUMERS));
        let fill = |e: &Emit<'c>, bytes: u64, note: Note<'_, 'c>, copy: Start<'_, 'c>| match self.producers()
        {
            1 => stages.ring.produce_noted(e, e.int(bytes), note, copy),
            _ => stages.ring.produce_among(e, first(e), bytes, note, copy),
        };
        for (i, (branch, cache)) in self.branches.iter().zip(&self.caches).enumerate() {
            // The ring's pages are ahead of the products: not so far that the second cache has forgotten again.
            if i + 1 == self.branches.len() {
                match self.producers() {
                    1 => self.prefetch(e, item, next_item),
                    _ => e.when(first(e), |e| self.prefetch(e, item, next_item)),
                }
            }
            let pages = HeadPages::new(e, *cache, kv_head);
            let expander = Expander::of(cache);
            let page = |e: &Emit<'c>, physical: Int<'c>, flags: Int<'c>, takers: Takers<'_, 'c>| {
                let page = page_address(e, cache, branch.cache, physical);
                let note = |e: &Emit<'c>, stage: Int<'c>| note(e, stage, flags, takers);
                let Some(expander) = expander else {
                    let bytes = stage_bytes(self.shape);
                    return fill(e, bytes, &note, &|e, stage, full| {
                        let to = e.add(stages.pages, e.mul_const(stage, bytes));
                        pages.copy(e, page, to, full);
                    });
                };
                let stage = stages.ring.empty(e);
                e.when(first(e), |e| note(e, stage));
                self.expand(e, expander, (Codes::of_page(e, cache, page, kv_head), stage));
                stages.ring.filled(e, e.ge(e.thread(), e.int(CONSUMERS)));
            };
            match (branch.source, &self.lists) {
                (Source::Listed(..), Some(lists)) => listed(e, lists, item, &page),
                (Source::Listed(..), None) => {}
                (Source::Window(width), _) => self.window(e, tile, (cache, width), &page),
            }
            let end = |e: &Emit<'c>, stage: Int<'c>| note(e, stage, e.int(0), &|_| e.int(0));
            fill(e, 0, &end, &|_, _, _| {});
        }
    }

    /// Makes bf16 tiles of a page's codes in a stage, by the whole warp group.
    fn expand<'c>(&self, e: &Emit<'c>, expander: Expander, (codes, stage): (Codes<'c>, Int<'c>)) {
        let threads = (e.add_const(e.thread(), -(CONSUMERS as i64)), self.producers());
        let stage = e.mul_const(stage, stage_bytes(self.shape));
        let keys = e.byte_offset(e.dynamic_shared(), e.add_const(stage, query_bytes(self.shape) as i64));
        expander.keys(e, (codes, keys), self.shape.qk_dim, threads);
        let values = e.byte_offset(keys, e.int(2 * 64 * self.shape.qk_dim));
        expander.values(e, (codes, values), self.shape.v_dim, threads);
        e.async_fence();
    }

    /// Has the second cache read the gates of an item and the queries of the next.
    fn prefetch<'c>(&self, e: &Emit<'c>, item: Item<'c>, next: Item<'c>) {
        let rows = |e: &Emit<'c>, (tile, kv_head): Item<'c>, name: &str, dim: u64| {
            let (begin, end) = rows_of_tile(e, self.spec, self.tile(), tile);
            let width = group(self.shape) * dim;
            e.each(begin, end, 1, |e, row| {
                let at = e.add(e.mul_const(e.wide(row), e.stride(name)), e.wide(e.mul_const(kv_head, width)));
                e.prefetch(e.at(e.operand(name), at), 4 * width);
            });
        };
        for name in self.branches.iter().filter_map(Branch::elementwise_gate) {
            rows(e, item, name, self.shape.v_dim);
        }
        rows(e, next, "q", self.shape.qk_dim);
    }

    /// The pages of a window of `width` tokens: of each sequence of the tile those that some row sees.
    fn window<'c>(&self, e: &Emit<'c>, tile: Int<'c>, (cache, width): (&CacheSpec, u64), page: Copy<'_, 'c>) {
        let (begin, end) = rows_of_tile(e, self.spec, self.tile(), tile);
        segments(e, begin, end, |e, segment| {
            let from = e.max(e.add_const(segment.first, 1 - width as i64), e.int(0));
            let first = e.div_rem(from, cache.page).0;
            let after = e.add_const(e.div_rem(segment.last, cache.page).0, 1);
            e.each(first, after, 1, |e, logical| {
                let physical = physical_page(e, cache, segment.sequence, logical);
                let flags = e.or(segment.flags(e, logical, cache.page), e.int(EDGE));
                page(e, physical, flags, &|i| of_word(e, &segment, begin, i));
            });
        });
    }
}

/// The pages of an item's list.
fn listed<'c>(e: &Emit<'c>, lists: &PageLists<'_>, (tile, kv_head): Item<'c>, page: Copy<'_, 'c>) {
    let (list, room) = lists.list(e, tile, kv_head);
    let entry = |e: &Emit<'c>, i: Int<'c>| e.load4(list, e.mul_const(i, lists.entry()));
    // An entry is read while the copies before it wait for their stages.
    let ahead = entry(e, e.int(0)).map(|word| e.var(word.into()));
    let next = e.var(e.int(0).into());
    e.repeat(|e| {
        let now = ahead.map(|word| e.get(word).into_int_value());
        let at = e.get(next).into_int_value();
        let after = e.add_const(at, 1);
        e.set(next, after.into());
        let read = entry(e, e.min(after, e.add_const(room, -1)));
        ahead.iter().zip(read).for_each(|(ahead, word)| e.set(*ahead, word.into()));
        let there = e.ge(now[0], e.int(0));
        e.when(there, |e| {
            let takers = |i: u64| match i {
                0 | 1 => now[2 + i as usize],
                _ => e.load_int(list, e.add_const(e.mul_const(at, lists.entry()), 2 + i as i64)),
            };
            page(e, now[0], now[1], &takers);
        });
        e.or(e.not(there), e.ge(after, room))
    });
}

/// Bits of a segment's rows in word `i` of a tile's that begins at row `begin`.
fn of_word<'c>(e: &Emit<'c>, segment: &Segment<'c>, begin: Int<'c>, i: u64) -> Int<'c> {
    // Bits below n, of 0 to 32.
    let below = |row: Int<'c>| {
        let n = e.add_const(e.sub(row, begin), -(32 * i as i64));
        let n = e.min(e.max(n, e.int(0)), e.int(32));
        let ones = e.shifted_left(e.long(1), e.wide(n));
        e.low(e.add_const(ones, -1))
    };
    e.xor(below(segment.end), below(segment.begin))
}
