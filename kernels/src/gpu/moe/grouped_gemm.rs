//! The products of many rows with the experts that each has chosen.
//!
//! ```text
//! dispatch   one block: pairs (row, choice) sorted by expert, each expert's padded to 64
//! pack       the pairs' inputs as bf16 tiles, in that order
//! grouped    wgmma: 64 pairs of one expert by 256 outputs an item, items in turn over the chip
//! ```
//! Where a pair stands among its expert's does not change its result.

use hyc_plan::{Extent, TILE};

use super::router::chosen;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::gemm::pack_rows::{Packed, k_tiles, pack, packed_bytes};
use crate::gpu::gemm::wgmma::{BLOCK_OUT, STAGES};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::TILE_BYTES;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::work_item::row_count;

/// Most rows that there is scratch for in [`BY_ROW`].
pub const BY_ROW_ROWS: u64 = 16;
/// Each row's chosen experts by themselves, or all rows of an expert together.
pub const BY_ROW: &str = "by_row";
pub const GROUPED: &str = "grouped";
/// Threads that sort.
const SORTERS: u64 = 1024;

/// What the functions for many rows share: offsets in scratch, in 4-byte elements.
#[derive(Clone, Copy)]
pub struct Dispatch {
    active: u64,
    /// `[0]`: tiles of 64 pairs in all. From `[1]` on: the expert of each.
    tiles: u64,
    /// `[pair]`: where it stands.
    place: u64,
    /// `[place]`: the pair, or -1.
    pair: u64,
    /// Places in all.
    most: u64,
}

/// Takes one result: (pair, output, value).
type Store<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>);

/// The tiles of one expert's matrix in a weight.
pub fn matrix<'c>(e: &Emit<'c>, name: &str, expert: Int<'c>, out: u64, in_features: u64) -> Ptr<'c> {
    let bytes = out.div_ceil(TILE) * k_tiles(in_features) * TILE_BYTES;
    e.byte_offset(e.operand(name), e.mul_const(e.wide(expert), bytes))
}

/// Adds the function that sorts the pairs by expert.
pub fn dispatch(k: &mut Kernel<'_, '_>, experts: u64, active: u64) -> Dispatch {
    let spec = k.spec;
    let pairs = spec.max_rows * active;
    // Every expert may waste all but one place of a tile.
    let most = (pairs + experts.min(pairs) * (TILE - 1)).next_multiple_of(TILE);
    let d = Dispatch {
        active,
        tiles: k.scratch(4 * (1 + most / TILE)),
        place: k.scratch(4 * pairs),
        pair: k.scratch(4 * most),
        most,
    };
    let grid = [Extent::fixed(1), Extent::fixed(1)];
    k.function(Function::new("_dispatch", grid, SORTERS).of(&[GROUPED]), |e| {
        let at = |offset: u64| e.at(e.scratch(), e.int(offset));
        let (tiles, places, owners) = (at(d.tiles), at(d.place), at(d.pair));
        let (counts, next) = (e.shared(experts), e.shared(experts));
        let pairs = e.mul_const(row_count(e, spec), active);
        e.each(e.thread(), e.int(experts), SORTERS, |e, i| e.store(counts, i, e.int(0).into()));
        e.each(e.thread(), e.int(d.most), SORTERS, |e, i| e.store(owners, i, e.minus_one().into()));
        e.barrier();
        e.each(e.thread(), pairs, SORTERS, |e, pair| {
            let (row, slot) = e.div_rem(pair, active);
            let expert = chosen(e, row, slot);
            e.fetch_add_one(counts, expert);
        });
        e.barrier();
        // Experts are few: one thread lays out their tiles.
        e.when(e.eq(e.thread(), e.int(0)), |e| {
            let all = e.var(e.int(0).into());
            e.each(e.int(0), e.int(experts), 1, |e, expert| {
                let begin = e.get(all).into_int_value();
                e.store(next, expert, e.mul_const(begin, TILE).into());
                let count = e.div_rem(e.add_const(e.load_int(counts, expert), TILE as i64 - 1), TILE).0;
                e.each(e.int(0), count, 1, |e, i| {
                    e.store(tiles, e.add_const(e.add(begin, i), 1), expert.into());
                });
                e.set(all, e.add(begin, count).into());
            });
            e.store(tiles, e.int(0), e.get(all));
        });
        e.barrier();
        e.each(e.thread(), pairs, SORTERS, |e, pair| {
            let (row, slot) = e.div_rem(pair, active);
            let expert = chosen(e, row, slot);
            let place = e.fetch_add_one(next, expert);
            e.store(places, pair, place.into());
            e.store(owners, place, pair.into());
        });
    });
    d
}

/// Adds the function that packs the pairs' inputs in their order; `source` gives the offset of (row, choice) in the
/// operand `from`. Returns where they are in scratch.
pub fn gather<'c>(
    k: &mut Kernel<'c, '_>,
    d: &Dispatch,
    from: &str,
    in_features: u64,
    source: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>) -> Int<'c>,
) -> u64 {
    let to = k.scratch(packed_bytes(d.most, in_features));
    let rows = Packed {
        part: "_gather",
        grid: k.rows(d.active, 1),
        in_features,
        norm: None,
        to,
        variants: &[GROUPED],
    };
    pack(k, &rows, &|e, pair| {
        let (row, slot) = e.div_rem(pair, d.active);
        let place = e.load_int(e.at(e.scratch(), e.int(d.place)), pair);
        (e.at(e.operand(from), source(e, row, slot)), place)
    });
    to
}

