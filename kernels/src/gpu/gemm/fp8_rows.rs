//! Rows of e4m3, a scale each, as products of many rows by strips of fp8 multiply them.
//!
//! ```text
//! tile       64 rows by 128 inputs, a byte each, rows of 128 swizzled bytes: as wide in bytes as a tile of bf16
//! a row      byte 32 j + 16 h + 4 t + b of a tile: of its inputs 32 j ..., of their piece t of eight, element 4 h + [0, 2, 1, 3][b]
//! scales     f32, one a row
//! ```
//! So words 2 s and 2 s + 1 of a lane's chunk of a tile's i-th 64 inputs ([`Half`](hyc_plan::pack::Half)) are its left operand of step
//! j = 2 i + s as they lie: any order of inputs is as good as another where both operands have it. Codes and scales are those of
//! `Codec::encode`; of a row with an infinity or a NaN the scale is NaN. Block: a row. Reference: `reference::linear::in_e4m3`.

use hyc_plan::{Extent, TILE};

use super::pack_rows::k_tiles;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::tile::{Swizzle, TILE_BYTES, TiledRows, tile_row};

/// Inputs of a tile.
pub const FP8_TILE: u64 = 2 * TILE;
/// Inputs of a thread: those of a step of a product.
const UNIT: u64 = 32;
const MOST_THREADS: u64 = 512;
/// Rows that the last tile of a product may look up.
const PADDED: u64 = 256;
/// The largest e4m3.
const MOST: f32 = 448.0;

/// Where they are in scratch, in 4-byte elements.
#[derive(Clone, Copy)]
pub struct Fp8Rows {
    tiles: u64,
    scales: u64,
}

impl Fp8Rows {
    /// The address of a row in the first of its tiles.
    pub fn row<'c>(self, e: &Emit<'c>, row: Int<'c>, in_features: u64) -> Ptr<'c> {
        let tiles = e.at(e.scratch(), e.int(self.tiles));
        tile_row(e, tiles, row, in_features.div_ceil(FP8_TILE) * TILE)
    }

    /// The scales of two rows, from an even one on.
    pub fn scales<'c>(self, e: &Emit<'c>, row: Int<'c>) -> [Float<'c>; 2] {
        let at = e.at(e.at(e.scratch(), e.int(self.scales)), row);
        e.load2(at).map(|word| e.widen(word))
    }
}

/// Adds the launch that makes them of rows of bf16, as a part of some variants.
pub fn fp8_rows(k: &mut Kernel<'_, '_>, in_features: u64, from: TiledRows, variants: &[&str]) -> Fp8Rows {
    let rows = k.spec.max_rows.next_multiple_of(PADDED);
    let units = in_features.div_ceil(FP8_TILE) * FP8_TILE / UNIT;
    let to = Fp8Rows { tiles: k.scratch(rows * units * UNIT), scales: k.scratch(4 * rows) };
    let threads = units.next_multiple_of(WARP).min(MOST_THREADS);
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("_fp8_rows", grid, threads).of(variants), |e| {
        let row = e.block_x();
        // The last round's units are the row's last again where there are no more.
        let unit = |round: u64| {
            let unit = e.add_const(e.thread(), (round * threads) as i64);
            e.min(unit, e.int(units - 1))
        };
        let own: Vec<Unit<'_>> = (0..units.div_ceil(threads))
            .map(|round| Unit::read(e, unit(round), (from, row, in_features)))
            .collect();
        let scale = scale(e, &own, threads);
        let scaled = e.above(scale, e.float(0.0));
        for unit in &own {
            for (half, words) in unit.codes(e, scale, scaled).iter().enumerate() {
                let (tile, step) = e.div_rem(unit.number, FP8_TILE / UNIT);
                let place = e.and(row, e.int(TILE - 1));
                let piece = Swizzle::piece(e, place, e.add_const(e.mul_const(step, 2), half as i64));
                let at = e.add(e.mul_const(tile, TILE_BYTES), e.mul_const(piece, 16));
                e.store_words(e.byte_offset(to.row(e, row, in_features), e.wide(at)), e.int(0), words);
            }
        }
        let first = e.eq(e.thread(), e.int(0));
        e.when(first, |e| e.store(e.at(e.scratch(), e.int(to.scales)), row, scale.into()));
    });
    to
}

/// The inputs of a thread: four pieces of eight, in bf16.
struct Unit<'c> {
    number: Int<'c>,
    pieces: [[Int<'c>; 4]; 4],
}

impl<'c> Unit<'c> {
    fn read(e: &Emit<'c>, number: Int<'c>, (from, row, in_features): (TiledRows, Int<'c>, u64)) -> Unit<'c> {
        let all = k_tiles(in_features) * (TILE / UNIT);
        // Half of the last tile may be none of the row's.
        let there = e.lt(number, e.int(all));
        let pieces = std::array::from_fn(|t| {
            let first = e.mul_const(e.min(number, e.int(all - 1)), 4);
            let piece = from.piece(e, row, e.add_const(first, t as i64), in_features);
            e.load4(piece, e.int(0)).map(|word| e.pick(there, word, e.int(0)))
        });
        Unit { number, pieces }
    }

    /// The largest magnitude, in both halves of a word as bf16 has it.
    fn most(&self, e: &Emit<'c>) -> Int<'c> {
        self.pieces
            .as_flattened()
            .iter()
            .fold(e.int(0), |most, word| e.max_halves(most, e.and(*word, e.int(0x7fff_7fff))))
    }

    /// Two pieces of codes; zeros where the scale is none.
    fn codes(&self, e: &Emit<'c>, scale: Float<'c>, scaled: Int<'c>) -> [[Int<'c>; 4]; 2] {
        let code = |word: Int<'c>| {
            [e.shift_left(word, 16), e.and(word, e.int(0xffff_0000))].map(|bits| e.fdiv(e.widen(bits), scale))
        };
        [0, 2].map(|first: usize| {
            self.pieces.map(|piece| {
                let ([a, b], [c, d]) = (code(piece[first]), code(piece[first + 1]));
                e.pick(scaled, e.e4m3_four([a, c, b, d]), e.int(0))
            })
        })
    }
}

/// The scale of a row, of which each thread has some units: that of its largest magnitude, or NaN where a number is not finite.
fn scale<'c>(e: &Emit<'c>, own: &[Unit<'c>], threads: u64) -> Float<'c> {
    let halves = own.iter().fold(e.int(0), |most, unit| e.max_halves(most, unit.most(e)));
    let most = e.max_unsigned(e.and(halves, e.int(0xffff)), e.shift_right_unsigned(halves, e.int(16)));
    let partial = e.shared(threads / WARP);
    let (warp, lane) = e.div_rem(e.thread(), WARP);
    let mine = e.warp_max_unsigned(most);
    e.when(e.eq(lane, e.int(0)), |e| e.store(partial, warp, mine.into()));
    e.barrier();
    let most =
        (0..threads / WARP).fold(e.int(0), |most, w| e.max_unsigned(most, e.load_int(partial, e.int(w))));
    let scale = e.fdiv(e.widen(e.shift_left(most, 16)), e.float(MOST));
    e.pick_float(e.lt(most, e.int(0x7f80)), scale, e.float(f32::NAN))
}
