//! What the kernels of `QkvAppend` share: its attributes, what is projected to, the angles of its RoPE.

use hyc_plan::PANEL;
use hyc_plan::{AttnShape, RopeSpec};

use crate::gpu::isa::{Emit, Ptr};

/// The op's attributes.
pub struct Qkv {
    pub inn: u64,
    pub shape: AttnShape,
    pub norm: Option<f64>,
    pub qk_norm: Option<f64>,
    pub rope: RopeSpec,
    pub own_kv: bool,
}

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

/// Turns a position of pair i: theta^(-2i/dims) / 2 pi.
pub fn angles<'c>(e: &Emit<'c>, rope: RopeSpec) -> Ptr<'c> {
    let pairs = (rope.dims / 2).max(1);
    let turn = |i: u64| rope.theta.powf(-2.0 * i as f64 / rope.dims as f64) / std::f64::consts::TAU;
    e.table(&(0..pairs).map(turn).collect::<Vec<_>>())
}
