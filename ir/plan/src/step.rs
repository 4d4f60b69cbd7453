//! The closed list of what a step can be, and how its work is split.

use serde::{Deserialize, Serialize};

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

/// What a step computes. Tensors are f32 (i32 for indices), `[rows, width]`; `norm: Some(eps)` means that
/// the input row is first RMS-normalised: `x / sqrt(mean(x^2) + eps) * norm_weight`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum StepOp {
    /// `out[t] = table[token_ids[t]]`.
    Embed {
        /// Vocabulary entries.
        vocab: u64,
        /// Row width.
        hidden: u64,
    },
    /// RMSNorm over each of `groups` slices of `width` elements, one weight `[width]` for all.
    RmsNorm {
        /// Slices of a row.
        groups: u64,
        /// Elements of a slice.
        width: u64,
        /// Added to the mean square.
        eps: f64,
    },
    /// A matrix product with what is fused around it.
    Linear {
        /// Input features.
        inn: u64,
        /// Output features.
        out: u64,
        /// Fused RMSNorm of the input.
        norm: Option<f64>,
        /// Fused use of the product.
        epilogue: Epilogue,
    },
    /// Projections to q (and k, v where `own_kv`), optional QK-norm, RoPE on q and k, and the append of
    /// k, v to the layer's cache at each row's position. q is left unscaled.
    QkvAppend {
        /// Input features.
        inn: u64,
        /// Heads and widths.
        shape: AttnShape,
        /// Fused RMSNorm of the input.
        norm: Option<f64>,
        /// QK-norm's eps.
        qk_norm: Option<f64>,
        /// Rotary embedding.
        rope: RopeSpec,
        /// Whether k and v are projected and appended.
        own_kv: bool,
    },
    /// RoPE over `heads` heads of `dim` elements.
    Rope {
        /// Heads of a row.
        heads: u64,
        /// Elements of a head.
        dim: u64,
        /// Rotary embedding.
        rope: RopeSpec,
    },
    /// Writes k, v of each row into the cache at the row's position.
    Append {
        /// KV heads.
        kv_heads: u64,
        /// Elements of a key.
        qk_dim: u64,
        /// Elements of a value.
        v_dim: u64,
    },
    /// `a + b`.
    Add {
        /// Row width.
        width: u64,
    },
    /// `silu(a) * b`.
    SiluMul {
        /// Row width.
        width: u64,
    },
    /// `x * sigmoid(g)`; mode is never `None`.
    Gate {
        /// Heads.
        heads: u64,
        /// Elements of a head.
        v_dim: u64,
        /// Width of the gate.
        mode: GateMode,
    },
    /// Causal GQA attention over the whole cache, with an optional sink per head
    /// (denominator + exp(sink)).
    FullAttention {
        /// Geometry.
        shape: AttnShape,
        /// Whether there is a sink.
        sink: bool,
    },
    /// FullAttention that also selects blocks (HySparse 2602.03560, Algorithm 1 and eq. 3): block score =
    /// max over tokens of the block and heads of the group of the normalised probability; the `blocks`
    /// best visible blocks, ties to the lower index, best first, -1 where fewer are visible.
    ///
    /// A sink is part of the sum that normalises: a head with a large one counts less in its group's maximum. In logs,
    /// with raw_h(i) the largest logit of head h in block i, m_h the largest of all and l_h the sum of exp(logit - m_h),
    /// the sink's included: score(i) = max over h of (raw_h(i) - m_h) - ln l_h. Kernels never subtract a log-sum-exp
    /// m_h + ln l_h in f32, which is too coarse where logits are large. In a group of one head the order is that of the
    /// raw maxima themselves.
    OracleAttention {
        /// Geometry.
        shape: AttnShape,
        /// Whether there is a sink.
        sink: bool,
        /// What is selected.
        select: SelectShape,
    },
    /// Attention over positions `[t - window + 1, t]`, with an optional sink per head.
    WindowAttention {
        /// Geometry.
        shape: AttnShape,
        /// Tokens visible, the row's own included.
        window: u64,
        /// Whether there is a sink.
        sink: bool,
    },
    /// Attention over the tokens of the selected blocks, the row's own block cut at the row.
    SparseAttention {
        /// Geometry.
        shape: AttnShape,
        /// What was selected.
        select: SelectShape,
        /// Whether there is a sink.
        sink: bool,
    },
    /// Both branches of a sparse layer: `sigmoid(gs) * sparse + sigmoid(gw) * window`, each with its own
    /// softmax and sink (HySparse 2602.03560, sec. 3). The two caches may be one and the same operand.
    HybridAttention {
        /// Geometry.
        shape: AttnShape,
        /// What was selected.
        select: SelectShape,
        /// Tokens visible to the window branch.
        window: u64,
        /// Gates of both branches.
        gate: GateMode,
    },
    /// Softmax over `experts` logits, the `active` best (ties to the lower index) with their weights
    /// renormalised to sum 1.
    Router {
        /// Experts.
        experts: u64,
        /// Experts per token.
        active: u64,
    },
    /// `h[t, s] = silu(G[e] x) * (U[e] x)` for e = index[t, s].
    ExpertsUp {
        /// Experts.
        experts: u64,
        /// Experts per token.
        active: u64,
        /// Input features.
        inn: u64,
        /// Width of one expert.
        ffn: u64,
    },
    /// `out[t] = r[t] + sum over s of weight[t, s] * D[e] h[t, s]`.
    ExpertsDown {
        /// Experts.
        experts: u64,
        /// Experts per token.
        active: u64,
        /// Output features.
        out: u64,
        /// Width of one expert.
        ffn: u64,
    },
    /// `out[o] = x[out_rows[o]]`.
    GatherRows {
        /// Row width.
        width: u64,
    },
    /// The token of each row of logits, as [`StepContext::sampling`](crate::abi::StepContext::sampling) asks
    /// for it; -1 where a logit is no finite number. See [`sample::choose`](crate::sample::choose). Skipped in
    /// a pass that samples nothing.
    Sample {
        /// Vocabulary entries.
        vocab: u64,
    },
}

