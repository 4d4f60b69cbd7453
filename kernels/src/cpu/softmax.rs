//! Streaming attention of one token and KV head over the pages of a cache: the loop inside every attention.
//!
//! ```text
//! state in scratch, G = heads / kv_heads query heads:
//!   max[G], sum[G]  running maximum and sum of exp        p[G][page]   scores, then exp(score - max)
//!   acc[G][v_pad]   sum of exp * V
//! a page:  p = scale q K   (K transposed: vectors run along tokens)   tiles of 4 heads x 8 tokens
//!          max, rescale acc and sum where it grew                    (Milakov and Gimelshein, 1805.02867)
//!          acc += p V      (vectors run along V's row)               tiles of 4 heads x 8 elements
//! ```
//! Where a cache stores codes with scales, the scale of a key multiplies its score, and that of a value p, once p is summed.
//! A page's tokens outside `lo..hi` are masked in the scores and never read from V: what lies there may be
//! anything, NaN included.

use cranelift_codegen::ir::Value;
use cranelift_frontend::Variable;
use hyc_plan::{AttnShape, CacheSpec};

use super::emit::Emit;
use super::kv_codes::load8;

/// Scratch and constants of one streaming softmax.
pub struct Softmax {
    pub shape: AttnShape,
    pub cache: CacheSpec,
    max: Value,
    sum: Value,
    p: Value,
    acc: Value,
}

/// Tokens of a page that count.
#[derive(Clone, Copy)]
pub struct Span {
    pub lo: Value,
    pub hi: Value,
}

/// Heads and vectors of a tile: eight sums, and what they are made of, fit in sixteen registers.
const TILE_HEADS: u64 = 4;
const TILE_TOKENS: u64 = 8;

/// Steps of an inner loop between two tests of its end.
const UNROLL: u64 = 2;

impl Softmax {
    /// Reserves the state.
    pub fn new(e: &mut Emit<'_>, shape: AttnShape, cache: CacheSpec) -> Softmax {
        let group = shape.heads / shape.kv_heads;
        Softmax {
            shape,
            cache,
            max: e.scratch(4 * group),
            sum: e.scratch(4 * group),
            p: e.scratch(4 * group * cache.page),
            acc: e.scratch(4 * group * cache.v_pad()),
        }
    }

    /// Query heads that share a KV head.
    pub fn group(&self) -> u64 {
        self.shape.heads / self.shape.kv_heads
    }

    /// Empties the state.
    pub fn start(&self, e: &mut Emit<'_>) {
        let (none, zero) = (e.float(f32::NEG_INFINITY), e.float(0.0));
        for head in 0..self.group() as i32 {
            e.store(none, self.max, 4 * head);
            e.store(zero, self.sum, 4 * head);
        }
        let (begin, end) = (e.int(0), e.int((self.group() * self.cache.v_pad()) as i64));
        e.each(begin, end, 4, |e, i| {
            let at = e.at(self.acc, i, 4);
            let zero = e.splat_const(0.0);
            e.store(zero, at, 0);
        });
    }

    /// Takes in the tokens `span` of one page. `span` must not be empty. `raw_max`, where given, is the
    /// address of `[G]` floats, `stride` bytes apart, that get the page's maximum logits.
    pub fn page(
        &self,
        e: &mut Emit<'_>,
        q: Value,
        page: Value,
        kv_head: Value,
        span: Span,
        raw_max: Option<(Value, u64)>,
    ) {
        let bytes = self.cache.codec.bytes();
        let scales = self.scales(e, page, kv_head);
        let k = e.at(page, kv_head, self.cache.qk_dim * self.cache.page * bytes);
        let v = e.at(page, kv_head, self.cache.v_pad() * self.cache.page * bytes);
        let v = e.add_const(v, (self.cache.v_offset(0) * bytes) as i64);
        self.scores(e, q, (k, scales.map(|[keys, _]| keys)), span);
        for head in 0..self.group() {
            self.rescale(e, head, raw_max, scales.map(|[_, values]| values));
        }
        self.mix(e, v, span);
    }

    /// The addresses of the scales of a head's keys and of its values, one for each token of the page, where codes have them.
    fn scales(&self, e: &mut Emit<'_>, page: Value, kv_head: Value) -> Option<[Value; 2]> {
        let (cache, head) = (&self.cache, e.at(page, kv_head, 2 * 4 * self.cache.page));
        let at = [false, true].map(|values| cache.scale_offset(0, values) as i64);
        cache.codec.scaled().then(|| at.map(|offset| e.add_const(head, offset)))
    }

