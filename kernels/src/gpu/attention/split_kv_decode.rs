//! Decode over a whole context: `FullAttention` and `OracleAttention` of a few rows.
//!
//! ```text
//! split   block: (row, KV head, part of the pages)    state of the part, each page's largest logit
//! merge   block: (row, KV head)                        out, lse; the group's block scores; the k best
//! ```
//! No score leaves the chip but one a (head, page). Scores are compared in logs (HySparse 2602.03560, equation 3), as
//! [`Heads`] says. Reference: `reference::attention::full`.

use hyc_plan::{AttnShape, Extent, SelectShape};

use super::limits::{SPLIT_KV, SPLIT_KV_ROWS, splits};
use super::rows::store_output;
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, SHARED_SLACK, WARP};
use crate::gpu::select::{CHUNK, Heads, TopK};
use crate::gpu::work_item::{WorkItem, group, selected_blocks};

const WARPS: u64 = 4;
/// Warps of a block that merges, and parts whose sums it loads at a time.
const MERGERS: u64 = 16;
const UNROLL: u64 = 8;

/// What both functions agree on.
struct Plan {
    reader: Reader,
    splits: u64,
    /// Pages of the longest context.
    blocks: u64,
    /// Scratch: `[row][KV head][split][group][v_dim + 2]`, the sums before their maximum and sum.
    parts: u64,
    /// Scratch: `[row][KV head][group][blocks]` largest logits.
    tables: u64,
}

impl Plan {
    /// First page of part `split` and the number of its pages: whole rounds of the warps, so that a short context is
    /// few blocks.
    fn share<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, split: Int<'c>) -> (Int<'c>, Int<'c>) {
        let pages = e.add_const(e.div_rem(item.position, self.reader.cache.page).0, 1);
        let each = e.div_rem(e.add_const(pages, self.splits as i64 - 1), self.splits).0;
        let each = e.mul_const(e.div_rem(e.add_const(each, WARPS as i64 - 1), WARPS).0, WARPS);
        let begin = e.mul(each, split);
        (begin, e.min(e.sub(pages, begin), each))
    }

    /// Elements of one part's state.
    fn state(&self) -> u64 {
        let shape = self.reader.shape;
        group(shape) * (shape.v_dim + 2)
    }

    fn part<'c>(&self, e: &Emit<'c>, index: Int<'c>, split: Int<'c>) -> Ptr<'c> {
        let part = e.add(e.mul_const(e.wide(index), self.splits), e.wide(split));
        e.at(e.at(e.scratch(), e.int(self.parts)), e.mul_const(part, self.state()))
    }

    fn table<'c>(&self, e: &Emit<'c>, index: Int<'c>) -> Ptr<'c> {
        let rows = group(self.reader.shape) * self.blocks;
        e.at(e.at(e.scratch(), e.int(self.tables)), e.mul_const(e.wide(index), rows))
    }
}

/// Adds both functions of [`SPLIT_KV`], for steps of at most [`SPLIT_KV_ROWS`] rows.
pub fn decode<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    if !k.wants(SPLIT_KV) {
        return;
    }
    let spec = k.spec;
    let most = SPLIT_KV_ROWS.min(spec.max_rows);
    let reader = Reader { shape, cache: k.cache("cache"), operand: "cache", warps: WARPS };
    let splits = splits(shape, k.multiprocessors);
    let blocks = spec.max_context.div_ceil(reader.cache.page);
    let mut plan = Plan { reader, splits, blocks, parts: 0, tables: 0 };
    let items = most * shape.kv_heads;
    plan.parts = k.scratch(4 * items * splits * plan.state());
    if select.is_some() {
        plan.tables = k.scratch(4 * items * group(shape) * blocks);
    }
    let grid = [k.rows(shape.kv_heads * splits, 1), Extent::fixed(1)];
    let shared = plan.reader.partials_bytes() + SHARED_SLACK;
    k.function(
        Function::new("_split", grid, WARPS * WARP).of(&[SPLIT_KV]).shared_bytes(shared).waits_itself(),
        |e| split(e, &plan, select.is_some()),
    );
    let grid = [k.rows(shape.kv_heads, 1), Extent::fixed(1)];
    k.function(Function::new("_merge", grid, MERGERS * WARP).of(&[SPLIT_KV]).waits_itself(), |e| {
        merge(e, &plan, sink, select)
    });
}

fn split<'c>(e: &Emit<'c>, plan: &Plan, scored: bool) {
    let r = &plan.reader;
    let (index, split) = e.div_rem(e.block_x(), plan.splits);
    let item = WorkItem::new(e, index, r.shape.kv_heads);
    let (begin, count) = plan.share(e, item, split);
    let most = plan.blocks.div_ceil(plan.splits).next_multiple_of(WARPS);
    let memory = r.partials(e);
    e.when(e.lt(e.int(0), count), |e| {
        let pages = r.pages(e, item, (count, most), e.int(0), &|e, i| e.add(begin, i));
        e.wait_for_inputs();
        let q = r.query(e, item);
        let table = plan.table(e, index);
        let store = |e: &Emit<'c>, page: Int<'c>, row: Int<'c>, most: Float<'c>| {
            e.store(table, e.add(e.mul_const(row, plan.blocks), page), most.into());
        };
        let state = r.run(e, item, &q, &pages, scored.then_some(&store));
        r.store_partial(e, &state, &memory);
        let part = plan.part(e, index, split);
        let (group, v_dim) = (group(r.shape), r.shape.v_dim);
        e.each(e.thread(), e.int(group * (v_dim + 2)), WARPS * WARP, |e, i| {
            let (h, element) = e.div_rem(i, v_dim + 2);
            let places: Vec<Int<'c>> = (0..WARPS).map(|w| e.add_const(h, (w * group) as i64)).collect();
            let (most, sum, factors) = r.closed(e, &places, (memory.max, memory.sum), None);
            let inside = e.min(element, e.int(v_dim - 1));
            let total = places.iter().zip(&factors).fold(e.float(0.0), |total, (at, factor)| {
                e.fma(e.load(memory.acc, e.add(e.mul_const(*at, v_dim), inside)), *factor, total)
            });
            let value = e.pick_float(e.eq(element, e.int(v_dim)), most, total);
            let value = e.pick_float(e.eq(element, e.int(v_dim + 1)), sum, value);
            e.store(part, i, value.into());
        });
    });
}

