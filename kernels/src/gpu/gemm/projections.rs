//! What the kernels of `QkvAppend` share: what is projected to.

use hyc_plan::PANEL;
use hyc_plan::ops::{self, GATES, QkvAppend};

/// What is projected to.
#[derive(Clone, Copy)]
pub enum Projection {
    Query,
    Key,
    Value,
    /// A gate's logits, of so many gates.
    Gate(usize),
}

/// The gates of an op, each with the name of its logits.
pub fn gates(c: &QkvAppend) -> impl Iterator<Item = (usize, &'static str)> {
    ops::gates(c.gates).map(|(_, logits)| logits).enumerate()
}

impl Projection {
    /// The name of its weight.
    pub fn weight(self) -> &'static str {
        match self {
            Projection::Query => "wq",
            Projection::Key => "wk",
            Projection::Value => "wv",
            Projection::Gate(i) => GATES[i].0,
        }
    }

    /// A number of its own; those that rotate stand before [`Projection::Value`].
    pub fn number(self) -> u64 {
        match self {
            Projection::Query => 0,
            Projection::Key => 1,
            Projection::Value => 2,
            Projection::Gate(i) => 3 + i as u64,
        }
    }
}

/// One of q, k, v and the gates, in scratch: its heads, their width, and its first column.
#[derive(Clone, Copy)]
pub struct Part {
    /// What it is.
    pub projection: Projection,
    /// Heads.
    pub heads: u64,
    /// Elements of each.
    pub dim: u64,
    /// Its first column.
    pub column: u64,
}

impl Part {
    /// Panels of a head: none crosses heads.
    pub fn panels(self) -> u64 {
        self.dim.div_ceil(PANEL)
    }
}
