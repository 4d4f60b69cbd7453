//! Decode over whole contexts: `FullAttention` and `OracleAttention` of a few rows.
//!
//! ```text
//! block    of few rows a part of an item, a (row, KV head); of more its share of all pages of the step, piece by piece ([`Shares`])
//! warp     pages of the piece in turn, each from a place of its own in shared memory
//! piece    the warps' softmaxes become a state in scratch, each page's largest logit a number in a table
//! item     out; lse of all heads, the group's block scores, the k best: of few rows, where an item has many states, by a second
//!          launch; of more by the last of its blocks to leave a state
//! ```
//! Where a share ends hangs on all contexts of the step, and so do a result's last bits.
//!
//! What this step does not write is copied before the inputs are there. No score leaves the chip but one a (head, page). Scores are compared
//! in logs (HySparse 2602.03560, equation 3), as [`Heads`](crate::gpu::select::Heads) says. Reference: `reference::attention::full`.

mod choose;
mod merge;
mod shares;
mod states;

use hyc_plan::{AttnShape, Extent, SelectShape};

use self::choose::choose;
use self::shares::{Piece, Shares};
use self::states::{Counted, FEW, MOST_COUNTED, Parts};
use super::limits::{SPLIT_KV, SPLIT_KV_LAST, SPLIT_KV_ROWS};
use super::staged::{Supply, Turns};
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, WARP};
use crate::gpu::work_item::group;

/// Most shared memory of a block, of which a multiprocessor has two, and its most warps.
const SHARED: u64 = 106 << 10;
const MOST_WARPS: u64 = 4;

/// Warps of a block that merges a head, and of all blocks of a launch some of which select.
const MERGERS: u64 = 8;
const SELECTORS: u64 = 16;

/// Adds the functions of [`SPLIT_KV`], for steps of at most [`most_rows_in_parts`] rows, and of [`SPLIT_KV_LAST`], for [`SPLIT_KV_ROWS`].
pub fn decode<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    if !k.wants(SPLIT_KV) && !k.wants(SPLIT_KV_LAST) {
        return;
    }
    let [few, rows] =
        [most_rows_in_parts(shape, k.multiprocessors), SPLIT_KV_ROWS].map(|rows| rows.min(k.spec.max_rows));
    let (splits, blocks) = (splits(shape, k.multiprocessors), (2 * k.multiprocessors).min(MOST_COUNTED));
    let mut reader = Reader { shape, cache: k.cache("cache"), operand: "cache", warps: 1 };
    reader.warps = (SHARED / reader.stage_bytes()).clamp(1, MOST_WARPS);
    let pages = k.spec.max_context.div_ceil(reader.cache.page);
    let states = Counted::new(k, reader, blocks, few * shape.kv_heads * splits);
    let table = select.map(|select| {
        let at = k.scratch(4 * rows * shape.kv_heads * group(shape) * pages);
        Table { at, rows: group(shape), pages, select }
    });
    let split = Split { reader, states, splits, table, sink };
    let bytes = reader.warps * reader.stage_bytes() + SHARED_SLACK;
    let parts = k.rows(shape.kv_heads * splits, 1);
    let mut function = |variant: &str, blocks: Extent, body: &dyn Fn(&Emit<'c>)| {
        let (name, variants) = (part(variant), [variant]);
        let function = Function::new(&name, [blocks, Extent::fixed(1)], reader.warps * WARP);
        k.function(function.of(&variants).shared_bytes(bytes).waits_itself(), body);
    };
    function(SPLIT_KV, parts, &|e| split.part(e));
    function(SPLIT_KV_LAST, Extent::fixed(blocks), &|e| split.share(e, (rows, blocks)));
    // Blocks of heads, then those that select.
    let items = group(shape) + u64::from(select.is_some());
    let warps = if select.is_some() { SELECTORS } else { MERGERS };
    let grid = [k.rows(shape.kv_heads * items, 1), Extent::fixed(1)];
    let function = Function::new("_merge", grid, warps * WARP).of(&[SPLIT_KV]).waits_itself();
    k.function(function, |e| split.merge(e, items, warps));
}

/// Most parts of an item, of [`SPLIT_KV`]: two blocks a multiprocessor at one row.
fn splits(shape: AttnShape, multiprocessors: u64) -> u64 {
    (2 * multiprocessors / shape.kv_heads).clamp(1, 64)
}

/// The most rows of [`SPLIT_KV`]: shared by all blocks, an item's pages would be in more parts than one block adds up.
pub fn most_rows_in_parts(shape: AttnShape, multiprocessors: u64) -> u64 {
    (2 * multiprocessors / (FEW * shape.kv_heads)).clamp(1, SPLIT_KV_ROWS)
}

/// Scratch of an op that selects: `[row][KV head][group][pages]` largest logits.
struct Table {
    at: u64,
    /// Heads of a group.
    rows: u64,
    /// Pages of the longest context.
    pages: u64,
    select: SelectShape,
}

