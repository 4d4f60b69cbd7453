//! Finding a page of a KV cache.

use std::mem::offset_of;

use cranelift_codegen::ir::Value;
use hyc_plan::abi::StepContext;
use hyc_plan::{CachePolicy, CacheSpec};

use super::emit::Emit;

/// The address of the page that holds logical page `logical` of a sequence.
pub fn page(e: &mut Emit<'_>, spec: &CacheSpec, pool: Value, sequence: Value, logical: Value) -> Value {
    let physical = match spec.policy {
        CachePolicy::Growing => {
            let (table, row) =
                (e.field(offset_of!(StepContext, page_table)), e.field(offset_of!(StepContext, max_pages)));
            let at = e.mul(sequence, row);
            let at = e.add(at, logical);
            e.load_index(table, at)
        }
        CachePolicy::Ring { pages, .. } => {
            let slots = e.field(offset_of!(StepContext, ring_slot));
            let slot = e.load_index(slots, sequence);
            let (_, place) = e.div_rem(logical, pages);
            let first = e.mul_const(slot, pages);
            e.add(first, place)
        }
    };
    e.at(pool, physical, spec.page_bytes())
}
