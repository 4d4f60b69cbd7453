//! A panel's numbers as f32x4, made in registers on the way to the product; see [`Panel`] for their order.
//!
//! ```text
//! f32        a load
//! bf16       a shift, or a mask, of a word that holds two
//! int8       two shifts of a word that holds four; to float; times the scale
//! fp8        two shifts and a mask put sign, exponent and mantissa where f32 has them; times 2^120; times the scale
//! int4, z    a shift and a mask of half a word that holds four; to float; times the scale, plus the least value
//! ```

use std::ops::Range;

use cranelift_codegen::ir::Value;
use hyc_plan::Codec;
use hyc_plan::pack::Panel;

use super::emit::Emit;

/// What the outputs of some vectors share in a group, in lane order; empty where numbers share nothing.
pub struct Numbers {
    codec: Codec,
    vectors: Range<u64>,
    /// Scale and, of int4, least value of each vector.
    shared: Vec<(Value, Option<Value>)>,
}

impl Numbers {
    /// Of vectors (of 0..4) in the group that begins at `group`.
    pub fn load(e: &mut Emit<'_>, codec: Codec, group: Value, vectors: Range<u64>) -> Numbers {
        let shared = match codec {
            Codec::F32 | Codec::Bf16 => Vec::new(),
            Codec::Int8 { .. } | Codec::Fp8 { .. } => {
                vectors.clone().map(|v| (e.load4(group, 16 * v as i32), None)).collect()
            }
            Codec::Int4 { zero: false, .. } => {
                let eight = e.splat_const(-8.0);
                let one = |v: u64| {
                    let halves = e.load_halves(group, 8 * v as i32);
                    let scale = e.shl4(halves, 16);
                    let scale = halves_above(e, scale);
                    (scale, Some(e.fmul(scale, eight)))
                };
                vectors.clone().map(one).collect()
            }
            Codec::Int4 { zero: true, .. } => {
                let one = |v: u64| {
                    let both = e.load_words(group, 16 * v as i32);
                    let scale = e.shl4(both, 16);
                    (halves_above(e, scale), Some(halves_above(e, both)))
                };
                vectors.clone().map(one).collect()
            }
        };
        Numbers { codec, vectors, shared }
    }

    /// The numbers of input `k`, vector by vector, whose group's codes begin at `codes`. The terms of
    /// [`Emit::load_fixed_words`] hold.
    pub fn of_input(&self, e: &mut Emit<'_>, codes: Value, k: u64) -> Vec<Value> {
        let offset = (k * Panel::of(self.codec, 1).input_bytes()) as i32;
        let mut numbers: Vec<Value> =
            self.vectors.clone().map(|v| code(e, self.codec, codes, offset, v)).collect();
        for (number, (scale, least)) in numbers.iter_mut().zip(&self.shared) {
            *number = match least {
                Some(least) => e.fma(*number, *scale, *least),
                None => e.fmul(*number, *scale),
            };
        }
        numbers
    }
}

/// Vector `v` of an input's codes at address + offset, as floats; of int4 0 to 15.
fn code(e: &mut Emit<'_>, codec: Codec, address: Value, offset: i32, v: u64) -> Value {
    match codec {
        Codec::F32 => e.load_fixed4(hyc_plan::Elem::F32, address, offset + 16 * v as i32),
        Codec::Bf16 => {
            // A word holds a lane of an even vector in its low half, and one of the next in its high half.
            let words = e.load_fixed_words(address, offset + 16 * (v / 2) as i32);
            let bits = if v % 2 == 0 { e.shl4(words, 16) } else { e.and4(words, 0xffff_0000) };
            e.bits_floats(bits)
        }
        Codec::Int8 { .. } => {
            let byte = byte_above(e, address, offset, v);
            let code = e.sar4(byte, 24);
            e.floats_of(code)
        }
        Codec::Fp8 { .. } => {
            // An exponent of 4 bits with a bias of 7, where one of 8 bits stands with a bias of 127. Subnormal codes are
            // subnormal floats meanwhile, and NaN, which no packer writes, is 480.
            let byte = byte_above(e, address, offset, v);
            scaled(e, byte, 4, 0x87f0_0000, 120)
        }
        Codec::Int4 { .. } => {
            let halves = e.load_fixed_halves(address, offset);
            let code = e.shr4(halves, 4 * v as i64);
            let code = if v == 3 { code } else { e.and4(code, 15) };
            e.floats_of(code)
        }
    }
}

/// Vector `v` of words of four bytes, each byte the highest of its word, with anything below.
fn byte_above(e: &mut Emit<'_>, address: Value, offset: i32, v: u64) -> Value {
    let words = e.load_fixed_words(address, offset);
    e.shl4(words, 24 - 8 * v as i64)
}

/// The f16 in the high half of each word: an exponent of 5 bits with a bias of 15. Finite ones are below 2^16; infinities and
/// NaN are 2^16 and more here, and made infinities.
fn halves_above(e: &mut Emit<'_>, words: Value) -> Value {
    let half = scaled(e, words, 3, 0x8fff_e000, 112);
    let (up, down) = (e.splat_const(2f32.powi(112)), e.splat_const(2f32.powi(-112)));
    let high = e.fmul(half, up);
    e.fmul(high, down)
}

/// Floats with a short exponent at the top of their words: moved to where f32's ends, without what came from the sign, times
/// 2^`bias`, the difference of the biases.
fn scaled(e: &mut Emit<'_>, words: Value, shift: i64, mask: u32, bias: i32) -> Value {
    let moved = e.sar4(words, shift);
    let bits = e.and4(moved, mask);
    let (tiny, power) = (e.bits_floats(bits), e.splat_const(2f32.powi(bias)));
    e.fmul(tiny, power)
}
