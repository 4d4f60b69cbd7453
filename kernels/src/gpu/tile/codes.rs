//! Codes of eight bits in registers, as pairs of bf16.

use crate::gpu::isa::{Emit, Float, Int};

/// One and 2^120 in each half of a word of bf16.
pub const ONES: u64 = 0x3f80_3f80;
const TWO_120: u64 = 0x7b80_7b80;

/// Two numbers of E4M3, in the upper byte of each half of a word, as bf16.
pub fn e4m3_pair<'c>(e: &Emit<'c>, bits: Int<'c>) -> Int<'c> {
    // Sign, four bits of exponent, three of mantissa, where bf16 has them; the exponent's bias is 120 less.
    let sign = e.and(bits, e.int(0x8000_8000));
    let rest = e.shift_right_unsigned(e.and(bits, e.int(0x7f00_7f00)), e.int(4));
    e.fma_bf16(e.or(sign, rest), e.int(TWO_120), e.int(0x8000_8000))
}

/// Two signed bytes, the lower one of each half of a word, as bf16: 128 with the code's seven lower bits, less 128, or less 256
/// where the eighth is set.
pub fn int8_pair<'c>(e: &Emit<'c>, bits: Int<'c>) -> Int<'c> {
    let most = e.and_or(bits, e.int(0x007f_007f), e.int(0x4300_4300));
    let less = e.and_or(bits, e.int(0x0080_0080), e.int(0xc300_c300));
    e.fma_bf16(most, e.int(ONES), less)
}

/// Four codes of eight bits as bf16, of E4M3 or signed: bytes 0 and 2, 1 and 3.
pub fn bytes<'c>(e: &Emit<'c>, fp8: bool, word: Int<'c>) -> [Int<'c>; 2] {
    match fp8 {
        true => [e.shift_left(word, 8), word].map(|bits| e4m3_pair(e, bits)),
        false => [word, e.shift_right_unsigned(word, e.int(8))].map(|bits| int8_pair(e, bits)),
    }
}

/// `x` as the sum of two bf16, each twice in a word.
pub fn split<'c>(e: &Emit<'c>, x: Float<'c>) -> [Int<'c>; 2] {
    let high = e.pack_bf16(x, x);
    let rest = e.fsub(x, e.widen(e.and(high, e.int(0xffff_0000))));
    [high, e.pack_bf16(rest, rest)]
}
