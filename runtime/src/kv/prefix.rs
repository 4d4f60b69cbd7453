//! Stored prefixes: what the caches hold of the first tokens of some text, for sequences that begin with the same.

use std::collections::HashMap;

use super::pages::PagePool;

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
pub struct PrefixStore {
    places: Vec<Option<Prefix>>,
    uses: u64,
}

impl PrefixStore {
    /// Room for so many.
    pub fn new(capacity: u64) -> PrefixStore {
        PrefixStore { places: (0..capacity).map(|_| None).collect(), uses: 0 }
    }

    /// Most prefixes.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    /// The prefix in a place.
    pub fn get(&self, place: usize) -> Option<&Prefix> {
        self.places.get(place)?.as_ref()
    }

    /// The place that shares most first tokens with `tokens`, and how many: a whole number of pages of `page` tokens and
    /// fewer than all of `tokens`, of which one must be computed to give logits. `whole`: there are rings, whose windows
    /// are those at a prefix's end alone.
    pub fn longest(&self, tokens: &[u32], page: usize, whole: bool) -> Option<(usize, usize)> {
        let most = tokens.len().checked_sub(1)?;
        let shared = |prefix: &Prefix| {
            let equal = prefix.tokens.iter().zip(&tokens[..most]).take_while(|(a, b)| a == b).count();
            if whole && equal < prefix.tokens.len() { 0 } else { equal / page * page }
        };
        let all = self.places.iter().enumerate();
        let all = all.filter_map(|(place, prefix)| Some((place, shared(prefix.as_ref()?))));
        all.filter(|(_, len)| *len > 0).max_by_key(|(place, len)| (*len, std::cmp::Reverse(*place)))
    }

    /// The place of just these tokens.
    pub fn find(&self, tokens: &[u32]) -> Option<usize> {
        self.places.iter().position(|prefix| prefix.as_ref().is_some_and(|p| p.tokens == tokens))
    }

    /// Takes note that a prefix is used.
    pub fn touch(&mut self, place: usize) {
        self.uses += 1;
        if let Some(Some(prefix)) = self.places.get_mut(place) {
            prefix.used = self.uses;
        }
    }

    /// An empty place, made by letting go of the prefix that was used longest ago where there is none. `None`: there is
    /// room for no prefix at all.
    pub fn vacate(&mut self, pool: &mut PagePool) -> Option<usize> {
        if let Some(place) = self.places.iter().position(Option::is_none) {
            return Some(place);
        }
        self.drop_oldest(pool)
    }

    /// Keeps a prefix in an empty place; `pages` have it as a user from now on.
    pub fn put(&mut self, place: usize, tokens: Vec<u32>, pages: Vec<i32>, pool: &mut PagePool) {
        pool.share(&pages);
        self.places[place] = Some(Prefix { tokens, pages, used: 0 });
        self.touch(place);
    }

    /// Lets go of the prefix that was used longest ago, and says where it was.
    pub fn drop_oldest(&mut self, pool: &mut PagePool) -> Option<usize> {
        let all = self.places.iter().enumerate();
        let (place, _) =
            all.filter_map(|(i, p)| Some((i, p.as_ref()?.used))).min_by_key(|(_, used)| *used)?;
        if let Some(prefix) = self.places[place].take() {
            pool.release(&prefix.pages);
        }
        Some(place)
    }

    /// Pages that nobody but stored prefixes uses.
    pub fn pages_alone(&self, pool: &PagePool) -> usize {
        let mut uses = HashMap::new();
        for page in self.places.iter().flatten().flat_map(|prefix| &prefix.pages) {
            *uses.entry(*page).or_insert(0) += 1;
        }
        uses.into_iter().filter(|(page, count)| pool.users(*page) == *count).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(pool: &mut PagePool, texts: &[&[u32]]) -> PrefixStore {
        let mut store = PrefixStore::new(texts.len() as u64);
        for tokens in texts {
            let pages = pool.take(tokens.len() / 2).unwrap();
            let place = store.vacate(pool).unwrap();
            store.put(place, tokens.to_vec(), pages.clone(), pool);
            pool.release(&pages);
        }
        store
    }

    #[test]
    fn the_longest_shared_beginning_is_found() {
        let mut pool = PagePool::new(9);
        let store = store(&mut pool, &[&[1, 2], &[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4]]);
        for (tokens, whole, found) in [
            (&[1, 2, 3, 4, 5, 6, 7][..], true, Some((1, 6))),
            (&[1, 2, 3, 4, 5, 6], true, Some((2, 4))),
            (&[1, 2, 3, 4, 5, 6], false, Some((1, 4))),
            (&[1, 2, 3, 4, 9, 9], true, Some((2, 4))),
            (&[1, 2, 3, 9], true, Some((0, 2))),
            (&[1, 2, 3], true, Some((0, 2))),
            (&[1, 2], true, None),
            (&[2, 2, 3], true, None),
            (&[], true, None),
        ] {
            assert_eq!(store.longest(tokens, 2, whole), found, "{tokens:?}, {whole}");
        }
    }

    #[test]
    fn the_one_that_was_used_longest_ago_goes() {
        let mut pool = PagePool::new(4);
        let mut store = store(&mut pool, &[&[1, 2], &[3, 4], &[5, 6]]);
        assert_eq!((pool.free(), store.pages_alone(&pool)), (1, 3));
        store.touch(0);
        let page = store.get(1).unwrap().pages.clone();
        pool.share(&page);
        assert_eq!(store.pages_alone(&pool), 2, "a sequence uses one");
        assert_eq!(store.vacate(&mut pool), Some(1));
        assert_eq!((pool.free(), pool.users(page[0])), (1, 1));
        assert_eq!(store.drop_oldest(&mut pool), Some(2));
        assert_eq!(store.drop_oldest(&mut pool), Some(0));
        assert_eq!((pool.free(), store.drop_oldest(&mut pool)), (3, None));
        assert_eq!(PrefixStore::new(0).vacate(&mut pool), None);
    }
}
