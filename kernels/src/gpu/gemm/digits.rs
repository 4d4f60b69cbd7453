//! A row as whole numbers of 16 bits, which tensor cores multiply by codes of four and eight bits without an error.
//!
//! ```text
//! a group's   x = share v, share = max |x| / 32,512, v = 256 high + low, both of them signed bytes
//! mma         A: codes, as a mask (or nothing) leaves them;  B: column 0 the high bytes, column 1 the low ones
//!             sums H, L in one lane: 256 H + L is the sum of codes by v, exact in 32 bits
//! shared      [k tile][piece % 4][high, low][piece / 4][two words]   a lane's bytes of a k tile are one load
//! ```
//! Groups are those of the weight within a span of 256 inputs, so that both are applied at once. Codes become bf16 by two and a half times
//! as many instructions. What is down to 2^-7 of its group's largest moves by half the distance of two neighbours in bf16 at most, and what is
//! less by no more than that.

use hyc_plan::pack::Half;
use hyc_plan::{Codec, SPAN, TILE};

use super::stored::{Record, Shares};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var};

/// The largest whole number of a group; 127 * 256 + 127 would be the largest of two digits.
const MOST: f32 = 32512.0;
/// 3 * 2^22, whose last bits are a sum's whole part, and its bits.
const WHOLE: f32 = 12_582_912.0;
const WHOLE_BITS: u64 = 0x4b40_0000;
/// The upper half of 2^-100's bits: groups are not finer than that.
const LEAST: u64 = 27 << 7;
/// Inputs of a piece.
const PIECE: u64 = 8;

/// How a codec's rows lie.
#[derive(Clone, Copy)]
pub struct Digits {
    codec: Codec,
}

impl Digits {
    /// Of a codec whose codes are whole numbers.
    pub fn of(codec: Codec) -> Option<Digits> {
        matches!(codec, Codec::Int4 { .. } | Codec::Int8 { .. }).then_some(Digits { codec })
    }

    /// Groups of a span.
    fn groups(self) -> u64 {
        Half::of(self.codec).groups()
    }

    /// Bytes of the numbers of so many spans, and of what their groups share.
    pub fn bytes(self, spans: u64) -> (u64, u64) {
        (2 * SPAN * spans, (8 * self.groups() * spans).next_multiple_of(16))
    }

    /// Elements of a piece in the order of the bytes of its two words.
    fn order(self) -> [[usize; 4]; 2] {
        match self.codec {
            // Low halves of a word's bytes, and high ones.
            Codec::Int4 { .. } => [[0, 4, 1, 5], [2, 6, 3, 7]],
            _ => [[0, 2, 1, 3], [4, 6, 5, 7]],
        }
    }

    /// Stores piece `piece` of a row, eight bf16, where `here` holds. Whole warps come here, whose lanes have the pieces of whole groups.
    pub fn store<'c>(
        self,
        e: &Emit<'c>,
        (at, shares): (Ptr<'c>, Ptr<'c>),
        (piece, here): (Int<'c>, Int<'c>),
        words: &[Int<'c>],
    ) {
        let lanes = SPAN / self.groups() / PIECE;
        let masks = (0..lanes.ilog2()).map(|bit| 1 << bit);
        // What is no number is above all others; it and an infinite one make the share no number, and so all results.
        let halves = words.iter().map(|word| e.and(*word, e.int(0x7fff_7fff)));
        let most = halves.reduce(|a, b| e.max_halves(a, b)).unwrap_or(e.int(0));
        let most = masks.clone().fold(most, |most, mask| e.max_halves(most, e.shuffle_int(most, mask)));
        let most = e.max_halves(most, e.shift_left(most, 16));
        let most = e.max_unsigned(e.shift_right_unsigned(most, e.int(16)), e.int(LEAST));
        let most = e.widen(e.shift_left(most, 16));
        let share = e.fma(most, e.float(1.0 / MOST), e.fsub(most, most));
        let scale = e.fdiv(e.float(MOST), most);
        let halves = |word: &Int<'c>| [e.shift_left(*word, 16), e.and(*word, e.int(0xffff_0000))];
        let values: Vec<Int<'c>> = words
            .iter()
            .flat_map(halves)
            .map(|half| e.bits(e.fma(e.widen(half), scale, e.float(WHOLE))))
            .collect();
        let sum = values.iter().copied().reduce(|a, b| e.add(a, b)).unwrap_or(e.int(0));
        let sum = e.add_const(sum, -((PIECE * WHOLE_BITS) as i64));
        let sum = masks.fold(sum, |sum, mask| e.add(sum, e.shuffle_int(sum, mask)));
        // The low byte is a signed one, so that the high one is that of what is 128 more.
        let highs: Vec<Int<'c>> = values.iter().map(|value| e.add_const(*value, 128)).collect();
        let digits = |values: &[Int<'c>], byte: u64| {
            let pair = |i: usize, j: usize| e.bytes_of(values[i], values[j], 0x40 + 0x11 * byte);
            self.order().map(|[a, b, c, d]| e.bytes_of(pair(a, b), pair(c, d), 0x5410))
        };
        let (tile, inside) = e.div_rem(piece, 8);
        let (second, t) = e.div_rem(inside, 4);
        let to = e.add(e.mul_const(tile, 32), e.add(e.mul_const(t, 8), e.mul_const(second, 2)));
        let (group, speaks) = (e.div_rem(piece, lanes).0, e.eq(e.div_rem(e.lane(), lanes).1, e.int(0)));
        e.when(here, |e| {
            e.store_words(at, to, &digits(&highs, 1));
            e.store_words(at, e.add_const(to, 4), &digits(&values, 0));
            e.when(speaks, |e| e.store_words(shares, e.mul_const(group, 2), &[e.bits(share), sum]));
        });
    }

