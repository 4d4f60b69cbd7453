//! Where a token's keys and values stand: the page of a position, the place of an element in it. The layout of a page is
//! told in [`hyc_plan::abi`].

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{CachePolicy, CacheSpec, KvOrder, TILE};

use super::isa::{Emit, Float, Int, Ptr};
use super::tile::Swizzle;

/// The page of a position, as an element offset into the cache's pool (i64).
pub fn page_offset<'c>(e: &Emit<'c>, cache: &CacheSpec, sequence: Int<'c>, logical: Int<'c>) -> Int<'c> {
    e.mul_const(e.wide(physical_page(e, cache, sequence, logical)), cache.page_elements())
}

/// The number of a page in its pool.
pub fn physical_page<'c>(e: &Emit<'c>, cache: &CacheSpec, sequence: Int<'c>, logical: Int<'c>) -> Int<'c> {
    match cache.policy {
        CachePolicy::Growing => {
            let row = e.count(offset_of!(StepContext, max_pages));
            e.load_int(e.list(offset_of!(StepContext, page_table)), e.add(e.mul(sequence, row), logical))
        }
        CachePolicy::Ring { pages, .. } => {
            let slot = e.load_int(e.list(offset_of!(StepContext, ring_slot)), sequence);
            e.add(e.mul_const(slot, pages), e.div_rem(logical, pages).1)
        }
    }
}

/// `CacheSpec::key_index`.
pub fn key_index<'c>(e: &Emit<'c>, cache: &CacheSpec, head: Int<'c>, place: Int<'c>, d: Int<'c>) -> Int<'c> {
    let base = e.mul_const(head, cache.qk_dim * cache.page);
    if cache.order == KvOrder::Columns {
        return e.add(base, e.add(e.mul_const(d, cache.page), place));
    }
    let (tile, d) = e.div_rem(d, TILE);
    e.add(base, e.add(e.mul_const(tile, TILE * cache.page), in_tile(e, cache, place, d)))
}

/// Where column `column` of a row of 64 stands: codes of 8 bits are not swizzled.
fn in_tile<'c>(e: &Emit<'c>, cache: &CacheSpec, row: Int<'c>, column: Int<'c>) -> Int<'c> {
    if cache.codec.scaled() {
        return e.add(e.mul_const(row, TILE), column);
    }
    Swizzle::element(e, row, column)
}

/// `CacheSpec::value_index`.
pub fn value_index<'c>(
    e: &Emit<'c>,
    cache: &CacheSpec,
    head: Int<'c>,
    place: Int<'c>,
    d: Int<'c>,
) -> Int<'c> {
    let base = e.add_const(e.mul_const(head, cache.page * cache.v_pad()), cache.v_offset(0) as i64);
    if cache.order == KvOrder::Tiles {
        return e.add(base, in_tile(e, cache, d, place));
    }
    e.add(base, e.add(e.mul_const(place, cache.v_pad()), d))
}

/// The page of `cache`, the operand of that name, that holds a row's position, and the position's place in it.
pub fn page_of<'c>(e: &Emit<'c>, cache: &CacheSpec, row: Int<'c>, position: Int<'c>) -> (Ptr<'c>, Int<'c>) {
    let sequence = e.load_int(e.list(offset_of!(StepContext, sequence)), row);
    let (logical, place) = e.div_rem(position, cache.page);
    let offset = page_offset(e, cache, sequence, logical);
    (e.at_elem(cache.codec.plain(), e.operand("cache"), offset), place)
}

/// Stores elements of the key of a row and head; `store(e, d, x)`.
pub fn key_store<'c>(
    e: &Emit<'c>,
    row: Int<'c>,
    position: Int<'c>,
    head: Int<'c>,
) -> impl Fn(&Emit<'c>, Int<'c>, Float<'c>) {
    let cache = e.cache("cache");
    let (page, place) = page_of(e, &cache, row, position);
    move |e, d, y| e.store_elem(cache.codec.plain(), page, key_index(e, &cache, head, place, d), y)
}

