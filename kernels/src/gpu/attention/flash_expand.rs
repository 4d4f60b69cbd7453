//! The producers of `flash_prefill` where a cache is codes: a warp group that makes bf16 tiles of them, as a page of bf16 has them,
//! so that what multiplies does not know of codes.

use super::flash_tile::{CONSUMERS, Flash, Segment, Stages};
use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::kv_codes::{Codes, Expander};
use crate::gpu::paged_kv::page_base;

/// Threads that make tiles of a page's keys, and as many of its values.
pub const HALF: u64 = 64;

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
        let keys_at = self.query_bytes();
        let values_at = keys_at + self.stages * self.key_bytes();
        let threads = (thread, HALF);
        let codes = |e: &Emit<'c>, page: Int<'c>| {
            let page = page_base(e, &self.cache, "cache", of.sequence, page);
            Codes::of_page(e, &self.cache, page, of.kv_head)
        };
        let to = |e: &Emit<'c>, stage: Int<'c>, first: u64, bytes: u64| {
            e.byte_offset(memory, e.add_const(e.mul_const(stage, bytes), first as i64))
        };
        let all = |e: &Emit<'c>| e.ge(thread, e.int(0));
        e.either(
            e.eq(e.uniform(half), e.int(0)),
            |e| {
                e.each(e.int(0), of.pages, 1, |e, page| {
                    let codes = codes(e, page);
                    let stage = stages.keys.empty(e);
                    let to = to(e, stage, keys_at, self.key_bytes());
                    expander.keys(e, (codes, to), self.shape.qk_dim, threads);
                    e.async_fence();
                    stages.keys.filled(e, all(e));
                });
            },
            |e| {
                e.each(e.int(0), of.pages, 1, |e, page| {
                    let codes = codes(e, page);
                    let stage = stages.values.empty(e);
                    let to = to(e, stage, values_at, self.value_bytes());
                    expander.values(e, (codes, to), self.shape.v_dim, threads);
                    e.async_fence();
                    stages.values.filled(e, all(e));
                });
            },
        );
    }
}
