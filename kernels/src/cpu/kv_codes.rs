//! Codes of KV caches: eight of them as two f32x4, and `QuantiseKv`, which makes them.
//!
//! Item of `QuantiseKv`: (token, KV head), token-major. Two passes over a head's key, and two over its value: the first finds the
//! scale, the second makes the codes.
//!
//! ```text
//! scale   max |x| / 127 or 448, one step less where that times 127 or 448 is infinite, and NaN where an x is not finite
//! int8    x / scale + 1.5 * 2^23: the sum's last byte is the nearest integer
//! fp8     from 2^-6 on sign, exponent and three bits of the mantissa, rounded; below, x / scale + 2^14, whose last bits count 2^-9
//! ```
//! Reference: `reference::pointwise::quantise_kv`, by [`KvCodec::encode`].

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::F32;
use hyc_plan::{CacheSpec, KvCodec};

use super::codes::fp8;
use super::emit::Emit;
use super::paged::page;

/// Eight consecutive codes as floats, without their scale; [`Emit::load_fixed_words`]'s terms hold.
pub fn load8(e: &mut Emit<'_>, codec: KvCodec, address: Value, offset: i32) -> [Value; 2] {
    match codec {
        KvCodec::F32 | KvCodec::Bf16 => {
            let far = offset + 4 * codec.bytes() as i32;
            [offset, far].map(|at| e.load_fixed4(codec.plain(), address, at))
        }
        KvCodec::Int8 => e.load_fixed_bytes(address, offset).map(|words| e.floats_of(words)),
        KvCodec::Fp8 => e.load_fixed_bytes(address, offset).map(|words| {
            let above = e.shl4(words, 24);
            fp8(e, above)
        }),
    }
}

/// A head's key or value: where its elements are, and how far apart.
struct Vector {
    from: Value,
    from_step: u64,
    to: Value,
    to_step: u64,
    dim: u64,
    /// Where its scale goes.
    scale: Value,
}

/// Emits `QuantiseKv`.
pub fn emit_quantise(e: &mut Emit<'_>) {
    let (from, to) = (e.cache("from"), e.cache("cache"));
    let (from_pool, to_pool) = (e.operand("from"), e.operand("cache"));
    let (begin, end) = (e.begin, e.end);
    e.each(begin, end, 1, |e, item| {
        let (row, head) = e.div_rem(item, to.kv_heads);
        let (position, sequence) = (e.position(row), e.sequence(row));
        let place = |e: &mut Emit<'_>, spec: &CacheSpec, pool: Value| {
            let (logical, place) = e.div_rem(position, spec.page);
            (page(e, spec, pool, sequence, logical), place)
        };
        let (source, there) = (place(e, &from, from_pool), place(e, &to, to_pool));
        for values in [false, true] {
            let (from_at, from_step) = numbers(e, &from, source, head, values);
            let (to_at, to_step) = numbers(e, &to, there, head, values);
            let scales = e.add_const(there.0, to.scale_offset(0, values) as i64);
            let scales = e.at(scales, head, to.scale_offset(1, values) - to.scale_offset(0, values));
            let vector = Vector {
                from: from_at,
                from_step,
                to: to_at,
                to_step,
                dim: if values { to.v_dim } else { to.qk_dim },
                scale: e.at(scales, there.1, 4),
            };
            quantise(e, from.codec, to.codec, &vector);
        }
    });
}

/// The address of a token's key or value of a head, and the bytes from one element to the next. `page` and place: the token's.
fn numbers(
    e: &mut Emit<'_>,
    spec: &CacheSpec,
    (page, place): (Value, Value),
    head: Value,
    values: bool,
) -> (Value, u64) {
    let bytes = spec.codec.bytes();
    let offset = |head, place, dim| bytes * spec.index(head, place, dim, values);
    // In columns all three are linear.
    let first = offset(0, 0, 0);
    let page = e.add_const(page, first as i64);
    let page = e.at(page, head, offset(1, 0, 0) - first);
    (e.at(page, place, offset(0, 1, 0) - first), offset(0, 0, 1) - first)
}