fn merge<'c>(e: &Emit<'c>, plan: &Plan, sink: bool, select: Option<SelectShape>) {
    let r = &plan.reader;
    let (shape, splits) = (r.shape, plan.splits);
    let (group, v_dim) = (group(shape), shape.v_dim);
    let index = e.block_x();
    let item = WorkItem::new(e, index, shape.kv_heads);
    let part = plan.part(e, index, e.int(0));
    let factors = e.shared(group * splits);
    let heads = select.map(|_| Heads::new(e, group, group, MERGERS, sink));
    e.wait_for_inputs();
    let (warp, lane) = e.div_rem(e.thread(), WARP);
    let none = e.float(f32::NEG_INFINITY);
    // A warp a head: the parts that have pages, two at most a lane.
    e.each(warp, e.int(group), MERGERS, |e, h| {
        let rounds = splits.div_ceil(WARP);
        let states: Vec<(Int<'c>, Float<'c>, Float<'c>)> = (0..rounds)
            .map(|i| {
                let split = e.add_const(lane, (i * WARP) as i64);
                let inside = e.min(split, e.int(splits - 1));
                let used = e.and(e.lt(split, e.int(splits)), e.lt(e.int(0), plan.share(e, item, inside).1));
                // The first part always has pages.
                let safe = e.pick(used, split, e.int(0));
                let at = e.add(e.mul_const(safe, plan.state()), e.mul_const(h, v_dim + 2));
                let load = |at: Int<'c>, other| e.pick_float(used, e.load(part, at), other);
                let max = load(e.add_const(at, v_dim as i64), none);
                (split, max, load(e.add_const(at, v_dim as i64 + 1), e.float(0.0)))
            })
            .collect();
        let sink = r.sink(e, item, sink.then_some("sink"), h);
        let logits = e.warp_max(states.iter().fold(none, |most, state| e.fmax(most, state.1)));
        let most = sink.map_or(logits, |sink| e.fmax(logits, sink));
        let sum = states
            .iter()
            .fold(e.float(0.0), |sum, (_, max, part)| e.fma(*part, e.exp2(e.fsub(*max, most)), sum));
        let extra = sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, most)));
        let sum = e.fadd(e.warp_sum(sum, &LANES), extra);
        for (split, max, _) in &states {
            let factor = e.fdiv(e.exp2(e.fsub(*max, most)), sum);
            e.when(e.lt(*split, e.int(splits)), |e| {
                e.store(factors, e.add(e.mul_const(h, splits), *split), factor.into());
            });
        }
        let Some(heads) = heads else { return };
        e.when(e.eq(lane, e.int(0)), |e| heads.note(e, h, logits, most, e.log2(sum)));
    });
    e.barrier();
    let each = plan.share(e, item, e.int(0)).1;
    let pages = e.add_const(e.div_rem(item.position, r.cache.page).0, 1);
    let used = e.quotient(e.add_const(e.add(pages, each), -1), each);
    e.each(e.thread(), e.int(group * v_dim), MERGERS * WARP, |e, i| {
        let (h, element) = e.div_rem(i, v_dim);
        let at = e.add(e.mul_const(h, v_dim + 2), element);
        let total = e.float_var(0.0);
        e.each(e.int(0), used, UNROLL, |e, first| {
            let states: Vec<(Float<'c>, Float<'c>)> = (0..UNROLL)
                .map(|i| {
                    let split = e.add_const(first, i as i64);
                    let inside = e.min(split, e.add_const(used, -1));
                    let factor = e.load(factors, e.add(e.mul_const(h, splits), inside));
                    let factor = e.pick_float(e.lt(split, used), factor, e.float(0.0));
                    (factor, e.load(part, e.add(e.mul_const(inside, plan.state()), at)))
                })
                .collect();
            states.iter().for_each(|(factor, x)| e.accumulate(total, *factor, *x));
        });
        store_output(e, shape, item, (h, element), e.get_float(total));
    });
    let (Some(select), Some(heads)) = (select, heads) else { return };
    let (table, heads) = (plan.table(e, index), heads.group(e, e.int(0)));
    let score = |e: &Emit<'c>, page: Int<'c>| {
        heads.score(e, |h, most| {
            let raw = e.load(table, e.add_const(page, (h * plan.blocks) as i64));
            most.map_or(raw, |most| e.fsub(raw, most))
        })
    };
    let best = TopK::none(e, select.blocks);
    e.each(e.mul_const(warp, CHUNK), pages, MERGERS * CHUNK, |e, begin| {
        best.take(e, (begin, pages), &score);
    });
    let (keys, indices) = (e.shared(MERGERS * WARP), e.shared(MERGERS * WARP));
    let mine = e.mul_const(warp, WARP);
    best.leave(e, e.at(keys, mine), e.at(indices, mine));
    e.barrier();
    e.when(e.eq(warp, e.int(0)), |e| {
        best.merge(e, keys, indices, MERGERS);
        best.write(e, selected_blocks(e, item, select));
    });
}
