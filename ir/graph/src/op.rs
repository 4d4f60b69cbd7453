//! The closed list of graph ops, a struct each, with what each one means. An op's exact meaning is its reference in
//! `hyc-kernels`; what it says of its operands and results is in `described.rs`, and their types in `verify/rules.rs`.
//! An op without words, or without a formula where it computes something, does not compile.

use hyc_plan::{Epilogue, GateMode, KvCodec, RopeScaling};

pub use crate::attr::{Attr, AttrValue};
use crate::roles::Described;

/// What an op computes, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formula {
    /// A line each.
    pub lines: &'static [&'static str],
    /// Where it is from.
    pub source: &'static str,
}

/// An op that computes nothing: it names a value.
const NAMES: Formula = Formula { lines: &[], source: "" };
const HYSPARSE: &str = "HySparse, arXiv 2602.03560";
const EQUATION_3: &str = "HySparse, arXiv 2602.03560, eq. 3";

const fn of(source: &'static str, lines: &'static [&'static str]) -> Formula {
    Formula { lines, source }
}

/// What is said of an attribute.
pub struct AttrWords {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static [&'static str],
    /// What is written.
    pub value: &'static str,
    /// See [`AttrValue::choices`].
    pub choices: fn() -> Vec<Option<Attr>>,
}

/// What is said of an op.
pub struct Words {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static [&'static str],
    /// What it computes.
    pub formula: Formula,
    /// Its attributes.
    pub attrs: &'static [AttrWords],
}

macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal, $formula:expr => {
        $($(#[doc = $fdoc:literal])+ $field:ident: $type:ty),* $(,)?
    }),+ $(,)?) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, PartialEq)]
            pub struct $variant { $($(#[doc = $fdoc])+ pub $field: $type),* }
        )+

        /// What a node of the graph computes.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[allow(missing_docs, reason = "each is the struct of its name")]
        pub enum Op {
            $($variant($variant)),+
        }

        impl Op {
            /// What the op says of itself.
            pub fn described(&self) -> &dyn Described {
                match self { $(Op::$variant(op) => op),+ }
            }
        }

        impl Op {
            /// Every op's name, for the parser's "did you mean".
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// What is said of every op, in the order of [`Op::NAMES`].
            pub const WORDS: &'static [Words] = &[$(Words {
                name: $name,
                meaning: &[$($doc),+],
                formula: $formula,
                attrs: &[$(AttrWords {
                    name: stringify!($field),
                    meaning: &[$($fdoc),+],
                    value: <$type as AttrValue>::WORDS,
                    choices: <$type as AttrValue>::choices,
                }),*],
            }),+];

            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => $name),+ }
            }

            /// The attributes in the order of the declaration; absent ones are left out.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self {
                    $(Op::$variant($variant { $($field),* }) => {
                        #[allow(unused_mut)]
                        let mut attrs: Vec<(&'static str, Attr)> = Vec::new();
                        $(attrs.extend($field.to_attr().map(|attr| (stringify!($field), attr)));)*
                        attrs
                    })+
                }
            }

            /// The op `name` with `attrs`. `Err` is a sentence: an unknown op, a missing, unknown or
            /// mistyped attribute.
            pub fn from_attrs(name: &str, attrs: &[(String, Attr)]) -> Result<Op, String> {
                match name {
                    $($name => {
                        #[allow(unused_variables)]
                        let find = |key: &str| attrs.iter().find(|(k, _)| k == key).map(|(_, attr)| attr);
                        let known: &[&str] = &[$(stringify!($field)),*];
                        for (i, (key, _)) in attrs.iter().enumerate() {
                            if !known.contains(&key.as_str()) {
                                return Err(format!(
                                    "`{name}` has no attribute `{key}`; it takes [{}]", known.join(", ")));
                            }
                            if attrs[..i].iter().any(|(k, _)| k == key) {
                                return Err(format!("attribute `{key}` is given twice"));
                            }
                        }
                        Ok(Op::$variant($variant {
                            $($field: <$type as AttrValue>::from_attr(find(stringify!($field)))
                                .map_err(|want| format!("`{name}` needs `{} = ` {want}", stringify!($field)))?),*
                        }))
                    })+
                    _ => Err(format!("no op is named `{name}`")),
                }
            }
        }
    };
}

