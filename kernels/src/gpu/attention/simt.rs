//! The attentions. Block: one (token, KV head); four warps share the pages of its context.
//!
//! ```text
//! warp w takes pages w, w + 4, ...     lane: tokens lane, lane + 32 of a page      (scores: K is [dim][token])
//!   s = scale q K, masked              lane: elements lane, lane + 32, ... of V    (V is [token][dim])
//!   running maximum, sum, accumulator  (Milakov and Gimelshein, 1805.02867)
//! the warps' states are merged in shared memory, with the sink
//! ```
//! A group's query heads go in tiles of four. Reference: `reference::attention`.

use hyc_plan::{AttnShape, CacheSpec, Extent, GateMode, KernelSpec, OperandSpec, SelectShape};

use super::rows::{load_column, output_column, store_output};
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, Var, WARP};
use crate::gpu::kv_codes::{Codes, Expander};
use crate::gpu::paged_kv::{key_index, page_base, value_index};
use crate::gpu::select::{Heads, Scores, THREADS, WARPS};
use crate::gpu::work_item::{WorkItem, group, selected_blocks};

/// Query heads at a time: their sums stay in registers.
const TILE: u64 = 4;

/// Which pages a branch reads.
#[derive(Clone, Copy)]
enum Source<'c> {
    /// All from this token on.
    From(Int<'c>),
    /// Those that a list names.
    Listed(Ptr<'c>, SelectShape),
}

/// One softmax over one cache.
struct Branch<'c> {
    shape: AttnShape,
    cache: CacheSpec,
    /// The cache's operand.
    operand: &'static str,
    source: Source<'c>,
    sink: Option<&'static str>,
    /// What gets each page's largest logit, for a selection.
    scores: Option<Scores<'c>>,
}

/// What a block keeps in shared memory.
struct Shared<'c> {
    /// `[group][qk_dim]`
    q: Ptr<'c>,
    /// `[warp][TILE][page]`
    p: Ptr<'c>,
    /// `[warp][TILE]` each.
    max: Ptr<'c>,
    sum: Ptr<'c>,
    /// `[warp][TILE][v_dim]`
    acc: Ptr<'c>,
}

/// Shared memory of a block: what a launch may have without asking for more is 48 KiB.
pub fn shared_bytes(spec: &KernelSpec, shape: AttnShape) -> u64 {
    let pages = spec.operands.iter().filter_map(|operand| match operand {
        OperandSpec::Cache(cache) => Some(cache.page),
        OperandSpec::Tensor { .. } | OperandSpec::Weight(_) => None,
    });
    let floats = group(shape) * shape.qk_dim
        + Heads::floats(group(shape), group(shape), WARPS)
        + WARPS * TILE * (pages.max().unwrap_or(0) + shape.v_dim + 2)
        + 2 * WARPS;
    4 * floats
}

/// The block's item, with the group's queries in shared memory.
fn begin<'c>(e: &Emit<'c>, shape: AttnShape, page: u64) -> (WorkItem<'c>, Shared<'c>) {
    let item = WorkItem::new(e, e.block_x(), shape.kv_heads);
    let shared = Shared {
        q: e.shared(group(shape) * shape.qk_dim),
        p: e.shared(WARPS * TILE * page),
        max: e.shared(WARPS * TILE),
        sum: e.shared(WARPS * TILE),
        acc: e.shared(WARPS * TILE * shape.v_dim),
    };
    let width = group(shape) * shape.qk_dim;
    let q =
        e.at(e.operand("q"), e.add(e.mul_const(item.row, e.stride("q")), e.mul_const(item.kv_head, width)));
    e.each(e.thread(), e.int(width), THREADS, |e, i| e.store(shared.q, i, e.load(q, i).into()));
    e.barrier();
    (item, shared)
}

/// The state of one warp for one tile of heads.
struct State<'c> {
    max: Vec<Var<'c>>,
    sum: Vec<Var<'c>>,
    /// `[head][ceil(v_dim / 32)]`
    acc: Vec<Vec<Var<'c>>>,
}

