//! The ops of a step, a struct each: its attributes, and what it says of itself ([`Op`]).
//!
//! Tensors are f32 (i32 for indices), `[rows, width]`; `norm: Some(eps)` means that the input row is first RMS-normalised:
//! `x / sqrt(mean(x^2) + eps) * norm_weight`. Operands have the names and the order that [`Op::roles`] gives.

mod attention;
mod described;

use serde::{Deserialize, Serialize};

use crate::lists::ListShape;
use crate::roles::Role;
use crate::rope::RopeSpec;
use crate::shape::{AttnShape, Epilogue, GateMode, RouterRule, SelectShape};

/// What every op says of itself: the one description that the verifier, memory planning, costs, dumps, kernels and their
/// tests go by.
pub trait Op {
    /// Its name in dumps.
    const NAME: &'static str;
    /// Whether row i of the op is token i of the pass, whose id, position or sequence it looks up.
    const BY_TOKEN: bool = false;

    /// The operands in order: reads first, then writes.
    fn roles(&self) -> Vec<Role>;

    /// Whether its own sizes and numbers can be: heads that share out evenly, a window of some tokens, fewer chosen than
    /// there are, an eps above zero.
    fn is_possible(&self) -> bool {
        true
    }

    /// The geometry of an attention.
    fn attention(&self) -> Option<AttnShape> {
        None
    }
}

/// `out[t] = table[token_ids[t]]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Embed {
    /// Vocabulary entries.
    pub vocab: u64,
    /// Row width.
    pub hidden: u64,
}

/// RMSNorm over each of `groups` slices of `width` elements, one weight `[width]` for all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Slices of a row.
    pub groups: u64,
    /// Elements of a slice.
    pub width: u64,
    /// Added to the mean square.
    pub eps: f64,
}

/// A matrix product with what is fused around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Input features.
    pub in_features: u64,
    /// Output features.
    pub out_features: u64,
    /// Fused RMSNorm of the input.
    pub norm: Option<f64>,
    /// Fused use of the product.
    pub epilogue: Epilogue,
    /// Steps of so many rows and more multiply rows of e4m3: each rounded, behind the norm, as a group of [`Codec::Fp8`](crate::Codec::Fp8)
    /// is, with a scale of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8_rows: Option<u64>,
}

/// Weight and logits of each gate that `QkvAppend` may project.
pub const GATES: [(&str, &str); 2] = [("wg1", "gate1"), ("wg2", "gate2")];

/// Those of the first `count` of them.
pub fn gates(count: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
    GATES.into_iter().take(count as usize)
}

/// Projections to q (and k, v where `own_kv`), optional QK-norm, RoPE on q and k, and the append of
/// k, v to the layer's cache at each row's position. q is left unscaled. Beside them the logits of elementwise gates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QkvAppend {
    /// Input features.
    pub in_features: u64,
    /// Heads and widths.
    pub shape: AttnShape,
    /// Fused RMSNorm of the input.
    pub norm: Option<f64>,
    /// QK-norm's eps.
    pub qk_norm: Option<f64>,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Whether k and v are projected and appended.
    pub own_kv: bool,
    /// How many gates are projected too, each to `heads * v_dim`: two at most.
    pub gates: u64,
    /// Steps of so many rows and more multiply rows of e4m3: each rounded, behind the norm, as a group of [`Codec::Fp8`](crate::Codec::Fp8)
    /// is, with a scale of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8_rows: Option<u64>,
}

/// A vector added to each row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bias {
    /// Width of rows.
    pub width: u64,
}

/// RoPE over `heads` heads of `dim` elements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Heads of a row.
    pub heads: u64,
    /// Elements of a head.
    pub dim: u64,
    /// Rotary embedding.
    pub rope: RopeSpec,
}

/// Writes k, v of each row into the cache at the row's position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Append {
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
}

/// Writes the keys and values of each row, which `from` holds at the row's position, into `cache` at that position: as the
/// codes and scales of [`KvCodec::encode`](crate::KvCodec::encode), of each head's key and value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuantiseKv {
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
}

/// `a + b`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Add {
    /// Row width.
    pub width: u64,
}

/// `silu(a) * b`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SiluMul {
    /// Row width.
    pub width: u64,
}

/// `x * sigmoid(g)`; mode is never `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Heads.
    pub heads: u64,
    /// Elements of a head.
    pub v_dim: u64,
    /// Width of the gate.
    pub mode: GateMode,
}

/// Causal GQA attention over the whole cache, with an optional sink per head
/// (denominator + exp(sink)).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FullAttention {
    /// Geometry.
    pub shape: AttnShape,
    /// Whether there is a sink.
    pub sink: bool,
}

