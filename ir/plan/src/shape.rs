//! What several ops have in common: the geometry of attentions and selections, gates, epilogues.

use serde::{Deserialize, Serialize};

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
