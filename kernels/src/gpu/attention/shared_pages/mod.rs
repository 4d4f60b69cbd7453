//! Sparse and window attention of many rows on `wgmma`: neighbouring queries share the pages that they chose.
//!
//! ```text
//! item: (KV head, tile of queries). Three warp groups have 64 rows each, (query, head of the group): 64 / G queries
//!   list of the tile  p0 p1 p2 p3 ...      one warp copies each page once:        load by union
//!   group 0            x     x             a group takes the pages that one of
//!   group 1            x  x     x          its queries chose, at its own pace:    compute by need
//! a page that a group takes:
//!   S = Q K^T (both from shared memory) | exponentials, 0 in rows that did not choose it | O += P V (P from registers)
//! shared memory, 128 dims: queries 48 KiB | ring of 5 pages K + V, 32 KiB each | notes of each stage
//! registers a thread: O 64, S 32, P 16, of 160
//! ```
//! Where a cache is codes, a warp group makes bf16 tiles of each page in place of the warp that copies, and registers are fewer: O 64,
//! S 32, P 16, of 144.
//!
//! Queries of a tile: 48 at four heads a KV head, 12 at sixteen. A group waits for its own products: the softmax of one lies
//! under the products of the other two. KV heads go outermost, so that all multiprocessors read one
//! head's pages from the second cache. A row's reference for exponents is raised only where a logit passes it by 2^8, which
//! changes neither sums nor outputs but for rounding.
//!
//! Floors at 128 dims, clocks of a multiprocessor: a page that any query of the tile took, about 1,000 (32 KiB through its
//! inlet); a page that a group takes, 512 of the tensor cores and 384 of shared memory. Softmax: Milakov and Gimelshein,
//! 1805.02867. Both branches: HySparse 2602.03560, sec. 3. Reference:
//! `reference::attention`.

mod copy;
mod output;
mod visit;

use hyc_plan::{AttnShape, CacheSpec, Extent, KernelSpec};

use super::branch::{Branch, Source};
use super::limits::SHARED_PAGES;
use super::page_lists::PageLists;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, WARP};
use crate::gpu::tile::SharedTile;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::work_item::{group, row_count};
use crate::lists::{self, GROUPS, ROWS, SHARED, query_bytes, rows_of_a_tile, stage_bytes};

const CONSUMERS: u64 = GROUPS * 128;
/// One more warp group copies.
const THREADS: u64 = CONSUMERS + 128;
/// Registers of a thread that multiplies, and of one that does not: those of 512 threads with 128 each.
const REGISTERS: (u64, u64) = (160, 24);
/// The same where the latter make bf16 of codes.
const REGISTERS_OF_CODES: (u64, u64) = (144, 80);

/// The kernel's sizes.
struct SharedPages<'a, 's> {
    spec: &'s KernelSpec,
    shape: AttnShape,
    branches: &'a [Branch],
    caches: Vec<CacheSpec>,
    lists: Option<PageLists<'s>>,
    /// Where the first branch's results are kept, in 4-byte elements of scratch.
    kept: u64,
    stages: u64,
    multiprocessors: u64,
}

/// (Tile, KV head).
type Item<'c> = (Int<'c>, Int<'c>);

/// What copies and products share.
struct Stages<'c> {
    ring: Ring<'c>,
    /// Byte address of the first stage.
    pages: Int<'c>,
    /// Of each stage: the flags of its page as a list has them, 0 where the branch ends; which queries take it.
    notes: Ptr<'c>,
}

/// Whether the kernel takes these branches: a selection's has lists.
pub fn takes(shape: AttnShape, branches: &[Branch]) -> bool {
    lists::takes(shape) && branches.iter().all(|branch| !matches!(branch.source, Source::Listed(_, None)))
}

/// Adds the functions of [`SHARED_PAGES`].
pub fn launches(k: &mut Kernel<'_, '_>, shape: AttnShape, branches: &[Branch]) {
    if !k.wants(SHARED_PAGES) {
        return;
    }
    let (spec, multiprocessors) = (k.spec, k.multiprocessors);
    let caches: Vec<CacheSpec> = branches.iter().map(|branch| k.cache(branch.cache)).collect();
    let lists = branches.iter().zip(&caches).find_map(|(branch, cache)| match branch.source {
        Source::Listed(select, Some(lists)) => Some(PageLists { spec, select, lists, cache: *cache }),
        Source::Listed(_, None) | Source::Window(_) => None,
    });
    let kept = if branches.len() > 1 { k.scratch(multiprocessors * CONSUMERS * shape.v_dim) } else { 0 };
    let stages = ((SHARED - query_bytes(shape)) / stage_bytes(shape)).min(6);
    let s = SharedPages { spec, shape, branches, caches, lists, kept, stages, multiprocessors };
    let grid = [Extent::fixed(multiprocessors), Extent::fixed(1)];
    let shared = query_bytes(shape) + stages * stage_bytes(shape) + SHARED_SLACK;
    let name = part(SHARED_PAGES);
    let function = Function::new(&name, grid, THREADS).of(&[SHARED_PAGES]).shared_bytes(shared);
    k.function(function, |e| s.body(e));
}

impl SharedPages<'_, '_> {
    /// Threads that fill stages: one that copies, or a warp group that makes bf16 of codes.
    fn producers(&self) -> u64 {
        if self.caches.iter().any(|cache| cache.codec.scaled()) { 128 } else { 1 }
    }

    /// Queries of a warp group.
    fn queries(&self) -> u64 {
        ROWS / group(self.shape)
    }

    /// Queries of a tile.
    fn tile(&self) -> u64 {
        rows_of_a_tile(self.shape)
    }

    /// Words of the queries that take a page.
    fn taker_words(&self) -> u64 {
        self.tile().div_ceil(32)
    }

    /// Words of a stage's note. A group reads two words of takers from where its own begin.
    fn note_words(&self) -> u64 {
        2 + self.taker_words()
    }

    fn body<'c>(&self, e: &Emit<'c>) {
        let memory = e.dynamic_shared();
        let stages = Stages {
            ring: Ring::between(e, self.stages, (self.producers(), CONSUMERS / WARP)),
            pages: e.add_const(e.shared_address(memory), query_bytes(self.shape) as i64),
            notes: e.shared(self.stages * self.note_words()),
        };
        let warp = e.uniform(e.div_rem(e.thread(), WARP).0);
        let (more, fewer) = if self.producers() == 1 { REGISTERS } else { REGISTERS_OF_CODES };
        e.either(
            e.lt(warp, e.int(CONSUMERS / WARP)),
            |e| {
                e.take_registers(more);
                self.multiply(e, &stages, SharedTile::new(memory, GROUPS * ROWS));
            },
            |e| {
                e.give_registers(fewer);
                e.when(e.lt(e.thread(), e.int(CONSUMERS + self.producers())), |e| {
                    self.items(e, |e, item, next| self.produce(e, &stages, item, next));
                });
            },
        );
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
}
