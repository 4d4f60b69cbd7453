//! Prefill over a whole context on `wgmma`: `FullAttention` and `OracleAttention` of many rows.
//!
//! ```text
//! item: (tile of tokens, KV head). Rows of the tile are (token, head of the group): G heads of 64 / G tokens are
//! the 64 rows of a warp group; a block has two, and a warp that keeps a ring of pages full with bulk copies.
//!   S = Q K^T       Q, K from shared memory: pages lie there as they lie in the cache
//!   O += P V        P from registers, V from shared memory
//! ```
//! A page is one selection block, so that the running maximum of a row passes each block's maximum on its way: it is
//! kept in scratch, `[page][row]` of this block alone. After the last page the row's sum is known, and a warp a token
//! takes the group's maximum and the best (HySparse 2602.03560, equation 3, in logs: see [`Heads`]). Blocks are as many as the
//! multiprocessors and take items in turn, so scratch is bounded. Tiles that hold several sequences are gone through
//! once for each. Softmax: Milakov and Gimelshein, 1805.02867; tiling: Dao, 2307.08691. Reference:
//! `reference::attention::full`.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use std::f32::consts::LOG2_E;

use hyc_plan::{AttnShape, Extent, SelectShape};

use super::flash_tile::{CONSUMERS, Flash, GROUPS, ROWS, Segment};

use super::limits::FLASH;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, Var, WARP};
use crate::gpu::paged_kv::physical_page;
use crate::gpu::select::{CHUNK, Heads, TopK};
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::tile::{SharedTile, Swizzle, TILE_BYTES};
use crate::gpu::work_item::row_count;
use crate::gpu::work_item::{WorkItem, group, output_index, selected_blocks};

/// Shared memory that a block may have, less what is not the ring's or the queries'.
const SHARED: u64 = 220 << 10;

/// What a warp group keeps in registers: rows g and g + 8 of each warp.
struct State<'c> {
    max: [Var<'c>; 2],
    sum: [Var<'c>; 2],
    acc: Vec<Var<'c>>,
}

/// Rows of the step that a block takes at once: they share one reading of keys and values.
pub fn rows_of_a_block(shape: AttnShape) -> u64 {
    (GROUPS * ROWS / group(shape)).max(1)
}

/// Adds the function of [`FLASH`].
pub fn prefill<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    if !k.wants(FLASH) {
        return;
    }
    let spec = k.spec;
    let (cache, multiprocessors) = (k.cache("cache"), k.multiprocessors);
    let blocks = spec.max_context.div_ceil(cache.page);
    let tables = if select.is_some() { k.scratch(4 * multiprocessors * blocks * GROUPS * ROWS) } else { 0 };
    let mut f = Flash { spec, shape, cache, sink, select, tables, blocks, stages: 0, multiprocessors };
    f.stages = ((SHARED - f.query_bytes()) / f.stage_bytes()).clamp(2, 6);
    let shared = f.query_bytes() + f.stages * f.stage_bytes() + SHARED_SLACK;
    let grid = [Extent::fixed(multiprocessors), Extent::fixed(1)];
    k.function(Function::new("_prefill", grid, CONSUMERS + WARP).of(&[FLASH]).shared_bytes(shared), |e| {
        f.body(e)
    });
}

