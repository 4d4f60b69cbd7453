//! What a block of `flash_prefill` works on: tiles of tokens, the runs of one sequence in them, the sizes of both, and the
//! order in which blocks take them.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{AttnShape, CacheSpec, KernelSpec, SelectShape};

use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::tile::SharedTile;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::work_item::{group, row_count};

/// Rows of a warp group.
pub const ROWS: u64 = 64;
/// Warp groups that multiply, and rows of a tile.
pub const GROUPS: u64 = 2;
pub const TILE_ROWS: u64 = GROUPS * ROWS;
pub const CONSUMERS: u64 = GROUPS * 128;

/// Keys and values that tiles of one section of KV heads go through: what the second cache holds beside the rest.
const SECTION_BYTES: u64 = 40 << 20;

/// Sizes of the kernel.
pub struct Flash<'s> {
    pub spec: &'s KernelSpec,
    pub shape: AttnShape,
    pub cache: CacheSpec,
    pub sink: bool,
    pub select: Option<SelectShape>,
    /// Scratch of the page maxima, in 4-byte elements.
    pub tables: u64,
    pub blocks: u64,
    /// Pages of a step.
    pub pages: u64,
    pub stages: u64,
    pub multiprocessors: u64,
}

/// A run of rows of one sequence in a tile.
#[derive(Clone, Copy)]
pub struct Segment<'c> {
    /// First token of the tile.
    pub tile: Int<'c>,
    pub kv_head: Int<'c>,
    pub begin: Int<'c>,
    pub end: Int<'c>,
    /// Positions of its first and last token.
    pub first: Int<'c>,
    pub last: Int<'c>,
    pub pages: Int<'c>,
    pub sequence: Int<'c>,
    /// Whether this is the block's last.
    pub ends: Int<'c>,
}

/// Where a warp group's thread stands.
pub struct Place<'c> {
    /// The warp group.
    pub part: Int<'c>,
    /// The thread's two rows of the tile.
    pub rows: [Int<'c>; 2],
    /// Lane of the quad that shares them.
    pub t: Int<'c>,
    /// Whether the thread speaks for its group.
    pub leader: Int<'c>,
}

/// The step's items.
#[derive(Clone, Copy)]
pub struct Schedule<'c> {
    rows: Int<'c>,
    tiles: Int<'c>,
    /// KV heads of a section.
    section: Int<'c>,
}

/// Rings of keys and of values, and where their stages lie.
pub struct Stages<'c> {
    pub keys: Ring<'c>,
    pub keys_at: Int<'c>,
    pub values: Ring<'c>,
    pub values_at: Int<'c>,
}

pub type Body<'a, 'c> = &'a dyn Fn(&Emit<'c>, Segment<'c>);