impl<'c> Branch<'c> {
    /// Runs the branch; `out` gets (head of the group, element, value), each exactly once a block and always
    /// in the same thread.
    fn run(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        s: &Shared<'c>,
        out: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>),
    ) {
        for first in (0..group(self.shape)).step_by(TILE as usize) {
            let heads = TILE.min(group(self.shape) - first);
            let slots = self.shape.v_dim.div_ceil(WARP);
            let state = State {
                max: (0..heads).map(|_| e.float_var(f32::NEG_INFINITY)).collect(),
                sum: (0..heads).map(|_| e.float_var(0.0)).collect(),
                acc: (0..heads).map(|_| (0..slots).map(|_| e.float_var(0.0)).collect()).collect(),
            };
            self.pages(e, item, s, first, &state);
            self.merge(e, item, s, first, &state, out);
        }
    }

    fn pages(&self, e: &Emit<'c>, item: WorkItem<'c>, s: &Shared<'c>, first: u64, state: &State<'c>) {
        let warp = e.div_rem(e.thread(), WARP).0;
        let page = self.cache.page;
        let zero = e.int(0);
        let seen = e.add_const(item.position, 1);
        match self.source {
            Source::From(from) => {
                let begin = e.div_rem(from, page).0;
                let end = e.add_const(e.div_rem(item.position, page).0, 1);
                e.each(e.add(begin, warp), end, WARPS, |e, logical| {
                    let start = e.mul_const(logical, page);
                    let lo = e.max(e.sub(from, start), zero);
                    let hi = e.min(e.sub(seen, start), e.int(page));
                    self.page(e, item, s, first, state, logical, (lo, hi));
                });
            }
            Source::Listed(list, select) => e.each(warp, e.int(select.blocks), WARPS, |e, slot| {
                let logical = e.load_int(list, slot);
                let start = e.mul_const(logical, page);
                let visible = e.and(e.ge(logical, zero), e.lt(start, seen));
                e.when(visible, |e| {
                    let hi = e.min(e.sub(seen, start), e.int(page));
                    self.page(e, item, s, first, state, logical, (zero, hi));
                });
            }),
        }
    }

    /// Takes in one page, of which tokens lo..hi are visible; there is at least one.
    #[allow(clippy::too_many_arguments, reason = "a page, its span, and the state it goes into")]
    fn page(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        s: &Shared<'c>,
        first: u64,
        state: &State<'c>,
        logical: Int<'c>,
        (lo, hi): (Int<'c>, Int<'c>),
    ) {
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let (cache, heads) = (&self.cache, state.max.len() as u64);
        let base = page_base(e, cache, self.operand, item.sequence, logical);
        let codes =
            Expander::of(cache).map(|expander| (expander, Codes::of_page(e, cache, base, item.kv_head)));
        let tokens: Vec<Int<'c>> =
            (0..cache.page.div_ceil(WARP)).map(|j| e.add_const(lane, (32 * j) as i64)).collect();
        let scores: Vec<Vec<Var<'c>>> =
            (0..heads).map(|_| tokens.iter().map(|_| e.float_var(0.0)).collect()).collect();
        let inside: Vec<Int<'c>> = tokens.iter().map(|t| e.min(*t, e.int(cache.page - 1))).collect();
        e.each(e.int(0), e.int(cache.qk_dim), 1, |e, d| {
            let key = |t: &Int<'c>| {
                let at = key_index(e, cache, item.kv_head, *t, d);
                match codes {
                    Some((expander, _)) => expander.number(e, e.load_byte(base, at)),
                    None => e.load_elem(cache.codec.plain(), base, at),
                }
            };
            let k: Vec<Float<'c>> = inside.iter().map(key).collect();
            for (h, scores) in scores.iter().enumerate() {
                let q = e.load(s.q, e.add_const(d, ((first + h as u64) * cache.qk_dim) as i64));
                scores.iter().zip(&k).for_each(|(score, k)| e.accumulate(*score, q, *k));
            }
        });
        let scale = e.float(1.0 / (cache.qk_dim as f32).sqrt());
        let scales: Vec<Float<'c>> = inside
            .iter()
            .map(|t| codes.map_or(scale, |(_, codes)| e.fmul(e.load(codes.key_scales, *t), scale)))
            .collect();
        let none = e.float(f32::NEG_INFINITY);
        let p = e.at(s.p, e.mul_const(warp, TILE * cache.page));
        for (h, scores) in scores.iter().enumerate() {
            let masked: Vec<Float<'c>> = scores
                .iter()
                .zip(tokens.iter().zip(&scales))
                .map(|(score, (t, scale))| {
                    let visible = e.and(e.ge(*t, lo), e.lt(*t, hi));
                    e.pick_float(visible, e.fmul(e.get_float(*score), *scale), none)
                })
                .collect();
            let most = e.warp_max(masked.iter().fold(none, |most, x| e.fmax(most, *x)));
            if let Some(scores) = self.scores {
                let at = e.add_const(logical, ((first + h as u64) * scores.blocks) as i64);
                e.when(e.eq(lane, e.int(0)), |e| e.store(scores.table, at, most.into()));
            }
            let old = e.get_float(state.max[h]);
            let new = e.fmax(old, most);
            let shrink = e.exp(e.fsub(old, new));
            let mut added = e.float(0.0);
            for (x, t) in masked.iter().zip(&tokens) {
                let y = e.exp(e.fsub(*x, new));
                added = e.fadd(added, y);
                let at = e.add_const(*t, (h as u64 * cache.page) as i64);
                e.when(e.lt(*t, e.int(cache.page)), |e| e.store(p, at, y.into()));
            }
            let added = e.warp_sum(added, &LANES);
            e.set(state.max[h], new.into());
            e.set(state.sum[h], e.fma(e.get_float(state.sum[h]), shrink, added).into());
            for acc in &state.acc[h] {
                e.set(*acc, e.fmul(e.get_float(*acc), shrink).into());
            }
        }
        e.warp_barrier();
        e.each(lo, hi, 1, |e, t| {
            for slot in 0..state.acc[0].len() {
                let element = e.min(e.add_const(lane, 32 * slot as i64), e.int(cache.v_dim - 1));
                let at = value_index(e, cache, item.kv_head, t, element);
                let v = match codes {
                    Some((expander, codes)) => {
                        e.fmul(expander.number(e, e.load_byte(base, at)), e.load(codes.value_scales, t))
                    }
                    None => e.load_elem(cache.codec.plain(), base, at),
                };
                for (h, acc) in state.acc.iter().enumerate() {
                    let p = e.load(p, e.add_const(t, (h as u64 * cache.page) as i64));
                    e.accumulate(acc[slot], p, v);
                }
            }
        });
        e.warp_barrier();
    }

    /// Merges the warps' states and gives the results.
    fn merge(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        s: &Shared<'c>,
        first: u64,
        state: &State<'c>,
        out: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>),
    ) {
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let (heads, v_dim) = (state.max.len() as u64, self.shape.v_dim);
        for h in 0..heads as usize {
            let at = e.add_const(e.mul_const(warp, TILE), h as i64);
            e.when(e.eq(lane, e.int(0)), |e| {
                e.store(s.max, at, e.get(state.max[h]));
                e.store(s.sum, at, e.get(state.sum[h]));
            });
            for (slot, acc) in state.acc[h].iter().enumerate() {
                let element = e.add_const(lane, 32 * slot as i64);
                e.when(e.lt(element, e.int(v_dim)), |e| {
                    e.store(s.acc, e.add(e.mul_const(at, v_dim), element), e.get(*acc));
                });
            }
        }
        e.barrier();
        // (maximum, sum, factors of the warps) of head h of the tile, the sink included.
        let closed = |e: &Emit<'c>, h: Int<'c>| {
            let places: Vec<Int<'c>> = (0..WARPS).map(|w| e.add_const(h, (w * TILE) as i64)).collect();
            let sink = self.sink.map(|name| {
                let head = e.add(e.mul_const(item.kv_head, group(self.shape)), e.add_const(h, first as i64));
                e.load(e.operand(name), head)
            });
            let most = places.iter().map(|at| e.load(s.max, *at));
            let most = most.fold(sink.unwrap_or(e.float(f32::NEG_INFINITY)), |most, x| e.fmax(most, x));
            let factors: Vec<Float<'c>> =
                places.iter().map(|at| e.exp(e.fsub(e.load(s.max, *at), most))).collect();
            let extra = sink.map_or(e.float(0.0), |sink| e.exp(e.fsub(sink, most)));
            let sum = places.iter().zip(&factors);
            let sum = sum.fold(extra, |sum, (at, factor)| e.fma(e.load(s.sum, *at), *factor, sum));
            (most, sum, factors)
        };
        e.each(e.thread(), e.int(heads * v_dim), THREADS, |e, i| {
            let (h, element) = e.div_rem(i, v_dim);
            let (_, sum, factors) = closed(e, h);
            let total = factors.iter().enumerate().fold(e.float(0.0), |total, (w, factor)| {
                let at = e.mul_const(e.add_const(h, (w as u64 * TILE) as i64), v_dim);
                e.fma(e.load(s.acc, e.add(at, element)), *factor, total)
            });
            out(e, e.add_const(h, first as i64), element, e.fdiv(total, sum));
        });
        if let Some(scores) = self.scores {
            e.when(e.lt(e.thread(), e.int(heads)), |e| {
                let (top, sum, _) = closed(e, e.thread());
                let logits = (0..WARPS).fold(e.float(f32::NEG_INFINITY), |most, w| {
                    e.fmax(most, e.load(s.max, e.add_const(e.thread(), (w * TILE) as i64)))
                });
                scores.heads.note(e, e.add_const(e.thread(), first as i64), logits, top, e.ln(sum));
            });
        }
        e.barrier();
    }
}

