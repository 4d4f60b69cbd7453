//! The store by examples, and beside one that looks at every prefix.

use std::cmp::Reverse;
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

use super::*;

fn store(pool: &mut PagePool, whole: bool, texts: &[&[u32]]) -> PrefixStore {
    let mut store = PrefixStore::new(texts.len() as u64, 2, whole);
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
    for (tokens, whole, found) in [
        (&[1, 2, 3, 4, 5, 6, 7][..], true, Some((1, 6))),
        (&[1, 2, 3, 4, 5, 6], true, Some((2, 4))),
        (&[1, 2, 3, 4, 5, 6], false, Some((1, 4))),
        (&[1, 2, 3, 4, 9, 9], true, Some((2, 4))),
        (&[1, 2, 3, 9], true, Some((0, 2))),
        (&[1, 2, 3], true, Some((0, 2))),
        (&[1, 2], true, None),
        (&[1, 3, 3], false, None),
        (&[2, 2, 3], true, None),
        (&[], true, None),
    ] {
        let mut pool = PagePool::new(9);
        let store = store(&mut pool, whole, &[&[1, 2], &[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4]]);
        assert_eq!(store.longest(tokens), found, "{tokens:?}, {whole}");
    }
}

#[test]
fn the_one_that_was_used_longest_ago_goes() {
    let mut pool = PagePool::new(4);
    let mut store = store(&mut pool, true, &[&[1, 2], &[3, 4], &[5, 6]]);
    assert_eq!((pool.free(), store.pages_alone(&pool)), (1, 3));
    store.touch(0);
    let page = store.get(1).unwrap().pages.clone();
    pool.share(&page);
    assert_eq!(store.pages_alone(&pool), 2, "a sequence uses one");
    assert_eq!(store.vacate(&mut pool), Some(1), "whoever uses its pages, it gives its place");
    assert_eq!((pool.free(), pool.users(page[0])), (1, 1));
    store.clear(&mut pool);
    assert_eq!((pool.free(), store.pages_alone(&pool), store.find(&[1, 2])), (3, 0, None));
    assert_eq!(PrefixStore::new(0, 2, true).vacate(&mut pool), None);
}

#[test]
fn a_prefix_whose_pages_are_in_use_stays_where_pages_are_wanted() {
    let mut pool = PagePool::new(8);
    let mut store = store(&mut pool, false, &[&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 9]]);
    // A sequence has all of the first, another half of the second.
    let [all, half] = [0, 1].map(|place| store.get(place).unwrap().pages[..2 - place].to_vec());
    pool.share(&all);
    pool.share(&half);
    assert_eq!((pool.free(), store.pages_alone(&pool)), (3, 2));
    assert!(store.drop_for_pages(&mut pool));
    assert_eq!((store.find(&[5, 6, 7, 8]), pool.free()), (None, 4), "the older of two that give a page");
    assert!(store.drop_for_pages(&mut pool));
    assert_eq!((store.find(&[9, 9]), pool.free()), (None, 5));
    assert!(!store.drop_for_pages(&mut pool), "it would give nothing");
    assert_eq!(store.find(&[1, 2, 3, 4]), Some(0));
    pool.release(&all);
    assert!(store.drop_for_pages(&mut pool));
    assert_eq!(pool.free(), 7);
}

#[test]
fn a_page_has_another_digest_behind_another_page() {
    let store = PrefixStore::new(1, 2, false);
    let digests = |tokens: &[u32]| store.chain(tokens).collect::<Vec<_>>();
    let long = digests(&[1, 2, 1, 2, 3]);
    assert_eq!((long.len(), &long[..1]), (2, &digests(&[1, 2])[..]));
    assert!(long[0] != long[1] && long[1] != digests(&[2, 1, 1, 2])[1]);
}

/// A page of two prefixes is no sequence's: first one goes, then the other.
#[test]
fn prefixes_that_share_pages_give_way_together() {
    let mut pool = PagePool::new(3);
    let mut store = PrefixStore::new(2, 2, false);
    let pages = pool.take(3).unwrap();
    store.put(0, vec![1, 2, 3, 4], pages[..2].to_vec(), &mut pool);
    store.put(1, vec![1, 2, 3, 4, 5, 6], pages.clone(), &mut pool);
    assert_eq!(store.pages_alone(&pool), 0);
    pool.release(&pages);
    assert_eq!(store.pages_alone(&pool), 3);
    assert!(store.drop_for_pages(&mut pool));
    assert_eq!((pool.free(), store.longest(&[1, 2, 3, 4, 5, 6, 7])), (0, Some((1, 6))));
    assert!(store.drop_for_pages(&mut pool));
    assert_eq!(pool.free(), 3);
}

/// Tells `BITS` bits of digests from each other.
#[derive(Default)]
struct Weak<const BITS: u32>(DefaultHasher);

