//! Sums of a warp group whose rows are outputs, to rows in memory.
//!
//! ```text
//! a warp has 16 outputs (or eight, of two weights); 32 rows at a time go through 32 x 20 words (or 12) of its own in shared memory:
//!   in    lane (g, t): outputs g, g + 8 of rows 8 j + 2 t, + 1          no bank twice in a warp
//!   out   a lane: four outputs of a row in f32, or eight in bf16
//! ```

use super::epilogue::Line;
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::TiledRows;

/// Rows of a round.
const ROUND: u64 = 32;
/// Bytes that a warp writes through.
pub const STAGING_BYTES: u64 = ROUND * 20 * 4;

/// A warp's sums: `[rows / 8][4]`, outputs g, g + 8 by rows 2t, 2t + 1.
pub struct Turned<'a, 'c> {
    pub of: &'a [Var<'c>],
    /// Whether outputs g + 8 are g's of a second weight, so that results are `silu(g) * (g + 8)`.
    pub two: bool,
    /// Memory of the warp.
    pub staging: Ptr<'c>,
    /// How many outputs there are from its first on.
    pub left: Int<'c>,
    /// Columns between its first eight outputs and the others.
    pub gap: Int<'c>,
}

impl<'c> Turned<'_, 'c> {
    fn outputs(&self) -> u64 {
        if self.two { 8 } else { 16 }
    }

    /// Words from row to row in shared memory.
    fn stride(&self) -> u64 {
        self.outputs() + 4
    }

    fn rounds(&self) -> usize {
        2 * self.of.len() / ROUND as usize
    }

    /// Puts a round's results into shared memory.
    fn stage(&self, e: &Emit<'c>, round: usize) {
        let (g, t) = e.lane_pair();
        let get = |i: usize| e.get_float(self.of[i]);
        for (j, odd) in (0..ROUND as usize / 8).flat_map(|j| [(j, 0), (j, 1)]) {
            let i = 4 * (round * ROUND as usize / 8 + j) + odd;
            let row = e.add_const(e.mul_const(t, 2), (8 * j + odd) as i64);
            let at = e.add(e.mul_const(row, self.stride()), g);
            if self.two {
                e.store(self.staging, at, e.fmul(e.silu(get(i)), get(i + 2)).into());
            } else {
                e.store(self.staging, at, get(i).into());
                e.store(self.staging, e.add_const(at, 8), get(i + 2).into());
            }
        }
    }

    /// Row of a round and piece of so many outputs that this lane takes as its `i`-th.
    fn place(&self, e: &Emit<'c>, each: u64, i: u64) -> (Int<'c>, Int<'c>) {
        let pieces = self.outputs() / each;
        let (row, piece) = e.div_rem(e.lane(), pieces);
        (e.add_const(row, (i * 32 / pieces) as i64), e.mul_const(piece, each))
    }

    /// The column of an output, from the first's on.
    pub fn column(&self, e: &Emit<'c>, output: Int<'c>) -> Int<'c> {
        e.add(output, e.pick(e.lt(output, e.int(8)), e.int(0), self.gap))
    }

    /// Writes rows of f32 that `line` has the places of, by their number in the tile. `aligned`: all lines begin at a multiple of
    /// 16 bytes, and outputs are a multiple of four.
    pub fn write_rows(&self, e: &Emit<'c>, aligned: bool, line: &dyn Fn(&Emit<'c>, Int<'c>) -> Line<'c>) {
        let lines = self.outputs() / 4;
        for round in 0..self.rounds() {
            let places: Vec<(Int<'c>, Int<'c>, Line<'c>)> = (0..lines)
                .map(|i| {
                    let (row, first) = self.place(e, 4, i);
                    let line = line(e, e.add_const(row, (round as u64 * ROUND) as i64));
                    (e.add(e.mul_const(row, self.stride()), first), first, line)
                })
                .collect();
            let added = |(_, first, line): &(Int<'c>, Int<'c>, Line<'c>)| {
                let plus = line.plus.filter(|_| aligned)?;
                let inside = e.and(line.inside, e.lt(*first, self.left));
                Some(e.load4(plus, e.pick(inside, self.column(e, *first), e.int(0))))
            };
            let plus: Vec<Option<Chunk<'c>>> = places.iter().map(added).collect();
            e.warp_barrier();
            self.stage(e, round);
            e.warp_barrier();
            for ((from, first, line), plus) in places.iter().zip(plus) {
                let words = e.load4(self.staging, *from);
                if aligned {
                    let sum = |plus: Chunk<'c>| {
                        [0, 1, 2, 3].map(|i| e.bits(e.fadd(e.widen(words[i]), e.widen(plus[i]))))
                    };
                    let inside = e.and(line.inside, e.lt(*first, self.left));
                    let words = plus.map_or(words, sum);
                    e.when(inside, |e| e.store_words(line.to, self.column(e, *first), &words));
                    continue;
                }
                for (i, word) in (0..).zip(words) {
                    let output = e.add_const(*first, i);
                    e.when(e.and(line.inside, e.lt(output, self.left)), |e| {
                        let column = self.column(e, output);
                        let plus = line.plus.map(|plus| e.load(plus, column));
                        let value: Float<'c> = e.widen(word);
                        let value = plus.map_or(value, |plus| e.fadd(value, plus));
                        e.store(line.to, column, value.into());
                    });
                }
            }
        }
    }

    /// Gives eight outputs of a row at once: the row's number in the tile, the first of the outputs, whether they are there (a
    /// row beyond the step's, others say), and the results.
    pub fn write_eights(
        &self,
        e: &Emit<'c>,
        write: &dyn Fn(&Emit<'c>, (Int<'c>, Int<'c>, Int<'c>), &[Float<'c>]),
    ) {
        for round in 0..self.rounds() {
            e.warp_barrier();
            self.stage(e, round);
            e.warp_barrier();
            for i in 0..self.outputs() / 8 {
                let (row, first) = self.place(e, 8, i);
                let from = e.add(e.mul_const(row, self.stride()), first);
                let eight = [0, 4].map(|more| e.load4(self.staging, e.add_const(from, more)));
                let eight: Vec<Float<'c>> = eight.as_flattened().iter().map(|word| e.widen(*word)).collect();
                let row = e.add_const(row, (round as u64 * ROUND) as i64);
                write(e, (row, first, e.lt(first, self.left)), &eight);
            }
        }
    }

    /// Writes rows in tiles of `width` columns: `target` has whether there is a row, which it is, and the warp's first column, by
    /// the row's number in the tile.
    pub fn write_tiles(
        &self,
        e: &Emit<'c>,
        (rows, width): (TiledRows, u64),
        target: &dyn Fn(&Emit<'c>, Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>),
    ) {
        self.write_eights(e, &|e, (row, first, there), eight| {
            let (inside, row, column) = target(e, row);
            let words = packed(e, eight);
            e.when(e.and(inside, there), |e| {
                let piece = e.div_rem(e.add(column, self.column(e, first)), 8).0;
                e.store_words(rows.piece(e, row, piece, width), e.int(0), &words);
            });
        });
    }
}

/// As bf16, two a word.
pub fn packed<'c>(e: &Emit<'c>, values: &[Float<'c>]) -> Vec<Int<'c>> {
    values.chunks(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect()
}
