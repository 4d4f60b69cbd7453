//! The products of many rows with the experts that each has chosen: tiles of `wgmma`, 128 pairs of one expert by 256
//! outputs; of strips 64 pairs by 256 outputs, or 128 or 192 by 128.
//!
//! ```text
//! order: down the tiles of an expert, then along its outputs, then the next expert: a weight is read once from memory
//!        of strips along the outputs first: what is read again is small, and both tiles of a pair share rows
//! ```
//! Floors: bytes of the experts that were chosen, where each has few pairs; operations of whole 64s of pairs, where it has
//! many.

use hyc_plan::TILE;

use super::dispatch::{Dispatch, GROUPED};
use crate::gpu::function::Kernel;
use crate::gpu::gemm::choice::Choice;
use crate::gpu::gemm::epilogue::{Columns, Line, Values, lanes_rows, write};
use crate::gpu::gemm::large_m::{store_tiles, value};
use crate::gpu::gemm::matrices::Section;
use crate::gpu::gemm::pack_rows::BLOCK_ROWS;
use crate::gpu::gemm::stored::Stored;
use crate::gpu::gemm::wgmma::{Finish, Job, Tile, WIDE, wgmma};
use crate::gpu::gemm::wgmma_strips::{self, MANY_WARPS, ManyRows, WARPS, wgmma_strips};
use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::tile::TiledRows;

/// Pairs of a tile: of strips those of an expert where all have equally many, at most.
pub fn tile_pairs(k: &Kernel<'_, '_>, stored: Stored, choice: Choice) -> u64 {
    if stored == Stored::Tiles {
        return BLOCK_ROWS;
    }
    // Some have more than others: where that would make a second tile of many, tiles are wider.
    match k.spec.max_rows * choice.active * 8 / 7 / choice.experts.max(1) {
        0..=64 => 64,
        65..=128 => 128,
        // Of 256 there are too few registers for a loop for each number of rows.
        _ => 192,
    }
}

/// Most rows that there is scratch for in [`BY_ROW`](super::dispatch::BY_ROW).
pub const BY_ROW_ROWS: u64 = 16;

/// The products of each expert's pairs.
pub struct Grouped {
    pub in_features: u64,
    pub out: u64,
    /// The operand of the weights, and that of the second ones where the results are `silu(weight x) * (up x)`.
    pub weight: &'static str,
    pub up: Option<&'static str>,
    /// The pairs' inputs.
    pub sorted: TiledRows,
    /// How weights lie.
    pub stored: Stored,
    /// Whether all results of a pair begin at a multiple of 16 bytes.
    pub aligned: bool,
}

