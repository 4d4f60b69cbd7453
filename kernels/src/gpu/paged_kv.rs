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
    e.add(base, e.add(e.mul_const(tile, TILE * cache.page), Swizzle::element(e, place, d)))
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
        return e.add(base, Swizzle::element(e, d, place));
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
}

impl<'c> HeadPages<'c> {
    pub fn new(e: &Emit<'c>, cache: CacheSpec, kv_head: Int<'c>) -> HeadPages<'c> {
        let keys = e.wide(e.mul_const(kv_head, key_bytes(&cache)));
        let values = e.wide(e.mul_const(kv_head, head_bytes(&cache) - key_bytes(&cache)));
        HeadPages { cache, keys, values: e.add_const(values, 2 * cache.v_offset(0) as i64) }
    }

    /// Starts copies of the head's [`head_bytes`] of the page at `page` to shared memory at `to`, counted by `full`. One thread.
    pub fn copy(&self, e: &Emit<'c>, page: Ptr<'c>, to: Int<'c>, full: Int<'c>) {
        let keys = key_bytes(&self.cache);
        e.bulk_copy(to, e.byte_offset(page, self.keys), keys, full);
        let to = e.add_const(to, keys as i64);
        e.bulk_copy(to, e.byte_offset(page, self.values), head_bytes(&self.cache) - keys, full);
    }
}

/// Bytes of a KV head of a page in tiles, and of its keys.
pub fn head_bytes(cache: &CacheSpec) -> u64 {
    2 * cache.page * (cache.qk_dim + cache.v_pad())
}

pub fn key_bytes(cache: &CacheSpec) -> u64 {
    2 * cache.k_offset(1)
}
