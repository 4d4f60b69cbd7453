//! How a weight's numbers are stored: each by itself, or in groups that share a scale.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::elem::{MOST_F16, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::int4;
use crate::shared::Shared;

/// What a stored number of a weight is. In a grouped codec `group` consecutive input features of one output feature share
/// a scale (and with `zero` a least value), and a number is its code times the scale; a row's last group may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// A signed byte from -127 to 127, and a scale: symmetric, no zero point. Codes that come as such may be -128.
    Int8 {
        /// Input features of a scale; at least 1.
        group: u32,
    },
    /// Four bits, 0 to 15, and an f16 scale: `(code - 8) scale`, or with `zero` `code scale + least`, an f16 least value.
    /// Both are chosen for the least sum of squared errors of the group.
    Int4 {
        /// Input features of a scale; at least 1.
        group: u32,
        /// Whether the group has a least value.
        zero: bool,
    },
    /// FP8 E4M3 (OCP 8-bit floating point, 1.0: no infinities, 448 the largest), and a scale.
    Fp8 {
        /// Input features of a scale; at least 1.
        group: u32,
    },
}

/// The largest code of [`Codec::Int8`].
const MOST_INT8: f32 = 127.0;
/// The largest code of [`Codec::Fp8`].
const MOST_FP8: f32 = 448.0;

impl Codec {
    /// Bits of one code, without what a group shares.
    pub const fn code_bits(self) -> u64 {
        match self {
            Codec::F32 => 32,
            Codec::Bf16 => 16,
            Codec::Int8 { .. } | Codec::Fp8 { .. } => 8,
            Codec::Int4 { .. } => 4,
        }
    }

    /// Bytes of so many codes, the last of which may be half full.
    pub const fn code_bytes(self, codes: u64) -> u64 {
        match self {
            Codec::Int4 { .. } => codes.div_ceil(2),
            _ => codes * (self.code_bits() / 8),
        }
    }

    /// Numbers that share a scale, where they do.
    pub const fn group(self) -> Option<u64> {
        match self {
            Codec::F32 | Codec::Bf16 => None,
            Codec::Int8 { group } | Codec::Fp8 { group } | Codec::Int4 { group, .. } => Some(group as u64),
        }
    }

    /// Bytes of what a group shares.
    pub const fn shared_bytes(self) -> u64 {
        match self {
            Codec::F32 | Codec::Bf16 => 0,
            Codec::Int4 { zero: false, .. } => 2,
            Codec::Int8 { .. } | Codec::Fp8 { .. } | Codec::Int4 { zero: true, .. } => 4,
        }
    }

    /// Whether a number can be stored: it is finite, and stays so.
    pub fn takes(self, x: f32) -> bool {
        match self {
            Codec::Bf16 => bf16_to_f32(f32_to_bf16(x)).is_finite(),
            // The scale of a group that has it is an f16.
            Codec::Int4 { .. } => x.abs() <= 7.0 * MOST_F16,
            Codec::F32 | Codec::Int8 { .. } | Codec::Fp8 { .. } => x.is_finite(),
        }
    }

    /// Appends the codes of a group, a byte each in [`Codec::Int4`], and returns what they share. Every number must be one that
    /// the codec takes.
    pub fn encode(self, group: &[f32], out: &mut Vec<u8>) -> Shared {
        let most = || group.iter().fold(0f32, |most, x| most.max(x.abs()));
        match self {
            Codec::F32 => group.iter().for_each(|x| out.extend(x.to_le_bytes())),
            Codec::Bf16 => group.iter().for_each(|x| out.extend(f32_to_bf16(*x).to_le_bytes())),
            Codec::Int8 { .. } => {
                let scale = scale(most(), MOST_INT8);
                out.extend(group.iter().map(|x| scaled(*x, scale, MOST_INT8).round_ties_even() as i8 as u8));
                return Shared::scaled(scale);
            }
            Codec::Fp8 { .. } => {
                let scale = scale(most(), MOST_FP8);
                out.extend(group.iter().map(|x| f32_to_e4m3(scaled(*x, scale, MOST_FP8))));
                return Shared::scaled(scale);
            }
            Codec::Int4 { zero, .. } => return int4::encode(group, zero, out),
        }
        Shared::NONE
    }

    /// The number of a code, the first of `bytes`; of [`Codec::Int4`] its low half. Panics where they are too few.
    pub fn decode(self, bytes: &[u8], shared: Shared) -> f32 {
        match self {
            Codec::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Codec::Bf16 => bf16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]])),
            Codec::Int8 { .. } => f32::from(bytes[0] as i8) * shared.scale,
            Codec::Fp8 { .. } => e4m3_to_f32(bytes[0]) * shared.scale,
            Codec::Int4 { .. } => f32::from(bytes[0] & 15) * shared.scale + shared.least,
        }
    }

    /// What a group shares, as it is stored: the first [`Codec::shared_bytes`] of these.
    pub fn shared_to_bytes(self, shared: Shared) -> [u8; 4] {
        match self {
            Codec::F32 | Codec::Bf16 => [0; 4],
            Codec::Int8 { .. } | Codec::Fp8 { .. } => shared.scale.to_le_bytes(),
            Codec::Int4 { .. } => {
                let [scale, least] = [shared.scale, shared.least].map(|x| f32_to_f16(x).to_le_bytes());
                [scale[0], scale[1], least[0], least[1]]
            }
        }
    }

    /// The inverse. Panics where they are too few.
    pub fn shared_of_bytes(self, bytes: &[u8]) -> Shared {
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        match self {
            Codec::F32 | Codec::Bf16 => Shared::NONE,
            Codec::Int8 { .. } | Codec::Fp8 { .. } => Shared::scaled(Codec::F32.decode(bytes, Shared::NONE)),
            Codec::Int4 { zero: false, .. } => Shared::symmetric(half(0)),
            Codec::Int4 { zero: true, .. } => Shared { scale: half(0), least: half(2) },
        }
    }
}

