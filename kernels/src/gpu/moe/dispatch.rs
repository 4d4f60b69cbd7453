//! The pairs (row, choice) of a step, sorted by expert, and their inputs in that order.
//!
//! ```text
//! dispatch   one block: counts, their sums, places; each expert's pairs begin at a multiple of 64
//! gather     a block a row: the pairs' inputs as bf16 tiles
//! ```
//! Where a pair stands among its expert's does not change its result.

use hyc_plan::{Extent, TILE};

use super::router::Choice;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::gemm::pack_rows::{eight, k_tiles, packed_bytes};
use crate::gpu::isa::{Emit, Int};
use crate::gpu::tile::TiledRows;
use crate::gpu::work_item::row_count;

/// Each row's chosen experts by themselves, or all rows of an expert together.
pub const BY_ROW: &str = "by_row";
pub const GROUPED: &str = "grouped";
/// Threads that sort.
const SORTERS: u64 = 1024;
/// Pairs that a thread has under way.
const UNDER_WAY: u64 = 8;
/// Words of an entry of the list of tiles.
const ENTRY: u64 = 4;

/// What the functions for many rows share: offsets in scratch, in 4-byte elements.
#[derive(Clone, Copy)]
pub struct Dispatch {
    pub choice: Choice,
    /// Pairs of a tile.
    pub tile: u64,
    /// `[0]`: tiles in all. From `[4]` on, for each: its expert, that one's first tile, its first place, its
    /// pairs.
    tiles: u64,
    /// `[pair]`: where it stands.
    place: u64,
    /// `[place]`: the pair.
    pub pair: u64,
    /// Places in all, with those of a tile that begins at the last.
    most: u64,
}

/// A tile of pairs of one expert.
pub struct Entry<'c> {
    pub expert: Int<'c>,
    /// That one's first tile, its first place, its pairs.
    pub first: Int<'c>,
    pub place: Int<'c>,
    pub pairs: Int<'c>,
}

impl Dispatch {
    /// Tiles in all.
    pub fn count<'c>(&self, e: &Emit<'c>) -> Int<'c> {
        e.load_int(e.at(e.scratch(), e.int(self.tiles)), e.int(0))
    }

    /// Tile `index`.
    pub fn entry<'c>(&self, e: &Emit<'c>, index: Int<'c>) -> Entry<'c> {
        let at = e.add_const(e.mul_const(index, ENTRY), ENTRY as i64);
        let [expert, first, place, pairs] = e.load4(e.at(e.scratch(), e.int(self.tiles)), at);
        Entry { expert, first, place, pairs }
    }
}

/// Adds the function that sorts the pairs by expert, for tiles of so many.
pub fn dispatch<'c>(k: &mut Kernel<'c, '_>, choice: Choice, tile: u64) -> Dispatch {
    let (spec, experts, active) = (k.spec, choice.all(), choice.count());
    let pairs = spec.max_rows * active;
    // Every expert may waste all but one place of 64.
    let most = (pairs + experts.min(pairs) * (TILE - 1)).next_multiple_of(TILE) + TILE;
    let d = Dispatch {
        choice,
        tile,
        tiles: k.scratch(4 * ENTRY * (1 + pairs / tile + experts.min(pairs))),
        place: k.scratch(4 * pairs),
        pair: k.scratch(4 * most),
        most,
    };
    let grid = [Extent::fixed(1), Extent::fixed(1)];
    k.function(Function::new("_dispatch", grid, SORTERS).of(&[GROUPED]), |e| {
        let at = |offset: u64| e.at(e.scratch(), e.int(offset));
        let (tiles, places, owners) = (at(d.tiles), at(d.place), at(d.pair));
        let (counts, next) = (e.shared(experts), e.shared(experts));
        let mut sums = [e.shared(experts), e.shared(experts)];
        let pairs = e.mul_const(row_count(e, spec), active);
        let each_expert =
            |body: &dyn Fn(&Emit<'c>, Int<'c>)| e.each(e.thread(), e.int(experts), SORTERS, body);
        each_expert(&|e, i| e.store(counts, i, e.int(0).into()));
        e.barrier();
        each_pair(e, (pairs, choice), &|e, _, expert| {
            e.fetch_add_one(counts, expert);
        });
        e.barrier();
        // Sums over the experts before and this one: 64s of places in the low half, tiles in the high half.
        let own = |e: &Emit<'c>, i: Int<'c>| {
            let count = e.load_int(counts, i);
            let blocks = |n: u64| e.div_rem(e.add_const(count, n as i64 - 1), n).0;
            e.or(blocks(TILE), e.shift_left(blocks(tile), 16))
        };
        each_expert(&|e, i| e.store(sums[0], i, own(e, i).into()));
        e.barrier();
        for step in (0..).map(|i| 1 << i).take_while(|step| *step < experts) {
            each_expert(&|e, i: Int<'c>| {
                let before = e.load_int(sums[0], e.max(e.add_const(i, -(step as i64)), e.int(0)));
                let before = e.pick(e.lt(i, e.int(step)), e.int(0), before);
                e.store(sums[1], i, e.add(e.load_int(sums[0], i), before).into());
            });
            e.barrier();
            sums.swap(0, 1);
        }
        each_expert(&|e, i: Int<'c>| {
            let (sum, own) = (e.load_int(sums[0], i), own(e, i));
            let begin = e.sub(sum, own);
            let place = e.mul_const(e.and(begin, e.int(0xffff)), TILE);
            let first = e.div_rem(begin, 1 << 16).0;
            e.store(next, i, place.into());
            e.each(e.int(0), e.div_rem(own, 1 << 16).0, 1, |e, tile| {
                let at = e.mul_const(e.add_const(e.add(first, tile), 1), ENTRY);
                e.store_words(tiles, at, &[i, first, place, e.load_int(counts, i)]);
            });
        });
        e.when(e.eq(e.thread(), e.int(0)), |e| {
            let all = e.load_int(sums[0], e.int(experts - 1));
            e.store(tiles, e.int(0), e.div_rem(all, 1 << 16).0.into());
        });
        e.barrier();
        each_pair(e, (pairs, choice), &|e, pair, expert| {
            let place = e.fetch_add_one(next, expert);
            e.store(places, pair, place.into());
            e.store(owners, place, pair.into());
        });
    });
    d
}

