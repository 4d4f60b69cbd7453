//! Sparse and window attention of many rows: neighbouring queries share the pages that they chose.
//!
//! ```text
//! item: (KV head, tile of queries). A warp has four column tiles of eight (query, head of the group) each:
//!   S^T = K Q^T     A: 16 keys x 16 dims of a page     B: eight columns     two column tiles that no one of chose the page
//!   O^T += V^T P^T  A: 16 dims x 16 keys of a page     B: P^T               are skipped: load by union, compute by need
//! shared memory, 128 dims: queries 256 columns 64 KiB | ring of 5 pages K + V, 32 KiB each | notes of each stage
//! registers a thread: O^T 128, S^T of two column tiles by 64 keys 32, of Q, K and V 24, state 16
//! ```
//! Queries of a tile: 64 at four heads a KV head, 16 at sixteen. One warp walks along the tile's list (`page_lists`) and then
//! along the window, and keeps the ring full; eight warps take of each page what is theirs, each at its own pace. KV heads go
//! outermost, so that all multiprocessors read one head's pages from the second cache. A row's reference for exponents is
//! raised only where a logit passes it by 2^8, which changes neither sums nor outputs but for rounding. Floors, of a layer:
//! a page's K and V are read from the second cache once a tile (5 to 8 TB/s over the chip), and from shared memory once a
//! warp that takes it (128 bytes a clock); products are `mma.sync`. Softmax: Milakov and Gimelshein, 1805.02867. Both
//! branches: HySparse 2602.03560, sec. 3. Reference: `reference::attention`.

use std::f32::consts::LOG2_E;
use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{AttnShape, CacheSpec, Extent};

use super::branch::{Branch, Source, gated};
use super::limits::SHARED_PAGES;
use super::page_lists::{self, EDGE, PAGE_SHIFT, PageLists, Segment, segments};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, Var, WARP};
use crate::gpu::paged_kv::physical_page;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::tile::{SharedTile, Swizzle, TILE_BYTES};
use crate::gpu::work_item::{WorkItem, group, output_index, row_count};

/// Warps that multiply.
const WARPS: u64 = 8;
/// Three warp groups: two multiply, and give way to one that copies in registers.
const THREADS: u64 = 384;
const CONSUMER_REGISTERS: u64 = 232;
const PRODUCER_REGISTERS: u64 = 40;
/// Column tiles of a warp: what the registers hold of O^T.
const TILES: u64 = 4;
/// Columns of a warp and of a block.
const WARP_COLUMNS: u64 = 8 * TILES;
const COLUMNS: u64 = WARPS * WARP_COLUMNS;
/// Shared memory of a block for queries and ring.
const SHARED: u64 = 225 << 10;
/// By how much, in units of log2, a logit may pass the reference.
const SLACK: f32 = 8.0;
/// The reference before the first logit.
const LOWEST: f32 = -1e30;
/// The entry of a list before which an item's gates are prefetched: by then the ring is full.
const PREFETCH: u64 = 6;

/// How queries lie on columns.
#[derive(Clone, Copy)]
struct Columns {
    group: u64,
}

impl Columns {
    /// Queries of a column tile, where one has a whole one.
    fn in_tile(self) -> u64 {
        8 / self.group.min(8)
    }

    /// Column tiles of a query.
    fn tiles(self) -> u64 {
        self.group.div_ceil(8)
    }

    /// Queries of a warp: a power of two, at most 32.
    fn of_warp(self) -> u64 {
        TILES / self.tiles() * self.in_tile()
    }

    /// The query of the warp that column `c` of tile `i` is of, its head, and whether there is such.
    fn place<'c>(self, e: &Emit<'c>, i: Int<'c>, c: Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
        if self.tiles() == 1 {
            let (query, head) = e.div_rem(c, self.group);
            let real = e.lt(query, e.int(self.in_tile()));
            return (e.add(e.mul_const(i, self.in_tile()), query), head, real);
        }
        let (query, part) = e.div_rem(i, 2);
        let head = e.add(e.mul_const(part, 8), c);
        (query, head, e.lt(head, e.int(self.group)))
    }

    /// Which of columns 2t, 2t + 1 of two tiles are of queries whose bit is set in `takers`.
    fn chosen<'c>(self, e: &Emit<'c>, takers: Int<'c>, tiles: [u64; 2]) -> [[Int<'c>; 2]; 2] {
        let bit = |word: Int<'c>, i: u64| e.not(e.eq(e.and(word, e.int(1 << i)), e.int(0)));
        tiles.map(|i| {
            [0, 1].map(|c| {
                let column = e.add_const(e.mul_const(e.lane_pair().1, 2), c);
                let (query, _, real) = self.place(e, e.int(if self.tiles() == 1 { 0 } else { i }), column);
                if self.tiles() > 1 {
                    return e.and(bit(takers, i / 2), real);
                }
                let own = e.pick(real, e.shift_right_unsigned(takers, query), e.int(0));
                bit(own, i * self.in_tile())
            })
        })
    }

    /// The bits of tile `i` among those of the warp's queries.
    fn bits(self, i: u64) -> u64 {
        let (first, count) = match self.tiles() {
            1 => (i * self.in_tile(), self.in_tile()),
            _ => (i / 2, 1),
        };
        ((1u64 << count) - 1) << first
    }
}

