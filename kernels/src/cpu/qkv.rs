//! `QkvAppend`, `Rope` and `Append`: from rows to rotated queries, and keys and values in the cache.
//!
//! Item of `QkvAppend`: one head, all rows: the q heads, then the k heads, then the v heads. A head's panels
//! never hold another head's rows, so its products, norm and rotation stay in one item. Scratch: the
//! normalised rows, a head's rows, and the cos and sin of every row's position. Reference:
//! `reference::linear::qkv_append`.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::F64;
use hyc_plan::ops::QkvAppend;
use hyc_plan::{AttnShape, CacheSpec, KernelSpec, PANEL, RopeSpec, round_up};

use super::emit::Emit;
use super::linear::input;
use super::paged::page;
use super::product::Product;

/// cos and sin of each row's angles: `[rows][dims/2]` pairs of floats.
struct Angles {
    table: Value,
    row_bytes: u64,
}

/// Fills the table. The frequencies theta^(-2i/dims) come from one another by multiplication in f64; those that are scaled
/// are constants, which are stored before.
fn angles(e: &mut Emit<'_>, spec: &KernelSpec, rope: RopeSpec) -> Angles {
    let half = rope.dims / 2;
    let row_bytes = 8 * half;
    let table = e.scratch(spec.max_rows * row_bytes);
    let scaled = rope.scaling.map(|_| frequencies(e, rope));
    let (zero, rows) = (e.int(0), e.rows(spec));
    e.each(zero, rows, 1, |e, row| {
        let position = e.position(row);
        let position = e.double_of(position);
        let to = e.at(table, row, row_bytes);
        let one = e.double(1.0);
        let frequency = e.var(F64, one);
        let (zero, end) = (e.int(0), e.int(half as i64));
        e.each(zero, end, 1, |e, i| {
            let f = match scaled {
                Some(scaled) => {
                    let at = e.at(scaled, i, 8);
                    e.load_float(F64, at, 0)
                }
                None => e.get(frequency),
            };
            let angle = e.fmul(position, f);
            let (sin, cos) = e.sin_cos(angle);
            let (sin, cos) = match rope.magnitude() {
                1.0 => (sin, cos),
                magnitude => {
                    let magnitude = e.double(magnitude);
                    (e.fmul(sin, magnitude), e.fmul(cos, magnitude))
                }
            };
            let (sin, cos) = (e.demote(sin), e.demote(cos));
            let to = e.at(to, i, 8);
            e.store(cos, to, 0);
            e.store(sin, to, 4);
            if scaled.is_some() {
                return;
            }
            let ratio = e.double(rope.theta.powf(-2.0 / rope.dims as f64));
            let next = e.fmul(f, ratio);
            e.set(frequency, next);
        });
    });
    Angles { table, row_bytes }
}

/// Each pair's frequency, in a list of doubles.
fn frequencies(e: &mut Emit<'_>, rope: RopeSpec) -> Value {
    let half = rope.dims / 2;
    let list = e.scratch(8 * half);
    for i in 0..half {
        let frequency = e.double(rope.frequency(i));
        e.store(frequency, list, 8 * i as i32);
    }
    list
}

/// Rotates one head in place, in the half-split form.
fn rotate(e: &mut Emit<'_>, head: Value, angles: &Angles, row: Value, rope: RopeSpec) {
    let half = rope.dims / 2;
    let table = e.at(angles.table, row, angles.row_bytes);
    let (zero, end) = (e.int(0), e.int(half as i64));
    e.each(zero, end, 1, |e, i| {
        let (at, angle) = (e.at(head, i, 4), e.at(table, i, 8));
        let far = e.add_const(at, 4 * half as i64);
        let (a, b) = (e.load(at, 0), e.load(far, 0));
        let (cos, sin) = (e.load(angle, 0), e.load(angle, 4));
        let (ac, bs, bc, asin) = (e.fmul(a, cos), e.fmul(b, sin), e.fmul(b, cos), e.fmul(a, sin));
        let (near, away) = (e.fsub(ac, bs), e.fadd(bc, asin));
        e.store(near, at, 0);
        e.store(away, far, 0);
    });
}

