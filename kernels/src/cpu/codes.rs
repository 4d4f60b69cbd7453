//! A panel's numbers as f32x4, made in registers on the way to the product; see [`Panel`] for their order.
//!
//! ```text
//! f32     a load
//! bf16    a shift, or a mask, of a word that holds two
//! int8    two shifts of a word that holds four, to float                          the sum of a group times its scale
//! int4    the same of half a word                                                 the same
//! fp8     two shifts and a mask put sign, exponent and mantissa where f32 has     the same
//!         them, times 2^120
//! int4z   a shift and a mask of half a word, to float, times the scale, plus the least value
//! ```

use std::ops::Range;

use cranelift_codegen::ir::Value;
use hyc_plan::pack::Panel;
use hyc_plan::{Codec, Elem};

use super::emit::Emit;

/// What some vectors of outputs share in a group, in lane order.
pub struct Group {
    codec: Codec,
    vectors: Range<u64>,
    shared: Shared,
}

enum Shared {
    Nothing,
    /// Codes are multiplied as they are, and the scale of each vector is that of their sums.
    Scales(Vec<Value>),
    /// Codes become numbers by the scale and the least value of each vector.
    Lines(Vec<(Value, Value)>),
}

impl Group {
    /// Of vectors (of 0..4) in the group that begins at `group`.
    pub fn load(e: &mut Emit<'_>, codec: Codec, group: Value, vectors: Range<u64>) -> Group {
        let each = vectors.clone();
        let shared = match codec {
            Codec::F32 | Codec::Bf16 => Shared::Nothing,
            Codec::Int8 { .. } | Codec::Fp8 { .. } => {
                Shared::Scales(each.map(|v| e.load4(group, 16 * v as i32)).collect())
            }
            Codec::Int4 { zero: false, .. } => {
                let one = |v: u64| {
                    let halves = e.load_halves(group, 8 * v as i32);
                    low_half(e, halves)
                };
                Shared::Scales(each.map(one).collect())
            }
            Codec::Int4 { zero: true, .. } => {
                let one = |v: u64| {
                    let both = e.load_words(group, 16 * v as i32);
                    (low_half(e, both), high_half(e, both))
                };
                Shared::Lines(each.map(one).collect())
            }
        };
        Group { codec, vectors, shared }
    }

    /// What the group's sums are multiplied by, vector by vector, where that is not 1.
    pub fn scales(&self) -> Option<&[Value]> {
        match &self.shared {
            Shared::Scales(scales) => Some(scales),
            Shared::Nothing | Shared::Lines(_) => None,
        }
    }

    /// What input `k` is multiplied by, vector by vector; the group's codes begin at `codes`. The terms of
    /// [`Emit::load_fixed_words`] hold.
    pub fn factors(&self, e: &mut Emit<'_>, codes: Value, k: u64) -> Vec<Value> {
        let offset = (k * Panel::of(self.codec, 1).input_bytes()) as i32;
        let codes: Vec<Value> = self.vectors.clone().map(|v| code(e, self.codec, codes, offset, v)).collect();
        match &self.shared {
            Shared::Lines(lines) => {
                let points = codes.into_iter().zip(lines);
                points.map(|(code, (scale, least))| e.fma(code, *scale, *least)).collect()
            }
            Shared::Nothing | Shared::Scales(_) => codes,
        }
    }
}

/// Vector `v` of an input's codes at address + offset, as floats; of int4 with a least value 0 to 15.
fn code(e: &mut Emit<'_>, codec: Codec, address: Value, offset: i32, v: u64) -> Value {
    let v = v as i64;
    match codec {
        Codec::F32 => e.load_fixed4(Elem::F32, address, offset + 16 * v as i32),
        Codec::Bf16 => {
            // A word holds a lane of an even vector in its low half, and one of the next in its high half.
            let words = e.load_fixed_words(address, offset + 16 * (v / 2) as i32);
            let bits = if v % 2 == 0 { e.shl4(words, 16) } else { e.and4(words, 0xffff_0000) };
            e.bits_floats(bits)
        }
        Codec::Int8 { .. } => {
            let words = e.load_fixed_words(address, offset);
            let above = e.shl4(words, 24 - 8 * v);
            let code = e.sar4(above, 24);
            e.floats_of(code)
        }
        Codec::Fp8 { .. } => {
            let words = e.load_fixed_words(address, offset);
            let above = e.shl4(words, 24 - 8 * v);
            fp8(e, above)
        }
        Codec::Int4 { zero: false, .. } => {
            let halves = e.load_fixed_halves(address, offset);
            let above = e.shl4(halves, 28 - 4 * v);
            let code = e.sar4(above, 28);
            e.floats_of(code)
        }
        Codec::Int4 { zero: true, .. } => {
            let halves = e.load_fixed_halves(address, offset);
            let code = e.shr4(halves, 4 * v);
            let code = if v == 3 { code } else { e.and4(code, 15) };
            e.floats_of(code)
        }
    }
}

/// The E4M3 at the top of each word: an exponent of 4 bits with a bias of 7, where f32 has one of 8 bits with a bias of 127.
/// Subnormal codes are subnormal floats meanwhile, and NaN, which no packer writes, is 480.
pub fn fp8(e: &mut Emit<'_>, words: Value) -> Value {
    scaled(e, words, 4, 0x87f0_0000, 120)
}

/// The f16 in the low half of each word; see [`high_half`].
fn low_half(e: &mut Emit<'_>, words: Value) -> Value {
    let above = e.shl4(words, 16);
    high_half(e, above)
}

/// The f16 in the high half of each word: an exponent of 5 bits with a bias of 15. Finite ones are below 2^16; infinities and
/// NaN are 2^16 and more here, and made infinities.
fn high_half(e: &mut Emit<'_>, words: Value) -> Value {
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
