//! Which pages the queries of a tile share: what `shared_pages` walks along, made from a selection.
//!
//! ```text
//! a block a (tile of rows, KV head), for each sequence in the tile:
//!   mark      a bit a page that any query chose                       shared memory, 1/32 word a page
//!   rank      bits set before each word                               one warp
//!   gather    the queries that chose the page of each rank, a bit each
//!   write     one entry a page, ascending
//! ```
//! What an entry is: [`hyc_plan::lists`]. Bytes: the selection read, 16 for each page of a tile written. Reference:
//! `reference::lists`.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::lists::{EDGE, PAGE_SHIFT};
use hyc_plan::{CacheSpec, Extent, KernelSpec, ListShape, SelectShape};

use super::limits::LISTS;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, WARP};
use crate::gpu::paged_kv::physical_page;
use crate::gpu::work_item::{WorkItem, row_count, selected_blocks};

/// Threads of a block that makes a list.
const THREADS: u64 = 256;

/// The lists of one selection.
#[derive(Clone, Copy)]
pub struct PageLists<'s> {
    pub spec: &'s KernelSpec,
    pub select: SelectShape,
    pub lists: ListShape,
    /// The cache that the pages are of.
    pub cache: CacheSpec,
}

/// `PageLists`.
pub fn page_lists(k: &mut Kernel<'_, '_>, select: SelectShape, shape: ListShape) {
    let lists = PageLists { spec: k.spec, select, lists: shape, cache: k.cache("cache") };
    let grid = [k.rows(1, shape.tile), Extent::fixed(select.kv_heads)];
    let name = part(LISTS);
    let function = Function::new(&name, grid, THREADS).of(&[LISTS]).shared_bytes(lists.shared_bytes());
    k.function(function, |e| lists.make(e, e.block_x(), e.block_y()));
}

/// The rows of a tile that are of one sequence.
#[derive(Clone, Copy)]
pub struct Segment<'c> {
    pub begin: Int<'c>,
    pub end: Int<'c>,
    pub sequence: Int<'c>,
    /// Positions of the first and the last.
    pub first: Int<'c>,
    pub last: Int<'c>,
}

impl<'c> Segment<'c> {
    /// The second word of an entry for page `page`.
    pub fn flags(&self, e: &Emit<'c>, page: Int<'c>, page_tokens: u64) -> Int<'c> {
        let start = e.mul_const(page, page_tokens);
        let tokens = e.min(e.add_const(e.sub(self.last, start), 1), e.int(page_tokens));
        let edge = e.lt(self.first, e.add_const(start, page_tokens as i64 - 1));
        let edge = e.pick(edge, e.int(EDGE), e.int(0));
        e.or(e.or(e.shift_left(page, PAGE_SHIFT), edge), tokens)
    }
}

/// Goes through the sequences of rows `begin..end`, which stand together.
pub fn segments<'c>(e: &Emit<'c>, begin: Int<'c>, end: Int<'c>, body: impl FnOnce(&Emit<'c>, Segment<'c>)) {
    let load = |offset: usize, row: Int<'c>| e.load_int(e.list(offset), row);
    let (positions, sequences) = (offset_of!(StepContext, positions), offset_of!(StepContext, sequence));
    let from = e.var(begin.into());
    e.repeat(|e| {
        let begin = e.get(from).into_int_value();
        let sequence = load(sequences, begin);
        let to = e.var(end.into());
        e.when(e.not(e.eq(load(sequences, e.add_const(end, -1)), sequence)), |e| {
            e.set(to, e.add_const(begin, 1).into());
            e.repeat(|e| {
                let at = e.get(to).into_int_value();
                let same = e.eq(load(sequences, at), sequence);
                e.set(to, e.pick(same, e.add_const(at, 1), at).into());
                e.not(same)
            });
        });
        let to = e.get(to).into_int_value();
        let (first, last) = (load(positions, begin), load(positions, e.add_const(to, -1)));
        body(e, Segment { begin, end: to, sequence, first, last });
        e.set(from, to.into());
        e.ge(to, end)
    });
}

/// The step's rows of tile `tile`, of `size` each: first and end.
pub fn rows_of_tile<'c>(e: &Emit<'c>, spec: &KernelSpec, size: u64, tile: Int<'c>) -> (Int<'c>, Int<'c>) {
    let begin = e.mul_const(tile, size);
    (begin, e.min(e.add_const(begin, size as i64), row_count(e, spec)))
}

