//! The producers of `flash_prefill` where a cache is codes: a warp group that makes bf16 tiles of them, as a page of bf16 has them,
//! so that what multiplies does not know of codes.

use super::flash_tile::{CONSUMERS, Flash, Segment, Stages};
use crate::gpu::isa::{Emit, Ptr};
use crate::gpu::kv_codes::{Codes, Expander};
use crate::gpu::paged_kv::page_base;
use crate::gpu::tile::pipeline::Ring;

/// Threads that make tiles of a page's keys, and as many of its values.
pub const HALF: u64 = 64;

/// Makes tiles of a page's codes at an address.
type Make<'a, 'c> = &'a dyn Fn(&Emit<'c>, (Codes<'c>, Ptr<'c>));

impl Flash<'_> {
    /// The first thread of the warp group that makes bf16 of codes: behind the one that selects, where there is one.
    pub fn expanders(&self) -> u64 {
        if self.select.is_some() { CONSUMERS + 128 } else { CONSUMERS }
    }

    /// Those producers: two warps make tiles of a page's keys and two of its values, a page a step.
    pub fn expand<'c>(
        &self,
        e: &Emit<'c>,
        (expander, memory): (Expander, Ptr<'c>),
        stages: &Stages<'c>,
        of: &Segment<'c>,
    ) {
        let (half, thread) = e.div_rem(e.add_const(e.thread(), -(self.expanders() as i64)), HALF);
        let threads = (thread, HALF);
        let keys_at = self.query_bytes();
        let values_at = keys_at + self.stages * self.key_bytes();
        // Fills the stages of a ring, of so many bytes each from a place in shared memory on.
        let produce = |e: &Emit<'c>, ring: &Ring<'c>, (first, bytes): (u64, u64), make: Make<'_, 'c>| {
            e.each(e.int(0), of.pages, 1, |e, page| {
                let page = page_base(e, &self.cache, "cache", of.sequence, page);
                let codes = Codes::of_page(e, &self.cache, page, of.kv_head);
                let at = e.add_const(e.mul_const(ring.empty(e), bytes), first as i64);
                make(e, (codes, e.byte_offset(memory, at)));
                e.async_fence();
                ring.filled(e, e.holds());
            });
        };
        let keys =
            |e: &Emit<'c>, page: (Codes<'c>, Ptr<'c>)| expander.keys(e, page, self.shape.qk_dim, threads);
        let values =
            |e: &Emit<'c>, page: (Codes<'c>, Ptr<'c>)| expander.values(e, page, self.shape.v_dim, threads);
        e.either(
            e.eq(e.uniform(half), e.int(0)),
            |e| produce(e, &stages.keys, (keys_at, self.key_bytes()), &keys),
            |e| produce(e, &stages.values, (values_at, self.value_bytes()), &values),
        );
    }
}
