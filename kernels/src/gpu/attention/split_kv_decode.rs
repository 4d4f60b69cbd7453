//! Decode over a whole context: `FullAttention` and `OracleAttention` of a few rows.
//!
//! ```text
//! split   block: (row, KV head, part of the pages)     state of the part, each page's largest logit
//! merge   block: (row, KV head, head of the group)     out
//!         block: (row, KV head)                        lse of all heads, the group's block scores; the k best
//! ```
//! Each warp of a split takes pages in turn from a place of its own in shared memory. What this step does not write is copied there
//! before the inputs are. No score leaves the chip but one a (head, page). Scores are compared in logs (HySparse 2602.03560,
//! equation 3), as [`Heads`] says. Reference: `reference::attention::full`.

use hyc_plan::{AttnShape, Extent, SelectShape};

use super::limits::{SPLIT_KV, SPLIT_KV_ROWS, splits};
use super::rows::store_output;
use super::staged::{Supply, Turns};
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, SHARED_SLACK, WARP};
use crate::gpu::select::{CHUNK, Heads, TopK};
use crate::gpu::work_item::{WorkItem, group, selected_blocks};

/// Most shared memory of a block that splits, of which a multiprocessor has two, and its most warps.
const SHARED: u64 = 106 << 10;
const MOST_WARPS: u64 = 4;
/// Warps of a block that merges a head, and of all blocks of a launch some of which select.
const MERGERS: u64 = 8;
const SELECTORS: u64 = 16;

/// What both functions agree on.
struct Plan {
    reader: Reader,
    splits: u64,
    /// Pages of the longest context.
    blocks: u64,
    /// Scratch: `[row][KV head][split][state]`; a state is `[group][v_dim]` sums, `[group]` maxima, `[group]` sums of exponentials.
    parts: u64,
    /// Scratch: `[row][KV head][group][blocks]` largest logits.
    tables: u64,
}

impl Plan {
    /// First page of part `split` and the number of its pages.
    fn share<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, split: Int<'c>) -> (Int<'c>, Int<'c>) {
        let pages = item.pages(e, self.reader.cache.page);
        let each = e.div_rem(e.add_const(pages, self.splits as i64 - 1), self.splits).0;
        let begin = e.mul(each, split);
        (begin, e.min(e.sub(pages, begin), each))
    }

    /// Elements of one part's state: whole pieces of 16 bytes.
    fn state(&self) -> u64 {
        let shape = self.reader.shape;
        (group(shape) * (shape.v_dim + 2)).next_multiple_of(4)
    }

    /// Where a head's largest logit stands in a state; the sum of exponentials stands a group behind it.
    fn max_at<'c>(&self, e: &Emit<'c>, h: Int<'c>) -> Int<'c> {
        e.add_const(h, (group(self.reader.shape) * self.reader.shape.v_dim) as i64)
    }

    /// Parts that have pages, for an item.
    fn used<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>) -> Int<'c> {
        let each = self.share(e, item, e.int(0)).1;
        let pages = item.pages(e, self.reader.cache.page);
        e.quotient(e.add_const(e.add(pages, each), -1), each)
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
    let mut reader = Reader { shape, cache: k.cache("cache"), operand: "cache", warps: 1 };
    reader.warps = (SHARED / reader.stage_bytes()).clamp(1, MOST_WARPS);
    let splits = splits(shape, k.multiprocessors);
    let blocks = spec.max_context.div_ceil(reader.cache.page);
    let mut plan = Plan { reader, splits, blocks, parts: 0, tables: 0 };
    let items = most * shape.kv_heads;
    plan.parts = k.scratch(4 * items * splits * plan.state());
    if select.is_some() {
        plan.tables = k.scratch(4 * items * group(shape) * blocks);
    }
    let grid = [k.rows(shape.kv_heads * splits, 1), Extent::fixed(1)];
    let shared = reader.warps * reader.stage_bytes() + SHARED_SLACK;
    let splitting = Function::new("_split", grid, reader.warps * WARP);
    k.function(splitting.of(&[SPLIT_KV]).shared_bytes(shared).waits_itself(), |e| {
        split(e, &plan, select.is_some());
    });
    // Blocks of heads, then those that select.
    let items = group(shape) + u64::from(select.is_some());
    let grid = [k.rows(shape.kv_heads * items, 1), Extent::fixed(1)];
    let warps = if select.is_some() { SELECTORS } else { MERGERS };
    k.function(Function::new("_merge", grid, warps * WARP).of(&[SPLIT_KV]).waits_itself(), |e| {
        let (index, job) = e.div_rem(e.block_x(), items);
        let item = WorkItem::new(e, index, shape.kv_heads);
        let part = plan.part(e, index, e.int(0));
        e.wait_for_inputs();
        let head = |e: &Emit<'c>| merge(e, &plan, (item, job), part, warps, sink);
        let Some(selection) = select else { return head(e) };
        e.either(e.lt(job, e.int(group(shape))), head, |e| {
            choose(e, &plan, (item, index), part, sink, selection)
        });
    });
}