fn quantise(e: &mut Emit<'_>, from: KvCodec, to: KvCodec, vector: &Vector) {
    let largest = if to == KvCodec::Int8 { 127.0 } else { 448.0 };
    let scale = scale(e, from, vector, largest);
    e.store(scale, vector.scale, 0);
    let zero = e.float(0.0);
    // False of NaN.
    let has = e.fcmp(FloatCC::GreaterThan, scale, zero);
    let (begin, end) = (e.int(0), e.int(vector.dim as i64));
    e.each(begin, end, 1, |e, dim| {
        let x = element(e, from, vector, dim);
        let multiple = e.fdiv(x, scale);
        let (most, least) = (e.float(largest), e.float(-largest));
        let above = e.fcmp(FloatCC::GreaterThan, multiple, most);
        let multiple = e.select(above, most, multiple);
        let multiple = e.fmax(multiple, least);
        let code = if to == KvCodec::Int8 { int8_code(e, multiple) } else { fp8_code(e, multiple) };
        let none = e.int(0);
        let code = e.select(has, code, none);
        let at = e.at(vector.to, dim, vector.to_step);
        e.store_byte(code, at, 0);
    });
}

/// The scale of a vector for codes up to `largest`.
fn scale(e: &mut Emit<'_>, from: KvCodec, vector: &Vector, largest: f32) -> Value {
    let zero = e.float(0.0);
    let (most, wrong) = (e.var(F32, zero), e.var(F32, zero));
    let (begin, end) = (e.int(0), e.int(vector.dim as i64));
    e.each(begin, end, 1, |e, dim| {
        let x = element(e, from, vector, dim);
        let (magnitude, so_far) = (e.fabs(x), e.get(most));
        let magnitude = e.fmax(magnitude, so_far);
        e.set(most, magnitude);
        // NaN of what is not finite, for good.
        let (zero, so_far) = (e.float(0.0), e.get(wrong));
        let nothing = e.fmul(x, zero);
        let nothing = e.fadd(so_far, nothing);
        e.set(wrong, nothing);
    });
    let (most, largest) = (e.get(most), e.float(largest));
    let scale = e.fdiv(most, largest);
    let (again, infinite) = (e.fmul(scale, largest), e.float(f32::INFINITY));
    let bits = e.float_bits(scale);
    let less = e.add_const(bits, -1);
    let less = e.bits_float(less);
    let over = e.fcmp(FloatCC::Equal, again, infinite);
    let scale = e.select(over, less, scale);
    let wrong = e.get(wrong);
    e.fadd(scale, wrong)
}

fn element(e: &mut Emit<'_>, from: KvCodec, vector: &Vector, dim: Value) -> Value {
    let at = e.at(vector.from, dim, vector.from_step);
    e.load_elem(from.plain(), at, 0)
}

/// The nearest integer of a float from -127 to 127, ties to even, in the last byte.
fn int8_code(e: &mut Emit<'_>, x: Value) -> Value {
    let whole = e.float(1.5 * (1 << 23) as f32);
    let sum = e.fadd(x, whole);
    e.float_bits(sum)
}

/// The nearest E4M3 number of a float from -448 to 448, ties to even.
fn fp8_code(e: &mut Emit<'_>, x: Value) -> Value {
    let bits = e.float_bits(x);
    let sign = e.shr_const(bits, 24);
    let sign = e.and_const(sign, 0x80);
    let magnitude = e.and_const(bits, 0x7fff_ffff);
    // 20 of 23 bits of the mantissa go; a bias of 127 becomes one of 7.
    let odd = e.shr_const(magnitude, 20);
    let odd = e.and_const(odd, 1);
    let rounded = e.add(magnitude, odd);
    let rounded = e.add_const(rounded, 0x7ffff);
    let rounded = e.shr_const(rounded, 20);
    let normal = e.add_const(rounded, -(120 << 3));
    let base = 16384f32;
    let (small, whole) = (e.bits_float(magnitude), e.float(base));
    let sum = e.fadd(small, whole);
    let steps = e.float_bits(sum);
    let steps = e.add_const(steps, -i64::from(base.to_bits()));
    let least = e.int(i64::from(2f32.powi(-6).to_bits()));
    let below = e.cmp(IntCC::SignedLessThan, magnitude, least);
    let code = e.select(below, steps, normal);
    e.add(code, sign)
}
