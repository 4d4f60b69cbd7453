//! The k best of many scores by one warp, and of several warps' lists: HySparse 2602.03560, Algorithm 1.
//!
//! ```text
//! load      a lane takes every 32nd page: its scores as keys, unsigned ints of the same order (0: none)
//! compare   each lane the best of its own and of its place in the list so far
//! reduce    the largest key of the warp, then the lowest page that has it
//! store     lane i of the list takes the i-th; the page is taken out of the candidates
//! ```

use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::tile::RegisterTile;

/// Pages that a warp looks at together: sixteen a lane.
pub const CHUNK: u64 = 512;

/// A lane's pages of a context that is not worth all of those.
const SHORT: u64 = 4;

/// The better of two (key, page): ties to the lower page.
fn better<'c>(e: &Emit<'c>, a: (Int<'c>, Int<'c>), b: (Int<'c>, Int<'c>)) -> (Int<'c>, Int<'c>) {
    let tie = e.and(e.eq(b.0, a.0), e.lt_unsigned(b.1, a.1));
    let take = e.or(e.above_unsigned(b.0, a.0), tie);
    (e.pick(take, b.0, a.0), e.pick(take, b.1, a.1))
}

/// The largest of the lanes' keys, and the lowest of what has it.
pub fn best_of_warp<'c>(e: &Emit<'c>, key: Int<'c>, place: Int<'c>) -> (Int<'c>, Int<'c>) {
    let most = e.warp_max_unsigned(key);
    (most, e.warp_min_unsigned(e.pick(e.eq(key, most), place, e.minus_one())))
}

/// Keys of what stands one after the other, pages or experts: unsigned, 0 for nothing.
pub struct Candidates<'c> {
    pub keys: RegisterTile<'c>,
    /// What the lane's first key is of.
    pub first: Int<'c>,
}

impl<'c> Candidates<'c> {
    /// The best of the lane's own, and the first that has its key.
    pub fn best(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        let keys = self.keys.words(e);
        let most = keys.iter().fold(e.int(0), |most, key| e.max_unsigned(most, *key));
        let place = keys
            .iter()
            .enumerate()
            .rev()
            .fold(e.int(0), |place, (i, key)| e.pick(e.eq(*key, most), e.int(i as u64 * WARP), place));
        (most, e.add(self.first, place))
    }

    /// Nobody takes it any more.
    pub fn take_out(&self, e: &Emit<'c>, page: Int<'c>) {
        let place = e.sub(page, self.first);
        self.keys.change(e, |i, key| e.pick(e.eq(place, e.int(i as u64 * WARP)), e.int(0), key));
    }
}

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

    /// The best of the lane's own.
    fn best(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        let mine = self.keys.words(e).into_iter().zip(self.pages.words(e));
        mine.reduce(|a, b| better(e, a, b)).unwrap_or((e.int(0), e.minus_one()))
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

    /// Takes in pages `begin..end`, at most [`CHUNK`], behind those that it has taken in.
    pub fn take(
        &self,
        e: &Emit<'c>,
        (begin, end): (Int<'c>, Int<'c>),
        score: &dyn Fn(&Emit<'c>, Int<'c>) -> Float<'c>,
    ) {
        let last = e.add_const(end, -1);
        let take = |e: &Emit<'c>, words: u64| {
            let scores =
                RegisterTile::load(e, words, |e, place| e.bits(score(e, e.min(e.add(begin, place), last))));
            self.take_scores(e, (begin, end), scores);
        };
        // Most contexts are short: they need not look for as many scores again, nor compare them.
        let few = e.ge(e.add_const(begin, (SHORT * WARP) as i64), end);
        e.either(few, |e| take(e, SHORT), |e| take(e, CHUNK / WARP));
    }

    /// The same of scores that are there, as bits of f32: element i is page `begin + i`.
    pub fn take_scores(&self, e: &Emit<'c>, (begin, end): (Int<'c>, Int<'c>), scores: RegisterTile<'c>) {
        let first = e.add(begin, e.lane());
        let visible = e.sub(end, first);
        scores.change(e, |i, score| {
            let inside = e.lt(e.int(i as u64 * WARP), visible);
            e.pick(inside, e.ordered(e.widen(score)), e.int(0))
        });
        self.choose(e, &self.list, Some(&Candidates { keys: scores, first }));
    }

    /// The best of all candidates become the list.
    fn choose(&self, e: &Emit<'c>, listed: &Pages<'c>, chunk: Option<&Candidates<'c>>) {
        let list = Pages::none(e);
        e.each(e.int(0), e.opaque(e.int(self.count)), 1, |e, i| {
            let mine = listed.best(e);
            let (key, page) = chunk.map_or(mine, |chunk| better(e, mine, chunk.best(e)));
            let (most, page) = best_of_warp(e, key, page);
            list.put(e, i, (most, page));
            listed.take_out(e, page);
            chunk.into_iter().for_each(|chunk| chunk.take_out(e, page));
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
        self.choose(e, &Pages { keys: load(keys), pages: load(pages) }, None);
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
