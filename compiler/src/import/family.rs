//! Families of models: what each of transformers' classes has beside what its configuration says.

use serde_json::Value;

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
    /// Base of RoPE, where nothing is said.
    pub theta: f64,
    /// eps of norms, where nothing is said.
    pub eps: f64,
    /// Whether layers have experts, each of which is a tensor of its own in the files.
    pub experts: bool,
    /// Whether queries, keys and values are one projection, and gate and up another.
    pub fused: bool,
    /// Whether a part of a head may turn.
    pub partial: bool,
    /// Whether LongRoPE was once called `yarn`.
    pub long_yarn: bool,
    /// Every so many layers the last one has no RoPE, where `no_rope_layers` does not name them.
    pub no_rope_every: Option<u64>,
    /// Whether `sliding_window` counts where it is there; else `use_sliding_window` says so.
    pub windows: bool,
}

const PLAIN: Family = Family {
    class: "LlamaForCausalLM",
    qkv_bias: false,
    qk_norm: false,
    head_dim: None,
    theta: 10_000.0,
    eps: 1e-6,
    experts: false,
    fused: false,
    partial: false,
    long_yarn: false,
    no_rope_every: None,
    windows: false,
};

/// All that are known. Their tensors have the names that a `model.toml` has, but for
/// [`Family::experts`] and [`Family::fused`].
pub const FAMILIES: [Family; 7] = [
    PLAIN,
    Family { class: "MistralForCausalLM", windows: true, ..PLAIN },
    Family { class: "Qwen2ForCausalLM", qkv_bias: true, ..PLAIN },
    Family { class: "Qwen3ForCausalLM", qk_norm: true, head_dim: Some(128), ..PLAIN },
    Family { class: "Qwen3MoeForCausalLM", qk_norm: true, experts: true, ..PLAIN },
    Family {
        class: "Phi3ForCausalLM",
        eps: 1e-5,
        windows: true,
        fused: true,
        partial: true,
        long_yarn: true,
        ..PLAIN
    },
    Family { class: "SmolLM3ForCausalLM", theta: 2_000_000.0, no_rope_every: Some(4), ..PLAIN },
];

/// The family of a configuration. Errors: none, or one that is not known here.
pub fn of(config: &Config) -> Result<Family> {
    let classes = config.words("architectures")?.unwrap_or_default();
    let known = || {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.class).collect();
        format!("hyc imports {}", listed(&names, ", "))
    };
    let [class] = classes[..] else {
        return Err(config.missing("architectures").help(known()));
    };
    FAMILIES.iter().copied().find(|family| family.class == class).ok_or_else(|| {
        Error::input(format!("models of the class {} cannot be imported yet", shortened(class))).help(known())
    })
}

/// Tokens that each layer's window sees. Errors: layers of two kinds. `None`: all layers see all tokens.
pub fn window(config: &Config, family: Family) -> Result<Option<u64>> {
    let window = config.size("sliding_window")?;
    let used = match config.flag("use_sliding_window")? {
        Some(used) => used,
        None => family.windows,
    };
    let window = window.filter(|_| used);
    if let Some(kinds) = config.words("layer_types")? {
        let alike = kinds.windows(2).all(|pair| pair[0] == pair[1]);
        let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
        if !alike || kinds.first().is_some_and(|kind| *kind != expected) {
            let value = Value::from(kinds);
            return Err(config.refused("layer_types", &value, "layers of several kinds"));
        }
    }
    // One that holds every context hides nothing.
    let trained = config.size("max_position_embeddings")?;
    Ok(window.filter(|window| trained.is_none_or(|trained| *window < trained)))
}