/// Stores a key of `head` at a row's position: one column of the page's transposed tile.
fn store_key(e: &mut Emit<'_>, spec: &CacheSpec, pool: Value, row: Value, head: Value, from: Value) {
    let (tile, place) = tile(e, spec, pool, row, head, spec.qk_dim);
    let to = e.at(tile, place, spec.codec.bytes());
    let (zero, end) = (e.int(0), e.int(spec.qk_dim as i64));
    e.each(zero, end, 1, |e, d| {
        let (from, to) = (e.at(from, d, 4), e.at(to, d, spec.page * spec.codec.bytes()));
        let x = e.load(from, 0);
        e.store_elem(spec.codec.plain(), x, to, 0);
    });
}

/// Stores a value of `head` at a row's position: one row of the page's tile.
fn store_value(e: &mut Emit<'_>, spec: &CacheSpec, pool: Value, row: Value, head: Value, from: Value) {
    let (tile, place) = tile(e, spec, pool, row, head, spec.v_pad());
    let tile = e.add_const(tile, (spec.v_offset(0) * spec.codec.bytes()) as i64);
    let to = e.at(tile, place, spec.v_pad() * spec.codec.bytes());
    let (zero, end) = (e.int(0), e.int(spec.v_dim as i64));
    e.each(zero, end, 1, |e, d| {
        let (from, to) = (e.at(from, d, 4), e.at(to, d, spec.codec.bytes()));
        let x = e.load(from, 0);
        e.store_elem(spec.codec.plain(), x, to, 0);
    });
}

/// The address of a head's tile of `width` x page elements, counted from the page's start, and the row's
/// place in its page.
fn tile(
    e: &mut Emit<'_>,
    spec: &CacheSpec,
    pool: Value,
    row: Value,
    head: Value,
    width: u64,
) -> (Value, Value) {
    let (position, sequence) = (e.position(row), e.sequence(row));
    let (logical, place) = e.div_rem(position, spec.page);
    let page = page(e, spec, pool, sequence, logical);
    (e.at(page, head, width * spec.page * spec.codec.bytes()), place)
}

/// Where things are in one emitted `QkvAppend`.
struct Place<'s> {
    c: &'s QkvAppend,
    x: Value,
    x_stride: u64,
    rows: Value,
    head_rows: Value,
    angles: Angles,
}

impl Place<'_> {
    fn head_bytes(&self) -> u64 {
        4 * round_up(self.c.shape.qk_dim.max(self.c.shape.v_dim), PANEL)
    }

    /// The products of one head of this weight into `head_rows`.
    fn head(&self, e: &mut Emit<'_>, weight: &str, head: Value, dim: u64) {
        let product = Product::of(e, weight, self.c.in_features, self.x_stride);
        let panels = dim.div_ceil(PANEL);
        let w = e.operand(weight);
        let w = e.at(w, head, panels * product.panel_bytes());
        let (zero, end) = (e.int(0), e.int(panels as i64));
        e.each(zero, end, 1, |e, panel| {
            let w = e.at(w, panel, product.panel_bytes());
            let to = e.at(self.head_rows, panel, 4 * PANEL);
            product.all_rows(e, self.x, self.rows, w, &|e, quad| {
                let to = e.at(to, quad.row, self.head_bytes());
                e.store(quad.sum, to, 16 * quad.vector as i32);
            });
        });
    }

    /// Each row of the head in hand, normalised (with the weight `norm`) and rotated where asked.
    fn each_row(&self, e: &mut Emit<'_>, norm: Option<&str>, then: impl FnOnce(&mut Emit<'_>, Value, Value)) {
        let zero = e.int(0);
        e.each(zero, self.rows, 1, |e, row| {
            let head = e.at(self.head_rows, row, self.head_bytes());
            if let Some(norm) = norm {
                if let Some(eps) = self.c.qk_norm {
                    let weight = e.operand(norm);
                    e.normalise(head, weight, head, self.c.shape.qk_dim, eps);
                }
                rotate(e, head, &self.angles, row, self.c.rope);
            }
            then(e, row, head);
        });
    }
}