/// The kernel's sizes.
struct SharedPages<'a, 's> {
    shape: AttnShape,
    branches: &'a [Branch],
    caches: Vec<CacheSpec>,
    lists: Option<PageLists<'s>>,
    spec: &'s hyc_plan::KernelSpec,
    columns: Columns,
    stages: u64,
    multiprocessors: u64,
}

/// What a warp keeps in registers: of each column tile.
struct State<'c> {
    /// References and sums of columns 2t, 2t + 1, in units of log2; a sum is this lane's part.
    max: Vec<[Var<'c>; 2]>,
    sum: Vec<[Var<'c>; 2]>,
    /// `[tile][v_dim / 16][4]`
    acc: Vec<Vec<Vec<Var<'c>>>>,
}

/// Where a lane reads, in bytes of shared memory; the swizzle of further columns is that of the first with other bits.
struct Places<'c> {
    /// Of 16 rows by 16 columns of a page, from its beginning.
    page: Int<'c>,
    /// Of two column tiles by 16 dims of the queries.
    query: Int<'c>,
    /// The positions of the warp's columns.
    positions: Ptr<'c>,
}

/// Gives a word of the bits of the queries that take a page.
type Takers<'a, 'c> = &'a dyn Fn(u64) -> Int<'c>;

/// Fills a stage with a page: its physical number, its flags, who takes it.
type Copy<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Takers<'_, 'c>);

/// (Tile, KV head).
type Item<'c> = (Int<'c>, Int<'c>);

/// Where a thread stands.
#[derive(Clone, Copy)]
struct Lane<'c> {
    warp: Int<'c>,
    lane: Int<'c>,
    g: Int<'c>,
    t: Int<'c>,
}

impl<'c> Lane<'c> {
    /// Computed anew, so that nothing which follows from it takes a register meanwhile.
    fn anew(e: &Emit<'c>) -> Lane<'c> {
        let (warp, lane) = e.div_rem(e.opaque(e.thread()), WARP);
        let (g, t) = e.div_rem(lane, 4);
        Lane { warp, lane, g, t }
    }
}

/// One page, as the warps meet it.
struct Page<'c> {
    keys: Int<'c>,
    values: Int<'c>,
    /// First token.
    start: Int<'c>,
    /// Tokens of it that there are.
    tokens: Int<'c>,
    /// Whether some row may not see all of it, and whether it ends behind the newest token.
    edge: Int<'c>,
    open: Int<'c>,
    /// How far back a row sees.
    reach: Int<'c>,
    /// Which of the warp's queries take it.
    takers: Int<'c>,
}

fn query_bytes(shape: AttnShape) -> u64 {
    SharedTile::bytes(COLUMNS, shape.qk_dim)
}

fn stage_bytes(shape: AttnShape) -> u64 {
    2 * 64 * (shape.qk_dim + shape.v_dim)
}

/// Rows of the step that a block takes at once.
pub fn rows_of_a_block(shape: AttnShape) -> u64 {
    WARPS * Columns { group: group(shape) }.of_warp()
}

/// Whether the kernel takes an attention of this shape.
pub fn takes(shape: AttnShape) -> bool {
    shape.v_dim <= 128 && query_bytes(shape) + 2 * stage_bytes(shape) <= SHARED
}

/// Adds the functions of [`SHARED_PAGES`].
pub fn launches(k: &mut Kernel<'_, '_>, shape: AttnShape, branches: &[Branch]) {
    if !k.wants(SHARED_PAGES) {
        return;
    }
    let (spec, tile, multiprocessors) = (k.spec, rows_of_a_block(shape), k.multiprocessors);
    let caches: Vec<CacheSpec> = branches.iter().map(|branch| k.cache(branch.cache)).collect();
    let listed = branches.iter().zip(&caches).find_map(|(branch, cache)| match branch.source {
        Source::Listed(select) => Some(PageLists { spec, shape, select, cache: *cache, tile, at: 0 }),
        Source::Window(_) => None,
    });
    let lists = listed.map(|lists| PageLists { at: k.scratch(4 * lists.room()), ..lists });
    if let Some(lists) = lists {
        let grid = [k.rows(1, tile), Extent::fixed(shape.kv_heads)];
        let function = Function::new("_lists", grid, page_lists::THREADS).of(&[SHARED_PAGES]);
        k.function(function.shared_bytes(lists.shared_bytes()), |e| lists.make(e, e.block_x(), e.block_y()));
    }
    let stages = ((SHARED - query_bytes(shape)) / stage_bytes(shape)).min(6);
    let columns = Columns { group: group(shape) };
    let s = SharedPages { shape, branches, caches, lists, spec, columns, stages, multiprocessors };
    let grid = [Extent::fixed(multiprocessors), Extent::fixed(1)];
    let shared = query_bytes(shape) + stages * stage_bytes(shape) + SHARED_SLACK;
    let name = part(SHARED_PAGES);
    let function = Function::new(&name, grid, THREADS).of(&[SHARED_PAGES]).shared_bytes(shared);
    k.function(function, |e| s.body(e));
}