impl Flash<'_> {
    fn body<'c>(&self, e: &Emit<'c>) {
        let memory = e.dynamic_shared();
        let compared = self.select.map_or(1, |_| group(self.shape));
        let heads = Heads::new(e, compared, GROUPS * ROWS, CONSUMERS / WARP, self.sink);
        let ring = Ring::new(e, self.stages, GROUPS);
        let pages_at = e.add_const(e.shared_address(memory), self.query_bytes() as i64);
        let rows = row_count(e, self.spec);
        let tiles = e.div_rem(e.add_const(rows, self.tile() as i64 - 1), self.tile()).0;
        let items = e.mul_const(tiles, self.shape.kv_heads);
        let producer = e.eq(e.thread(), e.int(CONSUMERS));
        e.when(producer, |e| {
            self.items(e, items, rows, &|e, segment, kv_head| {
                self.copy(e, &ring, pages_at, segment, kv_head);
            });
        });
        e.when(e.lt(e.thread(), e.int(CONSUMERS)), |e| {
            self.items(e, items, rows, &|e, segment, kv_head| {
                self.attend(e, &ring, (memory, pages_at), heads, segment, kv_head);
            });
        });
    }

    /// The producer: every page of the segment, K then V, as they lie.
    fn copy<'c>(
        &self,
        e: &Emit<'c>,
        ring: &Ring<'c>,
        pages_at: Int<'c>,
        (_, segment): (Int<'c>, Segment<'c>),
        kv_head: Int<'c>,
    ) {
        let keys = e.wide(e.mul_const(kv_head, 2 * self.cache.k_offset(1)));
        let values = e.wide(e.mul_const(kv_head, 2 * self.cache.page * self.cache.v_pad()));
        let values = e.add_const(values, 2 * self.cache.v_offset(0) as i64);
        e.each(e.int(0), segment.pages, 1, |e, page| {
            let physical = e.wide(physical_page(e, &self.cache, segment.sequence, page));
            let base = e.byte_offset(e.operand("cache"), e.mul_const(physical, self.cache.page_bytes()));
            ring.produce(e, self.stage_bytes(), |e, stage, full| {
                let to = e.add(pages_at, e.mul_const(stage, self.stage_bytes()));
                e.bulk_copy(to, e.byte_offset(base, keys), self.key_bytes(), full);
                let value_bytes = self.stage_bytes() - self.key_bytes();
                let to = e.add_const(to, self.key_bytes() as i64);
                e.bulk_copy(to, e.byte_offset(base, values), value_bytes, full);
            });
        });
    }

    /// Queries of a warp group as swizzled rows of bf16: `[qk_dim / 64][128 rows][64]`.
    fn load_queries<'c>(
        &self,
        e: &Emit<'c>,
        to: SharedTile<'c>,
        tile: Int<'c>,
        segment: &Segment<'c>,
        kv_head: Int<'c>,
    ) {
        let (group, dim) = (group(self.shape), self.shape.qk_dim);
        let (part, thread) = e.div_rem(e.thread(), 128);
        // The group's last product over the queries before is through in all of its warps.
        e.named_barrier(e.add_const(part, 1), 128);
        let (sub, piece) = (e.div_rem(thread, 8).0, e.and(thread, e.int(7)));
        e.each(sub, e.int(ROWS), 16, |e, i| {
            let row = e.add(e.mul_const(part, ROWS), i);
            let (token, head, real) = self.row(e, tile, row);
            // Rows that are not this segment's multiply something real and are not looked at.
            let inside = e.and(real, e.and(e.ge(token, segment.begin), e.lt(token, segment.end)));
            let token = e.pick(inside, token, segment.begin);
            let head = e.add(e.mul_const(kv_head, group), e.min(head, e.int(group - 1)));
            let from = e.add(e.mul_const(e.wide(token), e.stride("q")), e.wide(e.mul_const(head, dim)));
            for tile in 0..dim / 64 {
                let at = e.add(from, e.wide(e.add_const(e.mul_const(piece, 8), 64 * tile as i64)));
                let words = e.load_as_chunk(e.operand("q"), at);
                to.store(e, row, (tile, piece), &words);
            }
        });
        e.async_fence();
        e.named_barrier(e.add_const(part, 1), 128);
    }

    /// The consumers: one segment of one item.
    fn attend<'c>(
        &self,
        e: &Emit<'c>,
        ring: &Ring<'c>,
        (memory, pages_at): (Ptr<'c>, Int<'c>),
        heads: Heads<'c>,
        (tile, segment): (Int<'c>, Segment<'c>),
        kv_head: Int<'c>,
    ) {
        let queries = SharedTile::new(memory, GROUPS * ROWS);
        self.load_queries(e, queries, tile, &segment, kv_head);
        let part = e.div_rem(e.thread(), 128).0;
        let (g, t) = e.lane_pair();
        let warp = e.and(e.div_rem(e.thread(), WARP).0, e.int(3));
        let row0 = e.add(e.add(e.mul_const(part, ROWS), e.mul_const(warp, 16)), g);
        let rows = [row0, e.add_const(row0, 8)];
        // The newest token that each row sees.
        let positions = rows.map(|row| {
            let (token, _, real) = self.row(e, tile, row);
            let inside = e.and(real, e.and(e.ge(token, segment.begin), e.lt(token, segment.end)));
            let token = e.pick(inside, token, segment.begin);
            e.load_int(e.list(offset_of!(StepContext, positions)), token)
        });
        let state = State {
            max: [e.float_var(f32::NEG_INFINITY), e.float_var(f32::NEG_INFINITY)],
            sum: [e.float_var(0.0), e.float_var(0.0)],
            acc: (0..self.shape.v_dim / 2).map(|_| e.float_var(0.0)).collect(),
        };
        let leader = e.eq(e.and(e.thread(), e.int(127)), e.int(0));
        let query = queries.descriptor(e, part);
        let table = self.table(e);
        let newest = e.load_int(e.list(offset_of!(StepContext, positions)), e.add_const(segment.end, -1));
        e.each(e.int(0), segment.pages, 1, |e, page| {
            let stage = ring.full(e);
            let keys = e.add(pages_at, e.mul_const(stage, self.stage_bytes()));
            let values = e.add_const(keys, self.key_bytes() as i64);
            let scores: Vec<Var<'c>> = (0..32).map(|_| e.float_var(0.0)).collect();
            let steps: Vec<(u64, u64)> = (0..self.shape.qk_dim / 16)
                .map(|i| (i / 4 * GROUPS * TILE_BYTES + i % 4 * 32, i / 4 * TILE_BYTES + i % 4 * 32))
                .collect();
            e.wgmma(&scores, query, e.descriptor(keys), &steps, false);
            let start = e.mul_const(page, self.cache.page);
            let end = e.add_const(start, self.cache.page as i64 - 1);
            e.when(e.lt(segment.first, end), |e| self.mask(e, &scores, start, positions, t));
            // A page that ends after the newest token has places that nothing was written to.
            e.when(e.lt(newest, end), |e| self.clear(e, values, e.add_const(e.sub(newest, start), 1)));
            let p = self.softmax(e, &scores, &state, |e, i, most| {
                if self.select.is_some() {
                    let at = e.add(e.mul_const(e.wide(page), GROUPS * ROWS), e.wide(rows[i]));
                    e.when(e.eq(t, e.int(0)), |e| e.store(table, at, most.into()));
                }
            });
            e.wgmma_registers(&state.acc, &p, e.descriptor(values), &[0, 32, 64, 96]);
            ring.release(e, leader);
        });
        self.finish(e, &state, rows, tile, &segment, kv_head, heads);
        if let Some(select) = self.select {
            // Both groups' tables and sums are whole; the next segment must not overwrite them before they are used.
            e.named_barrier(e.int(3), CONSUMERS);
            self.choose(e, select, tile, &segment, kv_head, heads);
            e.named_barrier(e.int(3), CONSUMERS);
        }
    }

    /// Minus infinity where a token is newer than the row's.
    fn mask<'c>(
        &self,
        e: &Emit<'c>,
        scores: &[Var<'c>],
        start: Int<'c>,
        positions: [Int<'c>; 2],
        t: Int<'c>,
    ) {
        let first = e.add(start, e.mul_const(t, 2));
        let none = e.float(f32::NEG_INFINITY);
        for (i, score) in scores.iter().enumerate() {
            let token = e.add_const(first, (i / 4 * 8 + i % 2) as i64);
            let seen = e.ge(positions[i / 2 % 2], token);
            e.set(*score, e.pick_float(seen, e.get_float(*score), none).into());
        }
    }

    /// Zeroes the columns from `hi` on of V in shared memory: what stands there may be no number. Both warp groups
    /// do half of the rows and wait for each other.
    fn clear<'c>(&self, e: &Emit<'c>, values: Int<'c>, hi: Int<'c>) {
        e.each(e.thread(), e.int(self.shape.v_dim * 8), CONSUMERS, |e, i| {
            let (row, chunk) = e.div_rem(i, 8);
            let first = e.mul_const(chunk, 8);
            e.when(e.lt(hi, e.add_const(first, 8)), |e| {
                let at = e.add(values, Swizzle::bytes(e, row, chunk));
                for word in 0..4u64 {
                    let token = e.add_const(first, 2 * word as i64);
                    let low = e.pick(e.lt(token, hi), e.int(0xffff), e.int(0));
                    let high = e.pick(e.lt(e.add_const(token, 1), hi), e.int(0xffff_0000), e.int(0));
                    e.mask_shared(e.add_const(at, 4 * word as i64), e.or(low, high));
                }
            });
        });
        e.async_fence();
        e.named_barrier(e.int(4), CONSUMERS);
    }

    /// From q . k to a logit in units of log2.
    fn scale<'c>(&self, e: &Emit<'c>) -> Float<'c> {
        e.float(LOG2_E / (self.shape.qk_dim as f32).sqrt())
    }

    /// Moves the state to the page's maxima; gives P as fragments. `page_max` gets each row's maximum, not scaled.
    fn softmax<'c>(
        &self,
        e: &Emit<'c>,
        scores: &[Var<'c>],
        state: &State<'c>,
        page_max: impl Fn(&Emit<'c>, usize, Float<'c>),
    ) -> Vec<[Int<'c>; 4]> {
        let scale = self.scale(e);
        let none = e.float(f32::NEG_INFINITY);
        let mut p = vec![e.float(0.0); scores.len()];
        for half in 0..2 {
            let mine: Vec<usize> = (0..scores.len()).filter(|i| i / 2 % 2 == half).collect();
            let most = mine.iter().fold(none, |most, i| e.fmax(most, e.get_float(scores[*i])));
            let most = [1, 2].iter().fold(most, |most, mask| e.fmax(most, e.shuffle(most, *mask)));
            page_max(e, half, most);
            let most = e.fmul(most, scale);
            let old = e.get_float(state.max[half]);
            let new = e.fmax(old, most);
            // The first page has a visible token for every row.
            let shrink = e.exp2(e.fsub(old, new));
            let minus = e.fsub(e.float(0.0), new);
            let sum = e.float(0.0);
            let sum = mine.iter().fold(sum, |sum, i| {
                p[*i] = e.exp2(e.fma(e.get_float(scores[*i]), scale, minus));
                e.fadd(sum, p[*i])
            });
            e.set(state.max[half], new.into());
            e.set(state.sum[half], e.fma(e.get_float(state.sum[half]), shrink, sum).into());
            for (i, acc) in state.acc.iter().enumerate() {
                if i / 2 % 2 == half {
                    e.set(*acc, e.fmul(e.get_float(*acc), shrink).into());
                }
            }
        }
        let word = |i: usize| e.pack_bf16(p[i], p[i + 1]);
        (0..4).map(|step| [0, 2, 4, 6].map(|i| word(8 * step + i))).collect()
    }

    /// Writes the outputs of the segment's rows, and to shared memory what a selection compares heads by.
    #[allow(clippy::too_many_arguments, reason = "a state, where its rows stand and where they go")]
    fn finish<'c>(
        &self,
        e: &Emit<'c>,
        state: &State<'c>,
        rows: [Int<'c>; 2],
        tile: Int<'c>,
        segment: &Segment<'c>,
        kv_head: Int<'c>,
        heads: Heads<'c>,
    ) {
        let t = e.lane_pair().1;
        for (half, row) in rows.into_iter().enumerate() {
            let sum = [1, 2]
                .iter()
                .fold(e.get_float(state.sum[half]), |sum, mask| e.fadd(sum, e.shuffle(sum, *mask)));
            let (token, head, real) = self.row(e, tile, row);
            let inside = e.and(real, e.and(e.ge(token, segment.begin), e.lt(token, segment.end)));
            let most = e.get_float(state.max[half]);
            let global =
                e.add(e.mul_const(kv_head, group(self.shape)), e.min(head, e.int(group(self.shape) - 1)));
            // The larger of the logits and the sink, under which nothing overflows.
            let (top, shrink, sum) = if self.sink {
                let sink = e.fmul(e.load(e.operand("sink"), global), e.float(LOG2_E));
                let top = e.fmax(most, sink);
                let shrink = e.exp2(e.fsub(most, top));
                (top, shrink, e.fma(sum, shrink, e.exp2(e.fsub(sink, top))))
            } else {
                (most, e.float(1.0), sum)
            };
            if self.select.is_some() {
                e.when(e.eq(t, e.int(0)), |e| heads.note(e, row, most, top, e.log2(sum)));
            }
            let factor = e.fdiv(shrink, sum);
            e.when(inside, |e| {
                let item = WorkItem { row: token, kv_head, position: token, sequence: token };
                for m in 0..self.shape.v_dim as usize / 8 {
                    let element = e.add_const(e.mul_const(t, 2), 8 * m as i64);
                    let at = output_index(e, self.shape, item, head, element);
                    let words =
                        [0, 1].map(|i| e.bits(e.fmul(e.get_float(state.acc[4 * m + 2 * half + i]), factor)));
                    e.store_words(e.operand("out"), at, &words);
                }
            });
        }
    }

    /// The best blocks of each token of the segment: a warp a token.
    fn choose<'c>(
        &self,
        e: &Emit<'c>,
        select: SelectShape,
        tile: Int<'c>,
        segment: &Segment<'c>,
        kv_head: Int<'c>,
        heads: Heads<'c>,
    ) {
        let group = group(self.shape);
        let warp = e.div_rem(e.thread(), WARP).0;
        let table = self.table(e);
        e.each(warp, e.int(self.tile()), CONSUMERS / WARP, |e, i| {
            let token = e.add(tile, i);
            let inside = e.and(e.ge(token, segment.begin), e.lt(token, segment.end));
            e.when(inside, |e| {
                let (part, place) = e.div_rem(i, self.tokens());
                let row = e.add(e.mul_const(part, ROWS), e.mul_const(place, group));
                let position = e.load_int(e.list(offset_of!(StepContext, positions)), token);
                let visible = e.add_const(e.div_rem(position, self.cache.page).0, 1);
                let (scale, heads) = (self.scale(e), heads.group(e, row));
                let score = |e: &Emit<'c>, page: Int<'c>| {
                    let at = e.add(e.mul_const(e.wide(page), GROUPS * ROWS), e.wide(row));
                    heads.score(e, |h, most| {
                        let raw = e.load(table, e.add_const(at, h as i64));
                        most.map_or(raw, |most| e.fma(raw, scale, e.fsub(e.float(0.0), most)))
                    })
                };
                let best = TopK::none(e, select.blocks);
                e.each(e.int(0), visible, CHUNK, |e, begin| {
                    best.take(e, (begin, visible), &score);
                });
                let item = WorkItem { row: token, kv_head, position, sequence: position };
                best.write(e, selected_blocks(e, item, select));
            });
        });
    }
}
