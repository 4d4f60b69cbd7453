//! Stored prefixes: what the caches hold of the first tokens of some text, for sequences that begin with the same.
//!
//! A text finds them by digests: at each border of a page stands the digest of that page's tokens and of the digest at
//! the border before.
//!
//! ```text
//! tokens    [1 2 3 4] [5 6 7 8] [9]        pages of 4
//! digests           a = h(0, 1..4)
//!                             b = h(a, 5..8)      the longest that is stored and has these very tokens
//! ```
//! So a lookup goes through the text once, however many prefixes there are. What a digest finds is compared token by
//! token: two texts of one digest cost time and are never taken for each other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::pages::PagePool;

#[cfg(test)]
mod tests;

/// A stored prefix: whole pages of the growing caches, and in a place of its own the last window of every ring.
pub struct Prefix {
    /// Its tokens: a whole number of pages.
    pub tokens: Vec<u32>,
    /// Their pages in the growing caches, of which the prefix is one user.
    pub pages: Vec<i32>,
    /// When it was used last, counted in uses.
    used: u64,
}

/// The stored prefixes, each in a place `0..capacity`. Where there is no room the one that was used longest ago goes.
pub struct PrefixStore<H = RandomState> {
    places: Vec<Option<Prefix>>,
    uses: u64,
    /// Tokens of a page.
    page: usize,
    /// There are rings, whose windows are those at a prefix's end alone: sequences begin with all of it.
    whole: bool,
    digests: H,
    /// The digest at each border where a sequence may leave a prefix, with the prefix's place.
    borders: BTreeSet<(u64, usize)>,
    /// Pages that stored prefixes use, and how many of them each.
    uses_of_pages: HashMap<i32, u32>,
}

impl PrefixStore {
    /// Room for so many; pages have `page` tokens. `whole`: there are rings.
    pub fn new(capacity: u64, page: u64, whole: bool) -> PrefixStore {
        PrefixStore::with_digests(capacity, page, whole, RandomState::new())
    }
}

impl<H: BuildHasher> PrefixStore<H> {
    fn with_digests(capacity: u64, page: u64, whole: bool, digests: H) -> PrefixStore<H> {
        PrefixStore {
            places: (0..capacity).map(|_| None).collect(),
            uses: 0,
            page: page as usize,
            whole,
            digests,
            borders: BTreeSet::new(),
            uses_of_pages: HashMap::new(),
        }
    }

    /// Most prefixes.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    /// The prefix in a place.
    pub fn get(&self, place: usize) -> Option<&Prefix> {
        self.places.get(place)?.as_ref()
    }

    /// The digests at the borders of the whole pages of `tokens`.
    fn chain(&self, tokens: &[u32]) -> impl Iterator<Item = u64> {
        tokens.chunks_exact(self.page).scan(0, |before, page| {
            *before = self.digests.hash_one((*before, page));
            Some(*before)
        })
    }

    /// The same at those borders alone where a sequence may leave these tokens.
    fn ways_out(&self, tokens: &[u32]) -> Vec<u64> {
        let inner = if self.whole { tokens.len() / self.page - 1 } else { 0 };
        self.chain(tokens).skip(inner).collect()
    }

    /// Places, ascending, of the prefixes that may be left at a border of this digest.
    fn at(&self, digest: u64) -> impl Iterator<Item = usize> {
        self.borders.range((digest, 0)..=(digest, usize::MAX)).map(|(_, place)| *place)
    }

    /// The place that shares most first tokens with `tokens`, the first of several, and how many: a whole number of pages
    /// and fewer than all of `tokens`, of which one must be computed to give logits.
    pub fn longest(&self, tokens: &[u32]) -> Option<(usize, usize)> {
        let most = &tokens[..tokens.len().checked_sub(1)?];
        // A prefix that may be left at any border is known at all of them: behind one that nobody knows there is none.
        let known = |digest: &u64| self.whole || self.at(*digest).next().is_some();
        let digests: Vec<u64> = self.chain(most).take_while(known).collect();
        let borders = digests.iter().enumerate().rev();
        borders.map(|(before, digest)| ((before + 1) * self.page, *digest)).find_map(|(len, digest)| {
            let shares = |prefix: &Prefix| match self.whole {
                true => prefix.tokens == most[..len],
                false => prefix.tokens.starts_with(&most[..len]),
            };
            let place = self.at(digest).find(|place| self.get(*place).is_some_and(shares))?;
            Some((place, len))
        })
    }