/// Emits `QkvAppend`.
pub fn emit(e: &mut Emit<'_>, spec: &KernelSpec, c: &QkvAppend) {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = c.shape;
    let (x, x_stride) = input(e, spec, c.in_features, c.norm);
    let head_bytes = 4 * round_up(qk_dim.max(v_dim), PANEL);
    let head_rows = e.scratch(spec.max_rows * head_bytes);
    let angles = angles(e, spec, c.rope);
    let rows = e.rows(spec);
    let p = Place { c, x, x_stride, rows, head_rows, angles };
    let out = e.operand("q");
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, item| {
        let first_key = e.int(heads as i64);
        let is_query = e.cmp(IntCC::SignedLessThan, item, first_key);
        e.when(is_query, |e| {
            p.head(e, "wq", item, qk_dim);
            let out = e.at(out, item, 4 * qk_dim);
            p.each_row(e, Some("q_norm"), |e, row, head| {
                let to = e.at(out, row, e.stride("q"));
                copy(e, head, to, qk_dim);
            });
        });
        if !c.own_kv {
            return;
        }
        let (cache, pool) = (e.cache("cache"), e.operand("cache"));
        let first_value = e.int((heads + kv_heads) as i64);
        let (from, to) = (
            e.cmp(IntCC::SignedGreaterThanOrEqual, item, first_key),
            e.cmp(IntCC::SignedLessThan, item, first_value),
        );
        let is_key = e.and(from, to);
        e.when(is_key, |e| {
            let head = e.add_const(item, -(heads as i64));
            p.head(e, "wk", head, qk_dim);
            p.each_row(e, Some("k_norm"), |e, row, from| store_key(e, &cache, pool, row, head, from));
        });
        let is_value = e.cmp(IntCC::SignedGreaterThanOrEqual, item, first_value);
        e.when(is_value, |e| {
            let head = e.add_const(item, -((heads + kv_heads) as i64));
            p.head(e, "wv", head, v_dim);
            p.each_row(e, None, |e, row, from| store_value(e, &cache, pool, row, head, from));
        });
    });
}

/// Copies floats one by one: a head's width may be odd, and what stands behind it is the next head.
fn copy(e: &mut Emit<'_>, from: Value, to: Value, width: u64) {
    e.row_loop(
        width,
        |e, i| {
            let (from, to) = (e.at(from, i, 4), e.at(to, i, 4));
            let x = e.load4(from, 0);
            e.store(x, to, 0);
        },
        |e, i| {
            let (from, to) = (e.at(from, i, 4), e.at(to, i, 4));
            let x = e.load(from, 0);
            e.store(x, to, 0);
        },
    );
}

/// Emits `Rope`; an item is a row.
pub fn emit_rope(e: &mut Emit<'_>, spec: &KernelSpec, heads: u64, dim: u64, rope: RopeSpec) {
    let angles = angles(e, spec, rope);
    let (x, out) = (e.operand("x"), e.operand("out"));
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, row| {
        let (x, out) = (e.at(x, row, e.stride("x")), e.at(out, row, e.stride("out")));
        copy(e, x, out, heads * dim);
        let (zero, heads) = (e.int(0), e.int(heads as i64));
        e.each(zero, heads, 1, |e, head| {
            let head = e.at(out, head, 4 * dim);
            rotate(e, head, &angles, row, rope);
        });
    });
}

/// Emits `Append`; an item is a row.
pub fn emit_append(e: &mut Emit<'_>) {
    let cache = e.cache("cache");
    let (k, v, pool) = (e.operand("k"), e.operand("v"), e.operand("cache"));
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, row| {
        let (k, v) = (e.at(k, row, e.stride("k")), e.at(v, row, e.stride("v")));
        let (zero, heads) = (e.int(0), e.int(cache.kv_heads as i64));
        e.each(zero, heads, 1, |e, head| {
            let (k, v) = (e.at(k, head, 4 * cache.qk_dim), e.at(v, head, 4 * cache.v_dim));
            store_key(e, &cache, pool, row, head, k);
            store_value(e, &cache, pool, row, head, v);
        });
    });
}
