//! The selection of `flash_prefill`, by the spare warps of the group that copies, under the tile that comes next.
//!
//! ```text
//! consumers                                    selectors
//!   wait empty[b]    maxima and sums of a tile   wait full[b]
//!   arrive full[b]                               choose from buffer b, a warp a token
//!   b = 1 - b                                    arrive empty[b], b = 1 - b
//! ```
//! Nothing comes after a block's last segment: consumers help with that one.

use std::mem::offset_of;

use hyc_plan::SelectShape;
use hyc_plan::abi::StepContext;

use super::flash_softmax::scale;
use super::flash_tile::{CONSUMERS, Flash, GROUPS, ROWS, Segment, TILE_ROWS};
use crate::gpu::isa::{Emit, Int, Ptr, Var, WARP};
use crate::gpu::select::{CHUNK, Group, Heads, TopK};
use crate::gpu::tile::RegisterTile;
use crate::gpu::work_item::{WorkItem, group, selected_blocks};

/// Warps that select, and their threads.
const SELECTORS: u64 = 3;
const SELECTOR_THREADS: u64 = SELECTORS * WARP;
/// The first thread of them.
pub const FIRST_SELECTOR: u64 = CONSUMERS + WARP;

/// Pages of a context that is short.
const FEW: u64 = 128;

/// Named barriers: of each buffer, then of each buffer and warp group.
const FULL: u64 = 5;
const EMPTY: u64 = 7;

/// Two buffers of what the selection of a segment reads: the page maxima in scratch, and the heads' sums.
pub struct Buffers<'c> {
    pub heads: Heads<'c>,
    /// The one in hand: 0 or 1.
    buffer: Var<'c>,
}

impl<'c> Buffers<'c> {
    /// For blocks of `threads`. A barrier follows.
    pub fn new(e: &Emit<'c>, flash: &Flash<'_>, threads: u64) -> Buffers<'c> {
        let compared = flash.select.map_or(1, |_| group(flash.shape));
        let heads = Heads::new(e, compared, 2 * TILE_ROWS, threads / WARP, flash.sink);
        Buffers { heads, buffer: e.var(e.int(0).into()) }
    }

    pub fn in_hand(&self, e: &Emit<'c>) -> Int<'c> {
        e.get(self.buffer).into_int_value()
    }

    fn empty(&self, e: &Emit<'c>, part: Int<'c>) -> Int<'c> {
        e.add_const(e.add(e.mul_const(self.in_hand(e), GROUPS), part), EMPTY as i64)
    }

    fn full(&self, e: &Emit<'c>) -> Int<'c> {
        e.add_const(self.in_hand(e), FULL as i64)
    }

    fn next(&self, e: &Emit<'c>) {
        e.set(self.buffer, e.sub(e.int(1), self.in_hand(e)).into());
    }

    /// Waits until warp group `part` may write the buffer in hand.
    pub fn wait_empty(&self, e: &Emit<'c>, part: Int<'c>) {
        e.named_barrier(self.empty(e, part), 128 + SELECTOR_THREADS);
    }

    /// Says that this thread's part of the buffer is whole.
    fn fill(&self, e: &Emit<'c>) {
        e.named_arrive(self.full(e), CONSUMERS + SELECTOR_THREADS);
        self.next(e);
    }

    /// Waits until the buffer is whole, which this thread's part is.
    fn wait_full(&self, e: &Emit<'c>) {
        e.named_barrier(self.full(e), CONSUMERS + SELECTOR_THREADS);
    }

    fn release(&self, e: &Emit<'c>) {
        for part in 0..GROUPS {
            e.named_arrive(self.empty(e, e.int(part)), 128 + SELECTOR_THREADS);
        }
        self.next(e);
    }
}

