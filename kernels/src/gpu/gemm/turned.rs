//! Sums of a warp group whose rows are outputs, to rows in memory.
//!
//! ```text
//! a warp has 16 outputs (or eight, of two weights); 32 rows at a time go through shared memory of its own:
//!   f32   32 x 20 words (or 12)
//!     in    lane (g, t): outputs g, g + 8 of rows 8 j + 2 t, + 1        no bank twice in a warp
//!     out   a lane: four or eight outputs of a row
//!   bf16  32 x 8 words (or 4)
//!     in    `stmatrix`: four matrices of 8 outputs by 8 rows, turned
//!     out   a lane: eight outputs of a row
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
    /// The rows that there are, where they are listed: rounds without any are left out.
    pub list: Option<List<'c>>,
}

/// How many rows of a tile there are, and what each stands for, in shared memory.
#[derive(Clone, Copy)]
pub struct List<'c> {
    pub rows: Int<'c>,
    pub at: Ptr<'c>,
    /// Made of all that was looked up: what hangs on it is behind those loads.
    pub read: Var<'c>,
}

impl<'c> List<'c> {
    /// What a row stands for.
    pub fn get(&self, e: &Emit<'c>, row: Int<'c>) -> Int<'c> {
        let word = e.load_int(self.at, row);
        e.set(self.read, e.xor(e.get(self.read).into_int_value(), word).into());
        word
    }
}

/// What is done with eight results: of which row of the tile, from which output on, and whether they are there.
pub type WriteEight<'a, 'c> = &'a dyn Fn(&Emit<'c>, (Int<'c>, Int<'c>, Int<'c>), &[Float<'c>]);

/// Outputs of a warp.
fn outputs(two: bool) -> u64 {
    if two { 8 } else { 16 }
}

/// Rows of a tile of `width` that lane `lane` takes `each` outputs of, in the order in which they are written.
fn taken_rows<'c>(e: &Emit<'c>, (two, width): (bool, u64), lane: Int<'c>, each: u64) -> Vec<Int<'c>> {
    let pieces = outputs(two) / each;
    let row = e.div_rem(lane, pieces).0;
    (0..width * pieces / WARP).map(|i| e.add_const(row, (i * (WARP / pieces)) as i64)).collect()
}

