//! Records of a grouped codec as the left operand of `wgmma`: 16 outputs a warp, in bf16, in registers.
//!
//! ```text
//! step j of a k tile    words 0, 1  elements 2t, 2t + 1 of piece 2j      of outputs g, g + 8
//!                       words 2, 3  the same of piece 2j + 1
//! ```
//! A record has a piece whole in one lane, as `mma` with inputs in any order wants it; `wgmma` reads its right operand in the order
//! of memory. So each lane of a quad reads all of the quad's chunks, at once with the others, and takes its own pair of each
//! piece. Scales are two bf16 each, so that a product with a code is rounded once.

use hyc_plan::pack::Half;
use hyc_plan::{Codec, SPAN, TILE};

use super::stored::{MINUS_128, MINUS_136, Record, Shares, nibble_pair};
use crate::gpu::isa::{Chunk, Emit, Float, Int};
use crate::gpu::tile::{ONES, e4m3_pair, int8_pair, split};

/// Words of `wgmma`'s left operand for a step of 16 inputs.
pub type Step<'c> = [Int<'c>; 4];

/// What a lane reads at once, of both halves.
pub enum Run<'c> {
    /// The chunks of its quad.
    Quad([[Chunk<'c>; 4]; 2]),
    /// Its own: rows have their inputs in that order.
    Own([Chunk<'c>; 2]),
}

/// k tiles of a run.
pub fn tiles_of_a_run(codec: Codec) -> u64 {
    if let Codec::Int4 { .. } = codec { 2 } else { 1 }
}

/// What a group of an output is multiplied by, and what is added.
#[derive(Clone, Copy)]
struct Share<'c> {
    /// Both as the nearest bf16, and the nearest to the rest, twice in a word each.
    scales: [Int<'c>; 2],
    least: Option<[Int<'c>; 2]>,
}

impl<'c> Share<'c> {
    fn new(e: &Emit<'c>, (scale, least): (Float<'c>, Option<Float<'c>>)) -> Share<'c> {
        Share { scales: split(e, scale), least: least.map(|least| split(e, least)) }
    }

    /// Codes as bf16, a pair a word, as numbers.
    fn scaled(&self, e: &Emit<'c>, codes: Int<'c>) -> Int<'c> {
        let ([high, low], zero) = (self.scales, e.int(0x8000_8000));
        let Some([least, rest]) = self.least else {
            return e.fma_bf16(codes, high, e.fma_bf16(codes, low, zero));
        };
        let (most, rest) = (e.fma_bf16(codes, high, least), e.fma_bf16(codes, low, rest));
        e.fma_bf16(most, e.int(ONES), rest)
    }
}

impl<'c> Record<'c> {
    /// What the groups of this lane's outputs share, of both halves.
    pub fn shares(&self, e: &Emit<'c>) -> [Shares<'c>; 2] {
        self.halves.map(|half| Shares::load(e, self.codec, half))
    }

    /// Reads a run of k tiles.
    pub fn run(&self, e: &Emit<'c>, run: u64) -> Run<'c> {
        let quad = e.mul_const(e.lane_pair().0, 16);
        let chunk = |half: usize, q: u64| {
            let at = e.add_const(quad, (128 * run + 4 * q) as i64);
            e.load4(self.halves[half], at)
        };
        Run::Quad([0, 1].map(|half| [0, 1, 2, 3].map(|q| chunk(half, q))))
    }

    /// The four steps of a k tile of the span, which `run` has.
    pub fn steps(
        &self,
        e: &Emit<'c>,
        (run, tile): (&Run<'c>, u64),
        shares: &[Shares<'c>; 2],
    ) -> Vec<Step<'c>> {
        let groups = Half::of(self.codec).groups();
        // Of each half, of the tile's first 32 inputs and of the others.
        let of = [0, 1].map(|half: usize| {
            [0, 1].map(|second| {
                let group = (2 * tile + second) * groups / (SPAN / (TILE / 2));
                Share::new(e, shares[half].of[group as usize])
            })
        });
        match run {
            Run::Quad(chunks) => {
                let word = |half: usize, piece: usize| {
                    self.pair(e, &chunks[half], (tile, piece), &of[half][piece / 4])
                };
                let step =
                    |j: usize| [word(0, 2 * j), word(1, 2 * j), word(0, 2 * j + 1), word(1, 2 * j + 1)];
                (0..4).map(step).collect()
            }
            Run::Own(chunks) => {
                let pieces = self.pieces(e, tile, chunks);
                let word = |half: usize, j: usize, i: usize| {
                    of[half][j / 2].scaled(e, pieces[j / 2][half][2 * (j % 2) + i])
                };
                let step = |j: usize| [word(0, j, 0), word(1, j, 0), word(0, j, 1), word(1, j, 1)];
                (0..4).map(step).collect()
            }
        }
    }

    /// The four steps of k tile `tile` of 128 inputs as codes of e4m3, in the order of [`fp8_rows`](super::fp8_rows).
    pub fn codes(&self, e: &Emit<'c>, tile: u64) -> Vec<Step<'c>> {
        let chunks = [0, 1].map(|of_64| self.chunks(e, 2 * tile + of_64));
        let step = |j: usize| {
            let ([a, b], low) = (chunks[j / 2], 2 * (j % 2));
            [a[low], b[low], a[low + 1], b[low + 1]]
        };
        (0..4).map(step).collect()
    }

    /// Elements 2t, 2t + 1 of a piece, from the chunks of a half.
    fn pair(
        &self,
        e: &Emit<'c>,
        chunks: &[Chunk<'c>; 4],
        (tile, piece): (u64, usize),
        share: &Share<'c>,
    ) -> Int<'c> {
        let (chunk, second, t) = (&chunks[piece % 4], piece / 4, e.lane_pair().1);
        if let Codec::Int4 { zero, .. } = self.codec {
            let word = chunk[2 * (tile % 2) as usize + second];
            let shifted = e.shift_right_unsigned(word, e.mul_const(t, 4));
            let minus = if zero { MINUS_128 } else { MINUS_136 };
            return share.scaled(e, nibble_pair(e, shifted, minus));
        }
        // The bytes of a pair stand two apart; t says in which of two words, and which two.
        let word = e.pick(e.lt(t, e.int(2)), chunk[2 * second], chunk[2 * second + 1]);
        let odd = e.and(t, e.int(1));
        if let Codec::Fp8 { .. } = self.codec {
            let bits = e.pick(e.eq(odd, e.int(0)), e.shift_left(word, 8), word);
            return share.scaled(e, e4m3_pair(e, bits));
        }
        share.scaled(e, int8_pair(e, e.shift_right_unsigned(word, e.mul_const(odd, 8))))
    }
}