/// The scale of a group whose largest magnitude is `most`, for codes up to `largest`.
fn scale(most: f32, largest: f32) -> f32 {
    // The largest numbers must not become infinities by a rounding.
    let scale = most / largest;
    if (scale * largest).is_finite() { scale } else { scale.next_down() }
}

/// A number as a multiple of the scale, of which a group of zeros, or of numbers that small, has none.
fn scaled(x: f32, scale: f32, most: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (x / scale).clamp(-most, most) }
}

/// Nearest E4M3 number, ties to even, of one that is at most 448 in magnitude.
fn f32_to_e4m3(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs();
    // Steps of 2^-9 below 2^-6; above, eight steps to a power of two.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let step = 2f32.powi(exponent - 3);
    let steps = (magnitude / step).round_ties_even() as u8;
    // Sixteen steps are the first of the next power, and the code just goes on there.
    sign | ((((exponent + 6) as u8) << 3) + steps)
}

/// The number of an E4M3 code; NaN for 0x7f and 0xff, which no packer writes.
fn e4m3_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Codec::F32 => f.write_str("f32"),
            Codec::Bf16 => f.write_str("bf16"),
            Codec::Int8 { group } => write!(f, "int8({group})"),
            Codec::Fp8 { group } => write!(f, "fp8({group})"),
            Codec::Int4 { group, zero: false } => write!(f, "int4({group})"),
            Codec::Int4 { group, zero: true } => write!(f, "int4z({group})"),
        }
    }
}

impl FromStr for Codec {
    type Err = String;

    /// Errors: what the name is not, and the names that there are.
    fn from_str(name: &str) -> Result<Codec, String> {
        let unknown = || {
            format!(
                "no codec is named `{name}`; there are f32, bf16, int8(GROUP), int4(GROUP), int4z(GROUP) with a zero point, and \
                 fp8(GROUP), as int8(64)"
            )
        };
        let (word, group) = match name.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
            Some((word, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (word, digits.parse().ok().filter(|group| *group > 0))
            }
            Some(_) => return Err(unknown()),
            None => (name, None),
        };
        match (word, group) {
            ("f32", None) if word == name => Ok(Codec::F32),
            ("bf16", None) if word == name => Ok(Codec::Bf16),
            ("int8", Some(group)) => Ok(Codec::Int8 { group }),
            ("fp8", Some(group)) => Ok(Codec::Fp8 { group }),
            ("int4", Some(group)) => Ok(Codec::Int4 { group, zero: false }),
            ("int4z", Some(group)) => Ok(Codec::Int4 { group, zero: true }),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Codec {
    type Error = String;

    fn try_from(name: String) -> Result<Codec, String> {
        name.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> String {
        codec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_is_read_as_it_is_written() {
        let int4 = [false, true].map(|zero| Codec::Int4 { group: 32, zero });
        for codec in [Codec::F32, Codec::Bf16, Codec::Int8 { group: 64 }, Codec::Fp8 { group: 1 }]
            .into_iter()
            .chain(int4)
        {
            assert_eq!(codec.to_string().parse(), Ok(codec));
            let json = serde_json::to_string(&codec).unwrap();
            assert_eq!(serde_json::from_str::<Codec>(&json).unwrap(), codec);
        }
        for name in [
            "",
            "i32",
            "int4",
            "int4z(0)",
            "int3(32)",
            "int8",
            "int8()",
            "int8(0)",
            "int8(-1)",
            "int8(9",
            "int8(99999999999)",
            "f32(4)",
        ] {
            let error = name.parse::<Codec>().unwrap_err();
            assert!(error.starts_with(&format!("no codec is named `{name}`; there are f32")), "{error}");
        }
    }

    /// Every E4M3 number is its own nearest one, and any other is rounded to the nearer neighbour, a tie to the even code.
    #[test]
    fn fp8_rounds_to_the_nearest() {
        let finite: Vec<u8> = (0..=0x7e).collect();
        for code in &finite {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(*code)), *code);
            assert_eq!(f32_to_e4m3(-e4m3_to_f32(*code)), *code | 0x80);
        }
        assert_eq!(
            (e4m3_to_f32(0x7e), e4m3_to_f32(1), e4m3_to_f32(8)),
            (448.0, 2f32.powi(-9), 2f32.powi(-6))
        );
        for pair in finite.windows(2) {
            let (low, high) = (e4m3_to_f32(pair[0]), e4m3_to_f32(pair[1]));
            let middle = (low + high) / 2.0;
            let even = if pair[0] % 2 == 0 { pair[0] } else { pair[1] };
            assert_eq!(f32_to_e4m3(middle), even, "between {low} and {high}");
            assert_eq!(f32_to_e4m3(middle.next_down()), pair[0], "below {middle}");
            assert_eq!(f32_to_e4m3(middle.next_up()), pair[1], "above {middle}");
        }
    }
}
