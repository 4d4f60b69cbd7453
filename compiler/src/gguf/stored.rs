//! How GGUF stores numbers, and what they are. Those of safetensors have the same names.

/// A type of tensors that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// IEEE binary32.
    #[default]
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32: a scale, and 4, 5 or 8 bits each.
    Q4_0,
    /// With a least value, too.
    Q4_1,
    /// See [`Stored::Q4_0`].
    Q5_0,
    /// See [`Stored::Q4_1`].
    Q5_1,
    /// See [`Stored::Q4_0`].
    Q8_0,
    /// Blocks of 256: sixteen scales and least values of 4 bits, and 2 bits each.
    Q2K,
    /// Blocks of 256: sixteen scales of 6 bits, and 3 bits each.
    Q3K,
    /// Blocks of 256: eight scales and least values of 6 bits, and 4 bits each.
    Q4K,
    /// The same, with 5 bits each.
    Q5K,
    /// Blocks of 256: sixteen scales of 8 bits, and 6 bits each.
    Q6K,
}

use Stored::{Bf16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Number in the file, type, name, elements and bytes of a block.
const TYPES: [(u32, Stored, &str, u64, u64); 13] = [
    (0, F32, "F32", 1, 4),
    (1, F16, "F16", 1, 2),
    (2, Q4_0, "Q4_0", 32, 18),
    (3, Q4_1, "Q4_1", 32, 20),
    (6, Q5_0, "Q5_0", 32, 22),
    (7, Q5_1, "Q5_1", 32, 24),
    (8, Q8_0, "Q8_0", 32, 34),
    (10, Q2K, "Q2_K", 256, 84),
    (11, Q3K, "Q3_K", 256, 110),
    (12, Q4K, "Q4_K", 256, 144),
    (13, Q5K, "Q5_K", 256, 176),
    (14, Q6K, "Q6_K", 256, 210),
    (30, Bf16, "BF16", 1, 2),
];

/// Names of types that are not read.
const OTHERS: [(u32, &str); 15] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Stored {
    /// The type of a number in a file. Errors: the name of one that is not read.
    pub fn of(kind: u32) -> Result<Stored, String> {
        let found = TYPES.iter().find(|(number, ..)| *number == kind).map(|(_, stored, ..)| *stored);
        found.ok_or_else(|| match OTHERS.iter().find(|(number, _)| *number == kind) {
            Some((_, name)) => (*name).to_string(),
            None => format!("number {kind}, which is not known"),
        })
    }

    /// The type of a name.
    pub fn named(name: &str) -> Option<Stored> {
        TYPES.iter().find(|(_, _, own, ..)| *own == name).map(|(_, stored, ..)| *stored)
    }

    /// Names of all that are read.
    pub fn names() -> String {
        TYPES.map(|(_, _, name, ..)| name).join(", ")
    }

    fn row(self) -> (&'static str, u64, u64) {
        let found = TYPES.iter().find(|(_, stored, ..)| *stored == self);
        found.map_or(("", 1, 1), |(_, _, name, elements, bytes)| (*name, *elements, *bytes))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Elements of a block.
    pub fn elements(self) -> u64 {
        self.row().1
    }

    /// Bytes of a block.
    pub fn bytes(self) -> u64 {
        self.row().2
    }

    /// The numbers of whole blocks, in their order.
    pub fn decode(self, bytes: &[u8], take: &mut dyn FnMut(f32)) {
        for block in bytes.chunks_exact(self.bytes() as usize) {
            match self {
                F32 => take(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                F16 => take(f16(block, 0)),
                Bf16 => take(half::bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Q4_0 | Q4_1 | Q5_0 | Q5_1 => halves(self, block, take),
                Q8_0 => block[2..].iter().for_each(|q| take(f16(block, 0) * f32::from(*q as i8))),
                Q2K => quarters(block, take),
                Q3K => thirds(block, take),
                Q4K | Q5K => eighths(self, block, take),
                Q6K => sixteenths(block, take),
            }
        }
    }
}

/// The f16 at a byte of a block.
pub fn f16(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Blocks of 32: element j in the low halves of the bytes, element j + 16 in the high ones.
fn halves(stored: Stored, block: &[u8], take: &mut dyn FnMut(f32)) {
    let has_least = matches!(stored, Q4_1 | Q5_1);
    let has_fifth = matches!(stored, Q5_0 | Q5_1);
    let scale = f16(block, 0);
    let mut at = 2;
    let least = if has_least { f16(block, at) } else { 0.0 };
    at += 2 * usize::from(has_least);
    let fifth = if has_fifth {
        u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    } else {
        0
    };
    at += 4 * usize::from(has_fifth);
    let middle = match stored {
        Q4_0 => 8,
        Q5_0 => 16,
        _ => 0,
    };
    for j in 0..32 {
        let byte = block[at + j % 16];
        let low = if j < 16 { byte & 15 } else { byte >> 4 };
        let high = (fifth >> j & 1) << 4;
        take((i32::from(low) + high as i32 - middle) as f32 * scale + least);
    }
}

/// Blocks of 256 in sixteen parts, each with a scale and a least value of 4 bits; four elements a byte, 32 apart.
fn quarters(block: &[u8], take: &mut dyn FnMut(f32)) {
    let (packed, rest) = block.split_at(16);
    let (scale, least) = (f16(rest, 64), f16(rest, 66));
    for i in 0..256 {
        let four = packed[i / 16];
        let two = rest[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
        take(scale * f32::from(four & 15) * f32::from(two) - least * f32::from(four >> 4));
    }
}

/// Blocks of 256 in sixteen parts, each with a scale of 6 bits; two bits of an element as [`quarters`] has them, its third,
/// which says that it is not below 0, in a plane of its own.
fn thirds(block: &[u8], take: &mut dyn FnMut(f32)) {
    let (high, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let scale = f16(rest, 12);
    for i in 0..256 {
        let (part, quarter) = (i / 16, i / 32);
        let four = if part < 8 { rest[part] & 15 } else { rest[part - 8] >> 4 };
        let six = four | (rest[8 + part % 4] >> (2 * (part / 4)) & 3) << 4;
        let two = low[32 * (i / 128) + i % 32] >> (2 * (quarter % 4)) & 3;
        let third = high[i % 32] >> quarter & 1;
        let whole = i32::from(two | third << 2) - 4;
        take(scale * f32::from(i16::from(six) - 32) * whole as f32);
    }
}

/// Blocks of 256 in eight parts, each with a scale and a least value of 6 bits.
fn eighths(stored: Stored, block: &[u8], take: &mut dyn FnMut(f32)) {
    let (scale, least) = (f16(block, 0), f16(block, 2));
    let packed = &block[4..16];
    let (fifths, fours) = if stored == Q5K { block[16..].split_at(32) } else { (&[][..], &block[16..]) };
    for part in 0..8 {
        let (six, six_least) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let (both, high, high_least) = (packed[part + 4], packed[part - 4] >> 6, packed[part] >> 6);
            (both & 15 | high << 4, both >> 4 | high_least << 4)
        };
        let (scale, least) = (scale * f32::from(six), least * f32::from(six_least));
        for l in 0..32 {
            let byte = fours[part / 2 * 32 + l];
            let low = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            let high = fifths.get(l).map_or(0, |byte| (byte >> part & 1) << 4);
            take(scale * f32::from(low + high) - least);
        }
    }
}

/// Blocks of 256 in sixteen parts, each with a scale of 8 bits.
fn sixteenths(block: &[u8], take: &mut dyn FnMut(f32)) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let scale = f16(rest, 16);
    for i in 0..256 {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[64 * half + 32 * (quarter % 2) + l];
        let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let two = high[32 * half + l] >> (2 * quarter) & 3;
        let six = i32::from(four | two << 4) - 32;
        take(scale * f32::from(rest[i / 16] as i8) * six as f32);
    }
}