impl PageLists<'_> {
    /// Words of query bits of an entry.
    pub fn words(&self) -> u64 {
        self.lists.row_words()
    }

    /// Words of an entry.
    pub fn entry(&self) -> u64 {
        self.lists.entry()
    }

    /// The rows of a tile.
    pub fn rows<'c>(&self, e: &Emit<'c>, tile: Int<'c>) -> (Int<'c>, Int<'c>) {
        rows_of_tile(e, self.spec, self.lists.tile, tile)
    }

    /// The list of a tile and KV head, and the entries that there is room for.
    pub fn list<'c>(&self, e: &Emit<'c>, tile: Int<'c>, kv_head: Int<'c>) -> (Ptr<'c>, Int<'c>) {
        let (begin, end) = self.rows(e, tile);
        let room = e.mul_const(e.sub(end, begin), self.select.blocks);
        let tile = e.at(e.operand("lists"), e.mul_const(e.wide(begin), e.stride("lists")));
        let list = e.at(tile, e.wide(e.mul_const(e.mul(kv_head, room), self.entry())));
        (list, room)
    }

    fn bitmap_words(&self) -> u64 {
        self.spec.max_context.div_ceil(self.cache.page).div_ceil(32)
    }

    /// Dynamic shared memory of a block that makes a list: bits, ranks, queries of each rank.
    pub fn shared_bytes(&self) -> u64 {
        4 * (2 * self.bitmap_words() + self.lists.tile * self.select.blocks * self.words()) + SHARED_SLACK
    }

    /// Makes the list of (tile, KV head) by a block of [`THREADS`].
    pub fn make<'c>(&self, e: &Emit<'c>, tile: Int<'c>, kv_head: Int<'c>) {
        let words = self.words();
        let bits = e.dynamic_shared();
        let ranks = e.at(bits, e.int(self.bitmap_words()));
        let takers = e.at(ranks, e.int(self.bitmap_words()));
        let (begin, end) = self.rows(e, tile);
        let (list, room) = self.list(e, tile, kv_head);
        let total = e.shared(1);
        let written = e.var(e.int(0).into());
        segments(e, begin, end, |e, segment| {
            let pages = e.add_const(e.div_rem(segment.last, self.cache.page).0, 1);
            let used = e.div_rem(e.add_const(pages, 31), 32).0;
            e.each(e.thread(), used, THREADS, |e, i| e.store(bits, i, e.int(0).into()));
            e.barrier();
            self.choices(e, segment, kv_head, |e, _, page| {
                let (word, bit) = e.div_rem(page, 32);
                e.fetch_or(bits, word, e.shifted_left(e.int(1), bit));
            });
            e.barrier();
            e.when(e.lt(e.thread(), e.int(WARP)), |e| {
                let before = e.var(e.int(0).into());
                let lane = e.lane();
                e.each(e.int(0), used, WARP, |e, round| {
                    let at = e.add(round, lane);
                    let mine = e.load_int(bits, e.min(at, e.add_const(used, -1)));
                    let mine = e.pick(e.lt(at, used), e.ones(mine), e.int(0));
                    let sums = e.sum_up_to(mine);
                    let begin = e.get(before).into_int_value();
                    e.when(e.lt(at, used), |e| e.store(ranks, at, e.add(begin, e.sub(sums, mine)).into()));
                    e.set(before, e.add(begin, e.lane_value(sums, WARP - 1)).into());
                });
                e.when(e.eq(lane, e.int(0)), |e| e.store(total, e.int(0), e.get(before)));
            });
            e.barrier();
            let count = e.load_int(total, e.int(0));
            e.each(e.thread(), e.mul_const(count, words), THREADS, |e, i| {
                e.store(takers, i, e.int(0).into())
            });
            e.barrier();
            self.choices(e, segment, kv_head, |e, row, page| {
                let (word, bit) = e.div_rem(page, 32);
                let below = e.add_const(e.shifted_left(e.int(1), bit), -1);
                let rank = e.ones(e.and(e.load_int(bits, word), below));
                let rank = e.add(e.load_int(ranks, word), rank);
                let (at, bit) = e.div_rem(e.sub(row, begin), 32);
                e.fetch_or(takers, e.add(e.mul_const(rank, words), at), e.shifted_left(e.int(1), bit));
            });
            e.barrier();
            let first = e.get(written).into_int_value();
            e.each(e.thread(), used, THREADS, |e, word| {
                let left = e.var(e.load_int(bits, word).into());
                let rank = e.var(e.load_int(ranks, word).into());
                e.during(
                    |e| e.not(e.eq(e.get(left).into_int_value(), e.int(0))),
                    |e| {
                        let now = e.get(left).into_int_value();
                        let page = e.add(e.mul_const(word, 32), e.lowest(now));
                        let at = e.get(rank).into_int_value();
                        self.write(e, list, e.add(first, at), (segment, page), &|i| {
                            e.load_int(takers, e.add_const(e.mul_const(at, words), i as i64))
                        });
                        e.set(left, e.and(now, e.add_const(now, -1)).into());
                        e.set(rank, e.add_const(at, 1).into());
                    },
                );
            });
            e.set(written, e.add(first, count).into());
            e.barrier();
        });
        let written = e.get(written).into_int_value();
        e.when(e.and(e.eq(e.thread(), e.int(0)), e.lt(written, room)), |e| {
            e.store(list, e.mul_const(written, self.entry()), e.minus_one().into());
        });
    }

    fn write<'c>(
        &self,
        e: &Emit<'c>,
        list: Ptr<'c>,
        index: Int<'c>,
        (segment, page): (Segment<'c>, Int<'c>),
        takers: &dyn Fn(u64) -> Int<'c>,
    ) {
        let physical = physical_page(e, &self.cache, segment.sequence, page);
        let mut words = vec![physical, segment.flags(e, page, self.cache.page)];
        words.extend((0..self.entry() - 2).map(|i| if i < self.words() { takers(i) } else { e.int(0) }));
        for (i, four) in words.chunks(4).enumerate() {
            let at = e.add_const(e.mul_const(index, self.entry()), 4 * i as i64);
            e.store_words(list, at, four);
        }
    }

    /// Takes each (row, page) of a segment that is chosen and visible, by the block.
    fn choices<'c>(
        &self,
        e: &Emit<'c>,
        segment: Segment<'c>,
        kv_head: Int<'c>,
        take: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>),
    ) {
        let all = e.mul_const(e.sub(segment.end, segment.begin), self.select.blocks);
        e.each(e.thread(), all, THREADS, |e, i| {
            let (row, slot) = e.div_rem(i, self.select.blocks);
            let row = e.add(segment.begin, row);
            let item = WorkItem { row, kv_head, position: row, sequence: segment.sequence };
            let page = e.load_int(selected_blocks(e, item, self.select), slot);
            let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
            let seen = e.and(e.ge(page, e.int(0)), e.ge(position, e.mul_const(page, self.cache.page)));
            e.when(seen, |e| take(e, row, page));
        });
    }
}