impl StepOp {
    /// The op's name in dumps.
    pub fn name(&self) -> &'static str {
        match self {
            StepOp::Embed { .. } => "embed",
            StepOp::RmsNorm { .. } => "rmsnorm",
            StepOp::Linear { .. } => "linear",
            StepOp::QkvAppend { .. } => "qkv_append",
            StepOp::Rope { .. } => "rope",
            StepOp::Append { .. } => "append",
            StepOp::Add { .. } => "add",
            StepOp::SiluMul { .. } => "silu_mul",
            StepOp::Gate { .. } => "gate",
            StepOp::FullAttention { .. } => "full_attention",
            StepOp::OracleAttention { .. } => "oracle_attention",
            StepOp::WindowAttention { .. } => "window_attention",
            StepOp::SparseAttention { .. } => "sparse_attention",
            StepOp::HybridAttention { .. } => "hybrid_attention",
            StepOp::Router { .. } => "router",
            StepOp::ExpertsUp { .. } => "experts_up",
            StepOp::ExpertsDown { .. } => "experts_down",
            StepOp::GatherRows { .. } => "gather_rows",
            StepOp::Sample { .. } => "sample",
        }
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

impl StepOp {
    /// The geometry of an attention.
    pub fn attention(&self) -> Option<AttnShape> {
        match *self {
            StepOp::FullAttention { shape, .. }
            | StepOp::OracleAttention { shape, .. }
            | StepOp::WindowAttention { shape, .. }
            | StepOp::SparseAttention { shape, .. }
            | StepOp::HybridAttention { shape, .. } => Some(shape),
            StepOp::Embed { .. }
            | StepOp::RmsNorm { .. }
            | StepOp::Linear { .. }
            | StepOp::QkvAppend { .. }
            | StepOp::Rope { .. }
            | StepOp::Append { .. }
            | StepOp::Add { .. }
            | StepOp::SiluMul { .. }
            | StepOp::Gate { .. }
            | StepOp::Router { .. }
            | StepOp::ExpertsUp { .. }
            | StepOp::ExpertsDown { .. }
            | StepOp::GatherRows { .. }
            | StepOp::Sample { .. } => None,
        }
    }
}