impl<const BITS: u32> Hasher for Weak<BITS> {
    fn finish(&self) -> u64 {
        self.0.finish() & ((1 << BITS) - 1)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    /// Texts of two words in pages of three: many begin alike, and end on both sides of a border.
    fn text(&mut self) -> Vec<u32> {
        (0..self.below(14)).map(|_| self.below(8).min(1) as u32).collect()
    }
}

/// The same by looking at every prefix.
#[derive(Default)]
struct Naive {
    places: Vec<Option<Prefix>>,
    uses: u64,
}

impl Naive {
    fn longest(&self, tokens: &[u32], whole: bool) -> Option<(usize, usize)> {
        let most = tokens.len().checked_sub(1)?;
        let shared = |stored: &[u32]| {
            let equal = stored.iter().zip(&tokens[..most]).take_while(|(a, b)| a == b).count();
            if whole && equal < stored.len() { 0 } else { equal / 3 * 3 }
        };
        let all = self.places.iter().enumerate();
        let all = all.filter_map(|(place, stored)| Some((place, shared(&stored.as_ref()?.tokens))));
        all.filter(|(_, len)| *len > 0).max_by_key(|(place, len)| (*len, Reverse(*place)))
    }

    fn find(&self, tokens: &[u32]) -> Option<usize> {
        self.places.iter().position(|stored| stored.as_ref().is_some_and(|prefix| prefix.tokens == tokens))
    }

    fn touch(&mut self, place: usize) {
        self.uses += 1;
        self.places[place].as_mut().unwrap().used = self.uses;
    }

    fn oldest(&self, may: impl Fn(&Prefix) -> bool) -> Option<usize> {
        let all =
            self.places.iter().enumerate().filter_map(|(place, stored)| Some((place, stored.as_ref()?)));
        let all = all.filter(|(_, prefix)| may(prefix));
        all.min_by_key(|(_, prefix)| prefix.used).map(|(place, _)| place)
    }
}

/// Random operations on a store and on one that looks at every prefix; sequences come and go meanwhile.
fn operations<H: BuildHasher + Default>(seed: u64, whole: bool) {
    let mut random = Random(seed);
    let mut pool = PagePool::new(20);
    let mut store = PrefixStore::with_digests(5, 3, whole, H::default());
    let mut naive = Naive { places: (0..5).map(|_| None).collect(), uses: 0 };
    // Each sequence's text and whole pages.
    let mut sequences: Vec<(Vec<u32>, Vec<i32>)> = Vec::new();
    for step in 0..120 {
        let told = format!("seed {seed}, step {step}, whole {whole}");
        let text = random.text();
        assert_eq!(store.longest(&text), naive.longest(&text, whole), "{told}: {text:?}");
        let border = text.len() / 3 * 3;
        assert_eq!(store.find(&text[..border]), naive.find(&text[..border]), "{told}: {text:?}");
        match random.below(3) {
            // A new sequence, from a prefix where there is one.
            0 => {
                let found = store.longest(&text);
                let mut pages = found.map_or(vec![], |(place, len)| {
                    store.touch(place);
                    naive.touch(place);
                    store.get(place).unwrap().pages[..len / 3].to_vec()
                });
                pool.share(&pages);
                let missing = border / 3 - pages.len();
                while pool.free() < missing {
                    let stored = |page: i32| {
                        naive.places.iter().flatten().filter(|prefix| prefix.pages.contains(&page)).count()
                    };
                    let alone = |page: &i32| stored(*page) == pool.users(*page) as usize;
                    let gone = naive.oldest(|prefix| prefix.pages.iter().any(alone));
                    assert_eq!(store.drop_for_pages(&mut pool), gone.is_some(), "{told}");
                    let Some(gone) = gone else { break };
                    naive.places[gone] = None;
                    assert!(store.get(gone).is_none(), "{told}");
                }
                match pool.take(missing) {
                    Some(more) => {
                        pages.extend(more);
                        sequences.push((text[..border].to_vec(), pages));
                    }
                    None => pool.release(&pages),
                }
            }
            // A sequence's beginning is stored.
            1 if !sequences.is_empty() => {
                let (tokens, pages) = &sequences[random.below(sequences.len())];
                let count = random.below(pages.len() + 1);
                let (tokens, pages) = (tokens[..3 * count].to_vec(), pages[..count].to_vec());
                if count == 0 || store.find(&tokens).is_some() {
                    continue;
                }
                let empty = naive.places.iter().position(Option::is_none);
                let place = empty.or_else(|| naive.oldest(|_| true)).unwrap();
                assert_eq!(store.vacate(&mut pool), Some(place), "{told}");
                naive.places[place] = Some(Prefix { tokens: tokens.clone(), pages: pages.clone(), used: 0 });
                naive.touch(place);
                store.put(place, tokens, pages, &mut pool);
            }
            _ if !sequences.is_empty() => {
                let (_, pages) = sequences.swap_remove(random.below(sequences.len()));
                pool.release(&pages);
            }
            _ => {}
        }
    }
    sequences.iter().for_each(|(_, pages)| pool.release(pages));
    assert_eq!(pool.free() + store.pages_alone(&pool), 20, "no page is lost");
    store.clear(&mut pool);
    assert_eq!((pool.free(), store.borders.len(), store.uses_of_pages.len()), (20, 0, 0));
}

#[test]
fn a_store_gives_what_looking_at_every_prefix_gives() {
    for seed in 0..200 {
        for whole in [false, true] {
            operations::<RandomState>(seed, whole);
            // Where digests are equal, tokens decide.
            operations::<BuildHasherDefault<Weak<2>>>(seed, whole);
            operations::<BuildHasherDefault<Weak<0>>>(seed, whole);
        }
    }
}