/// The first token that a window sees.
fn window_start<'c>(e: &Emit<'c>, item: WorkItem<'c>, width: u64) -> Int<'c> {
    e.max(e.add_const(item.position, 1 - width as i64), e.int(0))
}

fn grid(k: &Kernel<'_, '_>, shape: AttnShape) -> [Extent; 2] {
    [k.rows(shape.kv_heads, 1), Extent::fixed(1)]
}

/// `FullAttention`, and `OracleAttention` where there is something to select.
pub fn full(k: &mut Kernel<'_, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    let spec = k.spec;
    let cache = k.cache("cache");
    let blocks = spec.max_context.div_ceil(cache.page);
    let table = group(shape) * blocks;
    let scratch = if select.is_some() { k.scratch(4 * spec.max_rows * shape.kv_heads * table) } else { 0 };
    k.function(Function::new("", grid(k, shape), THREADS), |e| {
        let (item, shared) = begin(e, shape, cache.page);
        let table = e.at(e.at(e.scratch(), e.int(scratch)), e.mul_const(e.wide(e.block_x()), table));
        let heads = |e| Heads::new(e, group(shape), group(shape), WARPS, sink);
        let scores = select.map(|_| Scores { table, blocks, heads: heads(e) });
        let (source, sink) = (Source::From(e.int(0)), sink.then_some("sink"));
        let branch = Branch { shape, cache, operand: "cache", source, sink, scores };
        branch.run(e, item, &shared, &|e, h, element, y| {
            store_output(e, shape, item, (h, element), y);
        });
        if let (Some(select), Some(scores)) = (select, scores) {
            let visible = e.add_const(e.div_rem(item.position, cache.page).0, 1);
            scores.select(e, visible, select.blocks, selected_blocks(e, item, select));
        }
    });
}

