//! Families of models: what each of transformers' classes has beside what its configuration says.

use super::config::Config;
use crate::error::{Error, Result};
use crate::words::{listed, shortened};

/// What is the same in all models of a class.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The class, as `architectures` names it.
    pub class: &'static str,
    /// Whether queries, keys and values have biases, and no other product does.
    pub qkv_bias: bool,
    /// Whether heads of q and k are normalised.
    pub qk_norm: bool,
    /// Elements of a head, where nothing is said; `None`: the width over the heads.
    pub head_dim: Option<u64>,
    /// Elements of a value, where nothing is said; `None`: as many as a query has, whatever is said.
    pub v_dim: Option<u64>,
    /// Base of RoPE, where nothing is said.
    pub theta: f64,
    /// eps of norms, where nothing is said.
    pub eps: f64,
    /// Which layers have experts, each of which is a tensor of its own in the files.
    pub routed: Routed,
    /// Whether queries, keys and values are one projection, and gate and up another.
    pub fused: bool,
    /// The part of a head that turns where nothing is said; `None`: heads turn as a whole.
    pub partial: Option<f64>,
    /// Whether LongRoPE was once called `yarn`.
    pub long_yarn: bool,
    /// Every so many layers the last one has no RoPE, where `no_rope_layers` does not name them.
    pub no_rope_every: Option<u64>,
    /// Whether `sliding_window` counts where `use_sliding_window` does not say so.
    pub windows_unasked: bool,
    /// Which layers have the window.
    pub windows: Windows,
    /// Whether layers with a window have heads, RoPE and sinks of their own, and values may be multiplied.
    pub by_kind: bool,
    /// Whether layers that are not full have what full ones select, as `hysparse.rs` reads it.
    pub selects: bool,
}

/// What experts are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// There are none.
    Never,
    /// A softmax, as Qwen3-MoE has it.
    Softmax,
    /// Sigmoids, as DeepSeek-V3 has them.
    Sigmoids {
        /// Whether there may be others that every token is sent to, and a softmax or no biases.
        shared: bool,
        /// Whether there are none where nothing is said of them.
        usual: bool,
    },
}

/// Which layers have the window, where a model has one and no list says it of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// All of them, and a list cannot say otherwise.
    Alike,
    /// All of them.
    All,
    /// A list must say it.
    Listed,
    /// Those after the first `max_window_layers`, or so many.
    After(u64),
    /// Those without RoPE.
    Still,
}

const PLAIN: Family = Family {
    class: "LlamaForCausalLM",
    qkv_bias: false,
    qk_norm: false,
    head_dim: None,
    v_dim: None,
    theta: 10_000.0,
    eps: 1e-6,
    routed: Routed::Never,
    fused: false,
    partial: None,
    long_yarn: false,
    no_rope_every: None,
    windows_unasked: false,
    windows: Windows::Alike,
    by_kind: false,
    selects: false,
};

/// All that are known. Their tensors have the names that a `model.toml` has, but for
/// [`Family::routed`], [`Family::fused`], [`Family::by_kind`] and [`Family::selects`].
pub const FAMILIES: [Family; 10] = [
    PLAIN,
    Family { class: "MistralForCausalLM", windows_unasked: true, ..PLAIN },
    Family { class: "MinistralForCausalLM", windows_unasked: true, windows: Windows::All, ..PLAIN },
    Family { class: "Qwen2ForCausalLM", qkv_bias: true, windows: Windows::After(28), ..PLAIN },
    Family {
        class: "Qwen3ForCausalLM",
        qk_norm: true,
        head_dim: Some(128),
        windows: Windows::After(28),
        ..PLAIN
    },
    Family { class: "Qwen3MoeForCausalLM", qk_norm: true, routed: Routed::Softmax, ..PLAIN },
    Family {
        class: "Phi3ForCausalLM",
        eps: 1e-5,
        windows_unasked: true,
        fused: true,
        partial: Some(1.0),
        long_yarn: true,
        ..PLAIN
    },
    Family {
        class: "SmolLM3ForCausalLM",
        theta: 2_000_000.0,
        no_rope_every: Some(4),
        windows: Windows::Still,
        ..PLAIN
    },
    Family {
        class: "MiMoV2FlashForCausalLM",
        head_dim: Some(192),
        v_dim: Some(128),
        theta: 5_000_000.0,
        eps: 1e-5,
        partial: Some(0.334),
        windows_unasked: true,
        windows: Windows::Listed,
        routed: Routed::Sigmoids { shared: false, usual: false },
        by_kind: true,
        ..PLAIN
    },
    Family {
        class: "HySparseForCausalLM",
        theta: 640_000.0,
        partial: Some(1.0),
        routed: Routed::Sigmoids { shared: true, usual: true },
        selects: true,
        ..PLAIN
    },
];

const GEGLU: &str = "GeGLU in place of SwiGLU (`hidden_activation`)";
const ONE_MORE: &str = "norms whose weights count from 1";
const EMBEDDINGS: &str = "embeddings that are multiplied by sqrt(`hidden_size`)";
const POST_NORMS: &str = "norms behind attention and the feed-forward part";
const SCORES: &str = "scores over sqrt(`query_pre_attn_scalar`)";

/// Classes that cannot be imported, and all that a description cannot say of them.
const LACKING: [(&str, &[&str]); 5] = [
    ("GemmaForCausalLM", &[GEGLU, ONE_MORE, EMBEDDINGS]),
    (
        "Gemma2ForCausalLM",
        &[
            GEGLU,
            ONE_MORE,
            EMBEDDINGS,
            POST_NORMS,
            SCORES,
            "soft caps of scores and logits (`attn_logit_softcapping`, `final_logit_softcapping`)",
        ],
    ),
    ("Gemma3ForCausalLM", &[GEGLU, ONE_MORE, EMBEDDINGS, POST_NORMS, SCORES]),
    (
        "GptOssForCausalLM",
        &[
            "biases of the output projection, the router and the experts (`attention_bias`)",
            "a SwiGLU that is clamped, of up + 1 (`swiglu_limit`)",
            "experts in MXFP4 (`quantization_config`), whose gate and up rows alternate",
        ],
    ),
    ("Ministral3ForCausalLM", &["queries that grow with their position (`llama_4_scaling_beta`)"]),
];

/// The family of a configuration. Errors: none, or one that is not known here, or cannot be expressed.
pub fn of(config: &Config) -> Result<Family> {
    let classes = config.words("architectures")?.unwrap_or_default();
    let known = || {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.class).collect();
        format!("hyc imports {}", listed(&names, ", "))
    };
    let [class] = classes[..] else {
        return Err(config.missing("architectures").help(known()));
    };
    if let Some((_, lacking)) = LACKING.iter().find(|(lacks, _)| *lacks == class) {
        let message = format!("models of the class {class} cannot be imported yet: they have");
        return Err(Error::input(format!("{message}\n  {}", listed(lacking, "\n  "))).help(known()));
    }
    FAMILIES.iter().copied().find(|family| family.class == class).ok_or_else(|| {
        Error::input(format!("models of the class {} cannot be imported yet", shortened(class))).help(known())
    })
}
