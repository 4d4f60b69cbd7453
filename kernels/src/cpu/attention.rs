//! The attentions. Item: (token, KV head), token-major; the group's query heads run together.
//!
//! * `FullAttention`, `OracleAttention`: pages 0 ..= position / page.
//! * `WindowAttention`: the pages of the last `window` tokens.
//! * `SparseAttention`: the selected pages, the token's own cut at the token.
//! * `HybridAttention`: sparse, then window, each with its gate, summed in the output.
//!
//! Reference: `reference::attention`.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::IntCC;
use hyc_plan::{AttnShape, GateMode, KernelSpec, SelectShape};

use super::emit::Emit;
use super::paged::page;
use super::softmax::{Softmax, Span};
use super::topk;

/// The (token, KV head) in hand.
#[derive(Clone, Copy)]
pub struct Item {
    pub row: Value,
    pub kv_head: Value,
    pub position: Value,
    pub sequence: Value,
    q: Value,
    pool: Value,
}

/// Runs `body` for each item of the grid, over this cache.
fn items(e: &mut Emit<'_>, cache: &str, shape: AttnShape, body: impl FnOnce(&mut Emit<'_>, Item)) {
    let (q, pool) = (e.operand("q"), e.operand(cache));
    let (begin, end) = (e.begin, e.end);
    let group = shape.heads / shape.kv_heads;
    e.each(begin, end, 1, |e, item| {
        let (row, kv_head) = e.div_rem(item, shape.kv_heads);
        let (position, sequence) = (e.position(row), e.sequence(row));
        let q = e.at(q, row, e.stride("q"));
        let q = e.at(q, kv_head, 4 * group * shape.qk_dim);
        body(e, Item { row, kv_head, position, sequence, q, pool });
    });
}

/// Takes in the pages first ..= position / page, from token `from` on.
fn causal(e: &mut Emit<'_>, s: &Softmax, item: Item, from: Value, block_max: Option<(Value, u64)>) {
    let (first, _) = e.div_rem(from, s.cache.page);
    let (last, _) = e.div_rem(item.position, s.cache.page);
    let end = e.add_const(last, 1);
    e.each(first, end, 1, |e, logical| {
        let start = e.mul_const(logical, s.cache.page);
        let (lo, hi) = (e.sub(from, start), e.sub(item.position, start));
        let (zero, whole) = (e.int(0), e.int(s.cache.page as i64));
        let hi = e.add_const(hi, 1);
        let span = Span { lo: e.max(lo, zero), hi: e.min(hi, whole) };
        let address = page(e, &s.cache, item.pool, item.sequence, logical);
        let raw_max = block_max.map(|(base, stride)| (e.at(base, logical, 4), stride));
        s.page(e, item.q, address, item.kv_head, span, raw_max);
    });
}

/// Takes in the pages that the selection lists.
fn selected(e: &mut Emit<'_>, s: &Softmax, item: Item, list: Value, select: SelectShape) {
    let (zero, end) = (e.int(0), e.int(select.blocks as i64));
    e.each(zero, end, 1, |e, slot| {
        let block = e.load_index(list, slot);
        let start = e.mul_const(block, s.cache.page);
        let hi = e.sub(item.position, start);
        let hi = e.add_const(hi, 1);
        let (zero, whole) = (e.int(0), e.int(s.cache.page as i64));
        let span = Span { lo: zero, hi: e.min(hi, whole) };
        let listed = e.cmp(IntCC::SignedGreaterThanOrEqual, block, zero);
        let visible = e.cmp(IntCC::SignedGreaterThan, hi, zero);
        let both = e.and(listed, visible);
        e.when(both, |e| {
            let address = page(e, &s.cache, item.pool, item.sequence, block);
            s.page(e, item.q, address, item.kv_head, span, None);
        });
    });
}

/// The first token that a window of `width` sees.
fn window_start(e: &mut Emit<'_>, item: Item, width: u64) -> Value {
    let first = e.add_const(item.position, 1 - width as i64);
    let zero = e.int(0);
    e.max(first, zero)
}

/// The address of the item's list in the selection.
fn list(e: &mut Emit<'_>, item: Item, select: SelectShape) -> Value {
    let base = e.operand("sel");
    let row = e.at(base, item.row, e.stride("sel"));
    e.at(row, item.kv_head, 4 * select.blocks)
}

/// The logit of a head's sink, from the weight `name`.
fn sink(e: &mut Emit<'_>, name: Option<&str>, item: Item, group: u64, head: u64) -> Option<Value> {
    let base = e.operand(name?);
    let at = e.at(base, item.kv_head, 4 * group);
    Some(e.load(at, 4 * head as i32))
}