impl Op {
    /// From how many rows of a step on a product multiplies rows of e4m3, if ever; `None`: the op is no product of rows with one matrix.
    pub fn fp8_rows(&self) -> Option<Option<u64>> {
        match self {
            Op::Linear(Linear {}) => Some(None),
            Op::FusedLinear(FusedLinear { fp8_rows, .. }) | Op::QkvAppend(QkvAppend { fp8_rows, .. }) => {
                Some(*fp8_rows)
            }
            _ => None,
        }
    }
}

ops! {
    /// A tensor of the weight files, named by its value's name.
    Weight "weight", NAMES => {},
    /// The state of a KV cache before this step.
    Cache "cache", NAMES => {
        /// Layer that appends.
        owner: u64,
        /// What rings store in place of its codes with scales, f32 or bf16; only of a cache that has them.
        ring: Option<KvCodec>,
    },
    /// A selection left by an earlier step. No read of it is valid (selection
    /// provenance); it exists so that the text form can say it and the verifier can name it.
    PriorSelection "prior_selection", NAMES => {},
    /// The selection of the nearest oracle before; `detect-chains` resolves it.
    ChainSelection "chain_selection", NAMES => {},
    /// The cache of the nearest oracle before; `detect-chains` resolves it.
    ChainCache "chain_cache", NAMES => {},
    /// A layer's own copy of another layer's cache; `plan-kv` aliases it.
    KvShare "kv_share", NAMES => {},
    /// Rows of the table at the step's token ids.
    Embed "embed", of("hyc", &["out_t = table[token_t]"]) => {},
    /// RMSNorm over each slice of the weight's length.
    RmsNorm "rmsnorm", of("Zhang and Sennrich, arXiv 1910.07467", &[
        "out = x / sqrt(mean(x^2) + eps) * weight",
    ]) => {
        /// Added to the mean square.
        eps: f64,
    },
    /// A product with a matrix `[out, in]`.
    Linear "linear", of("hyc", &["out = weight x"]) => {},
    /// Rotate-half RoPE at each row's position.
    Rope "rope", of("Su et al., arXiv 2104.09864, rotate-half", &[
        "a_i = position * theta^(-2i / dims)",
        "out_i = x_i cos(a_i) - x_{i + dims/2} sin(a_i)",
        "out_{i + dims/2} = x_{i + dims/2} cos(a_i) + x_i sin(a_i)",
        "for i < dims / 2; what is behind dims stays",
    ]) => {
        /// Heads of a row.
        heads: u64,
        /// Base.
        theta: f64,
        /// Rotated dims of a head.
        dims: u64,
        /// How the frequencies are changed for longer contexts.
        scaling: Option<RopeScaling>,
    },
    /// The cache with this step's rows: keys and values at each row's position.
    Append "append", of("hyc", &["K[position_t] = k_t", "V[position_t] = v_t"]) => {},
    /// Causal GQA attention of `[tokens, heads * qk_dim]`, with `[tokens, heads * v_dim]` as its result. The scores are
    /// the normalised probabilities `[tokens, heads, context]`; a sink is part of what they are normalised by, and so of
    /// what a selection ranks.
    Attention "attention", of(EQUATION_3, &[
        "p_h(j) = exp(q_h . k_j / sqrt(d)) / (sum_{j' <= t} exp(q_h . k_j' / sqrt(d)) + exp(sink_h))",
        "out_h = sum_{j <= t} p_h(j) v_j",
        "scores = p;  exp(sink_h) only with a sink",
    ]) => {
        /// Query heads.
        heads: u64,
        /// Whether there is a sink.
        sink: bool,
        /// Whether the probabilities are a second result.
        scores: bool,
    },
    /// The maximum over each block: `[tokens, heads, context]` becomes `[tokens, heads, context/block]`.
    BlockMax "block_max", of(EQUATION_3, &["S_h(b) = max_{j in block b, j <= t} p_h(j)"]) => {
        /// Tokens per block.
        block: u64,
    },
    /// The maximum over each group of heads: `[tokens, heads, n]` becomes `[tokens, kv_heads, n]`.
    GroupMax "group_max", of(EQUATION_3, &["S_g(b) = max_{h in group g} S_h(b)"]) => {
        /// KV heads.
        kv_heads: u64,
    },
    /// The best blocks, ties to the lower index; with fewer visible, all of them.
    TopK "topk", of(HYSPARSE, &["sel_g = the blocks b with the largest S_g(b)"]) => {
        /// Blocks kept.
        blocks: u64,
    },
    /// Attention over the last `window` tokens.
    WindowAttention "window_attention", of(HYSPARSE, &[
        "out_h = sum_{t - window < j <= t} exp(q_h . k_j / sqrt(d)) v_j",
        "        / (sum_{t - window < j <= t} exp(q_h . k_j / sqrt(d)) + exp(sink_h))",
        "exp(sink_h) only with a sink",
    ]) => {
        /// Query heads.
        heads: u64,
        /// Tokens visible, the row's own included.
        window: u64,
        /// Whether there is a sink.
        sink: bool,
    },
    /// Attention over the selected blocks, cut at the row's own token.
    SparseAttention "sparse_attention", of(HYSPARSE, &[
        "out_h = sum_{j in blocks of sel_g, j <= t} exp(q_h . k_j / sqrt(d)) v_j",
        "        / (sum_{j in blocks of sel_g, j <= t} exp(q_h . k_j / sqrt(d)) + exp(sink_h))",
        "exp(sink_h) only with a sink",
    ]) => {
        /// Query heads.
        heads: u64,
        /// Whether there is a sink.
        sink: bool,
        /// Whether the page lists of the selection are there as well.
        lists: bool,
    },
    /// A gate per element of a row, or one per head.
    Gate "gate", of(HYSPARSE, &["out = x * sigmoid(gate)"]) => {
        /// Heads of x.
        heads: u64,
        /// One gate a head or an element of x; a gate is never none.
        mode: GateMode,
    },
    /// A vector of the width of a row, added to each.
    Bias "bias", of("hyc", &["out = x + weight"]) => {},
    /// A sum.
    Add "add", of("hyc", &["out = a + b"]) => {},
    /// The middle of a SwiGLU.
    SiluMul "silu_mul", of("SwiGLU, Shazeer, arXiv 2002.05202", &["out = a * sigmoid(a) * b"]) => {},
    /// The experts of each row and their shares, `[tokens, active]` each, i32 and f32; ties go to the lower index. A logit that
    /// is NaN, or infinite in a softmax, makes the row's shares NaN.
    Router "router", of("Shazeer et al., arXiv 1701.06538, eqs. 3 and 5; DeepSeek-V3, arXiv 2412.19437, eqs. 13 to 16", &[
        "s = softmax(logits), or sigmoid(logits) with `sigmoid`",
        "index = the experts with the largest s, or the largest s + bias with a bias",
        "weight_i = scale s_i / sum_{j in index} s_j, or scale s_i with `whole`",
        "1e-20 is added to a sum of sigmoids",
    ]) => {
        /// Experts per token.
        active: u64,
        /// Whether scores are sigmoids of the logits, in place of their softmax.
        sigmoid: bool,
        /// Whether there is a bias, which counts in the choice alone; of sigmoids.
        bias: bool,
        /// Whether shares are scores as they are, in place of dividing them by their sum.
        whole: bool,
        /// What shares are multiplied by, where that is not 1.
        scale: Option<f64>,
    },
    /// The first half of each chosen expert: `[tokens, active * ffn]`. `gate` and `up` are `[experts, ffn, in]`; those of a
    /// shared expert, which every token has and which comes last, are `[ffn, in]`.
    ExpertsUp "experts_up", of("SwiGLU, Shazeer, arXiv 2002.05202", &[
        "h_e = silu(gate_e x) * (up_e x) for each e in index, and for the shared one",
    ]) => {
        /// Whether there is a shared expert.
        shared: bool,
    },
    /// The second half of each chosen expert, weighted and summed. `down` is `[experts, out, ffn]`, a shared expert's
    /// `[out, ffn]`.
    ExpertsDown "experts_down", of("hyc; shared experts: DeepSeekMoE, arXiv 2401.06066, eq. 9", &[
        "out = residual + sum_{e in index} weight_e (down_e h_e) + shared_down h_shared",
    ]) => {
        /// Whether there is a shared expert.
        shared: bool,
        /// Whether there is a residual.
        residual: bool,
    },
    /// The rows whose logits are wanted.
    GatherRows "gather_rows", of("hyc", &["out_i = x[row whose logits are wanted as the i-th]"]) => {},
    /// The logits. Exactly one, the last op.
    Output "output", NAMES => {},
    /// The cache with this step's rows, as codes with scales: the keys and values that `from` holds at each row's position.
    /// `int8`: `scale = max |x| / 127`; `fp8` (E4M3): `scale = max |x| / 448`; codes are rounded to the nearest, ties to even.
    QuantiseKv "quantise_kv", of("hyc", &[
        "K[position_t]_h = from.K[position_t]_h / scale,  scale of the vector of head h",
        "V[position_t]_h = from.V[position_t]_h / scale,  scale of the vector of head h",
    ]) => {},
    /// `attention`, `block_max`, `group_max` and `topk` in one: no score is in memory.
    OracleAttention "oracle_attention", of(EQUATION_3, &[
        "out = attention(q, cache, sink)",
        "sel = topk(group_max(block_max(its scores)))",
    ]) => {
        /// Query heads.
        heads: u64,
        /// Whether there is a sink.
        sink: bool,
        /// Blocks kept.
        blocks: u64,
    },
    /// Both branches of a sparse layer, over the oracle's cache and over its own.
    HybridAttention "hybrid_attention", of(HYSPARSE, &[
        "out = sigmoid(gate_select) * sparse_attention(q, shared, sel, sink_select)",
        "    + sigmoid(gate_window) * window_attention(q, own, sink_window)",
    ]) => {
        /// Query heads.
        heads: u64,
        /// Tokens visible to the window branch.
        window: u64,
        /// Width of the gates; `none`: no gate operands.
        gate: GateMode,
        /// Whether the page lists of the selection are there as well.
        lists: bool,
    },
    /// What a selection means for tiles of neighbouring rows, made once for all of its readers: each page that a row of the
    /// tile selected, with the rows that did. The type says how many rows share a list, and the fewest rows of a step that has
    /// any.
    PageLists "page_lists", of("hyc", &[
        "lists_g(tile) = { (page of b, { t in tile : b in sel_g(t), b visible to t }) }, by sequence and block",
    ]) => {},
    /// `linear` with what is fused around it.
    FusedLinear "fused_linear", of("hyc", &[
        "y = weight rmsnorm(x, norm)",
        "out = y, y + residual, or silu(y) * (up rmsnorm(x, norm))",
    ]) => {
        /// eps of the fused RMSNorm, where there is one.
        norm: Option<f64>,
        /// Use of the product.
        epilogue: Epilogue,
        /// Steps of so many rows and more multiply rows of e4m3, each rounded behind the norm with a scale of its own.
        fp8_rows: Option<u64>,
    },
    /// Projections, QK-norm, RoPE and append in one, with what the attributes name. `wq` is `[heads * qk_dim, in]`, `wk` and
    /// `wv` are `[kv_heads * qk_dim, in]` and `[kv_heads * v_dim, in]`, `q_norm` and `k_norm` have `qk_dim` elements,
    /// `wg1` and `wg2` are `[heads * v_dim, in]`.
    QkvAppend "qkv_append", of(HYSPARSE, &[
        "q = rope(rmsnorm(wq rmsnorm(x, norm), q_norm))",
        "K[position_t] = rope(rmsnorm(wk rmsnorm(x, norm), k_norm))",
        "V[position_t] = wv rmsnorm(x, norm)",
        "gate1 = wg1 rmsnorm(x, norm), gate2 = wg2 rmsnorm(x, norm)",
    ]) => {
        /// Query heads.
        heads: u64,
        /// KV heads.
        kv_heads: u64,
        /// eps of the fused RMSNorm.
        norm: Option<f64>,
        /// eps of QK-norm.
        qk_norm: Option<f64>,
        /// RoPE base.
        theta: f64,
        /// Rotated dims of a head.
        dims: u64,
        /// How the frequencies are changed for longer contexts.
        scaling: Option<RopeScaling>,
        /// Whether k and v are projected and appended.
        own_kv: bool,
        /// How many gates' logits are projected too.
        gates: Option<u64>,
        /// Steps of so many rows and more multiply rows of e4m3, each rounded behind the norm with a scale of its own.
        fp8_rows: Option<u64>,
    },
}