impl Flash<'_> {
    /// The selectors: they start with two empty buffers.
    pub fn start_selecting<'c>(&self, e: &Emit<'c>, buffers: &Buffers<'c>) {
        buffers.release(e);
        buffers.release(e);
    }

    /// The consumers' side at the end of a segment. After their last they help.
    pub fn hand_over<'c>(&self, e: &Emit<'c>, select: SelectShape, buffers: &Buffers<'c>, of: &Segment<'c>) {
        e.either(
            of.ends,
            |e| {
                buffers.wait_full(e);
                let warp = e.div_rem(e.thread(), WARP).0;
                self.choose(e, select, buffers, of, e.add_const(warp, SELECTORS as i64));
            },
            |e| buffers.fill(e),
        );
    }

    /// The selectors' side.
    pub fn select_segment<'c>(
        &self,
        e: &Emit<'c>,
        select: SelectShape,
        buffers: &Buffers<'c>,
        of: &Segment<'c>,
    ) {
        buffers.wait_full(e);
        let warp = e.div_rem(e.add_const(e.thread(), -(FIRST_SELECTOR as i64)), WARP).0;
        self.choose(e, select, buffers, of, warp);
        buffers.release(e);
    }

    /// The best blocks of tokens of a segment, a warp a token: worker `worker` of those that select.
    fn choose<'c>(
        &self,
        e: &Emit<'c>,
        select: SelectShape,
        buffers: &Buffers<'c>,
        of: &Segment<'c>,
        worker: Int<'c>,
    ) {
        let table = self.table(e, buffers.in_hand(e));
        let noted = e.mul_const(buffers.in_hand(e), TILE_ROWS);
        let workers = e.pick(of.ends, e.int(SELECTORS + CONSUMERS / WARP), e.int(SELECTORS));
        let first = e.sub(of.begin, of.tile);
        let tokens = e.sub(of.end, of.tile);
        let place = e.var(e.add(first, worker).into());
        e.during(
            |e| e.lt(e.get(place).into_int_value(), tokens),
            |e| {
                let i = e.get(place).into_int_value();
                e.set(place, e.add(i, workers).into());
                let token = e.add(of.tile, i);
                let (part, inside) = e.div_rem(i, self.tokens());
                let row = e.add(e.mul_const(part, ROWS), e.mul_const(inside, group(self.shape)));
                let position = e.load_int(e.list(offset_of!(StepContext, positions)), token);
                let visible = e.add_const(e.div_rem(position, self.cache.page).0, 1);
                let heads = buffers.heads.group(e, e.add(row, noted));
                let maxima = e.at(table, self.table_row(e, i, e.int(0)));
                let best = TopK::none(e, select.blocks);
                // Fewer registers to go through, where they are enough.
                e.either(
                    e.lt(e.int(FEW), visible),
                    |e| {
                        e.each(e.int(0), visible, CHUNK, |e, begin| {
                            let scores = self.scores(e, &heads, maxima, (begin, visible), CHUNK);
                            best.take_scores(e, (begin, visible), scores);
                        });
                    },
                    |e| {
                        let all = (e.int(0), visible);
                        best.take_scores(e, all, self.scores(e, &heads, maxima, all, FEW));
                    },
                );
                let kv_head = of.kv_head;
                let item = WorkItem { row: token, kv_head, position, sequence: position };
                best.write(e, selected_blocks(e, item, select));
            },
        );
    }

    /// Scores of the pages `begin..end` of a token, at most `most`, as bits; anything behind them. Heads are gone through in a loop: a
    /// selector has few registers.
    fn scores<'c>(
        &self,
        e: &Emit<'c>,
        heads: &Group<'c>,
        maxima: Ptr<'c>,
        (begin, end): (Int<'c>, Int<'c>),
        most: u64,
    ) -> RegisterTile<'c> {
        let group = group(self.shape);
        let words = 2 - group % 2;
        let scale = scale(e, self.shape);
        let scores = RegisterTile::filled(e, most / WARP, e.bits(e.float(f32::NEG_INFINITY)));
        let first = e.add(begin, e.lane());
        let visible = e.sub(end, first);
        let row = e.address(e.at(maxima, e.mul_const(e.wide(first), group)));
        e.each(e.int(0), e.opaque(e.int(group)), words, |e, h| {
            let less: Vec<_> = (0..words).map(|i| heads.less(e, e.add_const(h, i as i64))).collect();
            let at = e.add(row, e.mul_const(e.wide(h), 4));
            scores.change(e, |i, most| {
                let place = WARP * i as u64;
                let raw = e.load_below((place, visible), (at, 4 * place * group), words as usize);
                let own = raw.into_iter().map(|raw| e.widen(raw)).zip(&less).map(|(raw, less)| match less {
                    Some([most, excess]) => e.fsub(e.fma(raw, scale, e.fsub(e.float(0.0), *most)), *excess),
                    None => raw,
                });
                e.bits(own.fold(e.widen(most), |most, own| e.fmax(most, own)))
            });
        });
        scores
    }
}