/// Goes through the pairs and their experts, some a thread at once.
fn each_pair<'c>(
    e: &Emit<'c>,
    (pairs, choice): (Int<'c>, Choice),
    body: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>),
) {
    e.each(e.thread(), pairs, UNDER_WAY * SORTERS, |e, first| {
        let some: Vec<_> = (0..UNDER_WAY)
            .map(|i| {
                let pair = e.add_const(first, (i * SORTERS) as i64);
                let (row, slot) = e.div_rem(e.min(pair, e.add_const(pairs, -1)), choice.count());
                (pair, choice.expert(e, row, slot))
            })
            .collect();
        for (pair, expert) in some {
            e.when(e.lt(pair, pairs), |e| body(e, pair, expert));
        }
    });
}

/// Adds the function that copies the pairs' inputs in their order as tiles, from the operand `from`: a row's own, of which all
/// of its pairs get a copy, or in `apart` each pair's, one behind the other.
pub fn gather<'c>(
    k: &mut Kernel<'c, '_>,
    d: &Dispatch,
    from: &'static str,
    in_features: u64,
    apart: bool,
) -> TiledRows {
    let to = TiledRows::Scratch(k.scratch(packed_bytes(d.most, in_features)));
    let chunks = k_tiles(in_features) * 8;
    let choices = d.choice.count();
    let all = if apart { choices * chunks } else { chunks };
    let threads = all.next_multiple_of(32).min(512);
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("_gather", grid, threads).of(&[GROUPED]), |e| {
        let row = e.block_x();
        let piece = |e: &Emit<'c>, slot: Int<'c>, chunk: Int<'c>| -> [Int<'c>; 4] {
            if e.in_tiles(from) {
                let piece = e.add(e.mul_const(slot, chunks), chunk);
                return e.load4(TiledRows::Operand(from).piece(e, row, piece, e.stride(from)), e.int(0));
            }
            let x = e.at(e.row(from, row), e.mul_const(slot, in_features));
            let values = eight(e, x, chunk, in_features);
            [0, 2, 4, 6].map(|i| e.pack_bf16(values[i], values[i + 1]))
        };
        let place = |e: &Emit<'c>, slot: Int<'c>| {
            e.load_int(e.at(e.scratch(), e.int(d.place)), e.add(e.mul_const(row, choices), slot))
        };
        let rounds = (0..all.div_ceil(threads)).map(|round| {
            // The last round's are the row's last again where there are no more.
            let index = e.min(e.add_const(e.thread(), (round * threads) as i64), e.int(all - 1));
            let (slot, chunk) = e.div_rem(index, chunks);
            (slot, chunk, piece(e, slot, chunk))
        });
        let rounds: Vec<_> = rounds.collect();
        let places: Vec<Int<'c>> = if apart {
            rounds.iter().map(|(slot, ..)| place(e, *slot)).collect()
        } else {
            (0..choices).map(|slot| place(e, e.int(slot))).collect()
        };
        for (i, (_, chunk, words)) in rounds.iter().enumerate() {
            let of_round = if apart { &places[i..=i] } else { &places[..] };
            for place in of_round {
                e.store_words(to.piece(e, *place, *chunk, in_features), e.int(0), words);
            }
        }
    });
    to
}
