//! What a kernel is compiled from: an op and what is constant about its operands.

use serde::{Deserialize, Serialize};

use crate::cache::CacheSpec;
use crate::elem::Elem;
use crate::format::Format;
use crate::ops;
use crate::step::{Grid, GridDim, Rows, StepOp};

/// Everything constant that a kernel may depend on. Two steps with equal specs share one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// What to compute.
    pub op: StepOp,
    /// One entry per operand, in the order of [`StepOp::roles`].
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

    /// How a processor's kernel splits its work; the kernels are written to it.
    ///
    /// * `Linear`: an item is one panel of outputs of the (first) weight, for all rows. `outputs` linears count their own rows.
    /// * `QkvAppend`: an item is one head: the q heads, then the k heads, then the v heads.
    /// * `ExpertsUp`: an item is (expert, panel), expert-major. `ExpertsDown`: an item is one panel.
    /// * attentions and `QuantiseKv`: an item is (token, KV head), token-major. Everything else: an item is one row.
    pub fn grid(&self) -> Grid {
        let panels = self.operands.iter().find_map(|operand| match operand {
            OperandSpec::Weight(format) => Some(format.layout.panels()).filter(|panels| *panels > 0),
            OperandSpec::Tensor { .. } | OperandSpec::Cache(_) => None,
        });
        let panels = panels.unwrap_or(0);
        let by_row = match self.rows {
            Rows::Tokens => GridDim::Tokens,
            Rows::Outputs => GridDim::Outputs,
        };
        let (dim, per) = match self.op {
            StepOp::Linear(_) | StepOp::ExpertsDown(_) => (GridDim::One, panels),
            StepOp::ExpertsUp(ops::ExpertsUp { experts, .. }) => (GridDim::One, experts * panels),
            StepOp::QkvAppend(ops::QkvAppend { shape, own_kv, .. }) => {
                (GridDim::One, shape.heads + if own_kv { 2 * shape.kv_heads } else { 0 })
            }
            StepOp::FullAttention(ops::FullAttention { shape, .. })
            | StepOp::OracleAttention(ops::OracleAttention { shape, .. })
            | StepOp::WindowAttention(ops::WindowAttention { shape, .. })
            | StepOp::SparseAttention(ops::SparseAttention { shape, .. })
            | StepOp::HybridAttention(ops::HybridAttention { shape, .. }) => (by_row, shape.kv_heads),
            StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, .. }) => (by_row, kv_heads),
            StepOp::GatherRows(_) => (GridDim::Outputs, 1),
            StepOp::Embed(_)
            | StepOp::RmsNorm(_)
            | StepOp::Rope(_)
            | StepOp::Append(_)
            | StepOp::Add(_)
            | StepOp::Bias(_)
            | StepOp::SiluMul(_)
            | StepOp::Gate(_)
            | StepOp::PageLists(_)
            | StepOp::Router(_)
            | StepOp::Sample(_) => (by_row, 1),
        };
        Grid { dim, per }
    }
}

/// The constants of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperandSpec {
    /// An arena tensor.
    Tensor {
        /// f32 or i32, in rows; or bf16, in tiles ([`tensor`](crate::tensor)).
        elem: Elem,
        /// Elements that mean something in a row.
        width: u64,
        /// Elements from row to row.
        stride: u64,
    },
    /// A weight.
    Weight(Format),
    /// A KV cache.
    Cache(CacheSpec),
}
