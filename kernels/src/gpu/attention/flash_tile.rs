//! What a block of `flash_prefill` works on: tiles of tokens, the runs of one sequence in them, and the sizes of both.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{AttnShape, CacheSpec, KernelSpec, SelectShape};

use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::tile::SharedTile;
use crate::gpu::work_item::group;

/// Rows of a warp group.
pub const ROWS: u64 = 64;
pub const GROUPS: u64 = 2;
pub const CONSUMERS: u64 = GROUPS * 128;

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
    pub stages: u64,
    pub multiprocessors: u64,
}

/// A run of rows of one sequence in a tile.
#[derive(Clone, Copy)]
pub struct Segment<'c> {
    pub begin: Int<'c>,
    pub end: Int<'c>,
    pub first: Int<'c>,
    pub pages: Int<'c>,
    pub sequence: Int<'c>,
}

/// Takes (first token of the tile, segment) and the KV head.
pub type Body<'a, 'c> = &'a dyn Fn(&Emit<'c>, (Int<'c>, Segment<'c>), Int<'c>);

impl Flash<'_> {
    pub fn tokens(&self) -> u64 {
        ROWS / group(self.shape)
    }

    /// Tokens of a tile.
    pub fn tile(&self) -> u64 {
        GROUPS * self.tokens()
    }

    pub fn key_bytes(&self) -> u64 {
        self.shape.qk_dim * self.cache.page * 2
    }

    pub fn stage_bytes(&self) -> u64 {
        self.key_bytes() + self.shape.v_dim * self.cache.page * 2
    }

    pub fn query_bytes(&self) -> u64 {
        SharedTile::bytes(GROUPS * ROWS, self.shape.qk_dim)
    }

    /// This block's items, and each one's segments, the longest contexts first.
    pub fn items<'c>(&self, e: &Emit<'c>, items: Int<'c>, rows: Int<'c>, body: Body<'_, 'c>) {
        let load = |offset: usize, row: Int<'c>| e.load_int(e.list(offset), row);
        let (positions, sequences) = (offset_of!(StepContext, positions), offset_of!(StepContext, sequence));
        e.each(e.block_x(), items, self.multiprocessors, |e, index| {
            let (tile, kv_head) = e.div_rem(e.add_const(e.sub(items, index), -1), self.shape.kv_heads);
            let tile_begin = e.mul_const(tile, self.tile());
            let tile_end = e.min(e.add_const(tile_begin, self.tile() as i64), rows);
            let begin = e.var(tile_begin.into());
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
                body(e, (tile_begin, Segment { begin: from, end, first, pages, sequence }), kv_head);
                e.set(begin, end.into());
                e.ge(end, tile_end)
            });
        });
    }

    /// Token and head of row `row` of the tile; whether there are such.
    pub fn row<'c>(&self, e: &Emit<'c>, tile: Int<'c>, row: Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
        let (part, inside) = e.div_rem(row, ROWS);
        let (token, head) = e.div_rem(inside, group(self.shape));
        let real = e.lt(token, e.int(self.tokens()));
        (e.add(e.add(tile, e.mul_const(part, self.tokens())), token), head, real)
    }

    pub fn table<'c>(&self, e: &Emit<'c>) -> Ptr<'c> {
        let own = e.mul_const(e.wide(e.block_x()), self.blocks * GROUPS * ROWS);
        e.at(e.at(e.scratch(), e.int(self.tables)), own)
    }
}
