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
use hyc_ir::plan::{AttnShape, CacheSpec, GateMode, KernelSpec, SelectShape};

use super::emit::Emit;
use super::kernel::{cache, stride};
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

/// Runs `body` for each item of the grid.
fn items(e: &mut Emit<'_>, spec: &KernelSpec, shape: AttnShape, body: impl FnOnce(&mut Emit<'_>, Item)) {
    let (q, pool) = (e.operand(0), e.operand(1));
    let (begin, end) = (e.begin, e.end);
    let group = shape.heads / shape.kv_heads;
    e.each(begin, end, 1, |e, item| {
        let (row, kv_head) = e.div_rem(item, shape.kv_heads);
        let (position, sequence) = (e.position(row), e.sequence(row));
        let q = e.at(q, row, stride(spec, 0));
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

/// The address of the item's list in selection operand `at`.
fn list(e: &mut Emit<'_>, spec: &KernelSpec, item: Item, at: usize, select: SelectShape) -> Value {
    let base = e.operand(at);
    let row = e.at(base, item.row, stride(spec, at));
    e.at(row, item.kv_head, 4 * select.blocks)
}

/// The logit of a head's sink, from weight operand `at`.
fn sink(e: &mut Emit<'_>, at: Option<usize>, item: Item, group: u64, head: u64) -> Option<Value> {
    let base = e.operand(at?);
    let at = e.at(base, item.kv_head, 4 * group);
    Some(e.load(at, 4 * head as i32))
}

/// A gate operand, or none.
#[derive(Clone, Copy)]
struct GateAt {
    operand: usize,
    mode: GateMode,
}

/// out (+)= sigmoid(gate) * acc / denominator, for all heads of the group.
#[allow(clippy::too_many_arguments, reason = "each is one operand of the op")]
fn write(
    e: &mut Emit<'_>,
    spec: &KernelSpec,
    s: &Softmax,
    item: Item,
    out_at: usize,
    sink_at: Option<usize>,
    gate: Option<GateAt>,
    add: bool,
) {
    let (group, v_dim) = (s.group(), s.shape.v_dim);
    let out = e.operand(out_at);
    let out = e.at(out, item.row, stride(spec, out_at));
    let out = e.at(out, item.kv_head, 4 * group * v_dim);
    for head in 0..group {
        let sink = sink(e, sink_at, item, group, head);
        let closed = s.close(e, head, sink);
        let acc = s.accumulator(e, head);
        let out = e.add_const(out, (4 * head * v_dim) as i64);
        let gates = gate.map(|gate| {
            let base = e.operand(gate.operand);
            let row = e.at(base, item.row, stride(spec, gate.operand));
            let width = if gate.mode == GateMode::Head { 1 } else { v_dim };
            let at = e.at(row, item.kv_head, 4 * group * width);
            (gate.mode, e.add_const(at, (4 * head * width) as i64))
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

/// The state for the cache that operand `at` is.
fn softmax(e: &mut Emit<'_>, spec: &KernelSpec, shape: AttnShape, at: usize) -> Option<(Softmax, CacheSpec)> {
    let cache = cache(spec, at)?;
    Some((Softmax::new(e, shape, cache), cache))
}

/// Emits `FullAttention`.
pub fn emit_full(e: &mut Emit<'_>, spec: &KernelSpec, shape: AttnShape, sink: bool) {
    let Some((s, _)) = softmax(e, spec, shape, 1) else { return };
    items(e, spec, shape, |e, item| {
        s.start(e);
        let zero = e.int(0);
        causal(e, &s, item, zero, None);
        write(e, spec, &s, item, 2 + usize::from(sink), sink.then_some(2), None, false);
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
    let Some((s, cache)) = softmax(e, spec, shape, 1) else { return };
    let (out_at, sink_at) = (2 + usize::from(sink_there), sink_there.then_some(2));
    let blocks = spec.max_context.div_ceil(cache.page);
    let maxima = topk::Maxima::new(e, s.group(), blocks, select.blocks);
    items(e, spec, shape, |e, item| {
        s.start(e);
        let zero = e.int(0);
        causal(e, &s, item, zero, Some((maxima.table, maxima.row_bytes)));
        write(e, spec, &s, item, out_at, sink_at, None, false);
        for head in 0..s.group() {
            let sink = sink(e, sink_at, item, s.group(), head);
            let closed = s.close(e, head, sink);
            maxima.set_lse(e, head, &closed);
        }
        let (last, _) = e.div_rem(item.position, cache.page);
        let visible = e.add_const(last, 1);
        let to = list(e, spec, item, out_at + 1, select);
        maxima.select(e, visible, to);
    });
}

/// Emits `WindowAttention`.
pub fn emit_window(e: &mut Emit<'_>, spec: &KernelSpec, shape: AttnShape, window: u64, sink: bool) {
    let Some((s, _)) = softmax(e, spec, shape, 1) else { return };
    items(e, spec, shape, |e, item| {
        s.start(e);
        let from = window_start(e, item, window);
        causal(e, &s, item, from, None);
        write(e, spec, &s, item, 2 + usize::from(sink), sink.then_some(2), None, false);
    });
}

/// Emits `SparseAttention`.
pub fn emit_sparse(e: &mut Emit<'_>, spec: &KernelSpec, shape: AttnShape, select: SelectShape, sink: bool) {
    let Some((s, _)) = softmax(e, spec, shape, 1) else { return };
    items(e, spec, shape, |e, item| {
        s.start(e);
        let list = list(e, spec, item, 2, select);
        selected(e, &s, item, list, select);
        write(e, spec, &s, item, 3 + usize::from(sink), sink.then_some(3), None, false);
    });
}

/// Emits `HybridAttention`.
pub fn emit_hybrid(
    e: &mut Emit<'_>,
    spec: &KernelSpec,
    shape: AttnShape,
    select: SelectShape,
    window: u64,
    mode: GateMode,
) {
    let (Some((far, _)), Some((near, _))) = (softmax(e, spec, shape, 1), softmax(e, spec, shape, 4)) else {
        return;
    };
    let out_at = spec.operands.len() - 1;
    let gate = |operand| (mode != GateMode::None).then_some(GateAt { operand, mode });
    let own = e.operand(4);
    items(e, spec, shape, |e, item| {
        far.start(e);
        let list = list(e, spec, item, 2, select);
        selected(e, &far, item, list, select);
        write(e, spec, &far, item, out_at, Some(3), gate(6), false);
        near.start(e);
        let item = Item { pool: own, ..item };
        let from = window_start(e, item, window);
        causal(e, &near, item, from, None);
        write(e, spec, &near, item, out_at, Some(5), gate(7), true);
    });
}
