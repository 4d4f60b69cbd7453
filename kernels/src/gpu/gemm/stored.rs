//! How a weight lies that a product of few rows streams: bf16 tiles, or strips of a grouped codec. What streams stages
//! (`small_m`, `feed`) does not know what is in them; here is what they become in registers.

use hyc_plan::pack::Half;
use hyc_plan::{Codec, Format, Layout, SPAN, STRIP, TILE};

use super::pack_rows::{k_tiles, strip_offset};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::{Fragment, ONES, TILE_BYTES, bytes, tile_row};

/// Minus 128 and minus 136 in each half of a word of bf16.
pub const MINUS_128: u64 = 0xc300_c300;
pub const MINUS_136: u64 = 0xc308_c308;

/// How the weights of a product lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// In bf16 tiles: a stage is 64 inputs.
    Tiles,
    /// In strips of this codec: a stage is 256 inputs.
    Strips(Codec),
}

impl Stored {
    /// Of a weight that tensor cores multiply.
    pub fn of(format: Format) -> Stored {
        match format.layout {
            Layout::Strips { .. } => Stored::Strips(format.codec),
            _ => Stored::Tiles,
        }
    }

    /// k tiles of a stage.
    pub fn tiles(self) -> u64 {
        match self {
            Stored::Tiles => 1,
            Stored::Strips(_) => SPAN / TILE,
        }
    }

    /// k tile `i` of stage `stage` of a row, and whether there is one, where that is not certain: else the last one.
    pub fn k_tile<'c>(
        self,
        e: &Emit<'c>,
        (stage, i): (Int<'c>, u64),
        in_features: u64,
    ) -> (Int<'c>, Option<Int<'c>>) {
        let (each, tiles) = (self.tiles(), k_tiles(in_features));
        let tile = e.add_const(e.mul_const(stage, each), i as i64);
        match tiles.is_multiple_of(each) {
            true => (tile, None),
            false => (e.min(tile, e.int(tiles - 1)), Some(e.lt(tile, e.int(tiles)))),
        }
    }

    /// Stages of a row.
    pub fn stages(self, in_features: u64) -> u64 {
        k_tiles(in_features).div_ceil(self.tiles())
    }

    /// Bytes of a stage of 16 outputs, the second half of which are the second eight.
    pub fn bytes(self) -> u64 {
        match self {
            Stored::Tiles => TILE_BYTES / 4,
            Stored::Strips(codec) => 2 * Half::of(codec).bytes(),
        }
    }

    /// Bytes from a stage to the next.
    pub fn next(self) -> u64 {
        match self {
            Stored::Tiles => TILE_BYTES,
            Stored::Strips(_) => self.bytes(),
        }
    }

    /// Starts the copies of a stage of 16 outputs, `at` bytes from their first, to byte address `to`: `far` is where the second eight are,
    /// where they are not behind the first.
    pub fn copy<'c>(
        self,
        e: &Emit<'c>,
        (near, far): (Ptr<'c>, Option<Ptr<'c>>),
        at: Int<'c>,
        (to, full): (Int<'c>, Int<'c>),
    ) {
        let bytes = if far.is_some() { self.bytes() / 2 } else { self.bytes() };
        e.bulk_copy(to, e.byte_offset(near, at), bytes, full);
        if let Some(far) = far {
            e.bulk_copy(e.add_const(to, bytes as i64), e.byte_offset(far, at), bytes, full);
        }
    }

    /// Bytes of a matrix.
    pub fn matrix_bytes(self, out: u64, in_features: u64) -> u64 {
        match self {
            Stored::Tiles => out.div_ceil(TILE) * k_tiles(in_features) * TILE_BYTES,
            Stored::Strips(_) => out.div_ceil(STRIP) * self.stages(in_features) * self.bytes(),
        }
    }

    /// Byte offset (i64) of block `block` of 16 outputs in a matrix.
    pub fn strip<'c>(self, e: &Emit<'c>, block: Int<'c>, in_features: u64) -> Int<'c> {
        match self {
            Stored::Tiles => strip_offset(e, block, in_features),
            Stored::Strips(_) => e.mul_const(e.wide(block), self.stages(in_features) * self.bytes()),
        }
    }

    /// The address of eight outputs from `row` on, a multiple of eight, in their first stage.
    pub fn eight<'c>(self, e: &Emit<'c>, matrix: Ptr<'c>, row: Int<'c>, in_features: u64) -> Ptr<'c> {
        match self {
            Stored::Tiles => tile_row(e, matrix, row, in_features),
            Stored::Strips(_) => {
                let (block, inside) = e.div_rem(row, STRIP);
                let half = e.mul_const(e.div_rem(inside, 8).0, self.bytes() / 2);
                e.byte_offset(e.byte_offset(matrix, self.strip(e, block, in_features)), e.wide(half))
            }
        }
    }
}

