//! The pairs (row, choice) of a step, sorted by expert, and their inputs in that order.
//!
//! ```text
//! dispatch   a cluster of eight blocks: counts of an eighth of the pairs each, handed to all; their sums, places; each expert's pairs
//!            begin at a multiple of 64. A shared expert's are the rows in turn
//! gather     a block a row: the pairs' inputs as bf16 tiles
//! ```
//! Where a pair stands among its expert's does not change its result.

use hyc_plan::{Extent, TILE};

use crate::gpu::function::{Function, Kernel};
use crate::gpu::gemm::choice::Choice;
use crate::gpu::gemm::pack_rows::{eight, k_tiles, packed_bytes};
use crate::gpu::isa::{Emit, Int, SHARED_SLACK};
use crate::gpu::tile::TiledRows;
use crate::gpu::tile::rows::turn;
use crate::gpu::work_item::row_count;

/// Each row's chosen experts by themselves, or all rows of an expert together.
pub const BY_ROW: &str = "by_row";
pub const GROUPED: &str = "grouped";
/// Threads of a block that sort, and such blocks.
const SORTERS: u64 = 1024;
const BLOCKS: u64 = 8;
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
    let grid = [Extent::fixed(BLOCKS), Extent::fixed(1)];
    // Counts of each block and of all, the next places, and sums before and after a step.
    let shared = 4 * experts * (BLOCKS + 4) + SHARED_SLACK;
    let function =
        Function::new("_dispatch", grid, SORTERS).of(&[GROUPED]).shared_bytes(shared).clusters(BLOCKS);
    k.function(function, |e| {
        let at = |offset: u64| e.at(e.scratch(), e.int(offset));
        let (tiles, places, owners) = (at(d.tiles), at(d.place), at(d.pair));
        let memory = e.dynamic_shared();
        let array = |i: u64| e.at(memory, e.int(i * experts));
        let (of_blocks, counts, next) = (memory, array(BLOCKS), array(BLOCKS + 1));
        let mut sums = [array(BLOCKS + 2), array(BLOCKS + 3)];
        let (rank, rows) = (e.cluster_rank(), row_count(e, spec));
        let mine = e.at(of_blocks, e.mul_const(rank, experts));
        let first = e.add(e.mul_const(rank, SORTERS), e.thread());
        let pairs = Pairs { first, choice, rows };
        let each_expert =
            |body: &dyn Fn(&Emit<'c>, Int<'c>)| e.each(e.thread(), e.int(experts), SORTERS, body);
        e.cluster_arrive();
        each_expert(&|e, i| e.store(mine, i, e.int(0).into()));
        e.barrier();
        pairs.each_chosen(e, &|e, _, expert| {
            e.fetch_add_one(mine, expert);
        });
        e.barrier();
        e.cluster_wait();
        each_expert(&|e, i| {
            let own = e.load_int(mine, i);
            // All rows have a shared expert: the first block says so.
            let of_shared = e.pick(e.eq(rank, e.int(0)), rows, e.int(0));
            let is_shared = if choice.shared { e.eq(i, e.int(experts - 1)) } else { e.no() };
            let count = e.pick(is_shared, of_shared, own);
            let to = e.add(e.shared_address(mine), e.mul_const(i, 4));
            (0..BLOCKS).for_each(|block| e.store_to_block(to, e.int(block), count));
        });
        e.cluster_barrier();
        // Sums over the experts before and this one: 64s of places in the low half, tiles in the high half.
        let own = |e: &Emit<'c>, i: Int<'c>| {
            let count = e.load_int(counts, i);
            let blocks = |n: u64| e.div_rem(e.add_const(count, n as i64 - 1), n).0;
            e.or(blocks(TILE), e.shift_left(blocks(tile), 16))
        };
        each_expert(&|e, i| {
            let of = |block: u64| e.load_int(of_blocks, e.add_const(i, (block * experts) as i64));
            let (mut before, mut all) = (e.int(0), e.int(0));
            for block in 0..BLOCKS {
                let count = of(block);
                before = e.add(before, e.pick(e.lt(e.int(block), rank), count, e.int(0)));
                all = e.add(all, count);
            }
            e.store(counts, i, all.into());
            e.store(next, i, before.into());
            e.store(sums[0], i, own(e, i).into());
        });
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
        let leads = e.eq(rank, e.int(0));
        each_expert(&|e, i: Int<'c>| {
            let (sum, own) = (e.load_int(sums[0], i), own(e, i));
            let begin = e.sub(sum, own);
            let place = e.mul_const(e.and(begin, e.int(0xffff)), TILE);
            let first = e.div_rem(begin, 1 << 16).0;
            e.store(next, i, e.add(place, e.load_int(next, i)).into());
            let listed = e.pick(leads, e.div_rem(own, 1 << 16).0, e.int(0));
            e.each(e.int(0), listed, 1, |e, tile| {
                let at = e.mul_const(e.add_const(e.add(first, tile), 1), ENTRY);
                e.store_words(tiles, at, &[i, first, place, e.load_int(counts, i)]);
            });
        });
        e.when(e.and(leads, e.eq(e.thread(), e.int(0))), |e| {
            let all = e.load_int(sums[0], e.int(experts - 1));
            e.store(tiles, e.int(0), e.div_rem(all, 1 << 16).0.into());
        });
        e.barrier();
        let put = |e: &Emit<'c>, pair: Int<'c>, place: Int<'c>| {
            e.store(places, pair, place.into());
            e.store(owners, place, pair.into());
        };
        pairs.each_chosen(e, &|e, pair, expert| put(e, pair, e.fetch_add_one(next, expert)));
        if choice.shared {
            // Of another block than the first one its rows are before: the sum of nothing and all of them.
            let begin = e.sub(e.load_int(next, e.int(experts - 1)), e.pick(leads, e.int(0), rows));
            e.each(first, rows, BLOCKS * SORTERS, |e, row| {
                put(e, e.add_const(e.mul_const(row, active), choice.active as i64), e.add(begin, row));
            });
        }
    });
    d
}

