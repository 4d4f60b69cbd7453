//! What a kernel is compiled from: an op and what is constant about its operands.

use serde::{Deserialize, Serialize};

use crate::cache::CacheSpec;
use crate::elem::Elem;
use crate::layout::Layout;
use crate::step::{Rows, StepOp};

/// Everything constant that a kernel may depend on. Two steps with equal specs share one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// What to compute.
    pub op: StepOp,
    /// One entry an operand, in the order of [`StepOp::roles`].
    pub operands: Vec<OperandSpec>,
    /// The count that rows follow: `tokens`, or `outputs` after the rows were gathered.
    pub rows: Rows,
    /// Most rows.
    pub max_rows: u64,
    /// Most tokens of a sequence.
    pub max_context: u64,
}

impl KernelSpec {
    /// Where the operand of this name stands, by [`StepOp::roles`]; `None` where the op has none of that name.
    pub fn at(&self, name: &str) -> Option<usize> {
        self.op.roles().iter().position(|role| role.name == name)
    }
}

/// The constants of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperandSpec {
    /// An arena tensor.
    Tensor {
        /// f32 or i32.
        elem: Elem,
        /// Elements that mean something in a row.
        width: u64,
        /// Elements from row to row.
        stride: u64,
    },
    /// A weight.
    Weight {
        /// Element type.
        elem: Elem,
        /// Element order.
        layout: Layout,
    },
    /// A KV cache.
    Cache(CacheSpec),
}