/// A lane's two pieces of a k tile of a stage, of each eight rows.
pub type Pieces<'a, 'c> = &'a dyn Fn(&Emit<'c>, u64) -> Vec<[Chunk<'c>; 2]>;

/// A lane's pieces of a k tile; zeros where there is none: a group's numbers go on there.
pub fn inside<'c>(e: &Emit<'c>, there: Option<Int<'c>>, x: [Chunk<'c>; 2]) -> [Chunk<'c>; 2] {
    there.map_or(x, |there| x.map(|piece| piece.map(|word| e.pick(there, word, e.int(0)))))
}

/// A stage of 16 outputs of a grouped codec, as it lies in shared memory.
pub struct Record<'c> {
    pub codec: Codec,
    pub halves: [Ptr<'c>; 2],
}

impl<'c> Record<'c> {
    pub fn new(e: &Emit<'c>, codec: Codec, at: Ptr<'c>) -> Record<'c> {
        let second = e.byte_offset(at, e.int(Half::of(codec).bytes()));
        Record { codec, halves: [at, second] }
    }

    /// `sums += self x`, `[rows / 8][4]`.
    pub fn multiply(&self, e: &Emit<'c>, sums: &[Vec<Var<'c>>], x: Pieces<'_, 'c>) {
        let groups = Half::of(self.codec).groups();
        let shared = self.halves.map(|half| Shares::load(e, self.codec, half));
        let zeros = || -> Vec<Vec<Var<'c>>> {
            sums.iter().map(|_| (0..4).map(|_| e.float_var(0.0)).collect()).collect()
        };
        let parts = zeros();
        // Sums of x alone, where codes stand for more than their multiples.
        let plain = matches!(self.codec, Codec::Int4 { zero: true, .. }).then(zeros);
        let ones = Fragment { low: [e.int(ONES); 4], high: Some([e.int(ONES); 4]) };
        for tile in 0..SPAN / TILE {
            let (words, rows) = (self.words(e, tile), x(e, tile));
            // Half tiles of 32 inputs, of which every so many are a group.
            for (second, [low, high]) in words.into_iter().enumerate() {
                let piece = 2 * tile + second as u64;
                let w = Fragment { low, high: Some(high) };
                for (n, x) in rows.iter().enumerate() {
                    w.multiply(e, &parts[n], x[second]);
                    if let Some(plain) = &plain {
                        ones.multiply(e, &plain[n], x[second]);
                    }
                }
                if (piece + 1) * groups % (SPAN / 32) != 0 {
                    continue;
                }
                let group = (piece * groups / (SPAN / 32)) as usize;
                for (n, sums) in sums.iter().enumerate() {
                    for (i, sum) in sums.iter().enumerate() {
                        let (scale, least) = shared[i / 2].of[group];
                        e.accumulate(*sum, scale, e.get_float(parts[n][i]));
                        e.set(parts[n][i], e.float(0.0).into());
                        let plain = plain.as_ref().map(|plain| plain[n][i]);
                        if let (Some(least), Some(plain)) = (least, plain) {
                            e.accumulate(*sum, least, e.get_float(plain));
                            e.set(plain, e.float(0.0).into());
                        }
                    }
                }
            }
        }
    }

    /// Both pieces of a k tile of this lane in bf16, of both halves: `[piece][half]`.
    fn words(&self, e: &Emit<'c>, tile: u64) -> [[Chunk<'c>; 2]; 2] {
        // Of int4 a lane's words of two tiles stand side by side.
        let run = if matches!(self.codec, Codec::Int4 { .. }) { tile / 2 } else { tile };
        self.pieces(e, tile, &self.chunks(e, run))
    }

    /// This lane's chunks of both halves: run `run` of them.
    pub fn chunks(&self, e: &Emit<'c>, run: u64) -> [Chunk<'c>; 2] {
        let at = e.add_const(e.mul_const(e.lane(), 4), 128 * run as i64);
        self.halves.map(|half| e.load4(half, at))
    }

    /// The same of chunks that are loaded.
    pub fn pieces(&self, e: &Emit<'c>, tile: u64, chunks: &[Chunk<'c>; 2]) -> [[Chunk<'c>; 2]; 2] {
        let piece = |second: usize| {
            [0, 1].map(|half: usize| match self.codec {
                Codec::Int4 { zero, .. } => {
                    let word = chunks[half][2 * (tile % 2) as usize + second];
                    let minus = if zero { MINUS_128 } else { MINUS_136 };
                    nibbles(e, word, minus)
                }
                codec => {
                    let [a, b] = [0, 1]
                        .map(|i| bytes(e, matches!(codec, Codec::Fp8 { .. }), chunks[half][2 * second + i]));
                    [a[0], a[1], b[0], b[1]]
                }
            })
        };
        [piece(0), piece(1)]
    }
}