/// Adds the products of each expert's pairs with its matrix in `weight`, or `silu(weight x) * (up x)`.
pub fn grouped<'c>(
    k: &mut Kernel<'c, '_>,
    d: &Dispatch,
    (in_features, out): (u64, u64),
    (weight, up): (&'static str, Option<&'static str>),
    sorted_at: u64,
    store: Store<'_, 'c>,
) {
    let tiles = k_tiles(in_features);
    // Each warp group has 128 columns of B: with two weights, 64 outputs of each.
    let each = if up.is_some() { BLOCK_OUT / 2 } else { BLOCK_OUT };
    let columns = out.div_ceil(each);
    let stage_bytes = TILE_BYTES * (1 + BLOCK_OUT / TILE);
    let shared = STAGES * stage_bytes + SHARED_SLACK;
    let multiprocessors = k.multiprocessors;
    let grid = [Extent::fixed(multiprocessors), Extent::fixed(1)];
    k.function(Function::new("_grouped", grid, 2 * 128 + 32).of(&[GROUPED]).shared_bytes(shared), |e| {
        let memory = e.shared_address(e.dynamic_shared());
        let ring = Ring::new(e, STAGES, 2);
        let group = e.div_rem(e.thread(), 128).0;
        let list = e.at(e.scratch(), e.int(d.tiles));
        let items = e.mul_const(e.load_int(list, e.int(0)), columns);
        let item = |e: &Emit<'c>, index: Int<'c>| {
            let (tile, column) = e.div_rem(index, columns);
            (tile, column, e.load_int(list, e.add_const(tile, 1)))
        };
        e.when(e.eq(e.thread(), e.int(256)), |e| {
            e.each(e.block_x(), items, multiprocessors, |e, index| {
                let (tile, column, expert) = item(e, index);
                let rows = e.at(e.scratch(), e.int(sorted_at));
                let rows = e.byte_offset(rows, e.mul_const(e.wide(tile), tiles * TILE_BYTES));
                let places: Vec<Ptr<'c>> = (0..BLOCK_OUT / TILE)
                    .map(|i| {
                        let (from, i) = match up {
                            Some(up) => (if i % 2 == 0 { weight } else { up }, i / 2),
                            None => (weight, i),
                        };
                        let row = e.add_const(e.mul_const(column, each / TILE), i as i64);
                        let row = e.min(row, e.int(out.div_ceil(TILE) - 1));
                        let matrix = matrix(e, from, expert, out, in_features);
                        e.byte_offset(matrix, e.mul_const(e.wide(row), tiles * TILE_BYTES))
                    })
                    .collect();
                e.each(e.int(0), e.int(tiles), 1, |e, k| {
                    let at = e.mul_const(e.wide(k), TILE_BYTES);
                    ring.produce(e, stage_bytes, |e, stage, full| {
                        let to = e.add(memory, e.mul_const(stage, stage_bytes));
                        e.bulk_copy(to, e.byte_offset(rows, at), TILE_BYTES, full);
                        for (i, from) in places.iter().enumerate() {
                            let to = e.add_const(to, ((1 + i as u64) * TILE_BYTES) as i64);
                            e.bulk_copy(to, e.byte_offset(*from, at), TILE_BYTES, full);
                        }
                    });
                });
            });
        });
        e.when(e.lt(group, e.int(2)), |e| {
            let leader = e.eq(e.and(e.thread(), e.int(127)), e.int(0));
            let steps: Vec<(u64, u64)> = (0..4).map(|i| (32 * i, 32 * i)).collect();
            let (g, t) = e.lane_pair();
            let warp = e.and(e.div_rem(e.thread(), 32).0, e.int(3));
            e.each(e.block_x(), items, multiprocessors, |e, index| {
                let (tile, column, _) = item(e, index);
                let sums: Vec<Var<'c>> = (0..BLOCK_OUT / 4).map(|_| e.float_var(0.0)).collect();
                e.each(e.int(0), e.int(tiles), 1, |e, _| {
                    let stage = ring.full(e);
                    let base = e.add(memory, e.mul_const(stage, stage_bytes));
                    let b = e.add(e.add_const(base, TILE_BYTES as i64), e.mul_const(group, 2 * TILE_BYTES));
                    e.wgmma(&sums, e.descriptor(base), e.descriptor(b), &steps, true);
                    ring.release(e, leader);
                });
                let own = BLOCK_OUT / 2 / if up.is_some() { 2 } else { 1 };
                let first = e.add(e.mul_const(column, each), e.mul_const(group, own));
                for half in 0..2 {
                    let row = e.add_const(e.add(e.mul_const(warp, 16), g), 8 * half as i64);
                    let place = e.add(e.mul_const(tile, TILE), row);
                    let pair = e.load_int(e.at(e.scratch(), e.int(d.pair)), place);
                    e.when(e.ge(pair, e.int(0)), |e| {
                        for (j, i) in (0..own as usize / 8).flat_map(|j| [(j, 0), (j, 1)]) {
                            let at = 4 * j + 2 * half + i;
                            let output = e.add(first, e.add_const(e.mul_const(t, 2), (8 * j + i) as i64));
                            let value = match up {
                                Some(_) => {
                                    let up = e.get_float(sums[at + sums.len() / 2]);
                                    e.fmul(e.silu(e.get_float(sums[at])), up)
                                }
                                None => e.get_float(sums[at]),
                            };
                            e.when(e.lt(output, e.int(out)), |e| store(e, pair, output, value));
                        }
                    });
                }
            });
        });
    });
}