/// What a branch is finished with.
#[derive(Clone, Copy)]
struct Ending {
    sink: Option<&'static str>,
    gate: Option<(&'static str, GateMode)>,
    /// Whether it adds to what stands in the output.
    add: bool,
}

impl Ending {
    /// Of an attention of one branch.
    fn alone(sink: bool) -> Ending {
        Ending { sink: sink.then_some("sink"), gate: None, add: false }
    }
}

/// out (+)= sigmoid(gate) * acc / denominator, for all heads of the group.
fn write(e: &mut Emit<'_>, s: &Softmax, item: Item, Ending { sink: sink_name, gate, add }: Ending) {
    let (group, v_dim) = (s.group(), s.shape.v_dim);
    let out = e.operand("out");
    let out = e.at(out, item.row, e.stride("out"));
    let out = e.at(out, item.kv_head, 4 * group * v_dim);
    for head in 0..group {
        let sink = sink(e, sink_name, item, group, head);
        let closed = s.close(e, head, sink);
        let acc = s.accumulator(e, head);
        let out = e.add_const(out, (4 * head * v_dim) as i64);
        let gates = gate.map(|(name, mode)| {
            let base = e.operand(name);
            let row = e.at(base, item.row, e.stride(name));
            let width = if mode == GateMode::Head { 1 } else { v_dim };
            let at = e.at(row, item.kv_head, 4 * group * width);
            (mode, e.add_const(at, (4 * head * width) as i64))
        });
        let mut scale = closed.scale;
        if let Some((GateMode::Head, at)) = gates {
            let g = e.load_splat(at, 0);
            let g = e.sigmoid4(g);
            let g = e.lane(g, 0);
            scale = e.fmul(scale, g);
        }
        let scale4 = e.splat(scale);
        let elementwise = gates.filter(|(mode, _)| *mode == GateMode::Elementwise).map(|(_, at)| at);
        e.row_loop(
            v_dim,
            |e, i| {
                let (from, to) = (e.at(acc, i, 4), e.at(out, i, 4));
                let x = e.load4(from, 0);
                let mut y = e.fmul(x, scale4);
                if let Some(gate) = elementwise {
                    let at = e.at(gate, i, 4);
                    let g = e.load4(at, 0);
                    let g = e.sigmoid4(g);
                    y = e.fmul(y, g);
                }
                if add {
                    let old = e.load4(to, 0);
                    y = e.fadd(old, y);
                }
                e.store(y, to, 0);
            },
            |e, i| {
                let (from, to) = (e.at(acc, i, 4), e.at(out, i, 4));
                let x = e.load(from, 0);
                let mut y = e.fmul(x, scale);
                if let Some(gate) = elementwise {
                    let at = e.at(gate, i, 4);
                    let g = e.load_splat(at, 0);
                    let g = e.sigmoid4(g);
                    let g = e.lane(g, 0);
                    y = e.fmul(y, g);
                }
                if add {
                    let old = e.load(to, 0);
                    y = e.fadd(old, y);
                }
                e.store(y, to, 0);
            },
        );
    }
}

/// The state for this cache.
fn softmax(e: &mut Emit<'_>, shape: AttnShape, cache: &str) -> Softmax {
    let cache = e.cache(cache);
    Softmax::new(e, shape, cache)
}

/// Emits `FullAttention`.
pub fn emit_full(e: &mut Emit<'_>, shape: AttnShape, sink: bool) {
    let s = softmax(e, shape, "cache");
    items(e, "cache", shape, |e, item| {
        s.start(e);
        let zero = e.int(0);
        causal(e, &s, item, zero, None);
        write(e, &s, item, Ending::alone(sink));
    });
}

/// Emits `OracleAttention`.
pub fn emit_oracle(
    e: &mut Emit<'_>,
    spec: &KernelSpec,
    shape: AttnShape,
    sink_there: bool,
    select: SelectShape,
) {
    let s = softmax(e, shape, "cache");
    let (cache, ending) = (s.cache, Ending::alone(sink_there));
    let blocks = spec.max_context.div_ceil(cache.page);
    let maxima = topk::Maxima::new(e, s.group(), blocks, select.blocks);
    items(e, "cache", shape, |e, item| {
        s.start(e);
        let zero = e.int(0);
        causal(e, &s, item, zero, Some((maxima.table, maxima.row_bytes)));
        write(e, &s, item, ending);
        for head in 0..s.group() {
            let sink = sink(e, ending.sink, item, s.group(), head);
            let closed = s.close(e, head, sink);
            maxima.set_lse(e, head, &closed);
        }
        let (last, _) = e.div_rem(item.position, cache.page);
        let visible = e.add_const(last, 1);
        let to = list(e, item, select);
        maxima.select(e, visible, to);
    });
}

/// Emits `WindowAttention`.
pub fn emit_window(e: &mut Emit<'_>, shape: AttnShape, window: u64, sink: bool) {
    let s = softmax(e, shape, "cache");
    items(e, "cache", shape, |e, item| {
        s.start(e);
        let from = window_start(e, item, window);
        causal(e, &s, item, from, None);
        write(e, &s, item, Ending::alone(sink));
    });
}

/// Emits `SparseAttention`.
pub fn emit_sparse(e: &mut Emit<'_>, shape: AttnShape, select: SelectShape, sink: bool) {
    let s = softmax(e, shape, "cache");
    items(e, "cache", shape, |e, item| {
        s.start(e);
        let list = list(e, item, select);
        selected(e, &s, item, list, select);
        write(e, &s, item, Ending::alone(sink));
    });
}

/// Emits `HybridAttention`.
pub fn emit_hybrid(e: &mut Emit<'_>, shape: AttnShape, select: SelectShape, window: u64, mode: GateMode) {
    let (far, near) = (softmax(e, shape, "shared"), softmax(e, shape, "own"));
    let gate = |name| (mode != GateMode::None).then_some((name, mode));
    let own = e.operand("own");
    items(e, "shared", shape, |e, item| {
        far.start(e);
        let list = list(e, item, select);
        selected(e, &far, item, list, select);
        let ending = Ending { sink: Some("sink_select"), gate: gate("gate_select"), add: false };
        write(e, &far, item, ending);
        near.start(e);
        let item = Item { pool: own, ..item };
        let from = window_start(e, item, window);
        causal(e, &near, item, from, None);
        let ending = Ending { sink: Some("sink_window"), gate: gate("gate_window"), add: true };
        write(e, &near, item, ending);
    });
}
