//! Codes of eight bits in registers, as pairs of bf16.

use crate::gpu::isa::{Emit, Float, Int};

/// 2^120 in each half of a word of bf16.
const TWO_120: u64 = 0x7b80_7b80;

/// Two numbers of E4M3, in the upper byte of each half of a word, as bf16.
pub fn e4m3_pair<'c>(e: &Emit<'c>, bits: Int<'c>) -> Int<'c> {
    // Sign, four bits of exponent, three of mantissa, where bf16 has them; the exponent's bias is 120 less.
    let sign = e.and(bits, e.int(0x8000_8000));
    let rest = e.shift_right_unsigned(e.and(bits, e.int(0x7f00_7f00)), e.int(4));
    e.fma_bf16(e.or(sign, rest), e.int(TWO_120), e.int(0x8000_8000))
}

/// Four codes of eight bits as bf16, of E4M3 or signed: bytes 0 and 2, 1 and 3.
pub fn bytes<'c>(e: &Emit<'c>, fp8: bool, word: Int<'c>) -> [Int<'c>; 2] {
    if fp8 {
        return [e.shift_left(word, 8), word].map(|bits| e4m3_pair(e, bits));
    }
    // 2^23 + 128 + code as an f32, less that.
    let biased = e.xor(word, e.int(0x8080_8080));
    let code = |byte: u64| {
        let byte = e.and(e.shift_right_unsigned(biased, e.int(8 * byte)), e.int(0xff));
        e.fsub(e.widen(e.or(byte, e.int(0x4b00_0000))), e.float(8_388_736.0))
    };
    [e.pack_bf16(code(0), code(2)), e.pack_bf16(code(1), code(3))]
}

/// `x` as the sum of two bf16, each twice in a word.
pub fn split<'c>(e: &Emit<'c>, x: Float<'c>) -> [Int<'c>; 2] {
    let high = e.pack_bf16(x, x);
    let rest = e.fsub(x, e.widen(e.and(high, e.int(0xffff_0000))));
    [high, e.pack_bf16(rest, rest)]
}
