//! Rows as bf16 tiles, `[rows / 64][in_features / 64][64][64]`, normalised on the way where the op says so: what a product packs for
//! itself, and `RmsNorm` of whole rows where its result lies in tiles. Reference: `reference::pointwise::rmsnorm`.
//!
//! Weights in tiles lie alike, so that a k tile of either is copied to shared memory as it lies.

use hyc_plan::{Extent, TILE};

pub use hyc_plan::tensor::BLOCK_ROWS;

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr};
use crate::gpu::tile::{TILE_BYTES, TiledRows};

/// Threads that pack one row.
const PACKERS: u64 = 512;

pub fn k_tiles(in_features: u64) -> u64 {
    in_features.div_ceil(TILE)
}

/// Bytes of `rows` packed rows.
pub fn packed_bytes(rows: u64, in_features: u64) -> u64 {
    rows.next_multiple_of(BLOCK_ROWS) * k_tiles(in_features) * TILE * 2
}

/// A launch that packs rows.
pub struct Packed<'s> {
    /// Its name's end.
    pub part: &'s str,
    /// Rows.
    pub grid: Extent,
    /// Elements of a row.
    pub in_features: u64,
    /// RMSNorm on the way: its eps, and the operand of its weight.
    pub norm: Option<(f64, &'static str)>,
    pub to: TiledRows,
    /// The variants that it is a part of; empty: all.
    pub variants: &'s [&'s str],
}

/// Writes rows as bf16 tiles `[rows/64][in_features/64][64][64]`. `source` gives a row's f32 and the row that it becomes.
pub fn pack<'c>(
    k: &mut Kernel<'c, '_>,
    p: &Packed<'_>,
    source: &dyn Fn(&Emit<'c>, Int<'c>) -> (Ptr<'c>, Int<'c>),
) {
    let Packed { in_features, norm, to, .. } = *p;
    let chunks = k_tiles(in_features) * 8;
    let grid = [p.grid, Extent::fixed(1)];
    k.function(Function::new(p.part, grid, PACKERS).of(p.variants).waits_itself(), |e| {
        // A thread's eight elements of each round; the last round's are the row's last again where there are no more.
        let places: Vec<Int<'c>> = (0..chunks.div_ceil(PACKERS))
            .map(|round| e.min(e.add_const(e.thread(), (round * PACKERS) as i64), e.int(chunks - 1)))
            .collect();
        let weights: Vec<Vec<Float<'c>>> = match norm {
            Some((_, weight)) => {
                places.iter().map(|chunk| eight(e, e.operand(weight), *chunk, in_features)).collect()
            }
            None => vec![],
        };
        e.wait_for_inputs();
        let (x, row) = source(e, e.block_x());
        let mut values: Vec<Vec<Float<'c>>> =
            places.iter().map(|chunk| eight(e, x, *chunk, in_features)).collect();
        if let Some((eps, _)) = norm {
            let scale = inverse_rms(e, &values, chunks, in_features, eps);
            for (values, weights) in values.iter_mut().zip(&weights) {
                for (value, weight) in values.iter_mut().zip(weights) {
                    *value = e.fmul(e.fmul(*value, scale), *weight);
                }
            }
        }
        for (chunk, values) in places.iter().zip(&values) {
            store_piece(e, (to, row), *chunk, in_features, values);
        }
    });
}

/// `RmsNorm` of whole rows into tiles.
pub fn rmsnorm(k: &mut Kernel<'_, '_>, width: u64, eps: f64) {
    let (norm, to) = (Some((eps, "weight")), TiledRows::Operand("out"));
    let rows = Packed { part: "", grid: k.rows(1, 1), in_features: width, norm, to, variants: &[] };
    pack(k, &rows, &|e, row| (e.at(e.operand("x"), e.mul_const(e.wide(row), e.stride("x"))), row));
}

/// Stores elements `8 * chunk ..` of row `row` of `to`.
pub fn store_piece<'c>(
    e: &Emit<'c>,
    (to, row): (TiledRows, Int<'c>),
    chunk: Int<'c>,
    in_features: u64,
    values: &[Float<'c>],
) {
    let words: Vec<Int<'c>> = values.chunks(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect();
    e.store_words(to.piece(e, row, chunk, in_features), e.int(0), &words);
}

/// Elements `8 * chunk ..` of a row of `in_features`, 0 beyond its end.
pub fn eight<'c>(e: &Emit<'c>, x: Ptr<'c>, chunk: Int<'c>, in_features: u64) -> Vec<Float<'c>> {
    let first = e.mul_const(chunk, 8);
    if in_features % TILE == 0 {
        let words = [e.load4(x, first), e.load4(x, e.add_const(first, 4))].concat();
        return words.into_iter().map(|word| e.widen(word)).collect();
    }
    let one = |i| {
        let at = e.add_const(first, i);
        let value = e.load(x, e.min(at, e.int(in_features - 1)));
        e.pick_float(e.lt(at, e.int(in_features)), value, e.float(0.0))
    };
    (0..8).map(one).collect()
}

/// 1 / sqrt(mean(x^2) + eps) of a row, of which a block of [`PACKERS`] has the chunks in rounds.
fn inverse_rms<'c>(
    e: &Emit<'c>,
    values: &[Vec<Float<'c>>],
    chunks: u64,
    in_features: u64,
    eps: f64,
) -> Float<'c> {
    let zero = e.float(0.0);
    let sum = values.iter().zip(0u64..).fold(zero, |sum, (values, round)| {
        let own = values.iter().fold(zero, |sum, x| e.fma(*x, *x, sum));
        let chunk = e.add_const(e.thread(), (round * PACKERS) as i64);
        e.fadd(sum, e.pick_float(e.lt(chunk, e.int(chunks)), own, zero))
    });
    let partial = e.shared(PACKERS / 32);
    let (warp, lane) = e.div_rem(e.thread(), 32);
    let mine = e.warp_sum(sum, &LANES);
    e.when(e.eq(lane, e.int(0)), |e| e.store(partial, warp, mine.into()));
    e.barrier();
    let all = (0..PACKERS / 32).fold(zero, |sum, w| e.fadd(sum, e.load(partial, e.int(w))));
    e.inverse_sqrt(e.fadd(e.fdiv(all, e.float(in_features as f32)), e.float(eps as f32)))
}

/// Byte offset (i64) of block `block` of 16 outputs in a matrix of tiles.
pub fn strip_offset<'c>(e: &Emit<'c>, block: Int<'c>, in_features: u64) -> Int<'c> {
    let (tile, quarter) = e.div_rem(block, 4);
    e.add(e.mul_const(e.wide(tile), k_tiles(in_features) * TILE_BYTES), e.wide(e.mul_const(quarter, 2048)))
}