    /// p = scale * q K, masked. `k`: a head's keys, and where their scales are.
    fn scores(&self, e: &mut Emit<'_>, q: Value, (k, scales): (Value, Option<Value>), span: Span) {
        let (zero, page) = (e.int(0), e.int(self.cache.page as i64));
        e.each(zero, page, TILE_TOKENS as i64, |e, token| {
            let k = e.at(k, token, self.cache.codec.bytes());
            for first in (0..self.group()).step_by(TILE_HEADS as usize) {
                let heads = TILE_HEADS.min(self.group() - first);
                self.score_tile(e, q, (k, scales), token, first..first + heads, span);
            }
        });
    }

    fn score_tile(
        &self,
        e: &mut Emit<'_>,
        q: Value,
        (k, scales): (Value, Option<Value>),
        token: Value,
        heads: std::ops::Range<u64>,
        span: Span,
    ) {
        let codec = self.cache.codec;
        let count = heads.end - heads.start;
        let sums: Vec<Variable> = (0..2 * count).map(|_| e.zero4_var()).collect();
        let row = self.cache.page * codec.bytes();
        let step = |e: &mut Emit<'_>, k: Value, q: Value, d: u64| {
            let [near, far] = load8(e, codec, k, (d * row) as i32);
            for i in 0..count {
                let at = 4 * ((heads.start + i) * self.shape.qk_dim + d) as i32;
                let q = e.load_fixed_splat(q, at);
                e.accumulate(sums[2 * i as usize], q, near);
                e.accumulate(sums[2 * i as usize + 1], q, far);
            }
        };
        let dim = self.cache.qk_dim;
        let [k, q] = e.walk(dim / UNROLL, [(k, UNROLL * row), (q, UNROLL * 4)], |e, [k, q]| {
            (0..UNROLL).for_each(|d| step(e, k, q, d));
        });
        e.walk(dim % UNROLL, [(k, row), (q, 4)], |e, [k, q]| step(e, k, q, 0));
        let scale = e.splat_const(1.0 / (self.cache.qk_dim as f32).sqrt());
        let key_scales = scales.map(|scales| {
            let at = e.at(scales, token, 4);
            [e.load4(at, 0), e.load4(at, 16)]
        });
        for i in 0..count {
            for vector in 0..2 {
                let score = e.get(sums[(2 * i + vector) as usize]);
                let mut score = e.fmul(score, scale);
                if let Some(scales) = key_scales {
                    score = e.fmul(score, scales[vector as usize]);
                }
                let first = e.add_const(token, 4 * vector as i64);
                let score = e.mask_tokens(score, first, span.lo, span.hi);
                let at = e.at(self.p, first, 4);
                e.store(score, at, (4 * (heads.start + i) * self.cache.page) as i32);
            }
        }
    }

    /// p = exp(p - max) for one head, with the new maximum; what was summed under the old one is rescaled. Where values are codes,
    /// p is then multiplied by `scales`, each token's by its own.
    fn rescale(&self, e: &mut Emit<'_>, head: u64, raw_max: Option<(Value, u64)>, scales: Option<Value>) {
        let none = e.splat_const(f32::NEG_INFINITY);
        let most = e.var(cranelift_codegen::ir::types::F32X4, none);
        let p = e.add_const(self.p, (4 * head * self.cache.page) as i64);
        let (zero, page) = (e.int(0), e.int(self.cache.page as i64));
        e.each(zero, page, 4, |e, i| {
            let at = e.at(p, i, 4);
            let (x, m) = (e.load4(at, 0), e.get(most));
            let m = e.fmax(x, m);
            e.set(most, m);
        });
        let most = e.get(most);
        let most = e.max_lanes(most);
        if let Some((address, stride)) = raw_max {
            e.store(most, address, (head * stride) as i32);
        }
        let at = 4 * head as i32;
        let old = e.load(self.max, at);
        let new = e.fmax(most, old);
        e.store(new, self.max, at);
        let new4 = e.splat(new);
        let sums = e.zero4_var();
        e.each(zero, page, 4, |e, i| {
            let at = e.at(p, i, 4);
            let x = e.load4(at, 0);
            // A masked token's exp is not exactly zero; the mask is applied once more.
            let none = e.splat_const(-1e30);
            let x0 = e.fsub(x, new4);
            let y = e.exp4(x0);
            let y = e.zero_where_below(x, none, y);
            let stored = match scales {
                Some(scales) => {
                    let scales = e.at(scales, i, 4);
                    let scales = e.load4(scales, 0);
                    e.fmul(y, scales)
                }
                None => y,
            };
            e.store(stored, at, 0);
            let sum = e.get(sums);
            let sum = e.fadd(sum, y);
            e.set(sums, sum);
        });
        let sums = e.get(sums);
        let added = e.sum_lanes(sums);
        let change = e.fsub(old, new);
        let factor = e.exp(change);
        let sum = e.load(self.sum, at);
        let sum = e.fma(sum, factor, added);
        e.store(sum, self.sum, at);
        let grew = e.greater(new, old);
        e.when(grew, |e| {
            let factor = e.splat(factor);
            let acc = e.add_const(self.acc, (4 * head * self.cache.v_pad()) as i64);
            let (zero, width) = (e.int(0), e.int(self.cache.v_pad() as i64));
            e.each(zero, width, 4, |e, i| {
                let at = e.at(acc, i, 4);
                let x = e.load4(at, 0);
                let x = e.fmul(x, factor);
                e.store(x, at, 0);
            });
        });
    }

    /// acc += p V over the tokens of the span.
    fn mix(&self, e: &mut Emit<'_>, v: Value, span: Span) {
        let codec = self.cache.codec;
        let (zero, width) = (e.int(0), e.int(self.cache.v_pad() as i64));
        e.each(zero, width, 8, |e, column| {
            let (v, acc) = (e.at(v, column, codec.bytes()), e.at(self.acc, column, 4));
            for first in (0..self.group()).step_by(TILE_HEADS as usize) {
                let heads = TILE_HEADS.min(self.group() - first);
                let place = |i: u64| (4 * (first + i) * self.cache.v_pad()) as i32;
                let sums: Vec<Variable> = (0..2 * heads)
                    .map(|i| {
                        let start = e.load4(acc, place(i / 2) + 16 * (i % 2) as i32);
                        e.var(cranelift_codegen::ir::types::F32X4, start)
                    })
                    .collect();
                let row = self.cache.v_pad() * codec.bytes();
                let step = |e: &mut Emit<'_>, v: Value, p: Value, token: u64| {
                    let [near, far] = load8(e, codec, v, (token * row) as i32);
                    for i in 0..heads {
                        let at = 4 * ((first + i) * self.cache.page + token) as i32;
                        let p = e.load_fixed_splat(p, at);
                        e.accumulate(sums[2 * i as usize], p, near);
                        e.accumulate(sums[2 * i as usize + 1], p, far);
                    }
                };
                let rest = e.each(span.lo, span.hi, UNROLL as i64, |e, token| {
                    let (v, p) = (e.at(v, token, row), e.at(self.p, token, 4));
                    (0..UNROLL).for_each(|token| step(e, v, p, token));
                });
                e.each(rest, span.hi, 1, |e, token| {
                    let (v, p) = (e.at(v, token, row), e.at(self.p, token, 4));
                    step(e, v, p, 0);
                });
                for i in 0..2 * heads {
                    let sum = e.get(sums[i as usize]);
                    e.store(sum, acc, place(i / 2) + 16 * (i % 2) as i32);
                }
            }
        });
    }

    /// 1 / denominator under which `acc` is the attention's output, and what a log-sum-exp is made of; the sink's
    /// logit joins both.
    pub fn close(&self, e: &mut Emit<'_>, head: u64, sink: Option<Value>) -> Closed {
        let at = 4 * head as i32;
        let (max, sum) = (e.load(self.max, at), e.load(self.sum, at));
        let one = e.float(1.0);
        let Some(sink) = sink else {
            return Closed { scale: e.fdiv(one, sum), max, sum };
        };
        let top = e.fmax(max, sink);
        let (a, b) = (e.fsub(max, top), e.fsub(sink, top));
        let (a, b) = (e.exp(a), e.exp(b));
        let sum = e.fma(sum, a, b);
        Closed { scale: e.fdiv(a, sum), max: top, sum }
    }

    /// The address of a head's accumulator.
    pub fn accumulator(&self, e: &mut Emit<'_>, head: u64) -> Value {
        e.add_const(self.acc, (4 * head * self.cache.v_pad()) as i64)
    }
}

/// What ends a softmax.
pub struct Closed {
    /// Factor from accumulator to output.
    pub scale: Value,
    /// Maximum logit, the sink's included.
    pub max: Value,
    /// Sum of exp(logit - max), the sink's included.
    pub sum: Value,
}
