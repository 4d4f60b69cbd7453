//! Products of bf16 tiles on tensor cores, `y = W x`: for a few rows (bound by the bytes of W) and for many (bound by
//! the tensor cores). Rows that
//! lie in f32 are packed first, save the only one of [`M1`].

use super::feed::Feed;
use super::fp8_rows::fp8_rows;
use super::matrices::{Inputs, RawRows};
use super::pack_rows::{Packed, pack, packed_bytes};
use super::stored::Stored;
use crate::gpu::function::Kernel;
use crate::gpu::tile::TiledRows;
use crate::slices::MOST_RAW;

/// Products of one, of 8 and of 32 (or 16) rows per block by `small_m`, and of 128 by `wgmma`, in wide and in narrow tiles.
pub const M1: &str = "m1";
pub const M8: &str = "m8";
pub const M16: &str = "m16";
pub const M32: &str = "m32";
pub const WGMMA: &str = "wgmma";
pub const WGMMA128: &str = "wgmma128";
/// Products of many rows by strips, by `wgmma_strips`, and the rows of a tile.
pub const MANY_ROWS_OF_STRIPS: [(&str, u64); 3] =
    [("wgmma_rows64", 64), ("wgmma_rows128", 128), ("wgmma_rows256", 256)];

/// Those of them that multiply rows of e4m3 where an op says so.
pub const FP8_ROWS_VARIANTS: [&str; 2] = ["wgmma_rows128", "wgmma_rows256"];

/// The variants of `small_m`, and the rows that a block of each has.
const FEW_ROWS: [(&str, Feed); 3] = [(M1, Feed::Whole), (M8, Feed::Tiles(1)), (M32, Feed::Tiles(4))];

/// The same of strips, whose stages are four k tiles, so that fewer rows have room.
const FEW_ROWS_OF_STRIPS: [(&str, Feed); 3] =
    [(M1, Feed::Whole), (M8, Feed::Tiles(1)), (M16, Feed::Tiles(2))];

/// The variants of few rows of weights that lie so.
pub fn few_rows(stored: Stored) -> [(&'static str, Feed); 3] {
    match stored {
        Stored::Tiles => FEW_ROWS,
        Stored::Strips(_) => FEW_ROWS_OF_STRIPS,
    }
}

/// The rows of the operand `x`: where it lies in rows, behind a launch that packs them, with the weight of their norm in `norm`;
/// the variant of one row reads them as they lie, where it can. `large`: the product's variants of many rows, of tiles. `fp8`: whether
/// there are rows of e4m3 too.
pub fn pack_x(
    k: &mut Kernel<'_, '_>,
    in_features: u64,
    (norm, fp8): (Option<f64>, bool),
    (stored, large): (Stored, &[&str]),
) -> Inputs {
    let most = k.spec.max_rows;
    let raw = (!k.in_tiles("x") && in_features <= MOST_RAW).then_some(RawRows { norm });
    let few = few_rows(stored).map(|(variant, _)| variant);
    let of_strips = MANY_ROWS_OF_STRIPS.map(|(variant, _)| variant);
    let packing = [&few[1..], if stored == Stored::Tiles { large } else { &of_strips }].concat();
    let variants = if raw.is_some() { &packing[..] } else { &[] };
    let tiles = pack_x_of(k, in_features, norm, (variants, most));
    let fp8 = fp8.then(|| fp8_rows(k, in_features, tiles, &FP8_ROWS_VARIANTS));
    Inputs { tiles, raw, fp8 }
}

/// The same as a part of some variants, which take so many rows at most.
pub fn pack_x_of(
    k: &mut Kernel<'_, '_>,
    in_features: u64,
    norm: Option<f64>,
    (variants, most): (&[&str], u64),
) -> TiledRows {
    if k.in_tiles("x") {
        return TiledRows::Operand("x");
    }
    let to = TiledRows::Scratch(k.scratch(packed_bytes(most, in_features)));
    let norm = norm.map(|eps| (eps, "norm"));
    let grid = k.rows(1, 1);
    let rows = Packed { part: "_pack", grid, in_features, width: in_features, norm, to, variants };
    pack(k, &rows, &|e, row| {
        let from = e.mul_const(e.wide(row), e.stride("x"));
        (e.at(e.operand("x"), from), row, e.int(0))
    });
    to
}
