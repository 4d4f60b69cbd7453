//! What warps have to know of a tile, beside its rows: who copies those has looked it up, tiles ahead.
//!
//! ```text
//! the thread that copies rows    for each tile: wait until a place is empty, note the tile, start the copy of its list; at last: an end
//! warps that multiply            for each tile: wait until it is noted; products; read the note and the list; the place is empty
//! ```
//! A warp has no register for any of it beside its sums, and one that ptxas spills comes back from device memory: what a block takes
//! of shared memory leaves next to nothing of the first cache.

use hyc_plan::TILE;

use crate::gpu::gemm::matrices::Section;
use crate::gpu::gemm::turned::List;
use crate::gpu::gemm::wgmma::Tile;
use crate::gpu::isa::{Emit, Int, Ptr, Var};
use crate::gpu::tile::pipeline::Ring;

/// Words of a note: the tile's first row, the rows that there are, where they stand, its block of outputs.
const NOTE: u64 = 4;
/// Tiles that are noted at a time.
const PLACES: u64 = 2;

/// Notes of tiles in shared memory, and lists of what their rows stand for.
pub struct Notes<'c> {
    ring: Ring<'c>,
    notes: Ptr<'c>,
    lists: Ptr<'c>,
    /// The list of all, in device memory.
    list: Ptr<'c>,
    width: u64,
    /// What was looked up in the list in hand.
    read: Var<'c>,
}

impl<'c> Notes<'c> {
    /// Of tiles of `width` rows, which so many warps multiply. Every thread of the block must come here.
    pub fn new(e: &Emit<'c>, list: &dyn Fn(&Emit<'c>) -> Ptr<'c>, (width, warps): (u64, u64)) -> Notes<'c> {
        let (notes, lists) = (e.shared(NOTE * PLACES), e.shared(width * PLACES));
        Notes {
            ring: Ring::new(e, PLACES, warps),
            notes,
            lists,
            list: list(e),
            width,
            read: e.var(e.int(0).into()),
        }
    }

    /// Notes a tile of which so many rows are there, and has the list of that many blocks of 64 of them copied. One thread.
    pub fn write(&self, e: &Emit<'c>, (tile, rows): (&Tile<'c>, Int<'c>), blocks: Int<'c>) {
        let words = [tile.row, rows, tile.place, tile.section.block];
        let from = e.at(self.list, e.add(tile.place, tile.row));
        let bytes = e.mul_const(blocks, 4 * TILE);
        self.ring.produce_noted(
            e,
            bytes,
            |e, stage| self.note(e, stage, &words),
            |e, stage, full| {
                let to = e.shared_address(e.at(self.lists, e.mul_const(stage, self.width)));
                e.each(e.int(0), blocks, 1, |e, block| {
                    let at = e.mul_const(block, 4 * TILE);
                    e.bulk_copy(e.add(to, at), e.byte_offset(from, at), 4 * TILE, full);
                });
            },
        );
    }

    /// Notes that there is none any more. The same thread.
    pub fn end(&self, e: &Emit<'c>) {
        let words = [e.minus_one(); NOTE as usize];
        self.ring.produce_noted(e, e.int(0), |e, stage| self.note(e, stage, &words), |_, _, _| {});
    }

    fn note(&self, e: &Emit<'c>, stage: Int<'c>, words: &[Int<'c>; NOTE as usize]) {
        e.store_words(self.notes, e.mul_const(stage, NOTE), words);
    }

    /// Calls `body` for each tile that is noted, with how many of its rows are there. Whole warps, of those that multiply.
    pub fn each(&self, e: &Emit<'c>, body: impl FnOnce(&Emit<'c>, Int<'c>)) {
        let rows = |e: &Emit<'c>| {
            let stage = self.ring.full(e);
            self.words(e, stage)[1]
        };
        let there = e.var(rows(e).into());
        let now = |e: &Emit<'c>| e.get(there).into_int_value();
        e.during(
            |e| e.ge(now(e), e.int(0)),
            |e| {
                e.set(self.read, e.int(0).into());
                body(e, now(e));
                e.warp_barrier();
                let read = e.get(self.read).into_int_value();
                self.ring.release(e, e.first_lane_behind(read));
                e.set(there, rows(e).into());
            },
        );
    }

    /// The tile in hand and the list of its rows; what is not noted is `other`'s.
    pub fn noted(&self, e: &Emit<'c>, other: Tile<'c>) -> (Tile<'c>, List<'c>) {
        let stage = self.ring.stage(e);
        let [row, rows, place, block] = self.words(e, stage);
        let tile = Tile { row, rows, place, section: Section { block, ..other.section }, ..other };
        let at = e.at(self.lists, e.mul_const(stage, self.width));
        (tile, List { rows, at, read: self.read })
    }

    /// A note. The assembler takes what is loaded of shared memory for different in each lane, and with it each turn of a loop that
    /// hangs on it.
    fn words(&self, e: &Emit<'c>, stage: Int<'c>) -> [Int<'c>; 4] {
        e.load4(self.notes, e.mul_const(stage, NOTE)).map(|word| e.uniform(word))
    }
}
