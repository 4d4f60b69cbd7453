//! The only row of a product in shared memory, where all warps read it: as bf16, or as whole numbers where codes are.

use hyc_plan::{Codec, SPAN};

use super::digits::{self, Digits};
use super::matrices::RawRows;
use super::pack_rows::{RowPieces, k_tiles, read_row};
use super::stored::{Record, Stored, inside};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::{Fragment, Swizzle};

/// Where a row comes from, and what of it does not wait for inputs.
pub enum Source<'c> {
    /// f32 at this address, by these pieces.
    Raw(RowPieces<'c>, Ptr<'c>),
    /// The row's first piece in its bf16 tiles.
    Tiles(Ptr<'c>),
}

impl<'c> Source<'c> {
    /// The row as it lies in f32, where it is read so, by so many threads; else in tiles.
    pub fn new(
        e: &Emit<'c>,
        raw: Option<(Ptr<'c>, RawRows)>,
        tiles: Ptr<'c>,
        (in_features, threads): (u64, u64),
    ) -> Source<'c> {
        raw.map_or(Source::Tiles(tiles), |(x, raw)| {
            let norm = raw.norm.map(|eps| (eps, "norm"));
            Source::Raw(RowPieces::new(e, in_features, threads, norm), x)
        })
    }
}

/// A row that is kept.
pub struct KeptRow<'c> {
    stored: Stored,
    in_features: u64,
    /// Its number, by which its pieces are swizzled in tiles.
    number: Int<'c>,
    at: Ptr<'c>,
}

impl<'c> KeptRow<'c> {
    /// Row `number` at `at`, to be multiplied by weights that lie as `stored` says.
    pub fn new((stored, in_features): (Stored, u64), number: Int<'c>, at: Ptr<'c>) -> KeptRow<'c> {
        KeptRow { stored, in_features, number, at }
    }

    /// Bytes that it takes.
    pub fn bytes(stored: Stored, in_features: u64) -> u64 {
        match digits_of(stored) {
            None => 128 * k_tiles(in_features),
            Some(digits) => {
                let (numbers, shares) = digits.bytes(stored.stages(in_features));
                numbers + shares
            }
        }
    }

    /// Stores it by threads of whole warps, this one's number and how many they are; a barrier of theirs follows.
    pub fn keep(&self, e: &Emit<'c>, (thread, threads): (Int<'c>, u64), source: &Source<'c>) {
        let tiles = k_tiles(self.in_features);
        let pieces: Vec<(Int<'c>, Vec<Int<'c>>)> = match source {
            Source::Raw(pieces, x) => pieces.read(e, *x),
            Source::Tiles(from) => read_row(e, *from, tiles, (thread, threads))
                .into_iter()
                .map(|(place, words)| (place, words.to_vec()))
                .collect(),
        };
        for (round, (place, words)) in (0..).zip(pieces) {
            match digits_of(self.stored) {
                None => e.store_words(self.at, e.mul_const(place, 4), &words),
                Some(digits) => {
                    // Zeros up to whole spans: rounds are of whole warps.
                    let place = e.add_const(thread, (round * threads) as i64);
                    let there = e.lt(place, e.int(8 * tiles));
                    let words: Vec<Int<'c>> =
                        words.iter().map(|word| e.pick(there, *word, e.int(0))).collect();
                    let (tile, inside) = e.div_rem(place, 8);
                    let piece = e.add(e.mul_const(tile, 8), Swizzle::piece(e, self.number, inside));
                    let here = e.lt(place, e.int(SPAN / 8 * self.stored.stages(self.in_features)));
                    digits.store(e, self.parts(e, digits), (piece, here), &words);
                }
            }
        }
    }

    /// Where numbers are, and what their groups share.
    fn parts(&self, e: &Emit<'c>, digits: Digits) -> (Ptr<'c>, Ptr<'c>) {
        let numbers = digits.bytes(self.stored.stages(self.in_features)).0;
        (self.at, e.byte_offset(self.at, e.int(numbers)))
    }

    /// What a lane multiplies stage `stage` of a weight's outputs with.
    pub fn factors(&self, e: &Emit<'c>, stage: Int<'c>) -> Factors<'c> {
        match (self.stored, digits_of(self.stored)) {
            (_, Some(digits)) => Factors::Digits(digits.factors(e, self.parts(e, digits), stage)),
            (Stored::Tiles, None) => Factors::Tile(self.pieces(e, stage, 0)),
            (Stored::Strips(codec), None) => {
                let pieces = (0..self.stored.tiles()).map(|i| self.pieces(e, stage, i));
                Factors::Record(codec, pieces.collect())
            }
        }
    }

    /// Puts sums of [`Factors::multiply`] in all columns, where they are in even ones alone.
    pub fn spread(&self, e: &Emit<'c>, sums: &[Var<'c>]) {
        if digits_of(self.stored).is_some() {
            sums.chunks(2).for_each(|pair| e.set(pair[1], e.get(pair[0])));
        }
    }

    /// This lane's pieces of k tile `i` of a stage.
    fn pieces(&self, e: &Emit<'c>, stage: Int<'c>, i: u64) -> [Chunk<'c>; 2] {
        let (tile, there) = self.stored.k_tile(e, (stage, i), self.in_features);
        let t = e.lane_pair().1;
        let words = [0, 4].map(|first| {
            let piece = Swizzle::piece(e, self.number, e.add_const(t, first));
            e.load4(self.at, e.add(e.mul_const(tile, 32), e.mul_const(piece, 4)))
        });
        inside(e, there, words)
    }
}