/// `WindowAttention`.
pub fn window(k: &mut Kernel<'_, '_>, shape: AttnShape, window: u64, sink: bool) {
    single(k, shape, sink, |e, item| Source::From(window_start(e, item, window)));
}

/// `SparseAttention`.
pub fn sparse(k: &mut Kernel<'_, '_>, shape: AttnShape, select: SelectShape, sink: bool) {
    single(k, shape, sink, |e, item| Source::Listed(selected_blocks(e, item, select), select));
}

/// One branch over the cache.
fn single<'c>(
    k: &mut Kernel<'c, '_>,
    shape: AttnShape,
    sink: bool,
    source: impl FnOnce(&Emit<'c>, WorkItem<'c>) -> Source<'c>,
) {
    let cache = k.cache("cache");
    k.function(Function::new("", grid(k, shape), THREADS), |e| {
        let (item, shared) = begin(e, shape, cache.page);
        let (source, sink) = (source(e, item), sink.then_some("sink"));
        let branch = Branch { shape, cache, operand: "cache", source, sink, scores: None };
        branch.run(e, item, &shared, &|e, h, element, y| {
            store_output(e, shape, item, (h, element), y);
        });
    });
}

/// `HybridAttention`: both branches, each with its gate, summed.
pub fn hybrid(k: &mut Kernel<'_, '_>, shape: AttnShape, select: SelectShape, window: u64, mode: GateMode) {
    let (far, near) = (k.cache("shared"), k.cache("own"));
    k.function(Function::new("", grid(k, shape), THREADS), |e| {
        let (item, shared) = begin(e, shape, far.page.max(near.page));
        let branches = [
            (
                far,
                "shared",
                Source::Listed(selected_blocks(e, item, select), select),
                "sink_select",
                "gate_select",
            ),
            (near, "own", Source::From(window_start(e, item, window)), "sink_window", "gate_window"),
        ];
        for (i, (cache, operand, source, sink, gate)) in branches.into_iter().enumerate() {
            let branch = Branch { shape, cache, operand, source, sink: Some(sink), scores: None };
            branch.run(e, item, &shared, &|e, h, element, y| {
                let head = e.add(e.mul_const(item.kv_head, group(shape)), h);
                let column = match mode {
                    GateMode::None => None,
                    GateMode::Head => Some(head),
                    GateMode::Elementwise => Some(e.add(e.mul_const(head, shape.v_dim), element)),
                };
                let mut y = y;
                if let Some(column) = column {
                    y = e.fmul(y, e.sigmoid(load_column(e, gate, item, column)));
                }
                if i > 0 {
                    // The first branch's value: written by this thread, and rounded where rows lie in tiles.
                    y = e.fadd(y, load_column(e, "out", item, output_column(e, shape, item, (h, element))));
                }
                store_output(e, shape, item, (h, element), y);
            });
        }
    });
}
