//! What the kernels of `QkvAppend` share: what is projected to.

use hyc_plan::PANEL;

/// What is projected to.
#[derive(Clone, Copy)]
pub enum Projection {
    Query,
    Key,
    Value,
}

impl Projection {
    /// The name of its weight.
    pub fn weight(self) -> &'static str {
        match self {
            Projection::Query => "wq",
            Projection::Key => "wk",
            Projection::Value => "wv",
        }
    }
}

/// One of q, k, v in scratch: its heads, their width, and its first column.
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