/// Where a pair's results go.
pub enum To<'a, 'c> {
    /// To f32 from an address on.
    Rows(&'a dyn Fn(&Emit<'c>, Int<'c>) -> Ptr<'c>),
    /// To tiles of rows of so many columns: the row, and its first column.
    Tiles(TiledRows, u64, &'a dyn Fn(&Emit<'c>, Int<'c>) -> (Int<'c>, Int<'c>)),
}

/// Adds the function.
pub fn grouped<'c>(k: &mut Kernel<'c, '_>, d: &Dispatch, g: &Grouped, to: &To<'_, 'c>) {
    let Grouped { in_features, out, stored, .. } = *g;
    let two = g.up.is_some();
    let warps = if d.tile == TILE { MANY_WARPS } else { WARPS };
    let each = match stored {
        Stored::Strips(_) => wgmma_strips::outputs(two, warps),
        Stored::Tiles if two => WIDE / 2,
        Stored::Tiles => WIDE,
    };
    let outputs = out.div_ceil(each);
    let tile = |e: &Emit<'c>, index: Int<'c>| {
        // An expert of n tiles has n times `outputs` indices, so that each of its own finds one of its entries.
        let entry = d.entry(e, e.div_rem(index, outputs).0);
        let inside = e.sub(index, e.mul_const(entry.first, outputs));
        let (row, block) = if stored == Stored::Tiles {
            let tiles = e.div_rem(e.add_const(entry.pairs, d.tile as i64 - 1), d.tile).0;
            let block = e.quotient(inside, tiles);
            (e.sub(inside, e.mul(block, tiles)), block)
        } else {
            e.div_rem(inside, outputs)
        };
        let row = e.mul_const(row, d.tile);
        let weight = |name| d.choice.matrix(e, (name, stored), entry.expert, (out, in_features));
        Tile {
            section: Section {
                number: e.int(0),
                matrix: weight(g.weight),
                out: e.int(out),
                column: e.int(0),
                block,
            },
            up: g.up.map(weight),
            outputs: e.add(e.mul_const(entry.expert, outputs), block),
            row,
            rows: entry.pairs,
            place: entry.place,
        }
    };
    // Whether an expert has so many pairs, and the one of a row.
    let pair = |e: &Emit<'c>, tile: &Tile<'c>, row: Int<'c>| {
        let inside = e.lt(row, tile.rows);
        let place = e.add(tile.place, e.min(row, e.add_const(tile.rows, -1)));
        let pairs = e.at(e.scratch(), e.int(d.pair));
        (inside, e.load_int(pairs, e.pick(inside, place, e.int(0))))
    };
    let count = |e: &Emit<'c>| e.mul_const(d.count(e), outputs);
    if let Stored::Strips(codec) = stored {
        let begin = |_: &Emit<'c>, _: Tile<'c>, first: Int<'c>| -> wgmma_strips::Finish<'_, 'c> {
            Box::new(move |e, sums| match to {
                To::Rows(to) => sums.write_rows(e, g.aligned, &|e, row| {
                    let (inside, pair) = (sums.has(e, row), sums.listed(e, row));
                    Line { inside, to: e.at(to(e, pair), first), plus: None }
                }),
                To::Tiles(rows, width, place) => sums.write_tiles(e, (*rows, *width), &|e, row| {
                    let (inside, (row, column)) = (sums.has(e, row), place(e, sums.listed(e, row)));
                    (inside, row, e.add(column, first))
                }),
            })
        };
        let (rows, width, count) = (ManyRows::ByLanes(g.sorted), d.tile, &count);
        let job = wgmma_strips::Job {
            in_features,
            rows,
            width,
            list: Some(&|e| e.at(e.scratch(), e.int(d.pair))),
            codec,
            count,
            tile: &tile,
            two,
            turns: None,
            begin: &begin,
            warps,
        };
        return wgmma_strips(k, "_grouped", &[GROUPED], &job);
    }
    let begin = |e: &Emit<'c>, tile: Tile<'c>, row: Int<'c>, staging: Ptr<'c>| -> Finish<'_, 'c> {
        let first = e.mul_const(tile.section.block, each);
        let left = e.sub(e.int(out), first);
        let to = match to {
            To::Rows(to) => to,
            To::Tiles(rows, width, place) => {
                let targets = [0, 8].map(|half| {
                    let (inside, pair) = pair(e, &tile, e.add_const(e.add(row, e.lane_pair().0), half));
                    let (row, column) = place(e, pair);
                    (inside, row, e.add(column, first))
                });
                return Box::new(move |e, sums| store_tiles(e, (*rows, *width, left), &targets, two, sums));
            }
        };
        let lines = lanes_rows(e).map(|r| {
            let (inside, pair) = pair(e, &tile, e.add(row, r));
            Line { inside, to: e.at(to(e, pair), first), plus: None }
        });
        Box::new(move |e, sums| {
            let whole = out.is_multiple_of(each);
            let columns = Columns { count: each, left, whole, aligned: g.aligned };
            let values = Values { ready: sums.ready, get: &|e, i| value(e, sums.of, i, two) };
            write(e, staging, &columns, &values, &lines);
        })
    };
    wgmma(
        k,
        "_grouped",
        &[GROUPED],
        &Job {
            in_features,
            rows: g.sorted,
            width: WIDE,
            half_tiles: true,
            count: &count,
            tile: &tile,
            begin: &begin,
        },
    );
}
