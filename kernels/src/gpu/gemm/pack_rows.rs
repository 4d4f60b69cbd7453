//! Rows as bf16 tiles, `[rows / 64][in_features / 64][64][64]`, normalised on the way where the op says so: what a product packs for
//! itself, and `RmsNorm` of whole rows where its result lies in tiles. Reference: `reference::pointwise::rmsnorm`.
//!
//! Weights in tiles lie alike, so that a k tile of either is copied to shared memory as it lies.

use hyc_plan::{Extent, TILE};

pub use hyc_plan::tensor::BLOCK_ROWS;

use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Chunk, Emit, Float, Int, LANES, Ptr};
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
    /// Elements of a row, and of what it becomes a part of: itself, or several side by side.
    pub in_features: u64,
    pub width: u64,
    /// RMSNorm on the way: its eps, and the operand of its weight.
    pub norm: Option<(f64, &'static str)>,
    pub to: TiledRows,
    /// The variants that it is a part of; empty: all.
    pub variants: &'s [&'s str],
}

/// Writes rows as bf16 tiles `[rows/64][width/64][64][64]`. `source` gives a row's f32, the row that it becomes, and from which piece of
/// eight on.
pub fn pack<'c>(
    k: &mut Kernel<'c, '_>,
    p: &Packed<'_>,
    source: &dyn Fn(&Emit<'c>, Int<'c>) -> (Ptr<'c>, Int<'c>, Int<'c>),
) {
    let Packed { in_features, width, norm, to, .. } = *p;
    let grid = [p.grid, Extent::fixed(1)];
    k.function(Function::new(p.part, grid, PACKERS).of(p.variants).waits_itself(), |e| {
        let pieces = RowPieces::new(e, in_features, PACKERS, norm);
        e.wait_for_inputs();
        let (x, row, first) = source(e, e.block_x());
        for (chunk, words) in pieces.read(e, x) {
            e.store_words(to.piece(e, row, e.add(first, chunk), width), e.int(0), &words);
        }
    });
}

/// A row of f32 as a block of threads reads it: which eight elements a thread has in each round (the last round's are the row's
/// last again where there are no more), and what they are multiplied by.
pub struct RowPieces<'c> {
    in_features: u64,
    threads: u64,
    places: Vec<Int<'c>>,
    /// eps of the row's RMSNorm, and its weight of the same elements.
    norm: Option<(f64, Vec<Vec<Float<'c>>>)>,
}

impl<'c> RowPieces<'c> {
    /// Loads the weight of the norm, an operand.
    pub fn new(e: &Emit<'c>, in_features: u64, threads: u64, norm: Option<(f64, &'static str)>) -> Self {
        let chunks = k_tiles(in_features) * 8;
        let places = places(e, chunks, (e.thread(), threads));
        let weight =
            |name| places.iter().map(|chunk| eight(e, e.operand(name), *chunk, in_features)).collect();
        let norm = norm.map(|(eps, name)| (eps, weight(name)));
        RowPieces { in_features, threads, places, norm }
    }

    /// Reads the row at `x`: pieces of eight, normalised and rounded to bf16. All threads of the block must come here.
    pub fn read(&self, e: &Emit<'c>, x: Ptr<'c>) -> Vec<(Int<'c>, Vec<Int<'c>>)> {
        let mut values: Vec<Vec<Float<'c>>> =
            self.places.iter().map(|chunk| eight(e, x, *chunk, self.in_features)).collect();
        if let Some((eps, weights)) = &self.norm {
            let scale = self.inverse_rms(e, &values, *eps);
            for (values, weights) in values.iter_mut().zip(weights) {
                for (value, weight) in values.iter_mut().zip(weights) {
                    *value = e.fmul(e.fmul(*value, scale), *weight);
                }
            }
        }
        let words =
            |values: &Vec<Float<'c>>| values.chunks(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect();
        self.places.iter().copied().zip(values.iter().map(words)).collect()
    }

    /// 1 / sqrt(mean(x^2) + eps) of the row.
    fn inverse_rms(&self, e: &Emit<'c>, values: &[Vec<Float<'c>>], eps: f64) -> Float<'c> {
        let (zero, chunks) = (e.float(0.0), k_tiles(self.in_features) * 8);
        let sum = values.iter().zip(0u64..).fold(zero, |sum, (values, round)| {
            let own = values.iter().fold(zero, |sum, x| e.fma(*x, *x, sum));
            let chunk = e.add_const(e.thread(), (round * self.threads) as i64);
            e.fadd(sum, e.pick_float(e.lt(chunk, e.int(chunks)), own, zero))
        });
        let warps = self.threads / 32;
        let partial = e.shared(warps);
        let (warp, lane) = e.div_rem(e.thread(), 32);
        let mine = e.warp_sum(sum, &LANES);
        e.when(e.eq(lane, e.int(0)), |e| e.store(partial, warp, mine.into()));
        e.barrier();
        let all = (0..warps).fold(zero, |sum, w| e.fadd(sum, e.load(partial, e.int(w))));
        e.inverse_sqrt(e.fadd(e.fdiv(all, e.float(self.in_features as f32)), e.float(eps as f32)))
    }
}

/// Which of so many pieces a thread has in each round of all; the last one again where there are no more.
fn places<'c>(e: &Emit<'c>, pieces: u64, (thread, threads): (Int<'c>, u64)) -> Vec<Int<'c>> {
    let place = |round| e.min(e.add_const(thread, (round * threads) as i64), e.int(pieces - 1));
    (0..pieces.div_ceil(threads)).map(place).collect()
}

/// This thread's pieces of the row at `from` as they lie, with their numbers ([`places`]).
pub fn read_row<'c>(
    e: &Emit<'c>,
    from: Ptr<'c>,
    tiles: u64,
    (thread, threads): (Int<'c>, u64),
) -> Vec<(Int<'c>, Chunk<'c>)> {
    let places = places(e, 8 * tiles, (thread, threads));
    let words: Vec<Chunk<'c>> = places
        .iter()
        .map(|place| {
            let (tile, piece) = e.div_rem(*place, 8);
            let at = e.add(e.mul_const(tile, TILE_BYTES / 4), e.mul_const(piece, 4));
            e.load4(from, at)
        })
        .collect();
    places.into_iter().zip(words).collect()
}

/// `RmsNorm` of whole rows into tiles.
pub fn rmsnorm(k: &mut Kernel<'_, '_>, width: u64, eps: f64) {
    let (norm, to) = (Some((eps, "weight")), TiledRows::Operand("out"));
    let rows = Packed { part: "", grid: k.rows(1, 1), in_features: width, width, norm, to, variants: &[] };
    pack(k, &rows, &|e, row| (e.at(e.operand("x"), e.mul_const(e.wide(row), e.stride("x"))), row, e.int(0)));
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

/// Byte offset (i64) of block `block` of 16 outputs in a matrix of tiles.
pub fn strip_offset<'c>(e: &Emit<'c>, block: Int<'c>, in_features: u64) -> Int<'c> {
    let (tile, quarter) = e.div_rem(block, 4);
    e.add(e.mul_const(e.wide(tile), k_tiles(in_features) * TILE_BYTES), e.wide(e.mul_const(quarter, 2048)))
}
