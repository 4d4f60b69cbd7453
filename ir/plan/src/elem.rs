//! Element types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Element types that reach a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elem {
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// Signed 32-bit integer: expert and block indices.
    I32,
}

impl Elem {
    /// Size of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Elem::F32 | Elem::I32 => 4,
            Elem::Bf16 => 2,
        }
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::I32 => "i32",
        })
    }
}

/// Whether a number is above zero and finite as an f32, too: what an eps and RoPE's base must be.
pub fn is_positive_f32(x: f64) -> bool {
    x as f32 > 0.0 && (x as f32).is_finite()
}

/// Nearest bfloat16, ties to even. NaN stays NaN.
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let round = 0x7fff + ((bits >> 16) & 1);
    (bits.wrapping_add(round) >> 16) as u16
}

/// The binary32 of a bfloat16.
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The largest f16.
pub const MOST_F16: f32 = 65504.0;

/// Nearest f16 (IEEE binary16), ties to even; beyond the largest that. NaN stays NaN.
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    if x.is_nan() {
        return sign | 0x7e00;
    }
    let magnitude = x.abs().min(MOST_F16);
    // Steps of 2^-24 below 2^-14; above, 1,024 steps to a power of two, which go on into the next.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-14);
    let steps = (magnitude * 2f32.powi(10 - exponent)).round_ties_even() as u16;
    sign | ((((exponent + 14) as u16) << 10) + steps)
}

/// The binary32 of an f16.
pub fn f16_to_f32(x: u16) -> f32 {
    let (exponent, mantissa) = (i32::from(x >> 10 & 31), f32::from(x & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 if x & 0x3ff == 0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + mantissa) * 2f32.powi(exponent - 25),
    };
    if x & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 is its own nearest one, and any other number is rounded to the nearer neighbour, a tie to the even code.
    #[test]
    fn f16_rounds_to_the_nearest() {
        for code in 0..0x7c00u16 {
            let x = f16_to_f32(code);
            assert_eq!((f32_to_f16(x), f32_to_f16(-x)), (code, code | 0x8000));
            let next = f16_to_f32(code + 1);
            if next.is_finite() {
                let middle = (x + next) / 2.0;
                let even = code + code % 2;
                assert_eq!(f32_to_f16(middle), even, "between {x} and {next}");
                assert_eq!((f32_to_f16(middle.next_down()), f32_to_f16(middle.next_up())), (code, code + 1));
            }
        }
        assert_eq!([1.0, 0.5, 65504.0, 6e-8].map(f32_to_f16), [0x3c00, 0x3800, 0x7bff, 0x0001]);
        assert_eq!(f16_to_f32(f32_to_f16(f32::MAX)), MOST_F16);
        assert!(f16_to_f32(f32_to_f16(f32::NAN)).is_nan() && f16_to_f32(0x7c00).is_infinite());
    }
}