/// Eight codes of four bits as bf16: 128 with the code in its last bits, and what makes that the code again.
fn nibbles<'c>(e: &Emit<'c>, word: Int<'c>, minus: u64) -> Chunk<'c> {
    [0, 4, 8, 12].map(|shift| {
        let shifted = if shift == 0 { word } else { e.shift_right_unsigned(word, e.int(shift)) };
        nibble_pair(e, shifted, minus)
    })
}

/// The same of the lowest code of each half of a word.
pub fn nibble_pair<'c>(e: &Emit<'c>, word: Int<'c>, minus: u64) -> Int<'c> {
    let code = e.and_or(word, e.int(0x000f_000f), e.int(0x4300_4300));
    e.fma_bf16(code, e.int(ONES), e.int(minus))
}

/// What the groups of this lane's output of a half share.
pub struct Shares<'c> {
    /// `[group]`: scale, and least value where there is one.
    pub of: Vec<(Float<'c>, Option<Float<'c>>)>,
}

impl<'c> Shares<'c> {
    pub fn load(e: &Emit<'c>, codec: Codec, half: Ptr<'c>) -> Shares<'c> {
        let of = Half::of(codec);
        let at = e.byte_offset(half, e.int(of.code_bytes()));
        let g = e.lane_pair().0;
        let bytes = of.groups() * codec.shared_bytes();
        // One f16 of an output: a word has those of two.
        if bytes == 2 {
            let (pair, odd) = e.div_rem(g, 2);
            let word = e.load_int(at, pair);
            let word = e.pick(e.eq(odd, e.int(0)), word, e.shift_right_unsigned(word, e.int(16)));
            return Shares { of: vec![(e.half_float(word), None)] };
        }
        let first = e.mul_const(g, bytes / 4);
        let words: Vec<Int<'c>> =
            (0..bytes / 4).map(|i| e.load_int(at, e.add_const(first, i as i64))).collect();
        let upper = |word| e.half_float(e.shift_right_unsigned(word, e.int(16)));
        let of = words.iter().flat_map(|word| match codec {
            Codec::Int4 { zero: false, .. } => vec![(e.half_float(*word), None), (upper(*word), None)],
            Codec::Int4 { zero: true, .. } => vec![(e.half_float(*word), Some(upper(*word)))],
            _ => vec![(e.widen(*word), None)],
        });
        Shares { of: of.collect() }
    }
}