/// Stores elements of the value of a row and head.
pub fn value_store<'c>(
    e: &Emit<'c>,
    row: Int<'c>,
    position: Int<'c>,
    head: Int<'c>,
) -> impl Fn(&Emit<'c>, Int<'c>, Float<'c>) {
    let cache = e.cache("cache");
    let (page, place) = page_of(e, &cache, row, position);
    move |e, d, y| e.store_elem(cache.codec.plain(), page, value_index(e, &cache, head, place, d), y)
}

/// The address of the page of a position in the cache that is operand `operand`.
pub fn page_base<'c>(
    e: &Emit<'c>,
    cache: &CacheSpec,
    operand: &str,
    sequence: Int<'c>,
    logical: Int<'c>,
) -> Ptr<'c> {
    page_address(e, cache, operand, physical_page(e, cache, sequence, logical))
}

/// The address of a page of the cache that is an operand.
pub fn page_address<'c>(e: &Emit<'c>, cache: &CacheSpec, operand: &str, physical: Int<'c>) -> Ptr<'c> {
    e.byte_offset(e.operand(operand), e.mul_const(e.wide(physical), cache.page_bytes()))
}

/// The pages of a KV head of a cache in tiles, which are copied to shared memory as they lie: keys, then values.
pub struct HeadPages<'c> {
    cache: CacheSpec,
    /// Byte offsets in a page.
    keys: Int<'c>,
    values: Int<'c>,
    /// Of the scales, where there are some.
    scales: Option<Int<'c>>,
}

impl<'c> HeadPages<'c> {
    pub fn new(e: &Emit<'c>, cache: CacheSpec, kv_head: Int<'c>) -> HeadPages<'c> {
        let (bytes, page) = (cache.codec.bytes(), cache.page);
        let keys = e.wide(e.mul_const(kv_head, bytes * cache.k_offset(1)));
        let values = e.wide(e.mul_const(kv_head, bytes * page * cache.v_pad()));
        let values = e.add_const(values, (bytes * cache.v_offset(0)) as i64);
        let first = cache.scale_offset(0, false) as i64;
        let scales = cache.codec.scaled().then(|| e.add_const(e.wide(e.mul_const(kv_head, 8 * page)), first));
        HeadPages { cache, keys, values, scales }
    }

    /// The head's keys, values and, where there are some, scales in the page at `page`.
    pub fn parts(&self, e: &Emit<'c>, page: Ptr<'c>) -> (Ptr<'c>, Ptr<'c>, Option<Ptr<'c>>) {
        let at = |offset| e.byte_offset(page, offset);
        (at(self.keys), at(self.values), self.scales.map(at))
    }

    /// Starts copies of the head's [`copied_bytes`] of the page at `page` to shared memory at `to`, counted by `full`. One thread.
    pub fn copy(&self, e: &Emit<'c>, page: Ptr<'c>, to: Int<'c>, full: Int<'c>) {
        let (bytes, tokens) = (self.cache.codec.bytes(), self.cache.page);
        let (keys, values) = (bytes * self.cache.k_offset(1), bytes * tokens * self.cache.v_pad());
        e.bulk_copy(to, e.byte_offset(page, self.keys), keys, full);
        let to = e.add_const(to, keys as i64);
        e.bulk_copy(to, e.byte_offset(page, self.values), values, full);
        if let Some(scales) = self.scales {
            e.bulk_copy(e.add_const(to, values as i64), e.byte_offset(page, scales), 8 * tokens, full);
        }
    }
}

/// Bytes of the keys of a KV head of a page in bf16 tiles.
pub fn key_bytes(cache: &CacheSpec) -> u64 {
    2 * cache.k_offset(1)
}

/// Bytes of a KV head as it lies in its page, scales included.
pub fn copied_bytes(cache: &CacheSpec) -> u64 {
    let scales = if cache.codec.scaled() { 8 * cache.page } else { 0 };
    cache.codec.bytes() * cache.page * (cache.qk_dim + cache.v_pad()) + scales
}
