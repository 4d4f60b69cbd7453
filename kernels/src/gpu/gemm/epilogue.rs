//! Sums of a warp group to rows of f32 in memory.
//!
//! ```text
//! a warp has 16 rows; 32 columns at a time go through 16 x 40 words of its own in shared memory:
//!   in    lane (g, t): columns 8 j + 2 t, + 1 of rows g, g + 8         40 words a row: no bank twice in half a warp
//!   out   lane l: columns 4 (l % 8) .. + 4 of rows l / 8 + 4 i         a row's 128 bytes by eight lanes
//! ```
//! What is added is read alike, a round ahead: more at once takes longer.

use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr};

/// Columns of a round.
const ROUND: u64 = 32;
/// Words from row to row in shared memory.
const STRIDE: u64 = ROUND + 8;
/// Rows of a round that one lane takes four columns of.
const LINES: usize = 4;
/// Bytes that a warp writes through.
pub const STAGING_BYTES: u64 = 16 * STRIDE * 4;

/// A row of a warp's 16: whether there is such a row, and the address of its first column.
#[derive(Clone, Copy)]
pub struct Line<'c> {
    pub inside: Int<'c>,
    pub to: Ptr<'c>,
    /// What is added.
    pub plus: Option<Ptr<'c>>,
}

/// The columns of a tile.
pub struct Columns<'c> {
    pub count: u64,
    /// How many there are, from its first on.
    pub left: Int<'c>,
    /// Whether all tiles have theirs.
    pub whole: bool,
    /// Whether all lines begin at a multiple of 16 bytes.
    pub aligned: bool,
}

/// This lane's elements of a tile, as [`Emit::wgmma`] leaves them.
pub struct Values<'a, 'c> {
    /// Waits until they are there.
    pub ready: &'a dyn Fn(&Emit<'c>),
    /// The i-th.
    pub get: &'a dyn Fn(&Emit<'c>, usize) -> Float<'c>,
}

/// The rows of a warp's 16 that this lane takes columns of.
pub fn lanes_rows<'c>(e: &Emit<'c>) -> [Int<'c>; LINES] {
    let row = e.div_rem(e.lane(), 8).0;
    [0, 4, 8, 12].map(|more| e.add_const(row, more))
}

/// Writes 16 rows, whose places are those of [`lanes_rows`].
pub fn write<'c>(
    e: &Emit<'c>,
    staging: Ptr<'c>,
    columns: &Columns<'c>,
    values: &Values<'_, 'c>,
    lines: &[Line<'c>; LINES],
) {
    let pieces = |e: &Emit<'c>| write_pieces(e, staging, columns.count, values, lines);
    let single = |e: &Emit<'c>| write_single(e, staging, columns, values, lines);
    match (columns.aligned, columns.whole) {
        (true, true) => pieces(e),
        (true, false) => e.either(e.ge(columns.left, e.int(columns.count)), pieces, single),
        (false, _) => single(e),
    }
}

/// Puts round `round` of a warp into shared memory.
fn stage<'c>(e: &Emit<'c>, staging: Ptr<'c>, round: usize, values: &Values<'_, 'c>) {
    let (g, t) = e.lane_pair();
    for (j, half) in (0..ROUND as usize / 8).flat_map(|j| [(j, 0), (j, 1)]) {
        let i = 4 * (round * ROUND as usize / 8 + j) + 2 * half;
        let to = e.add_const(e.mul_const(g, STRIDE), (8 * half as u64 * STRIDE + 8 * j as u64) as i64);
        let pair = [i, i + 1].map(|i| e.bits((values.get)(e, i)));
        e.store_words(staging, e.add(to, e.mul_const(t, 2)), &pair);
    }
}

/// Where this lane's four columns of its `line`-th row are in shared memory, in words.
fn staged<'c>(e: &Emit<'c>, line: usize) -> Int<'c> {
    let (row, piece) = e.div_rem(e.lane(), 8);
    let at = e.add(e.mul_const(row, STRIDE), e.mul_const(piece, 4));
    e.add_const(at, (4 * line as u64 * STRIDE) as i64)
}

/// Writes rows that have all columns, in pieces of 16 bytes.
fn write_pieces<'c>(
    e: &Emit<'c>,
    staging: Ptr<'c>,
    count: u64,
    values: &Values<'_, 'c>,
    lines: &[Line<'c>; LINES],
) {
    let first = e.mul_const(e.div_rem(e.lane(), 8).1, 4);
    let rounds = count.div_ceil(ROUND) as usize;
    let read = |e: &Emit<'c>, round: usize| {
        lines.map(|line| {
            let plus = line.plus.filter(|_| round < rounds)?;
            Some(e.load_chunk(plus, e.wide(e.mul_const(first, 4)), 4 * ROUND * round as u64))
        })
    };
    let mut next = read(e, 0);
    (values.ready)(e);
    for round in 0..rounds {
        e.warp_barrier();
        stage(e, staging, round, values);
        let plus = std::mem::replace(&mut next, read(e, round + 1));
        e.warp_barrier();
        let words: Vec<Chunk<'c>> = (0..LINES).map(|line| e.load4(staging, staged(e, line))).collect();
        let at = e.add_const(first, (round as u64 * ROUND) as i64);
        for ((line, words), plus) in lines.iter().zip(words).zip(plus) {
            let sum =
                |plus: Chunk<'c>| [0, 1, 2, 3].map(|i| e.bits(e.fadd(e.widen(words[i]), e.widen(plus[i]))));
            let words = plus.map_or(words, sum);
            e.when(line.inside, |e| e.store_words(line.to, at, &words));
        }
    }
}

/// Writes rows of any columns, each by itself.
fn write_single<'c>(
    e: &Emit<'c>,
    staging: Ptr<'c>,
    columns: &Columns<'c>,
    values: &Values<'_, 'c>,
    lines: &[Line<'c>; LINES],
) {
    let first = e.mul_const(e.div_rem(e.lane(), 8).1, 4);
    (values.ready)(e);
    for round in 0..columns.count.div_ceil(ROUND) as usize {
        e.warp_barrier();
        stage(e, staging, round, values);
        e.warp_barrier();
        for (i, line) in lines.iter().enumerate() {
            let from = staged(e, i);
            let at = e.add_const(first, (round as u64 * ROUND) as i64);
            let end = e.min(e.add_const(at, 4), columns.left);
            e.each(at, e.pick(line.inside, end, at), 1, |e, column| {
                let value = e.load(staging, e.add(from, e.sub(column, at)));
                let plus = line.plus.map(|plus| e.load(plus, column));
                let value = plus.map_or(value, |plus| e.fadd(value, plus));
                e.store(line.to, column, value.into());
            });
        }
    }
}
