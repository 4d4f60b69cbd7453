//! Sums of a warp group whose rows are outputs, to rows in memory.
//!
//! ```text
//! a warp has 16 outputs (or eight, of two weights); 32 rows at a time go through 32 x 20 words (or 12) of its own in shared memory:
//!   in    lane (g, t): outputs g, g + 8 of rows 8 j + 2 t, + 1          no bank twice in a warp
//!   out   a lane: four outputs of a row in f32, or eight in bf16
//! ```

use super::epilogue::Line;
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var, WARP};
use crate::gpu::tile::TiledRows;

/// Rows of a round.
pub const ROUND: u64 = 32;
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
    /// How many rows there are, where rounds without any are left out.
    pub rows: Option<Int<'c>>,
}

/// A row that a lane takes: its number in the tile, and the round that it is of.
#[derive(Clone, Copy)]
pub struct Taken<'c> {
    pub round: usize,
    pub row: Int<'c>,
}

/// What is done with eight results: of which row, from which output on, and whether they are there.
pub type WriteEight<'a, 'c> = &'a dyn Fn(&Emit<'c>, (Taken<'c>, Int<'c>, Int<'c>), &[Float<'c>]);

/// Outputs of a warp.
fn outputs(two: bool) -> u64 {
    if two { 8 } else { 16 }
}

/// Rows of a tile of `width` that a lane takes `each` outputs of, in the order in which they are written.
fn taken_rows<'c>(e: &Emit<'c>, (two, width): (bool, u64), each: u64) -> Vec<Int<'c>> {
    let pieces = outputs(two) / each;
    let row = e.div_rem(e.lane(), pieces).0;
    (0..width * pieces / WARP).map(|i| e.add_const(row, (i * (WARP / pieces)) as i64)).collect()
}

impl<'c> Turned<'_, 'c> {
    fn outputs(&self) -> u64 {
        outputs(self.two)
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

    /// The first of the outputs that this lane takes `each` of, and where they are in shared memory, by the rows of a round.
    fn pieces(&self, e: &Emit<'c>, each: u64) -> (Int<'c>, Vec<Int<'c>>) {
        let first = e.mul_const(e.div_rem(e.lane(), self.outputs() / each).1, each);
        let rows = taken_rows(e, (self.two, ROUND), each);
        (first, rows.into_iter().map(|row| e.add(e.mul_const(row, self.stride()), first)).collect())
    }

    /// Calls `write` with each round's rows, by their numbers among this lane's and in the tile, when its results are to be staged.
    fn each_round(&self, e: &Emit<'c>, each: u64, write: &dyn Fn(&Emit<'c>, usize, &[Taken<'c>])) {
        let rows = taken_rows(e, (self.two, 2 * self.of.len() as u64), each);
        let of_round = rows.len() / self.rounds();
        for (round, rows) in rows.chunks(of_round).enumerate() {
            let rows: Vec<Taken<'c>> = rows.iter().map(|row| Taken { round, row: *row }).collect();
            match self.rows {
                Some(all) => {
                    e.when(e.lt(e.int(round as u64 * ROUND), all), |e| write(e, round, &rows));
                }
                None => write(e, round, &rows),
            }
        }
    }

    /// The column of an output, from the first's on.
    pub fn column(&self, e: &Emit<'c>, output: Int<'c>) -> Int<'c> {
        e.add(output, e.pick(e.lt(output, e.int(8)), e.int(0), self.gap))
    }

    /// Writes rows of f32 that `line` has the places of. `aligned`: all lines begin at a multiple of
    /// 16 bytes, and outputs are a multiple of four.
    pub fn write_rows(&self, e: &Emit<'c>, aligned: bool, line: &dyn Fn(&Emit<'c>, Taken<'c>) -> Line<'c>) {
        let (first, pieces) = self.pieces(e, 4);
        self.each_round(e, 4, &|e, round, rows| {
            let lines: Vec<Line<'c>> = rows.iter().map(|row| line(e, *row)).collect();
            let added = |line: &Line<'c>| {
                let plus = line.plus.filter(|_| aligned)?;
                let inside = e.and(line.inside, e.lt(first, self.left));
                Some(e.load4(plus, e.pick(inside, self.column(e, first), e.int(0))))
            };
            let plus: Vec<Option<Chunk<'c>>> = lines.iter().map(added).collect();
            e.warp_barrier();
            self.stage(e, round);
            e.warp_barrier();
            for ((from, line), plus) in pieces.iter().zip(lines).zip(plus) {
                let words = e.load4(self.staging, *from);
                if aligned {
                    let sum = |plus: Chunk<'c>| {
                        [0, 1, 2, 3].map(|i| e.bits(e.fadd(e.widen(words[i]), e.widen(plus[i]))))
                    };
                    let inside = e.and(line.inside, e.lt(first, self.left));
                    let words = plus.map_or(words, sum);
                    e.when(inside, |e| e.store_words(line.to, self.column(e, first), &words));
                    continue;
                }
                for (i, word) in (0..).zip(words) {
                    let output = e.add_const(first, i);
                    e.when(e.and(line.inside, e.lt(output, self.left)), |e| {
                        let column = self.column(e, output);
                        let plus = line.plus.map(|plus| e.load(plus, column));
                        let value: Float<'c> = e.widen(word);
                        let value = plus.map_or(value, |plus| e.fadd(value, plus));
                        e.store(line.to, column, value.into());
                    });
                }
            }
        });
    }

    /// Gives eight outputs of a row at once: the row, the first of the outputs, whether they are there (a row beyond the step's,
    /// others say), and the results.
    pub fn write_eights(&self, e: &Emit<'c>, write: WriteEight<'_, 'c>) {
        let (first, pieces) = self.pieces(e, 8);
        let there = e.lt(first, self.left);
        self.each_round(e, 8, &|e, round, rows| {
            e.warp_barrier();
            self.stage(e, round);
            e.warp_barrier();
            for (row, from) in rows.iter().zip(&pieces) {
                let eight = [0, 4].map(|more| e.load4(self.staging, e.add_const(*from, more)));
                let eight: Vec<Float<'c>> = eight.as_flattened().iter().map(|word| e.widen(*word)).collect();
                write(e, (*row, first, there), &eight);
            }
        });
    }

    /// Writes rows in tiles of `width` columns: `target` has whether there is a row, which it is, and the warp's first column.
    pub fn write_tiles(
        &self,
        e: &Emit<'c>,
        (rows, width): (TiledRows, u64),
        target: &dyn Fn(&Emit<'c>, Taken<'c>) -> (Int<'c>, Int<'c>, Int<'c>),
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