impl SharedPages<'_, '_> {
    fn tile(&self) -> u64 {
        WARPS * self.columns.of_warp()
    }

    /// Words of a stage's note: flags of the page as a list has them, 0 where the branch ends; which queries take it.
    fn note_words(&self) -> u64 {
        1 + self.tile().div_ceil(32)
    }

    fn body<'c>(&self, e: &Emit<'c>) {
        let memory = e.dynamic_shared();
        let ring = Ring::new(e, self.stages, WARPS);
        let notes = e.shared(self.stages * self.note_words());
        let positions = e.shared(COLUMNS);
        let pages_at = e.add_const(e.shared_address(memory), query_bytes(self.shape) as i64);
        let producer = |e: &Emit<'c>| {
            e.give_registers(PRODUCER_REGISTERS);
            e.when(e.eq(e.thread(), e.int(WARPS * WARP)), |e| {
                self.items(e, |e, item, next| self.produce(e, &ring, (pages_at, notes), item, next));
            });
        };
        let consumers = |e: &Emit<'c>| {
            e.take_registers(CONSUMER_REGISTERS);
            let places = self.places(e, memory, positions);
            let state = State {
                max: (0..TILES).map(|_| [e.float_var(LOWEST), e.float_var(LOWEST)]).collect(),
                sum: (0..TILES).map(|_| [e.float_var(0.0), e.float_var(0.0)]).collect(),
                acc: (0..TILES)
                    .map(|_| {
                        (0..self.shape.v_dim / 16)
                            .map(|_| (0..4).map(|_| e.float_var(0.0)).collect())
                            .collect()
                    })
                    .collect(),
            };
            self.items(e, |e, (tile, kv_head), _| {
                self.load_queries(e, SharedTile::new(memory, COLUMNS), &places, tile, kv_head);
                e.each(e.int(0), e.int(self.branches.len() as u64), 1, |e, branch| {
                    let reach = self.branches.iter().zip(0..).fold(e.int(0), |reach, (which, i)| {
                        e.pick(e.eq(branch, e.int(i)), e.int(which.reach()), reach)
                    });
                    self.attend(e, &ring, (pages_at, notes), (&places, reach), &state);
                    let last = self.branches.len() - 1;
                    for (i, which) in self.branches[..last].iter().enumerate() {
                        e.when(e.eq(branch, e.int(i as u64)), |e| {
                            self.keep(e, &state, which, tile, kv_head);
                        });
                    }
                });
                self.finish(e, &state, memory, tile, kv_head);
            });
        };
        let warp = e.uniform(e.div_rem(e.thread(), WARP).0);
        e.either(e.lt(warp, e.int(WARPS)), consumers, producer);
    }

    /// This block's items: (tile, KV head), the heads outermost; each with the one that is next, its own where it is the last.
    fn items<'c>(&self, e: &Emit<'c>, body: impl FnOnce(&Emit<'c>, Item<'c>, Item<'c>)) {
        let rows = e.uniform(row_count(e, self.spec));
        let tiles = e.div_rem(e.add_const(rows, self.tile() as i64 - 1), self.tile()).0;
        let items = e.mul_const(tiles, self.shape.kv_heads);
        e.each(e.block_x(), items, self.multiprocessors, |e, index| {
            let item = |index: Int<'c>| {
                let kv_head = e.quotient(index, tiles);
                (e.sub(index, e.mul(kv_head, tiles)), kv_head)
            };
            let next = e.add_const(index, self.multiprocessors as i64);
            body(e, item(index), item(e.pick(e.lt(next, items), next, index)));
        });
    }

    /// The producer: the pages of each branch, K then V, as they lie, and a stage that says that the branch ends.
    fn produce<'c>(
        &self,
        e: &Emit<'c>,
        ring: &Ring<'c>,
        (pages_at, notes): (Int<'c>, Ptr<'c>),
        item: Item<'c>,
        next_item: Item<'c>,
    ) {
        let (tile, kv_head) = item;
        let words = self.tile().div_ceil(32);
        let note = |e: &Emit<'c>, stage: Int<'c>, flags: Int<'c>, takers: Takers<'_, 'c>| {
            let at = e.mul_const(stage, self.note_words());
            e.store(notes, at, flags.into());
            for i in 0..words {
                e.store(notes, e.add_const(at, 1 + i as i64), takers(i).into());
            }
        };
        let none = |_: u64| e.int(0);
        for (branch, cache) in self.branches.iter().zip(&self.caches) {
            let keys = e.wide(e.mul_const(kv_head, 2 * cache.k_offset(1)));
            let values = e.wide(e.mul_const(kv_head, 2 * cache.page * cache.v_pad()));
            let values = e.add_const(values, 2 * cache.v_offset(0) as i64);
            let key_bytes = 2 * 64 * self.shape.qk_dim;
            let page = |e: &Emit<'c>, physical: Int<'c>, flags: Int<'c>, takers: Takers<'_, 'c>| {
                let base = e.mul_const(e.wide(physical), cache.page_bytes());
                let base = e.byte_offset(e.operand(branch.cache), base);
                let bytes = stage_bytes(self.shape);
                let note = |e: &Emit<'c>, stage: Int<'c>| note(e, stage, flags, takers);
                ring.produce_noted(e, bytes, note, |e, stage, full| {
                    let to = e.add(pages_at, e.mul_const(stage, bytes));
                    e.bulk_copy(to, e.byte_offset(base, keys), key_bytes, full);
                    let to = e.add_const(to, key_bytes as i64);
                    e.bulk_copy(to, e.byte_offset(base, values), bytes - key_bytes, full);
                });
            };
            match (branch.source, &self.lists) {
                (Source::Listed(_), Some(lists)) => {
                    let (list, room) = lists.list(e, tile, kv_head);
                    let entry = |e: &Emit<'c>, i: Int<'c>| e.load4(list, e.mul_const(i, lists.entry()));
                    // An entry is read while the copies before it wait for their stages.
                    let ahead = entry(e, e.int(0)).map(|word| e.var(word.into()));
                    let next = e.var(e.int(0).into());
                    e.repeat(|e| {
                        let now = ahead.map(|word| e.get(word).into_int_value());
                        let at = e.get(next).into_int_value();
                        let after = e.add_const(at, 1);
                        e.set(next, after.into());
                        let read = entry(e, e.min(after, e.add_const(room, -1)));
                        ahead.iter().zip(read).for_each(|(ahead, word)| e.set(*ahead, word.into()));
                        let there = e.ge(now[0], e.int(0));
                        e.when(e.eq(at, e.int(PREFETCH)), |e| self.prefetch(e, item, next_item));
                        e.when(there, |e| {
                            let takers = |i: u64| match i {
                                0 | 1 => now[2 + i as usize],
                                _ => e.load_int(
                                    list,
                                    e.add_const(e.mul_const(at, lists.entry()), 2 + i as i64),
                                ),
                            };
                            page(e, now[0], now[1], &takers);
                        });
                        e.or(e.not(there), e.ge(after, room))
                    });
                }
                (Source::Listed(_), None) => {}
                (Source::Window(width), _) => self.window(e, tile, (cache, width), &page),
            }
            ring.produce_noted(e, 0, |e, stage| note(e, stage, e.int(0), &none), |_, _, _| {});
        }
    }

    /// Has the second cache read the gates of an item and the queries of the next, from its first pages on.
    fn prefetch<'c>(&self, e: &Emit<'c>, item: Item<'c>, next: Item<'c>) {
        let rows = |e: &Emit<'c>, (tile, kv_head): Item<'c>, name: &str, dim: u64| {
            let begin = e.mul_const(tile, self.tile());
            let end = e.min(e.add_const(begin, self.tile() as i64), row_count(e, self.spec));
            let width = self.columns.group * dim;
            e.each(begin, end, 1, |e, row| {
                let at = e.add(e.mul_const(e.wide(row), e.stride(name)), e.wide(e.mul_const(kv_head, width)));
                e.prefetch(e.at(e.operand(name), at), 4 * width);
            });
        };
        for name in self.branches.iter().filter_map(Branch::elementwise_gate) {
            rows(e, item, name, self.shape.v_dim);
        }
        rows(e, next, "q", self.shape.qk_dim);
    }

    /// The pages of a window of `width` tokens: of each sequence of the tile those that some row sees.
    fn window<'c>(&self, e: &Emit<'c>, tile: Int<'c>, (cache, width): (&CacheSpec, u64), page: Copy<'_, 'c>) {
        let begin = e.mul_const(tile, self.tile());
        let end = e.min(e.add_const(begin, self.tile() as i64), row_count(e, self.spec));
        segments(e, begin, end, |e, segment| {
            let from = e.max(e.add_const(segment.first, 1 - width as i64), e.int(0));
            let first = e.div_rem(from, cache.page).0;
            let after = e.add_const(e.div_rem(segment.last, cache.page).0, 1);
            e.each(first, after, 1, |e, logical| {
                let physical = physical_page(e, cache, segment.sequence, logical);
                let flags = e.or(segment.flags(e, logical, cache.page), e.int(EDGE));
                let takers = |i: u64| of_word(e, &segment, begin, i);
                page(e, physical, flags, &takers);
            });
        });
    }

    fn places<'c>(&self, e: &Emit<'c>, memory: Ptr<'c>, positions: Ptr<'c>) -> Places<'c> {
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let (matrix, row) = e.div_rem(lane, 8);
        let in_page = e.add(row, e.mul_const(e.and(matrix, e.int(1)), 8));
        let queries = e.add(e.shared_address(memory), e.mul_const(warp, 128 * WARP_COLUMNS));
        Places {
            page: Swizzle::bytes(e, in_page, e.div_rem(matrix, 2).0),
            query: e.add(
                e.add(queries, e.mul_const(e.div_rem(matrix, 2).0, 1024)),
                Swizzle::bytes(e, row, e.and(matrix, e.int(1))),
            ),
            positions: e.at(positions, e.mul_const(warp, WARP_COLUMNS)),
        }
    }

    /// The token of query `query` of this warp, and whether the step has it; without it the step's last.
    fn token<'c>(&self, e: &Emit<'c>, warp: Int<'c>, tile: Int<'c>, query: Int<'c>) -> (Int<'c>, Int<'c>) {
        let first = e.mul_const(warp, self.columns.of_warp());
        let token = e.add(e.add(e.mul_const(tile, self.tile()), first), query);
        let rows = row_count(e, self.spec);
        (e.min(token, e.add_const(rows, -1)), e.lt(token, rows))
    }

    /// The warp's columns as swizzled rows of bf16, and their positions. Columns of no query have some other's.
    fn load_queries<'c>(
        &self,
        e: &Emit<'c>,
        to: SharedTile<'c>,
        places: &Places<'c>,
        tile: Int<'c>,
        kv_head: Int<'c>,
    ) {
        // The products over the queries before are through.
        e.warp_barrier();
        let Lane { warp, lane, .. } = Lane::anew(e);
        let (sub, piece) = e.div_rem(lane, 8);
        let place = |e: &Emit<'c>, column: Int<'c>| {
            let (i, c) = e.div_rem(column, 8);
            let (query, head, _) = self.columns.place(e, i, c);
            (self.token(e, warp, tile, e.min(query, e.int(self.columns.of_warp() - 1))).0, head)
        };
        for round in 0..WARP_COLUMNS / 4 {
            let column = e.add_const(sub, 4 * round as i64);
            let (token, head) = place(e, column);
            let head =
                e.add(e.mul_const(kv_head, self.columns.group), e.min(head, e.int(self.columns.group - 1)));
            let row = e.mul_const(e.wide(token), e.stride("q"));
            let from = e.add(row, e.wide(e.mul_const(head, self.shape.qk_dim)));
            for panel in 0..self.shape.qk_dim / 64 {
                let at = e.add(from, e.wide(e.add_const(e.mul_const(piece, 8), 64 * panel as i64)));
                let words = e.load_as_chunk(e.operand("q"), at);
                to.store(e, e.add(e.mul_const(warp, WARP_COLUMNS), column), (panel, piece), &words);
            }
        }
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), place(e, lane).0);
        e.store(places.positions, lane, position.into());
        e.warp_barrier();
    }

    /// One branch: every stage up to its end.
    fn attend<'c>(
        &self,
        e: &Emit<'c>,
        ring: &Ring<'c>,
        (pages_at, notes): (Int<'c>, Ptr<'c>),
        (places, reach): (&Places<'c>, Int<'c>),
        state: &State<'c>,
    ) {
        for (max, sum) in state.max.iter().zip(&state.sum) {
            max.iter().for_each(|max| e.set(*max, e.float(LOWEST).into()));
            sum.iter().for_each(|sum| e.set(*sum, e.float(0.0).into()));
        }
        state.acc.iter().flatten().flatten().for_each(|acc| e.set(*acc, e.float(0.0).into()));
        let first = e.mul_const(e.div_rem(e.thread(), WARP).0, self.columns.of_warp());
        let (word, shift) = e.div_rem(first, 32);
        let leader = e.eq(e.lane(), e.int(0));
        e.repeat(|e| {
            let stage = ring.full(e);
            let note = e.mul_const(stage, self.note_words());
            let flags = e.load_int(notes, note);
            let takers = e.load_int(notes, e.add(e.add_const(note, 1), word));
            let all = e.int((1u64 << self.columns.of_warp()) - 1);
            let takers = e.and(e.shift_right_unsigned(takers, shift), all);
            e.when(e.any(e.not(e.eq(takers, e.int(0)))), |e| {
                let keys = e.add(pages_at, e.mul_const(stage, stage_bytes(self.shape)));
                let tokens = e.and(flags, e.int(EDGE - 1));
                let page = Page {
                    keys,
                    values: e.add_const(keys, 2 * 64 * self.shape.qk_dim as i64),
                    start: e.mul_const(e.shift_right_unsigned(flags, e.int(PAGE_SHIFT)), 64),
                    tokens,
                    edge: e.any(e.not(e.eq(e.and(flags, e.int(EDGE)), e.int(0)))),
                    open: e.any(e.lt(tokens, e.int(64))),
                    reach,
                    takers,
                };
                for pair in 0..TILES / 2 {
                    let bits = self.columns.bits(2 * pair) | self.columns.bits(2 * pair + 1);
                    let takes = e.not(e.eq(e.and(takers, e.int(bits)), e.int(0)));
                    e.when(e.any(takes), |e| self.pair(e, places, state, &page, pair));
                }
            });
            // All lanes have read the stage.
            e.warp_barrier();
            ring.release(e, leader);
            e.any(e.eq(flags, e.int(0)))
        });
    }

    /// The products of a page with two column tiles, where a query of theirs takes it.
    fn pair<'c>(&self, e: &Emit<'c>, places: &Places<'c>, state: &State<'c>, page: &Page<'c>, pair: u64) {
        let tiles = [2 * pair, 2 * pair + 1];
        let none = e.float(f32::NEG_INFINITY);
        // What did not choose the page starts, and stays, at minus infinity: `[tile][16 keys][4]`.
        let chosen = self.columns.chosen(e, page.takers, tiles);
        let scores: Vec<Vec<Vec<Var<'c>>>> = chosen
            .iter()
            .map(|chosen| {
                let start = chosen.map(|chosen| e.pick_float(chosen, e.float(0.0), none));
                (0..4).map(|_| (0..4).map(|i| e.var(start[i % 2].into())).collect()).collect()
            })
            .collect();
        let keys = e.add(page.keys, places.page);
        let at = [0, 1, 2, 3].map(|step| e.xor(keys, e.int(32 * step)));
        let queries = [0, 1, 2, 3].map(|step| e.xor(places.query, e.int(32 * step)));
        for step in 0..self.shape.qk_dim / 16 {
            let (panel, place) = (step / 4, (step % 4) as usize);
            let q = e.load_matrices(queries[place], panel * COLUMNS * 128 + 2048 * pair);
            for m in 0..4 {
                let k = e.load_matrices(at[place], panel * TILE_BYTES + 2048 * m);
                for (i, scores) in scores.iter().enumerate() {
                    e.mma(&scores[m as usize], k, [q[2 * i], q[2 * i + 1]]);
                }
            }
        }
        e.when(page.edge, |e| {
            for (tile, scores) in tiles.iter().zip(&scores) {
                self.mask(e, places, page, (*tile, scores));
            }
        });
        self.raise(e, &scores, state, tiles);
        let p: Vec<Vec<Int<'c>>> = tiles
            .iter()
            .zip(&scores)
            .map(|(tile, scores)| self.exponentials(e, scores, state, *tile))
            .collect();
        let values = e.add(page.values, places.page);
        let at = [0, 1, 2, 3].map(|step| e.xor(values, e.int(32 * step)));
        let multiply = |e: &Emit<'c>, masks: Option<[[Int<'c>; 2]; 4]>| {
            for m in 0..self.shape.v_dim / 16 {
                for step in 0..4 {
                    let v = e.load_matrices(at[step], 2048 * m);
                    let v = masks.map_or(v, |masks| [0, 1, 2, 3].map(|w| e.and(v[w], masks[step][w / 2])));
                    for (tile, p) in tiles.iter().zip(&p) {
                        e.mma(&state.acc[*tile as usize][m as usize], v, [p[2 * step], p[2 * step + 1]]);
                    }
                }
            }
        };
        e.either(
            page.open,
            // What stands behind the newest token may be no number: nothing times that would still be none.
            |e| multiply(e, Some(self.value_masks(e, page))),
            |e| multiply(e, None),
        );
    }

    /// Masks of the words of V: `[16 tokens][eight]`.
    fn value_masks<'c>(&self, e: &Emit<'c>, page: &Page<'c>) -> [[Int<'c>; 2]; 4] {
        let first = e.mul_const(Lane::anew(e).t, 2);
        [0, 1, 2, 3].map(|step| {
            [0, 1].map(|eight| {
                let token = e.add_const(first, 16 * step + 8 * eight);
                let low = e.pick(e.lt(token, page.tokens), e.int(0xffff), e.int(0));
                let next = e.add_const(token, 1);
                e.or(low, e.pick(e.lt(next, page.tokens), e.int(0xffff_0000), e.int(0)))
            })
        })
    }

    /// Minus infinity where a column's row does not see a key.
    fn mask<'c>(
        &self,
        e: &Emit<'c>,
        places: &Places<'c>,
        page: &Page<'c>,
        (tile, scores): (u64, &[Vec<Var<'c>>]),
    ) {
        let Lane { g, t, .. } = Lane::anew(e);
        let first = e.add(page.start, g);
        // Behind the newest token are no numbers, for rows of other sequences too.
        let end = e.add(page.start, page.tokens);
        for c in 0..2usize {
            let column = e.add_const(e.mul_const(t, 2), (8 * tile) as i64 + c as i64);
            let position = e.load_int(places.positions, column);
            for (m, scores) in scores.iter().enumerate() {
                for eight in 0..2 {
                    let key = e.add_const(first, (16 * m + 8 * eight) as i64);
                    let score = scores[2 * eight + c];
                    let seen = e.lt_unsigned(e.sub(position, key), page.reach);
                    let seen = e.and(seen, e.lt(key, end));
                    let masked = e.pick_float(seen, e.get_float(score), e.float(f32::NEG_INFINITY));
                    e.set(score, masked.into());
                }
            }
        }
    }

    /// From q . k to a logit in units of log2.
    fn scale<'c>(&self, e: &Emit<'c>) -> Float<'c> {
        e.float(LOG2_E / (self.shape.qk_dim as f32).sqrt())
    }

    /// Raises the references of two column tiles, where a logit passes one by more than [`SLACK`].
    fn raise<'c>(&self, e: &Emit<'c>, scores: &[Vec<Vec<Var<'c>>>], state: &State<'c>, tiles: [u64; 2]) {
        let columns: Vec<(usize, usize)> =
            tiles.iter().flat_map(|tile| [(*tile as usize, 0), (*tile as usize, 1)]).collect();
        let most: Vec<Float<'c>> = scores
            .iter()
            .flat_map(|scores| {
                [0, 1].map(|c| {
                    let own = scores.iter().flat_map(|four| [four[c], four[c + 2]]);
                    let most = own.map(|x| e.get_float(x)).reduce(|a, b| e.fmax(a, b));
                    e.fmul(most.unwrap_or_else(|| e.float(LOWEST)), self.scale(e))
                })
            })
            .collect();
        let passes = columns.iter().zip(&most).map(|((tile, c), most)| {
            e.above(*most, e.fadd(e.get_float(state.max[*tile][*c]), e.float(SLACK)))
        });
        let passes = passes.reduce(|a, b| e.or(a, b)).unwrap_or_else(|| e.no());
        e.when(e.any(passes), |e| {
            for ((tile, c), most) in columns.iter().zip(&most) {
                let all = [4, 8, 16].iter().fold(*most, |most, mask| e.fmax(most, e.shuffle(most, *mask)));
                let (max, sum) = (state.max[*tile][*c], state.sum[*tile][*c]);
                let new = e.fmax(e.get_float(max), all);
                let shrink = e.exp2(e.fsub(e.get_float(max), new));
                e.set(max, new.into());
                e.set(sum, e.fmul(e.get_float(sum), shrink).into());
                for acc in &state.acc[*tile] {
                    for acc in [acc[*c], acc[c + 2]] {
                        e.set(acc, e.fmul(e.get_float(acc), shrink).into());
                    }
                }
            }
        });
    }

    /// Adds to the sums of a column tile, and gives its P^T as fragments of four steps.
    fn exponentials<'c>(
        &self,
        e: &Emit<'c>,
        scores: &[Vec<Var<'c>>],
        state: &State<'c>,
        tile: u64,
    ) -> Vec<Int<'c>> {
        let tile = tile as usize;
        let minus = [0, 1].map(|c| e.fsub(e.float(0.0), e.get_float(state.max[tile][c])));
        let p = |x: &Var<'c>, c: usize| e.exp2(e.fma(e.get_float(*x), self.scale(e), minus[c]));
        let words = scores.iter().flat_map(|four| {
            let p: Vec<Float<'c>> = four.iter().enumerate().map(|(i, x)| p(x, i % 2)).collect();
            for c in 0..2 {
                let sum = state.sum[tile][c];
                e.set(sum, e.fadd(e.get_float(sum), e.fadd(p[c], p[c + 2])).into());
            }
            [0, 2].map(|eight| e.transposed(e.pack_bf16(p[eight], p[eight + 1])))
        });
        words.collect()
    }

    /// What this lane's columns are multiplied with at the end of a branch.
    fn factor<'c>(
        &self,
        e: &Emit<'c>,
        state: &State<'c>,
        branch: &Branch,
        (i, c): (usize, usize),
        (lane, kv_head): (Lane<'c>, Int<'c>),
    ) -> Float<'c> {
        let sum = [4, 8, 16]
            .iter()
            .fold(e.get_float(state.sum[i][c]), |sum, mask| e.fadd(sum, e.shuffle(sum, *mask)));
        let Some(name) = branch.sink else { return e.reciprocal(sum) };
        let column = e.add_const(e.mul_const(lane.t, 2), c as i64);
        let (_, head, _) = self.columns.place(e, e.int(i as u64), column);
        let head = e.min(head, e.int(self.columns.group - 1));
        let global = e.add(e.mul_const(kv_head, self.columns.group), head);
        let sink = e.fmul(e.load(e.operand(name), global), e.float(LOG2_E));
        // The larger of the logits and the sink, under which nothing overflows.
        let most = e.get_float(state.max[i][c]);
        let top = e.fmax(most, sink);
        let shrink = e.exp2(e.fsub(most, top));
        e.fmul(shrink, e.reciprocal(e.fma(sum, shrink, e.exp2(e.fsub(sink, top)))))
    }

    /// Keeps what the first of two branches gives in the output, without its gate.
    fn keep<'c>(&self, e: &Emit<'c>, state: &State<'c>, branch: &Branch, tile: Int<'c>, kv_head: Int<'c>) {
        let lane = Lane::anew(e);
        let Lane { warp, g, t, .. } = lane;
        for i in 0..TILES as usize {
            for c in 0..2usize {
                let factor = self.factor(e, state, branch, (i, c), (lane, kv_head));
                let column = e.add_const(e.mul_const(t, 2), c as i64);
                let (item, head, there) = self.item(e, (warp, tile, kv_head), (e.int(i as u64), column));
                e.when(there, |e| {
                    let to = e.at(e.operand("out"), output_index(e, self.shape, item, head, g));
                    for (m, acc) in state.acc[i].iter().enumerate() {
                        for (eight, acc) in [acc[c], acc[c + 2]].into_iter().enumerate() {
                            let y = e.fmul(e.get_float(acc), factor);
                            e.store(to, e.int((16 * m + 8 * eight) as u64), y.into());
                        }
                    }
                });
            }
        }
    }

    /// The item that a column of this warp is, its head of the group, and whether there is such.
    fn item<'c>(
        &self,
        e: &Emit<'c>,
        (warp, tile, kv_head): (Int<'c>, Int<'c>, Int<'c>),
        (i, column): (Int<'c>, Int<'c>),
    ) -> (WorkItem<'c>, Int<'c>, Int<'c>) {
        let (query, head, real) = self.columns.place(e, i, column);
        let (token, there) = self.token(e, warp, tile, query);
        (WorkItem { row: token, kv_head, position: token, sequence: token }, head, e.and(real, there))
    }

    /// Writes the output: what the last branch gives, turned in the place of the warp's queries so that whole rows are written,
    /// with what was kept of the branch before.
    fn finish<'c>(&self, e: &Emit<'c>, state: &State<'c>, queries: Ptr<'c>, tile: Int<'c>, kv_head: Int<'c>) {
        let lane = Lane::anew(e);
        let Lane { warp, g, t, .. } = lane;
        let Some((last, before)) = self.branches.split_last() else { return };
        // A column tile in each four KiB of the queries.
        let room = e.at(queries, e.mul_const(warp, 32 * WARP_COLUMNS));
        let panels = self.shape.qk_dim / 64;
        let panel = |i: u64| e.at(room, e.int(i % panels * COLUMNS * 32));
        let pitch = self.shape.v_dim.next_multiple_of(32);
        let first = e.mul_const(lane.lane, 4);
        let whole = e.lt(first, e.int(self.shape.v_dim));
        let first = e.min(first, e.int(self.shape.v_dim - 4));
        for tiles in (0..TILES).collect::<Vec<_>>().chunks(panels.min(2) as usize) {
            // All lanes are through with the queries, or with the columns before.
            e.warp_barrier();
            for &i in tiles {
                for c in 0..2usize {
                    let factor = self.factor(e, state, last, (i as usize, c), (lane, kv_head));
                    let row = e.mul_const(e.add_const(e.mul_const(t, 2), c as i64), pitch);
                    for (m, acc) in state.acc[i as usize].iter().enumerate() {
                        for (eight, acc) in [acc[c], acc[c + 2]].into_iter().enumerate() {
                            let dim = e.add_const(g, (16 * m + 8 * eight) as i64);
                            let at = e.add(row, e.xor(dim, e.mul_const(t, 8)));
                            e.store(panel(i), at, e.fmul(e.get_float(acc), factor).into());
                        }
                    }
                }
            }
            e.warp_barrier();
            // Some columns' loads together, so that they wait for memory together.
            for four in tiles.iter().flat_map(|&i| [(i, 0), (i, 4)]) {
                let loaded: Vec<_> = (four.1..four.1 + 4)
                    .map(|column| {
                        let i = four.0;
                        let (item, head, there) =
                            self.item(e, (warp, tile, kv_head), (e.int(i), e.int(column)));
                        let head = e.min(head, e.int(self.columns.group - 1));
                        let turned = e.xor(first, e.int(column / 2 * 8));
                        let y = e.load4(panel(i), e.add_const(turned, (column * pitch) as i64));
                        let to = e.at(e.operand("out"), output_index(e, self.shape, item, head, first));
                        let kept: Vec<_> = before.iter().map(|_| e.load4(to, e.int(0))).collect();
                        let place = |branch: &Branch| branch.gates(e, self.shape, item, (head, first));
                        (there, to, y, place(last), kept, before.iter().map(place).collect::<Vec<_>>())
                    })
                    .collect();
                for (there, to, y, gates, kept, before) in loaded {
                    let y = gated(e, y, gates);
                    let y = kept.into_iter().zip(before).fold(y, |y, (kept, gates)| {
                        let kept = gated(e, kept, gates);
                        [0, 1, 2, 3].map(|i| e.bits(e.fadd(e.widen(y[i]), e.widen(kept[i]))))
                    });
                    e.when(e.and(there, whole), |e| e.store_words(to, e.int(0), &y));
                }
            }
        }
        e.warp_barrier();
    }
}

/// Bits of a segment's rows in word `i` of a tile's that begins at row `begin`.
fn of_word<'c>(e: &Emit<'c>, segment: &Segment<'c>, begin: Int<'c>, i: u64) -> Int<'c> {
    // Bits below n, of 0 to 32.
    let below = |row: Int<'c>| {
        let n = e.add_const(e.sub(row, begin), -(32 * i as i64));
        let n = e.min(e.max(n, e.int(0)), e.int(32));
        let ones = e.shifted_left(e.long(1), e.wide(n));
        e.low(e.add_const(ones, -1))
    };
    e.xor(below(segment.end), below(segment.begin))
}
