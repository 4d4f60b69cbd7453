//! The binary interface between the runtime and a generated kernel.
//!
//! A kernel is one function of [`KernelFn`]'s type. The runtime splits a step's grid (see
//! [`Grid`](crate::Grid)) into ranges of items and calls the kernel once for each range, on any
//! thread; items are independent of each other, so the order and the split never change a result.
//!
//! Memory a kernel sees, by operand kind:
//!
//! * **tensor**: `rows x stride` elements of f32 or i32 in the arena; row r starts at `r * stride`
//!   elements, `stride` is the width rounded up to [`ROW_ALIGN`](crate::ROW_ALIGN). Padding may be written, never relied on.
//!   On a GPU also bf16, in tiles: see [`tensor`](crate::tensor).
//! * **weight**: see [`Layout`](crate::Layout).
//! * **cache**: a pool of pages, each `kv_heads x page x (qk_dim + v_pad)` codes ([`KvCodec`](crate::KvCodec)): first K as
//!   `[kv_head][qk_dim][page]` (transposed, so that a vector runs along tokens), then V as
//!   `[kv_head][page][v_pad]`, `v_pad` being v_dim rounded up to [`V_ALIGN`](crate::V_ALIGN). bf16 elements are stored in
//!   their natural order. Where codes have scales, these come behind all codes of the page, at a multiple of four bytes: f32
//!   `[kv_head][2][page]`, first those of the head's keys, then those of its values. A growing cache finds page `pos / page` of a sequence through
//!   [`StepContext::page_table`]; a ring finds it at
//!   `ring_slot[sequence] * ring_pages + (pos / page) % ring_pages`. A *tiled* cache (bf16 or codes of 8 bits,
//!   pages of [`TILE`](crate::TILE) tokens) has the same parts at the same offsets, but K as `[kv_head][qk_dim/64][64 tokens][64
//!   dims]` and V as `[kv_head][v_dim][64 tokens]`: of bf16 rows of 128 bytes swizzled by
//!   [`pack::swizzle`](crate::pack::swizzle), of codes of 8 bits rows of 64 bytes as they are. Both products of an attention then read their right operand
//!   along its inner dimension, straight from a copied page.

use crate::sample::{SampleParams, Seen};

/// On a GPU, the bytes that kernels' scratch begins with, where they have any, and in which every launch leaves zeros, as it finds them:
/// blocks count themselves there, and the last one puts the counter back. Slices have counters of their own.
pub const COUNTER_BYTES: u64 = 16 << 10;

/// What every kernel of one forward step shares. Counts are at most the plan's maxima.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct StepContext {
    /// Rows of this step: prompt and decode tokens of all sequences, one after the other.
    pub tokens: u64,
    /// Sequences in this step.
    pub batch: u64,
    /// Rows whose logits are wanted.
    pub outputs: u64,
    /// Row length of `page_table`.
    pub max_pages: u64,
    /// `[tokens]` vocabulary ids.
    pub token_ids: *const i32,
    /// `[tokens]` position of each row in its sequence, from 0. Rows of a sequence stand together and ascend by one; no other
    /// sequence has a page in which they are.
    pub positions: *const i32,
    /// `[tokens]` index of the row's sequence in this step, `0..batch`.
    pub sequence: *const i32,
    /// `[batch][max_pages]` physical page of each logical page of the growing caches.
    pub page_table: *const i32,
    /// `[batch]` slot of the sequence in every ring cache.
    pub ring_slot: *const i32,
    /// `[outputs]` rows whose logits are wanted.
    pub out_rows: *const i32,
    /// `[outputs]` how each row of logits is sampled; null where the pass samples nothing.
    pub sampling: *const SampleParams,
    /// Entries of `seen`.
    pub seen_count: u64,
    /// `[seen_count]` the tokens that penalties look at, of all rows of `sampling`, which say where theirs are; null
    /// where there is none.
    pub seen: *const Seen,
}

/// `kernel(context, operands, begin, end, scratch)`: items `begin..end` of the step's grid.
///
/// `operands[i]` is the base address of the step's i-th operand, in the order that
/// [`StepOp::roles`](crate::StepOp::roles) gives; `scratch` belongs to the calling thread,
/// is aligned to 64 bytes and holds the bytes that the kernel's plan entry asks for.
pub type KernelFn = unsafe extern "C" fn(*const StepContext, *const *mut u8, u64, u64, *mut u8);
