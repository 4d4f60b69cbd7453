//! What a block works on: rows of the step, and items of them (a token's KV head) with their place in the results.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{AttnShape, KernelSpec, Rows, SelectShape};

use super::isa::{Emit, Int, Ptr};

/// The step's rows.
pub fn row_count<'c>(e: &Emit<'c>, spec: &KernelSpec) -> Int<'c> {
    e.count(match spec.rows {
        Rows::Tokens => offset_of!(StepContext, tokens),
        Rows::Outputs => offset_of!(StepContext, outputs),
    })
}

/// Query heads of a KV head.
pub fn group(shape: AttnShape) -> u64 {
    shape.heads / shape.kv_heads
}

/// Pages of a sequence up to a position.
pub fn pages_up_to<'c>(e: &Emit<'c>, position: Int<'c>, page: u64) -> Int<'c> {
    e.add_const(e.div_rem(position, page).0, 1)
}

/// The (token, KV head) of a block.
#[derive(Clone, Copy)]
pub struct WorkItem<'c> {
    pub row: Int<'c>,
    pub kv_head: Int<'c>,
    pub position: Int<'c>,
    pub sequence: Int<'c>,
}

impl<'c> WorkItem<'c> {
    /// WorkItem `index`, token-major.
    pub fn new(e: &Emit<'c>, index: Int<'c>, kv_heads: u64) -> WorkItem<'c> {
        let (row, kv_head) = e.div_rem(index, kv_heads);
        let list = |offset| e.load_int(e.list(offset), row);
        let position = list(offset_of!(StepContext, positions));
        WorkItem { row, kv_head, position, sequence: list(offset_of!(StepContext, sequence)) }
    }

    /// Pages of its sequence, up to its own position.
    pub fn pages(&self, e: &Emit<'c>, page: u64) -> Int<'c> {
        pages_up_to(e, self.position, page)
    }

    /// The pages of its sequence before this one are settled: this step writes nothing in them. Up to its own position the step
    /// appends no more tokens than there are rows up to its own.
    pub fn settled(&self, e: &Emit<'c>, page: u64) -> Int<'c> {
        e.div_rem(e.max(e.sub(self.position, self.row), e.int(0)), page).0
    }
}

/// The item's list in the selection.
pub fn selected_blocks<'c>(e: &Emit<'c>, item: WorkItem<'c>, select: SelectShape) -> Ptr<'c> {
    let index = e.add(e.mul_const(item.row, e.stride("sel")), e.mul_const(item.kv_head, select.blocks));
    e.at(e.operand("sel"), index)
}
