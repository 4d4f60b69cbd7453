//! The k best of many scores by one warp, and of several warps' lists: HySparse 2602.03560, Algorithm 1.
//!
//! ```text
//! load      a lane takes every 32nd page: its scores as keys, unsigned ints of the same order (0: none)
//! compare   each lane the best of its own
//! reduce    the largest key of the warp, then the lowest page that has it
//! store     lane i of the list takes the i-th; the page is taken out of the candidates
//! ```

use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::tile::RegisterTile;

/// Pages that a warp looks at together: sixteen a lane.
pub const CHUNK: u64 = 512;

/// Pages and their keys.
struct Pages<'c> {
    keys: RegisterTile<'c>,
    pages: RegisterTile<'c>,
}

impl<'c> Pages<'c> {
    fn none(e: &Emit<'c>) -> Pages<'c> {
        let (none, nowhere) = (e.int(0), e.minus_one());
        Pages { keys: RegisterTile::filled(e, 1, none), pages: RegisterTile::filled(e, 1, nowhere) }
    }

    fn and(&self, more: &Pages<'c>) -> Pages<'c> {
        Pages { keys: self.keys.and(&more.keys), pages: self.pages.and(&more.pages) }
    }

    /// The largest key of the warp and its page, the lowest first.
    fn best(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        let mine = self.keys.words(e).into_iter().zip(self.pages.words(e));
        let (key, page) = mine
            .reduce(|a, b| {
                let tie = e.and(e.eq(b.0, a.0), e.lt_unsigned(b.1, a.1));
                let take = e.or(e.above_unsigned(b.0, a.0), tie);
                (e.pick(take, b.0, a.0), e.pick(take, b.1, a.1))
            })
            .unwrap_or((e.int(0), e.minus_one()));
        let most = e.warp_max_unsigned(key);
        (most, e.warp_min_unsigned(e.pick(e.eq(key, most), page, e.minus_one())))
    }

    fn take_out(&self, e: &Emit<'c>, page: Int<'c>) {
        let pages = self.pages.words(e);
        self.keys.change(e, |i, key| e.pick(e.eq(pages[i], page), e.int(0), key));
    }

    /// Element `at` of a list becomes (key, page).
    fn put(&self, e: &Emit<'c>, at: Int<'c>, (key, page): (Int<'c>, Int<'c>)) {
        let here = e.eq(e.lane(), at);
        self.keys.change(e, |_, old| e.pick(here, key, old));
        self.pages.change(e, |_, old| e.pick(here, page, old));
    }
}

/// The best pages so far of one warp: lane i has the i-th.
pub struct TopK<'c> {
    count: u64,
    list: Pages<'c>,
}

impl<'c> TopK<'c> {
    /// A list of the `count` best, at most a lane each: none yet.
    pub fn none(e: &Emit<'c>, count: u64) -> TopK<'c> {
        TopK { count, list: Pages::none(e) }
    }

    /// Takes in pages `begin..end`, at most [`CHUNK`].
    pub fn take(
        &self,
        e: &Emit<'c>,
        (begin, end): (Int<'c>, Int<'c>),
        score: &dyn Fn(&Emit<'c>, Int<'c>) -> Float<'c>,
    ) {
        let last = e.add_const(end, -1);
        let pages = RegisterTile::load(e, CHUNK / WARP, |e, place| e.add(begin, place));
        let keys = pages.map(e, |e, page| {
            let key = e.ordered(score(e, e.min(page, last)));
            e.pick(e.lt(page, end), key, e.int(0))
        });
        self.choose(e, &self.list.and(&Pages { keys, pages }));
    }

    /// The best of all candidates become the list.
    fn choose(&self, e: &Emit<'c>, candidates: &Pages<'c>) {
        let list = Pages::none(e);
        e.each(e.int(0), e.int(self.count), 1, |e, i| {
            let (key, page) = candidates.best(e);
            list.put(e, i, (key, page));
            candidates.take_out(e, page);
        });
        let (keys, pages) = (list.keys.words(e), list.pages.words(e));
        self.list.keys.change(e, |i, _| keys[i]);
        self.list.pages.change(e, |i, _| pages[i]);
    }

    /// Leaves the list at `[lane]` of both places, in shared memory.
    pub fn leave(&self, e: &Emit<'c>, keys: Ptr<'c>, pages: Ptr<'c>) {
        let lane = e.lane();
        self.list.keys.words(e).into_iter().for_each(|key| e.store(keys, lane, key.into()));
        self.list.pages.words(e).into_iter().for_each(|page| e.store(pages, lane, page.into()));
    }

    /// Takes in `lists` that were left one after the other.
    pub fn merge(&self, e: &Emit<'c>, keys: Ptr<'c>, pages: Ptr<'c>, lists: u64) {
        let load = |from: Ptr<'c>| RegisterTile::load(e, lists, |e, place| e.load_int(from, place));
        self.choose(e, &Pages { keys: load(keys), pages: load(pages) });
    }

    /// Writes the list: the pages, -1 where there are fewer.
    pub fn write(&self, e: &Emit<'c>, to: Ptr<'c>) {
        let lane = e.lane();
        e.when(e.lt(lane, e.int(self.count)), |e| {
            let found = self.list.keys.words(e).into_iter().zip(self.list.pages.words(e));
            for (key, page) in found {
                let page = e.pick(e.above_unsigned(key, e.int(0)), page, e.minus_one());
                e.store(to, lane, page.into());
            }
        });
    }
}