/// The pairs of a step, of which a thread has every so many.
struct Pairs<'c> {
    first: Int<'c>,
    choice: Choice,
    rows: Int<'c>,
}

impl<'c> Pairs<'c> {
    /// Goes through this thread's pairs with a chosen expert, some at once.
    fn each_chosen(&self, e: &Emit<'c>, body: &dyn Fn(&Emit<'c>, Int<'c>, Int<'c>)) {
        let Choice { active, .. } = self.choice;
        let (all, step) = (e.mul_const(self.rows, active), BLOCKS * SORTERS);
        e.each(self.first, all, UNDER_WAY * step, |e, first| {
            let some: Vec<_> = (0..UNDER_WAY)
                .map(|i| {
                    let n = e.add_const(first, (i * step) as i64);
                    let (row, slot) = e.div_rem(e.min(n, e.add_const(all, -1)), active);
                    let pair = e.add(e.mul_const(row, self.choice.count()), slot);
                    (n, pair, self.choice.expert(e, row, slot))
                })
                .collect();
            for (n, pair, expert) in some {
                e.when(e.lt(n, all), |e| body(e, pair, expert));
            }
        });
    }
}

/// Adds the function that copies the pairs' inputs in their order as tiles, from the operand `from`: a row's own, of which all
/// of its pairs get a copy, or in `apart` each pair's, one behind the other. `by_lanes`: a row's inputs in the order of
/// [`ManyRows::ByLanes`](crate::gpu::gemm::wgmma_strips::ManyRows).
pub fn gather<'c>(
    k: &mut Kernel<'c, '_>,
    d: &Dispatch,
    from: &'static str,
    in_features: u64,
    (apart, by_lanes): (bool, bool),
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
            // The last round's are the row's last four again where there are no more: whole quads have neighbours.
            let index = e.add_const(e.thread(), (round * threads) as i64);
            let index = e.min(index, e.add_const(e.and(index, e.int(3)), all as i64 - 4));
            let (slot, chunk) = e.div_rem(index, chunks);
            let words = piece(e, slot, chunk);
            (slot, chunk, if by_lanes { turn(e, words) } else { words })
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