    /// The place of just these tokens, whole pages.
    pub fn find(&self, tokens: &[u32]) -> Option<usize> {
        let digest = self.chain(tokens).last()?;
        self.at(digest).find(|place| self.get(*place).is_some_and(|prefix| prefix.tokens == tokens))
    }

    /// Takes note that a prefix is used.
    pub fn touch(&mut self, place: usize) {
        self.uses += 1;
        if let Some(Some(prefix)) = self.places.get_mut(place) {
            prefix.used = self.uses;
        }
    }

    /// An empty place, made by letting go of the prefix that was used longest ago where there is none. `None`: there is
    /// room for no prefix at all. A place is what is wanted here, and every prefix gives one.
    pub fn vacate(&mut self, pool: &mut PagePool) -> Option<usize> {
        if let Some(place) = self.places.iter().position(Option::is_none) {
            return Some(place);
        }
        self.oldest(|_| true).inspect(|place| self.let_go(*place, pool))
    }

    /// Keeps a prefix, whole pages and one at least, in an empty place; `pages` have it as a user from now on.
    pub fn put(&mut self, place: usize, tokens: Vec<u32>, pages: Vec<i32>, pool: &mut PagePool) {
        pool.share(&pages);
        pages.iter().for_each(|page| *self.uses_of_pages.entry(*page).or_insert(0) += 1);
        let ways_out = self.ways_out(&tokens);
        self.borders.extend(ways_out.into_iter().map(|digest| (digest, place)));
        self.places[place] = Some(Prefix { tokens, pages, used: 0 });
        self.touch(place);
    }

    /// Lets go of the prefix that was used longest ago of those with a page that no sequence uses: the others would give
    /// nothing. False: there is none. A page of two prefixes is free when both are gone.
    pub fn drop_for_pages(&mut self, pool: &mut PagePool) -> bool {
        let alone = |page: &i32| self.uses_of_pages.get(page) == Some(&pool.users(*page));
        let oldest = self.oldest(|prefix| prefix.pages.iter().any(alone));
        oldest.inspect(|place| self.let_go(*place, pool)).is_some()
    }

    /// Lets go of all.
    pub fn clear(&mut self, pool: &mut PagePool) {
        (0..self.places.len()).for_each(|place| self.let_go(place, pool));
    }

    /// The place of the prefix that was used longest ago of those that `may` go.
    fn oldest(&self, may: impl Fn(&Prefix) -> bool) -> Option<usize> {
        let all =
            self.places.iter().enumerate().filter_map(|(place, prefix)| Some((place, prefix.as_ref()?)));
        let (place, _) = all.filter(|(_, prefix)| may(prefix)).min_by_key(|(_, prefix)| prefix.used)?;
        Some(place)
    }

    /// Empties a place.
    fn let_go(&mut self, place: usize, pool: &mut PagePool) {
        let Some(prefix) = self.places[place].take() else { return };
        for digest in self.ways_out(&prefix.tokens) {
            self.borders.remove(&(digest, place));
        }
        for page in &prefix.pages {
            if let Entry::Occupied(mut uses) = self.uses_of_pages.entry(*page) {
                *uses.get_mut() -= 1;
                if *uses.get() == 0 {
                    uses.remove();
                }
            }
        }
        pool.release(&prefix.pages);
    }

    /// Pages that nobody but stored prefixes uses.
    pub fn pages_alone(&self, pool: &PagePool) -> usize {
        self.uses_of_pages.iter().filter(|(page, uses)| pool.users(**page) == **uses).count()
    }
}