impl Flash<'_> {
    pub fn tokens(&self) -> u64 {
        ROWS / group(self.shape)
    }

    /// Tokens of a tile.
    pub fn tile(&self) -> u64 {
        GROUPS * self.tokens()
    }

    /// Keys of a step.
    pub fn step(&self) -> u64 {
        self.pages * self.cache.page
    }

    /// Bytes of a step's keys.
    pub fn key_bytes(&self) -> u64 {
        2 * self.shape.qk_dim * self.step()
    }

    /// Bytes of a page's values.
    pub fn value_bytes(&self) -> u64 {
        2 * self.shape.v_dim * self.cache.page
    }

    pub fn stage_bytes(&self) -> u64 {
        self.key_bytes() + self.pages * self.value_bytes()
    }

    pub fn query_bytes(&self) -> u64 {
        SharedTile::bytes(TILE_ROWS, self.shape.qk_dim)
    }

    pub fn schedule<'c>(&self, e: &Emit<'c>) -> Schedule<'c> {
        let rows = row_count(e, self.spec);
        let tiles = e.div_rem(e.add_const(rows, self.tile() as i64 - 1), self.tile()).0;
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), e.add_const(rows, -1));
        let pages = e.add_const(e.div_rem(position, self.cache.page).0, 1);
        let page_bytes = self.stage_bytes() / self.pages;
        let heads = e.quotient(e.int(SECTION_BYTES / page_bytes), pages);
        let section = e.min(e.max(heads, e.int(1)), e.int(self.shape.kv_heads));
        Schedule { rows, tiles, section }
    }

    /// This block's items: KV heads by sections that the second cache holds, the longest contexts of a section first.
    /// Every other round goes through the blocks backwards, so that none has the longer of all rounds.
    pub fn items<'c>(&self, e: &Emit<'c>, of: Schedule<'c>, body: Body<'_, 'c>) {
        let items = e.mul_const(of.tiles, self.shape.kv_heads);
        let blocks = self.multiprocessors;
        e.each(e.int(0), items, blocks, |e, round| {
            let odd = e.eq(e.div_rem(e.div_rem(round, blocks).0, 2).1, e.int(1));
            let back = e.sub(e.int(blocks - 1), e.block_x());
            let index = e.add(round, e.pick(odd, back, e.block_x()));
            e.when(e.lt(index, items), |e| {
                let whole = e.mul(of.tiles, of.section);
                let section = e.quotient(index, whole);
                let first = e.mul(section, of.section);
                let heads = e.min(of.section, e.sub(e.int(self.shape.kv_heads), first));
                let place = e.sub(index, e.mul(section, whole));
                let turn = e.quotient(place, heads);
                let kv_head = e.add(first, e.sub(place, e.mul(turn, heads)));
                let tile = e.add_const(e.sub(of.tiles, turn), -1);
                // The last round may have no item for this block; the one before is its last then.
                let behind =
                    e.add(e.add_const(round, blocks as i64), e.sub(e.int(blocks - 1), e.sub(index, round)));
                let ends = e.ge(behind, items);
                self.segments(e, of.rows, (e.mul_const(tile, self.tile()), kv_head, ends), body);
            });
        });
    }

    /// The segments of one item.
    fn segments<'c>(
        &self,
        e: &Emit<'c>,
        rows: Int<'c>,
        (tile, kv_head, ends): (Int<'c>, Int<'c>, Int<'c>),
        body: Body<'_, 'c>,
    ) {
        let load = |offset: usize, row: Int<'c>| e.load_int(e.list(offset), row);
        let (positions, sequences) = (offset_of!(StepContext, positions), offset_of!(StepContext, sequence));
        let tile_end = e.min(e.add_const(tile, self.tile() as i64), rows);
        let begin = e.var(tile.into());
        e.repeat(|e| {
            let from = e.get(begin).into_int_value();
            let sequence = load(sequences, from);
            // Rows of a sequence stand together: count those of the tile.
            let end = e.var(e.add_const(from, 1).into());
            let whole = e.eq(load(sequences, e.add_const(tile_end, -1)), sequence);
            e.either(
                whole,
                |e| e.set(end, tile_end.into()),
                |e| {
                    e.repeat(|e| {
                        let at = e.get(end).into_int_value();
                        let same = e.eq(load(sequences, at), sequence);
                        e.set(end, e.pick(same, e.add_const(at, 1), at).into());
                        e.eq(same, e.no())
                    });
                },
            );
            let end = e.get(end).into_int_value();
            let last = load(positions, e.add_const(end, -1));
            let pages = e.add_const(e.div_rem(last, self.cache.page).0, 1);
            let first = load(positions, from);
            let ends = e.and(ends, e.ge(end, tile_end));
            body(e, Segment { tile, kv_head, begin: from, end, first, last, pages, sequence, ends });
            e.set(begin, end.into());
            e.ge(end, tile_end)
        });
    }

    /// Token and head of row `row` of the segment's tile; whether it is the segment's. Others stand in for its first
    /// token: they multiply something real and are not looked at.
    pub fn row<'c>(&self, e: &Emit<'c>, of: &Segment<'c>, row: Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
        let (part, inside) = e.div_rem(row, ROWS);
        let (place, head) = e.div_rem(inside, group(self.shape));
        let token = e.add(e.add(of.tile, e.mul_const(part, self.tokens())), place);
        let real = e.lt(place, e.int(self.tokens()));
        let own = e.and(real, e.and(e.ge(token, of.begin), e.lt(token, of.end)));
        (e.pick(own, token, of.begin), e.min(head, e.int(group(self.shape) - 1)), own)
    }

    /// A buffer of page maxima: `[token of the tile][page][head]`, two buffers a block.
    pub fn table<'c>(&self, e: &Emit<'c>, buffer: Int<'c>) -> Ptr<'c> {
        let own = e.add(e.mul_const(e.block_x(), 2), buffer);
        e.at(e.at(e.scratch(), e.int(self.tables)), e.mul_const(e.wide(own), self.blocks * TILE_ROWS))
    }

    /// Where token `token` of the tile has its page `page` in there.
    pub fn table_row<'c>(&self, e: &Emit<'c>, token: Int<'c>, page: Int<'c>) -> Int<'c> {
        e.mul_const(e.wide(e.add(e.mul_const(token, self.blocks), page)), group(self.shape))
    }
}

impl<'c> Place<'c> {
    pub fn new(e: &Emit<'c>) -> Place<'c> {
        let part = e.div_rem(e.thread(), 128).0;
        let (g, t) = e.lane_pair();
        let warp = e.and(e.div_rem(e.thread(), 32).0, e.int(3));
        let row = e.add(e.add(e.mul_const(part, ROWS), e.mul_const(warp, 16)), g);
        let leader = e.eq(e.and(e.thread(), e.int(127)), e.int(0));
        Place { part, rows: [row, e.add_const(row, 8)], t, leader }
    }
}