fn split<'c>(e: &Emit<'c>, plan: &Plan, scored: bool) {
    let r = &plan.reader;
    let (index, split) = e.div_rem(e.block_x(), plan.splits);
    let item = WorkItem::new(e, index, r.shape.kv_heads);
    let (begin, count) = plan.share(e, item, split);
    e.when(e.lt(e.int(0), count), |e| {
        let turns = Turns::new(e, (r.warps, 1), r.stage_bytes());
        let logical = |e: &Emit<'c>, i: Int<'c>| e.add(begin, i);
        let copy = |e: &Emit<'c>, page: Int<'c>, to: Int<'c>, full: Int<'c>| r.stage(e, item, page, to, full);
        let supply = Supply { logical: &logical, copy: &copy };
        let warp = e.div_rem(e.thread(), WARP).0;
        turns.begin(e, (warp, count, e.int(r.warps)), item.settled(e, r.cache.page), &supply);
        e.wait_for_inputs();
        let q = r.query(e, item);
        let table = plan.table(e, index);
        let store = |e: &Emit<'c>, page: Int<'c>, row: Int<'c>, most: Float<'c>| {
            e.store(table, e.add(e.mul_const(row, plan.blocks), page), most.into());
        };
        let state = r.nothing(e);
        turns.run(e, &supply, item.pages(e, r.cache.page), |e, place, logical| {
            let page = (place, logical, e.int(0));
            r.page(e, item, q, page, (e.int(0), 1), &state, scored.then_some(&store));
        });
        // Behind all pages, in their place.
        e.barrier();
        let memory = r.partials(e);
        r.store_partial(e, &state, &memory);
        let part = plan.part(e, index, split);
        let group = group(r.shape);
        r.sums(e, 0..r.warps, &memory, |e, four, words| {
            e.store_words(part, e.mul_const(four, 4), &words);
        });
        e.when(e.lt(e.thread(), e.int(group)), |e| {
            let of = r.closed(e, e.thread(), 0..r.warps, &memory);
            let at = plan.max_at(e, e.thread());
            e.store(part, at, of.max.into());
            e.store(part, e.add_const(at, group as i64), of.sum.into());
        });
    });
}

/// What a warp knows of one head: its lanes have the maxima and sums of two parts at most each.
struct Parts<'c> {
    /// `[ceil(splits / 32)]`
    max: Vec<Float<'c>>,
    sum: Vec<Float<'c>>,
}

impl Plan {
    /// Looks up what the parts say of a head, lane by lane.
    fn parts_of<'c>(&self, e: &Emit<'c>, (part, used): (Ptr<'c>, Int<'c>), h: Int<'c>) -> Parts<'c> {
        let (mut max, mut sum) = (Vec::new(), Vec::new());
        for round in 0..self.splits.div_ceil(WARP) {
            let split = e.add_const(e.lane(), (round * WARP) as i64);
            let there = e.lt(split, used);
            // The first part always has pages.
            let at = e.add(e.mul_const(e.pick(there, split, e.int(0)), self.state()), self.max_at(e, h));
            let load = |at: Int<'c>, other: f32| e.pick_float(there, e.load(part, at), e.float(other));
            max.push(load(at, f32::NEG_INFINITY));
            sum.push(load(e.add_const(at, group(self.reader.shape) as i64), 0.0));
        }
        Parts { max, sum }
    }
}

impl<'c> Parts<'c> {
    /// Largest logit, the larger of that and the sink, and the sum of exponentials relative to that.
    fn closed(&self, e: &Emit<'c>, sink: Option<Float<'c>>) -> (Float<'c>, Float<'c>, Float<'c>) {
        let logits = e.warp_max(self.max.iter().fold(e.float(f32::NEG_INFINITY), |most, x| e.fmax(most, *x)));
        let top = sink.map_or(logits, |sink| e.fmax(logits, sink));
        let sum = self.max.iter().zip(&self.sum);
        let sum = sum.fold(e.float(0.0), |sum, (max, part)| e.fma(*part, e.exp2(e.fsub(*max, top)), sum));
        let extra = sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, top)));
        (logits, top, e.fadd(e.warp_sum(sum, &LANES), extra))
    }
}

