//! What several ops have in common: the geometry of attentions and selections, gates, epilogues.

use serde::{Deserialize, Serialize};

use crate::elem::is_positive_f32;

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

/// What a router scores experts by, and what of that becomes their shares. The usual one is a softmax of the chosen.
///
/// ```text
/// s = softmax(logits), or sigmoid(logits)
/// the chosen are those of largest s, or of largest s + bias
/// share_e = scale s_e / sum over the chosen of s, or scale s_e where they are kept whole
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RouterRule {
    /// What s is.
    pub scores: Scores,
    /// Whether a bias of each expert counts in the choice; of sigmoids alone.
    pub bias: bool,
    /// Whether shares are the scores as they are, in place of dividing them by their sum.
    pub whole: bool,
    /// What shares are multiplied by.
    pub scale: f64,
}

impl RouterRule {
    /// Added to a sum of sigmoids before it divides them, which may all be 0.
    pub const LEAST: f32 = 1e-20;

    /// A softmax of the chosen experts' logits.
    pub const USUAL: RouterRule =
        RouterRule { scores: Scores::Softmax, bias: false, whole: false, scale: 1.0 };

    /// Whether it is [`RouterRule::USUAL`].
    pub fn is_usual(&self) -> bool {
        *self == RouterRule::USUAL
    }

    /// Whether there is such a rule.
    pub fn is_possible(&self) -> bool {
        is_positive_f32(self.scale) && !(self.bias && self.scores == Scores::Softmax)
    }

    /// What stands in the names of its kernels: nothing of the usual one.
    pub fn words(&self) -> Vec<String> {
        let flag = |on: bool, word: &str| on.then(|| word.to_string());
        let sigmoid = flag(self.scores == Scores::Sigmoid, "sigmoid");
        let scale = (self.scale != 1.0).then(|| format!("x{}", self.scale));
        [sigmoid, flag(self.bias, "bias"), flag(self.whole, "whole"), scale].into_iter().flatten().collect()
    }
}

/// What a usual rule is where none is written.
impl Default for RouterRule {
    fn default() -> RouterRule {
        RouterRule::USUAL
    }
}

/// What a router makes of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// Probabilities of all experts.
    Softmax,
    /// A number of each expert by itself.
    Sigmoid,
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
