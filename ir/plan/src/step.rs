//! The closed list of what a step can be, and how its work is split.

use serde::{Deserialize, Serialize};

use crate::ops::{self, Op};
use crate::roles::Role;

/// Rotary embedding, rotate-half over the first `dims` of a head (Su et al., 2104.09864, in the
/// half-split form): for i < dims/2, angle a = pos * theta^(-2i/dims),
/// `y[i] = x[i] cos a - x[i + dims/2] sin a`, `y[i + dims/2] = x[i + dims/2] cos a + x[i] sin a`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// The base.
    pub theta: f64,
    /// Rotated dims of each head, even.
    pub dims: u64,
}

/// Geometry of an attention. Head h reads KV head `h / (heads / kv_heads)`; logits are scaled by
/// 1/sqrt(qk_dim).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttnShape {
    /// Query heads.
    pub heads: u64,
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a query or key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
}

/// Shape of a selection: for each (token, KV head) `blocks` indices of blocks of `block` tokens, best
/// first, -1 where fewer are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SelectShape {
    /// KV heads.
    pub kv_heads: u64,
    /// Tokens per block.
    pub block: u64,
    /// Blocks kept: k / B.
    pub blocks: u64,
}

/// How an output gate is applied: `out * sigmoid(g)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateMode {
    /// No gate, no operand.
    None,
    /// One logit per head: `g` is `[tokens, heads]`.
    Head,
    /// One logit per element: `g` is `[tokens, heads * v_dim]`.
    Elementwise,
}

/// What a linear does with its product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue {
    /// `y = W x`.
    Store,
    /// `y = r + W x`.
    Residual,
    /// `y = silu(W x) * (U x)` with a second weight.
    SwiGlu,
}

/// What a step computes; the ops themselves, with all that they say, are in [`ops`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
#[allow(missing_docs, reason = "each is the struct of its name")]
pub enum StepOp {
    Embed(ops::Embed),
    RmsNorm(ops::RmsNorm),
    Linear(ops::Linear),
    QkvAppend(ops::QkvAppend),
    Rope(ops::Rope),
    Append(ops::Append),
    Add(ops::Add),
    SiluMul(ops::SiluMul),
    Gate(ops::Gate),
    FullAttention(ops::FullAttention),
    OracleAttention(ops::OracleAttention),
    WindowAttention(ops::WindowAttention),
    SparseAttention(ops::SparseAttention),
    HybridAttention(ops::HybridAttention),
    Router(ops::Router),
    ExpertsUp(ops::ExpertsUp),
    ExpertsDown(ops::ExpertsDown),
    GatherRows(ops::GatherRows),
    Sample(ops::Sample),
}

/// Does the same with the op of any step.
macro_rules! each {
    ($step:expr, $op:ident => $result:expr) => {
        match $step {
            StepOp::Embed($op) => $result,
            StepOp::RmsNorm($op) => $result,
            StepOp::Linear($op) => $result,
            StepOp::QkvAppend($op) => $result,
            StepOp::Rope($op) => $result,
            StepOp::Append($op) => $result,
            StepOp::Add($op) => $result,
            StepOp::SiluMul($op) => $result,
            StepOp::Gate($op) => $result,
            StepOp::FullAttention($op) => $result,
            StepOp::OracleAttention($op) => $result,
            StepOp::WindowAttention($op) => $result,
            StepOp::SparseAttention($op) => $result,
            StepOp::HybridAttention($op) => $result,
            StepOp::Router($op) => $result,
            StepOp::ExpertsUp($op) => $result,
            StepOp::ExpertsDown($op) => $result,
            StepOp::GatherRows($op) => $result,
            StepOp::Sample($op) => $result,
        }
    };
}

fn name<O: Op>(_: &O) -> &'static str {
    O::NAME
}

fn is_by_token<O: Op>(_: &O) -> bool {
    O::BY_TOKEN
}

impl StepOp {
    /// The op's name in dumps.
    pub fn name(&self) -> &'static str {
        each!(self, op => name(op))
    }

    /// The operands in order: reads first, then writes.
    pub fn roles(&self) -> Vec<Role> {
        each!(self, op => op.roles())
    }

    /// Whether the op's own sizes and numbers can be.
    pub fn is_possible(&self) -> bool {
        each!(self, op => op.is_possible())
    }

    /// Whether row i of the op is token i of the pass, whose id, position or sequence it looks up.
    pub fn is_by_token(&self) -> bool {
        each!(self, op => is_by_token(op))
    }

    /// The geometry of an attention.
    pub fn attention(&self) -> Option<AttnShape> {
        each!(self, op => op.attention())
    }
}

/// Which count a buffer's rows, or a grid's items, follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// One row per token of the step.
    Tokens,
    /// One row for each wanted row of logits.
    Outputs,
}

/// Which count a grid follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GridDim {
    /// `per` items, whatever the step's size.
    One,
    /// `per` items per token: item = token * per + i.
    Tokens,
    /// `per` items per output row.
    Outputs,
}

/// Work items of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// The count.
    pub dim: GridDim,
    /// Items for each.
    pub per: u64,
}
