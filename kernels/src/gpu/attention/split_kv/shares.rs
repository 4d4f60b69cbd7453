//! Which block takes which pages: of a few rows each item (a row's KV head) has blocks of its own; of more all pages of a step's contexts
//! stand one after the other, by row, KV head and page, and each block takes as many (the last ones fewer, or none), whatever the lengths of the contexts are.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;

use crate::gpu::isa::{Emit, Int, WARP};
use crate::gpu::work_item::{WorkItem, pages_up_to};

/// How the pages are shared. Lanes have what stands behind their rows.
pub struct Shares<'c> {
    kv_heads: u64,
    page: u64,
    /// Of lane `i`'s row of each 32.
    rows: Vec<Row<'c>>,
    /// Pages of a block, and of all.
    each: Int<'c>,
    all: Int<'c>,
}

/// What a lane knows of a row.
struct Row<'c> {
    position: Int<'c>,
    sequence: Int<'c>,
    /// Pages of all rows up to this one, of all KV heads.
    end: Int<'c>,
}

/// What a block takes of one (row, KV head).
#[derive(Clone, Copy)]
pub struct Piece<'c> {
    pub item: WorkItem<'c>,
    /// The item's number, token-major.
    pub index: Int<'c>,
    /// First page of it, and their number.
    pub first: Int<'c>,
    pub pages: Int<'c>,
    /// Pages of the item.
    pub all: Int<'c>,
    /// Pieces of the item, and which of them this is.
    pub parts: Int<'c>,
    pub part: Int<'c>,
    /// Number of the item's first state.
    pub states: Int<'c>,
}

impl<'c> Piece<'c> {
    /// Part `part` of item `index`, of at most `splits` parts: each item by itself, so that nothing of other rows need be known.
    pub fn of_item(
        e: &Emit<'c>,
        (index, part): (Int<'c>, Int<'c>),
        (kv_heads, page): (u64, u64),
        splits: u64,
    ) -> Piece<'c> {
        let item = WorkItem::new(e, index, kv_heads);
        let all = item.pages(e, page);
        let each = e.div_rem(e.add_const(all, splits as i64 - 1), splits).0;
        let first = e.mul(each, part);
        let parts = e.quotient(e.add_const(e.add(all, each), -1), each);
        let states = e.mul_const(index, splits);
        Piece { item, index, first, pages: e.min(e.sub(all, first), each), all, parts, part, states }
    }
}

impl<'c> Shares<'c> {
    /// Between `blocks` blocks, in steps of at most `rows` rows. All lanes of a warp come here.
    pub fn new(e: &Emit<'c>, (kv_heads, page): (u64, u64), (rows, blocks): (u64, u64)) -> Shares<'c> {
        let count = e.count(offset_of!(StepContext, tokens));
        let [positions, sequences] = [offset_of!(StepContext, positions), offset_of!(StepContext, sequence)]
            .map(|offset| e.list(offset));
        let last = e.add_const(count, -1);
        let mut before = e.int(0);
        let rows = (0..rows.div_ceil(WARP))
            .map(|round| {
                let row = e.add_const(e.lane(), (round * WARP) as i64);
                let [position, sequence] =
                    [positions, sequences].map(|list| e.load_int(list, e.min(row, last)));
                let pages = pages_up_to(e, position, page);
                let mine = e.pick(e.lt(row, count), e.mul_const(pages, kv_heads), e.int(0));
                let end = e.add(before, e.sum_up_to(mine));
                before = e.lane_value(end, WARP - 1);
                Row { position, sequence, end }
            })
            .collect();
        let each = e.div_rem(e.add_const(before, blocks as i64 - 1), blocks).0;
        Shares { kv_heads, page, rows, each, all: before }
    }

    /// The pages of this block: first, and behind the last.
    pub fn of_block(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        let begin = e.mul(e.block_x(), self.each);
        (begin, e.min(self.all, e.add(begin, self.each)))
    }

    /// What stands from page `at` to the end of its item, or to `end`. All lanes of a warp come here.
    pub fn piece(&self, e: &Emit<'c>, at: Int<'c>, end: Int<'c>) -> Piece<'c> {
        let (mut row, mut start) = (e.int(0), e.int(0));
        for of in &self.rows {
            let behind = e.ge(at, of.end);
            row = e.add(row, e.warp_total(e.flag(behind)));
            start = e.max(start, e.warp_max_unsigned(e.pick(behind, of.end, e.int(0))));
        }
        let (position, sequence, all) = self.row(e, row);
        let inside = e.sub(at, start);
        let kv_head = e.quotient(inside, all);
        let first = e.sub(inside, e.mul(kv_head, all));
        let item = WorkItem { row, kv_head, position, sequence };
        let from = e.sub(at, first);
        let leader = e.quotient(from, self.each);
        let last = e.quotient(e.add_const(e.add(from, all), -1), self.each);
        Piece {
            item,
            index: e.add(e.mul_const(row, self.kv_heads), kv_head),
            first,
            pages: e.sub(e.min(end, e.add(from, all)), at),
            all,
            parts: e.add_const(e.sub(last, leader), 1),
            part: e.sub(e.block_x(), leader),
            states: e.mul_const(leader, 2),
        }
    }

    /// A row's position and sequence, and the pages of its context.
    fn row(&self, e: &Emit<'c>, row: Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
        let (round, lane) = e.div_rem(row, WARP);
        let of = |value: fn(&Row<'c>) -> Int<'c>| {
            let values = self.rows.iter().map(|of| e.value_of_lane(value(of), lane));
            let last =
                |(before, n): (Int<'c>, u64), value| (e.pick(e.eq(round, e.int(n)), value, before), n + 1);
            values.fold((e.int(0), 0), last).0
        };
        let position = of(|row| row.position);
        (position, of(|row| row.sequence), pages_up_to(e, position, self.page))
    }
}
