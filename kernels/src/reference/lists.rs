//! Page lists ([`hyc_plan::lists`]): made from a selection, and read in its place.

use std::collections::BTreeMap;

use hyc_plan::lists::{EDGE, PAGE_SHIFT};
use hyc_plan::{ListShape, SelectShape};

use super::view::{TensorView, Views};

/// Rows `begin..end` of the tile of a row.
fn tile_of(v: &Views, lists: ListShape, row: u64) -> (u64, u64) {
    let begin = row / lists.tile * lists.tile;
    (begin, (begin + lists.tile).min(v.tokens()))
}

/// The words of the list of a tile and KV head, by their number.
struct List<'a> {
    tensor: TensorView<'a>,
    width: u64,
    begin: u64,
    first: u64,
}

impl List<'_> {
    fn of<'a>(v: &'a Views, (select, lists): (SelectShape, ListShape), row: u64, kv_head: u64) -> List<'a> {
        let (begin, end) = tile_of(v, lists, row);
        let first = kv_head * (end - begin) * select.blocks * lists.entry();
        List { tensor: v.tensor("lists"), width: lists.width(select).unwrap_or(1), begin, first }
    }

    fn place(&self, word: u64) -> (u64, u64) {
        let at = self.first + word;
        (self.begin + at / self.width, at % self.width)
    }

    fn get(&self, word: u64) -> i32 {
        let (row, col) = self.place(word);
        self.tensor.get_int(row, col)
    }

    fn set(&self, word: u64, value: u64) {
        let (row, col) = self.place(word);
        self.tensor.set_int(row, col, value as u32 as i32);
    }
}

/// `PageLists`: of all tiles that have one of the rows.
pub fn make(v: &Views, select: SelectShape, lists: ListShape) {
    if v.tokens() < lists.least {
        return;
    }
    let mut done = None;
    for (begin, end) in v.rows().map(|row| tile_of(v, lists, row)) {
        if done != Some(begin) {
            (0..select.kv_heads).for_each(|kv_head| list(v, (select, lists), (begin, end), kv_head));
            done = Some(begin);
        }
    }
}

fn list(v: &Views, (select, lists): (SelectShape, ListShape), (begin, end): (u64, u64), kv_head: u64) {
    let (cache, chosen) = (v.cache("cache"), v.tensor("sel"));
    // Rows of a sequence stand together: the first row of each, and what the rows chose by page.
    let mut pages: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    let first_of = |row: u64| (begin..=row).find(|first| v.sequence(*first) == v.sequence(row));
    for row in begin..end {
        for slot in 0..select.blocks {
            let page = chosen.get_int(row, kv_head * select.blocks + slot);
            if page >= 0 && page as u64 * select.block <= v.position(row) {
                pages.entry((first_of(row).unwrap_or(row), page as u64)).or_default().push(row - begin);
            }
        }
    }
    let out = List::of(v, (select, lists), begin, kv_head);
    let (entry, room) = (lists.entry(), (end - begin) * select.blocks);
    let count = pages.len() as u64;
    for (i, ((first, page), rows)) in (0..).zip(pages) {
        let last = (first..end).take_while(|row| v.sequence(*row) == v.sequence(first)).last();
        let (start, newest) = (page * select.block, v.position(last.unwrap_or(first)));
        let tokens = (newest + 1 - start).min(select.block);
        let edge = if v.position(first) < start + select.block - 1 { EDGE } else { 0 };
        out.set(i * entry, cache.physical(v.sequence(first), page));
        out.set(i * entry + 1, page << PAGE_SHIFT | edge | tokens);
        for word in 0..entry - 2 {
            let bits = rows.iter().filter(|row| **row / 32 == word).map(|row| 1 << (row % 32));
            out.set(i * entry + 2 + word, bits.fold(0, |a, b: u64| a | b));
        }
    }
    if count < room {
        out.set(count * entry, u64::from(u32::MAX));
    }
}

/// The blocks that a row reads by the lists; `None`: the step has none.
pub fn blocks(v: &Views, select: SelectShape, lists: ListShape, row: u64, kv_head: u64) -> Option<Vec<u64>> {
    if v.tokens() < lists.least {
        return None;
    }
    let (begin, end) = tile_of(v, lists, row);
    let (bit, list) = (row - begin, List::of(v, (select, lists), row, kv_head));
    let entries = (0..(end - begin) * select.blocks).map(|i| i * lists.entry());
    let there = entries.take_while(|at| list.get(*at) >= 0);
    let mine = there.filter(|at| list.get(at + 2 + bit / 32) as u32 >> (bit % 32) & 1 == 1);
    Some(mine.map(|at| u64::from(list.get(at + 1) as u32 >> PAGE_SHIFT)).collect())
}