/// How rows of such weights lie as whole numbers.
fn digits_of(stored: Stored) -> Option<Digits> {
    match stored {
        Stored::Strips(codec) => Digits::of(codec),
        Stored::Tiles => None,
    }
}

/// What a lane multiplies 16 outputs of a stage with.
pub enum Factors<'c> {
    /// Two pieces of a k tile, by weights in tiles.
    Tile([Chunk<'c>; 2]),
    /// Two of each k tile, by a record of a codec.
    Record(Codec, Vec<[Chunk<'c>; 2]>),
    /// Whole numbers.
    Digits(digits::Factors<'c>),
}

impl<'c> Factors<'c> {
    /// Sums of 16 outputs, as [`Emit::mma`] has them; what is output g's is in the first, output g + 8's in the third.
    pub fn sums(e: &Emit<'c>) -> Vec<Var<'c>> {
        (0..4).map(|_| e.float_var(0.0)).collect()
    }

    /// Zeros.
    pub fn clear(e: &Emit<'c>, sums: &[Var<'c>]) {
        sums.iter().for_each(|sum| e.set(*sum, e.float(0.0).into()));
    }

    /// [`multiply`](Self::multiply), the products times `share`; `own` is used for them alone.
    pub fn multiply_share(
        &self,
        e: &Emit<'c>,
        weights: Ptr<'c>,
        (sums, own): (&[Var<'c>], &[Var<'c>]),
        share: Float<'c>,
    ) -> Int<'c> {
        Factors::clear(e, own);
        let read = self.multiply(e, weights, own);
        sums.iter().zip(own).for_each(|(sum, own)| e.accumulate(*sum, share, e.get_float(*own)));
        read
    }

    /// Adds the products with the outputs at `weights`. Lanes t = 0 have theirs. Returns what is not known before all that is loaded is
    /// there.
    pub fn multiply(&self, e: &Emit<'c>, weights: Ptr<'c>, sums: &[Var<'c>]) -> Int<'c> {
        match self {
            Factors::Tile(x) => {
                let (g, t) = e.lane_pair();
                for (i, x) in (0..).zip(x) {
                    let piece = Swizzle::words(e, g, e.add_const(t, 4 * i));
                    let [low, high] = [0, 256].map(|eight| e.load4(weights, e.add_const(piece, eight)));
                    Fragment { low, high: Some(high) }.multiply(e, sums, *x);
                }
            }
            Factors::Record(codec, x) => {
                let pieces = |_: &Emit<'c>, tile: u64| vec![x[tile as usize]];
                Record::new(e, *codec, weights).multiply(e, &[sums.to_vec()], &pieces);
            }
            Factors::Digits(x) => x.multiply(e, weights, [sums[0], sums[2]]),
        }
        e.xor(e.bits(e.get_float(sums[0])), e.bits(e.get_float(sums[2])))
    }
}