/// One head of the group over all parts.
fn merge<'c>(
    e: &Emit<'c>,
    plan: &Plan,
    (item, h): (WorkItem<'c>, Int<'c>),
    part: Ptr<'c>,
    warps: u64,
    sink: bool,
) {
    let r = &plan.reader;
    let fours = r.shape.v_dim / 4;
    // Threads that share an element: each has every so manieth part of it, all of which are looked up at once.
    let sharers = (warps * WARP / fours).clamp(1, plan.splits);
    let (sharer, four) = e.div_rem(e.thread(), fours);
    let used = plan.used(e, item);
    let at = e.add(e.mul_const(h, r.shape.v_dim), e.mul_const(four, 4));
    let first = e.min(sharer, e.int(sharers - 1));
    let mine: Vec<(Int<'c>, [Int<'c>; 4])> = (0..plan.splits.div_ceil(sharers))
        .map(|round| {
            let split = e.add_const(first, (round * sharers) as i64);
            let inside = e.pick(e.lt(split, used), split, e.int(0));
            (split, e.load4(part, e.add(e.mul_const(inside, plan.state()), at)))
        })
        .collect();
    let factors = e.shared(plan.splits.next_multiple_of(WARP));
    let parts = plan.parts_of(e, (part, used), h);
    let sink = r.sink(e, item, sink.then_some("sink"), h);
    e.when(e.lt(e.thread(), e.int(WARP)), |e| {
        let (_, top, sum) = parts.closed(e, sink);
        for (round, max) in (0..).zip(&parts.max) {
            let factor = e.fdiv(e.exp2(e.fsub(*max, top)), sum);
            e.store(factors, e.add_const(e.lane(), round * WARP as i64), factor.into());
        }
    });
    let sums = e.shared(sharers * r.shape.v_dim);
    e.barrier();
    e.when(e.lt(sharer, e.int(sharers)), |e| {
        let total = mine.iter().fold([e.float(0.0); 4], |total, (split, words)| {
            // Behind the parts that have pages factors are zero.
            let inside = e.min(*split, e.int(plan.splits - 1));
            let factor = e.pick_float(e.lt(*split, used), e.load(factors, inside), e.float(0.0));
            std::array::from_fn(|i| e.fma(e.widen(words[i]), factor, total[i]))
        });
        let at = e.add(e.mul_const(sharer, r.shape.v_dim), e.mul_const(four, 4));
        e.store_words(sums, at, &total.map(|x| e.bits(x)));
    });
    e.barrier();
    e.each(e.thread(), e.int(r.shape.v_dim), warps * WARP, |e, element| {
        let all = (0..sharers).map(|i| e.load(sums, e.add_const(element, (i * r.shape.v_dim) as i64)));
        let y = all.reduce(|a, b| e.fadd(a, b)).unwrap_or(e.float(0.0));
        store_output(e, r.shape, item, (h, element), y);
    });
}

/// The k best pages of a group.
fn choose<'c>(
    e: &Emit<'c>,
    plan: &Plan,
    (item, index): (WorkItem<'c>, Int<'c>),
    part: Ptr<'c>,
    sink: bool,
    select: SelectShape,
) {
    let r = &plan.reader;
    let heads = Heads::new(e, group(r.shape), group(r.shape), SELECTORS, sink);
    let warp = e.div_rem(e.thread(), WARP).0;
    let used = plan.used(e, item);
    e.each(warp, e.int(group(r.shape)), SELECTORS, |e, h| {
        let parts = plan.parts_of(e, (part, used), h);
        let (logits, top, sum) = parts.closed(e, r.sink(e, item, sink.then_some("sink"), h));
        e.when(e.eq(e.lane(), e.int(0)), |e| heads.note(e, h, logits, top, e.log2(sum)));
    });
    e.barrier();
    let pages = item.pages(e, r.cache.page);
    let (table, heads) = (plan.table(e, index), heads.group(e, e.int(0)));
    let score = |e: &Emit<'c>, page: Int<'c>| {
        heads.score(e, |h, most| {
            let raw = e.load(table, e.add_const(page, (h * plan.blocks) as i64));
            most.map_or(raw, |most| e.fsub(raw, most))
        })
    };
    let best = TopK::none(e, select.blocks);
    e.each(e.mul_const(warp, CHUNK), pages, SELECTORS * CHUNK, |e, begin| {
        best.take(e, (begin, pages), &score);
    });
    let (keys, indices) = (e.shared(SELECTORS * WARP), e.shared(SELECTORS * WARP));
    let mine = e.mul_const(warp, WARP);
    best.leave(e, e.at(keys, mine), e.at(indices, mine));
    e.barrier();
    e.when(e.eq(warp, e.int(0)), |e| {
        // The first warp has seen all pages of a short context.
        e.when(e.lt(e.int(CHUNK), pages), |e| best.merge(e, keys, indices, SELECTORS));
        best.write(e, selected_blocks(e, item, select));
    });
}