    /// What a lane multiplies a span of 16 outputs with.
    pub fn factors<'c>(self, e: &Emit<'c>, (at, shares): (Ptr<'c>, Ptr<'c>), span: Int<'c>) -> Factors<'c> {
        let (g, t) = e.lane_pair();
        // Even columns have the high bytes, odd ones the low ones.
        let lane = e.add(e.mul_const(t, 8), e.mul_const(e.and(g, e.int(1)), 4));
        let first = e.add(e.mul_const(span, SPAN / 2), lane);
        let bytes = (0..SPAN / TILE).map(|tile| e.load4(at, e.add_const(first, 32 * tile as i64)));
        let groups = e.byte_offset(shares, e.mul_const(span, 8 * self.groups()));
        let shares = (0..self.groups()).map(|group| {
            let [share, sum] = e.load2(e.byte_offset(groups, e.int(8 * group)));
            (e.widen(share), sum)
        });
        Factors { of: self, bytes: bytes.collect(), shares: shares.collect() }
    }
}

/// A row's numbers of a span, as a lane has them.
pub struct Factors<'c> {
    of: Digits,
    /// Of each k tile: two words of its first half, two of its second.
    bytes: Vec<Chunk<'c>>,
    /// Of each group its share, and the sum of its numbers.
    shares: Vec<(Float<'c>, Int<'c>)>,
}

impl<'c> Factors<'c> {
    /// Adds the products with the record at `weights`: to sums of outputs g and g + 8, in each lane 4 g + t.
    pub fn multiply(&self, e: &Emit<'c>, weights: Ptr<'c>, sums: [Var<'c>; 2]) {
        let codec = self.of.codec;
        let record = Record::new(e, codec, weights);
        let shared = record.halves.map(|half| Shares::load(e, codec, half));
        let zeros = [e.int(0); 4];
        let (mut parts, mut group) = (zeros, 0);
        // Halves of k tiles, 32 inputs each.
        for half in 0..SPAN / 32 {
            let (tile, second) = (half / 2, (half % 2) as usize);
            let codes = match codec {
                Codec::Int4 { .. } => {
                    let word = 2 * (tile % 2) as usize + second;
                    let words = record.chunks(e, tile / 2).map(|chunk| chunk[word]);
                    let low = words.map(|word| e.and(word, e.int(0x0f0f_0f0f)));
                    let high =
                        words.map(|word| e.and(e.shift_right_unsigned(word, e.int(4)), e.int(0x0f0f_0f0f)));
                    [low[0], low[1], high[0], high[1]]
                }
                _ => {
                    let [a, b] = record.chunks(e, tile);
                    [a[2 * second], b[2 * second], a[2 * second + 1], b[2 * second + 1]]
                }
            };
            let x = self.bytes[tile as usize];
            parts = e.mma_bytes(codes, [x[2 * second], x[2 * second + 1]], parts);
            if (half + 1) * self.of.groups() % (SPAN / 32) != 0 {
                continue;
            }
            let (share, sum) = self.shares[group];
            for (i, total) in sums.iter().enumerate() {
                let whole = e.add(e.shift_left(parts[2 * i], 8), parts[2 * i + 1]);
                let (scale, least) = shared[i].of[group];
                match least {
                    Some(least) => {
                        let least = e.fmul(e.to_float_signed(sum), least);
                        e.accumulate(*total, share, e.fma(e.to_float_signed(whole), scale, least));
                    }
                    None => {
                        // Codes of four bits stand for eight less.
                        let whole = match codec {
                            Codec::Int4 { .. } => e.sub(whole, e.shift_left(sum, 3)),
                            _ => whole,
                        };
                        e.accumulate(*total, e.fmul(scale, share), e.to_float_signed(whole));
                    }
                }
            }
            (parts, group) = (zeros, group + 1);
        }
    }
}