impl Table {
    /// That of an item: `[group][pages]`.
    fn of<'c>(&self, e: &Emit<'c>, index: Int<'c>) -> Ptr<'c> {
        e.at(e.at(e.scratch(), e.int(self.at)), e.mul_const(e.wide(index), self.rows * self.pages))
    }
}

struct Split {
    reader: Reader,
    states: Counted,
    /// Most parts of an item that has blocks of its own.
    splits: u64,
    table: Option<Table>,
    sink: bool,
}

impl Split {
    /// A block of a part of one item.
    fn part<'c>(&self, e: &Emit<'c>) {
        let r = &self.reader;
        let of = e.div_rem(e.block_x(), self.splits);
        let piece = Piece::of_item(e, of, (r.shape.kv_heads, r.cache.page), self.splits);
        e.when(e.lt(e.int(0), piece.pages), |e| {
            let turns = Turns::new(e, (r.warps, 1), r.stage_bytes());
            self.begin(e, &turns, piece, piece.item.settled(e, r.cache.page));
            e.wait_for_inputs();
            self.attend(e, &turns, piece, e.add(piece.states, piece.part));
        });
    }

    /// A block of a share of all pages.
    fn share<'c>(&self, e: &Emit<'c>, (rows, blocks): (u64, u64)) {
        let r = &self.reader;
        let shares = Shares::new(e, (r.shape.kv_heads, r.cache.page), (rows, blocks));
        let (begin, end) = shares.of_block(e);
        e.when(e.lt(begin, end), |e| {
            let turns = Turns::new(e, (r.warps, 1), r.stage_bytes());
            let first = shares.piece(e, begin, end);
            self.begin(e, &turns, first, first.item.settled(e, r.cache.page));
            e.wait_for_inputs();
            let at = e.var(begin.into());
            let now = |e: &Emit<'c>| e.get(at).into_int_value();
            e.during(
                |e| e.lt(now(e), end),
                |e| {
                    let piece = shares.piece(e, now(e), end);
                    self.attend(e, &turns, piece, self.states.number(e, piece, piece.part));
                    e.async_fence();
                    e.barrier();
                    self.states.close(e, piece, |e, parts| self.finish(e, piece, parts));
                    let next = e.add(now(e), piece.pages);
                    e.set(at, next.into());
                    e.when(e.lt(next, end), |e| {
                        let piece = shares.piece(e, next, end);
                        self.begin(e, &turns, piece, piece.all);
                    });
                },
            );
        });
    }

    /// The item's results.
    fn finish<'c>(&self, e: &Emit<'c>, piece: Piece<'c>, parts: Parts<'c>) {
        let heads = self.states.store(e, piece, parts, self.sink, self.table.is_some());
        if let Some((table, heads)) = self.table.as_ref().zip(heads) {
            choose(e, self.reader.warps, piece, table, &heads);
        }
    }

    /// Sets the warps on the pages of a piece; the first of each is copied, where it is one of the first `settled` of the context.
    fn begin<'c>(&self, e: &Emit<'c>, turns: &Turns<'c>, piece: Piece<'c>, settled: Int<'c>) {
        let warp = e.div_rem(e.thread(), WARP).0;
        let slots = (warp, piece.pages, e.int(self.reader.warps));
        self.supply(piece, |supply| turns.begin(e, slots, settled, supply));
    }

    fn supply<'c, R>(&self, piece: Piece<'c>, then: impl FnOnce(&Supply<'_, 'c>) -> R) -> R {
        let logical = |e: &Emit<'c>, i: Int<'c>| e.add(piece.first, i);
        let copy = |e: &Emit<'c>, page: Int<'c>, to: Int<'c>, full: Int<'c>| {
            self.reader.stage(e, piece.item, page, to, full)
        };
        then(&Supply { logical: &logical, copy: &copy })
    }

    /// Leaves the piece's state in scratch, as state `number`.
    fn attend<'c>(&self, e: &Emit<'c>, turns: &Turns<'c>, piece: Piece<'c>, number: Int<'c>) {
        let r = &self.reader;
        let q = r.query(e, piece.item);
        let raw = self.table.as_ref().map(|table| (table.of(e, piece.index), table.pages));
        let store = |e: &Emit<'c>, page: Int<'c>, row: Int<'c>, most: Float<'c>| {
            if let Some((table, pages)) = raw {
                e.store(table, e.add(e.mul_const(row, pages), page), most.into());
            }
        };
        let state = r.nothing(e);
        self.supply(piece, |supply| {
            turns.run(e, supply, piece.all, |e, place, logical| {
                let page = (place, logical, e.int(0));
                r.page(e, piece.item, q, page, (e.int(0), 1), &state, raw.is_some().then_some(&store));
            });
        });
        // Behind all pages, in their place.
        e.barrier();
        let memory = r.partials(e);
        r.store_partial(e, &state, &memory);
        self.states.all.leave(e, number, 0..r.warps, &memory);
    }
}
