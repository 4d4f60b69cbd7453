//! What a kernel asks of its step's rows.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Rows};

use crate::gpu::isa::{Emit, Int};

/// The step's rows.
pub fn row_count<'c>(e: &Emit<'c>, spec: &KernelSpec) -> Int<'c> {
    e.count(match spec.rows {
        Rows::Tokens => offset_of!(StepContext, tokens),
        Rows::Outputs => offset_of!(StepContext, outputs),
    })
}

/// The expert of a row's choice `slot`.
pub fn chosen<'c>(e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
    e.load_int(e.operand("index"), e.add(e.mul_const(row, e.stride("index")), slot))
}
