//! The k best pages of a group, by the largest logits of each page.

use super::Table;
use super::shares::Piece;
use crate::gpu::isa::{Emit, Int, WARP};
use crate::gpu::select::{CHUNK, Heads, TopK};
use crate::gpu::work_item::selected_blocks;

/// Chooses, by all `warps` warps of the block. `heads`: what scores are compared by.
pub fn choose<'c>(e: &Emit<'c>, warps: u64, piece: Piece<'c>, table: &Table, heads: &Heads<'c>) {
    let warp = e.div_rem(e.thread(), WARP).0;
    let (raw, heads) = (table.of(e, piece.index), heads.group(e, e.int(0)));
    let score = |e: &Emit<'c>, page: Int<'c>| {
        heads.score(e, |h, most| {
            let raw = e.load(raw, e.add_const(page, (h * table.pages) as i64));
            most.map_or(raw, |most| e.fsub(raw, most))
        })
    };
    let best = TopK::none(e, table.select.blocks);
    e.each(e.mul_const(warp, CHUNK), piece.all, warps * CHUNK, |e, begin| {
        best.take(e, (begin, piece.all), &score);
    });
    let (keys, indices) = (e.shared(warps * WARP), e.shared(warps * WARP));
    let mine = e.mul_const(warp, WARP);
    best.leave(e, e.at(keys, mine), e.at(indices, mine));
    e.barrier();
    e.when(e.eq(warp, e.int(0)), |e| {
        // The first warp has seen all pages of a short context.
        e.when(e.lt(e.int(CHUNK), piece.all), |e| best.merge(e, keys, indices, warps));
        best.write(e, selected_blocks(e, piece.item, table.select));
    });
}