/// FullAttention that also selects blocks (HySparse 2602.03560, Algorithm 1 and eq. 3): block score =
/// max over tokens of the block and heads of the group of the normalised probability; the `blocks`
/// best visible blocks, ties to the lower index, best first, -1 where fewer are visible.
///
/// A sink is part of the sum that normalises: a head with a large one counts less in its group's maximum. In logs,
/// with raw_h(i) the largest logit of head h in block i, m_h the largest of all and l_h the sum of exp(logit - m_h),
/// the sink's included: score(i) = max over h of (raw_h(i) - m_h) - ln l_h. Kernels never subtract a log-sum-exp
/// m_h + ln l_h in f32, which is too coarse where logits are large. In a group of one head the order is that of the
/// raw maxima themselves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OracleAttention {
    /// Geometry.
    pub shape: AttnShape,
    /// Whether there is a sink.
    pub sink: bool,
    /// What is selected.
    pub select: SelectShape,
}

/// Attention over positions `[t - window + 1, t]`, with an optional sink per head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowAttention {
    /// Geometry.
    pub shape: AttnShape,
    /// Tokens visible, the row's own included.
    pub window: u64,
    /// Whether there is a sink.
    pub sink: bool,
}

/// Attention over the tokens of the selected blocks, the row's own block cut at the row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SparseAttention {
    /// Geometry.
    pub shape: AttnShape,
    /// What was selected.
    pub select: SelectShape,
    /// Whether there is a sink.
    pub sink: bool,
    /// The page lists of the selection, where they are there as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<ListShape>,
}

/// Both branches of a sparse layer: `sigmoid(gs) * sparse + sigmoid(gw) * window`, each with its own
/// softmax and sink (HySparse 2602.03560, sec. 3). The two caches may be one and the same operand.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HybridAttention {
    /// Geometry.
    pub shape: AttnShape,
    /// What was selected.
    pub select: SelectShape,
    /// Tokens visible to the window branch.
    pub window: u64,
    /// Gates of both branches.
    pub gate: GateMode,
    /// The page lists of the selection, where they are there as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<ListShape>,
}

/// The page lists of a selection over a cache of this geometry ([`lists`](crate::lists)): what is the same for all layers that
/// read it. In a step of fewer than `lists.least` rows nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PageLists {
    /// What was selected.
    pub select: SelectShape,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
    /// How rows share them.
    pub lists: ListShape,
}

/// The `active` best of `experts` logits (ties to the lower index) with their shares, as the rule says. Where a logit is
/// NaN, or infinite in a softmax, all the row's shares are NaN, whatever is chosen; an infinite one has a sigmoid.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Router {
    /// Experts.
    pub experts: u64,
    /// Experts per token.
    pub active: u64,
    /// How they are chosen and weighed.
    #[serde(default, skip_serializing_if = "RouterRule::is_usual")]
    pub rule: RouterRule,
}

/// `h[t, s] = silu(G[e] x) * (U[e] x)` for e = index[t, s]; of the shared expert behind them, which every token has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExpertsUp {
    /// Experts.
    pub experts: u64,
    /// Experts per token.
    pub active: u64,
    /// Input features.
    pub in_features: u64,
    /// Width of one expert.
    pub ffn: u64,
    /// Whether there is a shared expert, as wide as the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl ExpertsUp {
    /// Columns of a row of `h`: an expert's behind the other's.
    pub fn columns(&self) -> u64 {
        columns((self.active, self.shared), self.ffn)
    }
}

/// `out[t] = r[t] + sum over s of weight[t, s] * D[e] h[t, s]`, and `D_shared h_shared` where there is a shared expert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExpertsDown {
    /// Experts.
    pub experts: u64,
    /// Experts per token.
    pub active: u64,
    /// Output features.
    pub out_features: u64,
    /// Width of one expert.
    pub ffn: u64,
    /// Whether there is a shared expert, whose weight is 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl ExpertsDown {
    /// Columns of a row of `h`: an expert's behind the other's.
    pub fn columns(&self) -> u64 {
        columns((self.active, self.shared), self.ffn)
    }
}

/// Columns of so many experts, and a shared one's.
fn columns((active, shared): (u64, bool), ffn: u64) -> u64 {
    active.saturating_add(u64::from(shared)).saturating_mul(ffn)
}

/// `out[o] = x[out_rows[o]]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GatherRows {
    /// Row width.
    pub width: u64,
}

/// The token of each row of logits, as [`StepContext::sampling`](crate::abi::StepContext::sampling) asks
/// for it; -1 where a logit is no finite number. See [`sample::choose`](crate::sample::choose). Skipped in
/// a pass that samples nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Vocabulary entries.
    pub vocab: u64,
    /// Those of ids below it are chosen from, as [`ModelInfo::named`](crate::ModelInfo::named) says; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<u64>,
}

impl Sample {
    /// Entries that are chosen from.
    pub fn choices(&self) -> u64 {
        self.named.unwrap_or(self.vocab)
    }
}