impl<'c> Turned<'_, 'c> {
    fn outputs(&self) -> u64 {
        outputs(self.two)
    }

    /// Whether there is such a row, as far as a list says.
    pub fn has(&self, e: &Emit<'c>, row: Int<'c>) -> Int<'c> {
        self.list.map_or(e.holds(), |list| e.lt(row, list.rows))
    }

    /// What a row stands for.
    pub fn listed(&self, e: &Emit<'c>, row: Int<'c>) -> Int<'c> {
        self.list.map_or(row, |list| list.get(e, row))
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
        let rows = taken_rows(e, (self.two, ROUND), e.lane(), each);
        (first, rows.into_iter().map(|row| e.add(e.mul_const(row, self.stride()), first)).collect())
    }

    /// Calls `body` where a round has rows.
    fn in_round(&self, e: &Emit<'c>, round: usize, body: impl FnOnce(&Emit<'c>)) {
        match self.list {
            Some(list) => e.when(e.lt(e.int(round as u64 * ROUND), list.rows), body),
            None => body(e),
        }
    }

    /// The rows that lane `lane` takes `each` outputs of, round by round.
    fn rows_of_rounds(&self, e: &Emit<'c>, lane: Int<'c>, each: u64) -> Vec<Vec<Int<'c>>> {
        let rows = taken_rows(e, (self.two, 2 * self.of.len() as u64), lane, each);
        rows.chunks(rows.len() / self.rounds()).map(<[_]>::to_vec).collect()
    }

    /// Calls `write` with each round's rows, when its results are to be staged.
    fn each_round(&self, e: &Emit<'c>, each: u64, write: &dyn Fn(&Emit<'c>, usize, &[Int<'c>])) {
        for (round, rows) in self.rows_of_rounds(e, e.lane(), each).iter().enumerate() {
            self.in_round(e, round, |e| write(e, round, rows));
        }
    }

    /// The column of an output, from the first's on.
    pub fn column(&self, e: &Emit<'c>, output: Int<'c>) -> Int<'c> {
        e.add(output, e.pick(e.lt(output, e.int(8)), e.int(0), self.gap))
    }

    /// Writes rows of f32 that `line` has the places of. `aligned`: all lines begin at a multiple of
    /// 16 bytes, and outputs are a multiple of four.
    pub fn write_rows(&self, e: &Emit<'c>, aligned: bool, line: &dyn Fn(&Emit<'c>, Int<'c>) -> Line<'c>) {
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
        target: &dyn Fn(&Emit<'c>, Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>),
    ) {
        let halves = self.outputs() / 8;
        // Words of a round's rows; rounds take turns at two places: one is staged while the one before is read.
        let words = ROUND * 4 * halves;
        // What a lane's number says is not worked out before the sums, beside which there is no register for it.
        let lane = e.opaque(e.lane());
        let half = e.div_rem(lane, halves).1;
        let first = e.mul_const(half, 8);
        let there = e.lt(first, self.left);
        let at = |round: usize| e.int(round as u64 % 2 * words);
        let stage = |e: &Emit<'c>, round| self.stage_packed(e, (e.at(self.staging, at(round)), lane), round);
        // Where all rows go is looked up at once: a look is longer than a round.
        let rounds = self.rows_of_rounds(e, lane, 8);
        let targets: Vec<Vec<_>> =
            rounds.iter().map(|taken| taken.iter().map(|row| target(e, *row)).collect()).collect();
        self.in_round(e, 0, |e| stage(e, 0));
        for (round, (taken, targets)) in rounds.iter().zip(&targets).enumerate() {
            self.in_round(e, round, |e| {
                e.warp_barrier();
                let load = |row: &Int<'c>| {
                    let inside = e.and(*row, e.int(ROUND - 1));
                    e.load4(self.staging, e.add(at(round), self.packed_at(e, inside, half)))
                };
                let pieces: Vec<Chunk<'c>> = taken.iter().map(load).collect();
                if round + 1 < self.rounds() {
                    self.in_round(e, round + 1, |e| stage(e, round + 1));
                }
                for ((is_there, row, column), piece) in targets.iter().zip(&pieces) {
                    let to = e.div_rem(e.add(*column, self.column(e, first)), 8).0;
                    let to = rows.piece(e, *row, to, width);
                    e.store4_where(e.and(*is_there, there), to, piece);
                }
            });
        }
    }

    /// Where eight outputs of a row of a round are as bf16, in words: rows lie one below the other, pieces in the order in which no bank
    /// has two of what a warp stores or loads at once.
    fn packed_at(&self, e: &Emit<'c>, row: Int<'c>, half: Int<'c>) -> Int<'c> {
        if self.two {
            return e.mul_const(row, 4);
        }
        let odd = e.and(e.div_rem(row, 4).0, e.int(1));
        e.add(e.mul_const(row, 8), e.mul_const(e.xor(half, odd), 4))
    }

    /// Puts a round's results into shared memory as bf16.
    fn stage_packed(&self, e: &Emit<'c>, (to, lane): (Ptr<'c>, Int<'c>), round: usize) {
        let to = e.shared_address(to);
        let blocks = [0, 1, 2, 3].map(|block| 4 * (round * ROUND as usize / 8 + block));
        let get = |i: usize| e.get_float(self.of[i]);
        for half in 0..self.outputs() / 8 {
            let words = blocks.map(|block| {
                let [low, high] = [0, 1].map(|odd| {
                    let i = block + 2 * half as usize + odd;
                    if self.two { e.fmul(e.silu(get(i)), get(i + 2)) } else { get(i) }
                });
                e.pack_bf16(low, high)
            });
            let row = self.packed_at(e, lane, e.int(half));
            e.store_matrices_turned(e.add(to, e.mul_const(row, 4)), &words);
        }
    }
}

/// As bf16, two a word.
pub fn packed<'c>(e: &Emit<'c>, values: &[Float<'c>]) -> Vec<Int<'c>> {
    values.chunks(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect()
}
