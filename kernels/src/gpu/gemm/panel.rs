//! Matrix-vector products over one panel of sixteen outputs: what every linear is made of.
//!
//! ```text
//! panel [k][16], 32 bytes a k in bf16     lane 2i + h reads half h (8 outputs) of k = base + i:
//!   k     | half 0 | half 1 |             a warp reads 16 k's, 512 contiguous bytes, at a time
//!   k + 1 | half 0 | half 1 |             warp w of 8 takes k = 16 w .. 16 w + 16, then every 128
//! ```
//! A thread keeps eight sums a row; lanes of equal half are summed by shuffles, warps in shared memory. The
//! order is that of k alone: a row's bits do not depend on the rows beside it.

use hyc_plan::{Elem, KernelSpec, PANEL};

use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr};
use crate::gpu::work_item::row_count;

/// Threads of a block that multiplies.
pub const THREADS: u64 = 256;
const WARPS: u64 = THREADS / 32;
/// Rows of a tile: eight sums of a row are eight registers of every thread.
const TILE: u64 = 4;
/// k's of one round of the block.
const ROUND: u64 = WARPS * 16;

/// Rows that a block multiplies at once: their addresses, and what each element is multiplied with first.
pub struct Input<'c> {
    /// One address a row.
    pub rows: Vec<Ptr<'c>>,
    /// Norm weights, with one factor a row (in shared memory).
    pub norm: Option<(Ptr<'c>, Ptr<'c>)>,
    /// Input features.
    pub in_features: u64,
}

/// The place of one result: thread `row * 16 + column` of the block has it.
pub struct Place<'c> {
    /// Row of the tile.
    pub row: Int<'c>,
    /// Column of the panel.
    pub column: Int<'c>,
}

/// Rows of a tile of this kernel.
pub fn tile(spec: &KernelSpec) -> u64 {
    TILE.min(spec.max_rows)
}

/// Puts 1 / rms of each row into shared memory, for the rows of a block.
pub fn inverse_rms<'c>(e: &Emit<'c>, rows: &[Ptr<'c>], in_features: u64, eps: f64) -> Ptr<'c> {
    let factors = e.shared(rows.len() as u64);
    let partial = e.shared(WARPS);
    for (i, row) in rows.iter().enumerate() {
        let sum = block_sum_of_squares(e, *row, in_features, partial);
        let mean = e.fdiv(sum, e.float(in_features as f32));
        let factor = e.inverse_sqrt(e.fadd(mean, e.float(eps as f32)));
        e.when(e.eq(e.thread(), e.int(0)), |e| e.store(factors, e.int(i as u64), factor.into()));
        e.barrier();
    }
    factors
}

/// Sum of x^2 over `width` floats, by a whole block of [`THREADS`]; every thread has it.
pub fn block_sum_of_squares<'c>(e: &Emit<'c>, x: Ptr<'c>, width: u64, partial: Ptr<'c>) -> Float<'c> {
    let sum = e.float_var(0.0);
    e.each(e.thread(), e.int(width), THREADS, |e, i| {
        let x = e.load(x, i);
        e.accumulate(sum, x, x);
    });
    let (warp, lane) = e.div_rem(e.thread(), 32);
    let mine = e.warp_sum(e.get_float(sum), &LANES);
    e.when(e.eq(lane, e.int(0)), |e| e.store(partial, warp, mine.into()));
    e.barrier();
    (0..WARPS).fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(partial, e.int(w))))
}

/// Multiplies the rows with one panel at `panel`. Threads below `rows * 16` get their result; others get what
/// means nothing. All threads of the block must come here.
pub fn panel<'c>(e: &Emit<'c>, elem: Elem, panel: Ptr<'c>, input: &Input<'c>) -> (Place<'c>, Float<'c>) {
    let (warp, lane) = e.div_rem(e.thread(), 32);
    let (step, half) = e.div_rem(lane, 2);
    let first = e.add(e.mul_const(warp, 16), step);
    let sums: Vec<_> = (0..input.rows.len() * 8).map(|_| e.float_var(0.0)).collect();
    let multiply = |e: &Emit<'c>, k: Int<'c>| {
        let at = e.add(e.mul_const(k, PANEL), e.mul_const(half, PANEL / 2));
        let weights = e.load_half(elem, e.at_elem(elem, panel, at));
        let norm = input.norm.map(|(weight, factors)| (e.load(weight, k), factors));
        for (r, row) in input.rows.iter().enumerate() {
            let mut x = e.load(*row, k);
            if let Some((weight, factors)) = norm {
                x = e.fmul(e.fmul(x, e.load(factors, e.int(r as u64))), weight);
            }
            for (sum, w) in sums[8 * r..].iter().zip(weights) {
                e.accumulate(*sum, x, w);
            }
        }
    };
    e.each(first, e.int(input.in_features), ROUND, multiply);
    // Lanes of equal half, then warps.
    let parts = e.shared(WARPS * input.rows.len() as u64 * PANEL);
    for (i, sum) in sums.iter().enumerate() {
        let sum = e.warp_sum(e.get_float(*sum), &[16, 8, 4, 2]);
        let (row, output) = (i as u64 / 8, i as u64 % 8);
        e.when(e.lt(lane, e.int(2)), |e| {
            let at = e.mul_const(warp, input.rows.len() as u64 * PANEL);
            let at = e.add(at, e.mul_const(half, 8));
            e.store(parts, e.add_const(at, (row * PANEL + output) as i64), sum.into());
        });
    }
    e.barrier();
    let (row, column) = e.div_rem(e.thread(), PANEL);
    let count = input.rows.len() as u64 * PANEL;
    // Threads beyond the results read the last one's parts.
    let mine = e.min(e.thread(), e.int(count - 1));
    let sum = (0..WARPS)
        .fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(parts, e.add_const(mine, (w * count) as i64))));
    (Place { row, column }, sum)
}

/// The input rows of this block's tile (rows past the end are the last one again), with their norm; and the
/// tile's first row.
pub fn input<'c>(
    e: &Emit<'c>,
    spec: &KernelSpec,
    in_features: u64,
    norm: Option<f64>,
) -> (Input<'c>, Int<'c>) {
    let last = e.add_const(row_count(e, spec), -1);
    let first = e.mul_const(e.block_y(), tile(spec));
    let rows: Vec<Ptr<'c>> =
        (0..tile(spec)).map(|i| e.row("x", e.min(e.add_const(first, i as i64), last))).collect();
    let norm = norm.map(|eps| (e.operand("norm"), inverse_rms(e, &rows, in_features, eps)));
    (Input { rows, norm, in_features }, first)
}

/// The address of a panel.
pub fn panel_at<'c>(e: &Emit<'c>, elem: Elem, matrix: Ptr<'c>, panel: Int<'c>, in_features: u64) -> Ptr<'c> {
    let at = e.mul_const(e.wide(panel), PANEL * in_features);
    e.at_elem(elem, matrix, at)
}

/// Whether this thread has a result, and the row it is for.
pub fn mine<'c>(e: &Emit<'c>, spec: &KernelSpec, first: Int<'c>, place: &Place<'c>) -> (Int<'c>, Int<'c>) {
    let row = e.add(first, place.row);
    let inside = e.and(e.lt(place.row, e.int(tile(spec))), e.lt(row, row_count(e, spec)));
    (inside, row)
}
