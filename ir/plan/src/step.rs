//! The closed list of what a step can be, and how its work is split.

use serde::{Deserialize, Serialize};

use crate::ops::{self, Op};
use crate::roles::Role;
use crate::shape::AttnShape;

/// What a step computes; the ops themselves, with all that they say, are in [`ops`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
#[allow(missing_docs, reason = "each is the struct of its name")]
pub enum StepOp {
    Embed(ops::Embed),
    RmsNorm(ops::RmsNorm),
    Linear(ops::Linear),
    QkvAppend(ops::QkvAppend),
    Bias(ops::Bias),
    Rope(ops::Rope),
    Append(ops::Append),
    QuantiseKv(ops::QuantiseKv),
    Add(ops::Add),
    SiluMul(ops::SiluMul),
    Gate(ops::Gate),
    FullAttention(ops::FullAttention),
    OracleAttention(ops::OracleAttention),
    WindowAttention(ops::WindowAttention),
    SparseAttention(ops::SparseAttention),
    HybridAttention(ops::HybridAttention),
    PageLists(ops::PageLists),
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
            StepOp::Bias($op) => $result,
            StepOp::Rope($op) => $result,
            StepOp::Append($op) => $result,
            StepOp::QuantiseKv($op) => $result,
            StepOp::Add($op) => $result,
            StepOp::SiluMul($op) => $result,
            StepOp::Gate($op) => $result,
            StepOp::FullAttention($op) => $result,
            StepOp::OracleAttention($op) => $result,
            StepOp::WindowAttention($op) => $result,
            StepOp::SparseAttention($op) => $result,
            StepOp::HybridAttention($op) => $result,
            StepOp::PageLists($op) => $result,
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

    /// From how many rows of a step on it multiplies rows of e4m3.
    pub fn fp8_rows(&self) -> Option<u64> {
        match self {
            StepOp::Linear(op) => op.fp8_rows,
            StepOp::QkvAppend(op) => op.fp8_rows,
            _ => None,
        }
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

impl Rows {
    /// The one of these counts that the rows follow.
    pub fn count(self, tokens: u64, outputs: u64) -> u64 {
        match self {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
        }
    }
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
