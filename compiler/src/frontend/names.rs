//! What to write in place of a key that `model.toml` does not know: other projects' names for the same thing, a
//! key of another section, a slip of the pen.

use hyc_ir::text::nearest;

use super::keys::{self, SectionKeys, Type};

/// What another project's name is here.
#[derive(Debug, Clone, Copy)]
pub enum Ours {
    /// This key of this section.
    Key(&'static str, &'static str),
    /// This key of this section with another value: what to write.
    Other(&'static str, &'static str, &'static str),
    /// Nothing: what to do instead.
    Note(&'static str),
}

use Ours::{Key, Note, Other};

/// Names in configurations of Hugging Face's transformers, and some of older ones.
pub const THEIRS: &[(&str, Ours)] = &[
    ("num_hidden_layers", Key("model", "layers")),
    ("num_layers", Key("model", "layers")),
    ("n_layers", Key("model", "layers")),
    ("n_layer", Key("model", "layers")),
    ("hidden_size", Key("model", "hidden")),
    ("d_model", Key("model", "hidden")),
    ("n_embd", Key("model", "hidden")),
    ("dim", Key("model", "hidden")),
    ("num_attention_heads", Key("model", "heads")),
    ("num_heads", Key("model", "heads")),
    ("n_heads", Key("model", "heads")),
    ("n_head", Key("model", "heads")),
    ("num_key_value_heads", Key("model", "kv_heads")),
    ("num_kv_heads", Key("model", "kv_heads")),
    ("n_kv_heads", Key("model", "kv_heads")),
    ("intermediate_size", Key("model", "ffn")),
    ("ffn_dim", Key("model", "ffn")),
    ("d_ff", Key("model", "ffn")),
    ("n_inner", Key("model", "ffn")),
    ("vocab_size", Key("model", "vocab")),
    ("n_vocab", Key("model", "vocab")),
    ("rms_norm_eps", Key("model", "norm_eps")),
    ("layer_norm_eps", Key("model", "norm_eps")),
    ("layer_norm_epsilon", Key("model", "norm_eps")),
    ("rope_theta", Other("model", "rope", "write `rope = { theta = ... }` in [model]")),
    ("rope_base", Other("model", "rope", "write `rope = { theta = ... }` in [model]")),
    (
        "partial_rotary_factor",
        Other(
            "model",
            "rope",
            "write `rope = { theta = ..., dims = ... }` in [model]: this factor times the head's elements",
        ),
    ),
    ("rotary_dim", Other("model", "rope", "write `rope = { theta = ..., dims = ... }` in [model]")),
    ("rope_scaling", Other("model", "rope", "write `rope = { theta = ..., scaling = ... }` in [model]")),
    ("rope_parameters", Other("model", "rope", "write `rope = { theta = ..., scaling = ... }` in [model]")),
    (
        "no_rope_layers",
        Other(
            "attention",
            "no_rope",
            "write `no_rope = [...]` in [attention]: the layers that this has 0 for",
        ),
    ),
    ("use_qk_norm", Key("model", "qk_norm")),
    ("tie_word_embeddings", Key("model", "tie_embeddings")),
    ("max_position_embeddings", Key("target", "max_context")),
    ("max_sequence_length", Key("target", "max_context")),
    ("max_seq_len", Key("target", "max_context")),
    ("max_model_len", Key("target", "max_context")),
    ("context_length", Key("target", "max_context")),
    ("n_positions", Key("target", "max_context")),
    ("n_ctx", Key("target", "max_context")),
    ("max_batch_size", Key("target", "max_batch")),
    ("num_experts", Key("moe", "experts")),
    ("num_local_experts", Key("moe", "experts")),
    ("n_routed_experts", Key("moe", "experts")),
    ("num_experts_per_tok", Key("moe", "active")),
    ("num_experts_per_token", Key("moe", "active")),
    ("moe_intermediate_size", Key("moe", "expert_ffn")),
    ("shared_expert_intermediate_size", Key("moe", "shared_ffn")),
    (
        "n_shared_experts",
        Other(
            "moe",
            "shared_ffn",
            "write `shared_ffn` in [moe]: the shared experts' widths together, as one expert",
        ),
    ),
    ("norm_topk_prob", Key("moe", "renormalise")),
    ("routed_scaling_factor", Key("moe", "router_scale")),
    ("scoring_func", Key("moe", "router")),
    (
        "topk_method",
        Other("moe", "router_bias", "write `router_bias = true` in [moe] where it is \"noaux_tc\""),
    ),
    ("mlp_only_layers", Other("moe", "dense", "write `dense = [...]` in [moe]: the layers that it names")),
    (
        "decoder_sparse_step",
        Other(
            "moe",
            "dense",
            "write `dense = [...]` in [moe], where it is not 1: the layers without experts",
        ),
    ),
    (
        "first_k_dense_replace",
        Other("moe", "dense", "write `dense = [...]` in [moe], where it is not 0: as many layers from 0"),
    ),
    (
        "moe_layer_freq",
        Other("moe", "dense", "write `dense = [...]` in [moe]: the layers that this has 0 for"),
    ),
    ("swa_num_attention_heads", Key("attention", "sparse_heads")),
    ("swa_num_key_value_heads", Key("attention", "sparse_kv_heads")),
    ("swa_head_dim", Key("attention", "sparse_qk_head_dim")),
    ("swa_v_head_dim", Key("attention", "sparse_v_head_dim")),
    (
        "swa_rope_theta",
        Other("attention", "sparse_rope", "write `sparse_rope = { theta = ... }` in [attention]"),
    ),
    (
        "hybrid_layer_pattern",
        Other("attention", "full", "write `full = [...]` in [attention]: the layers that this has 0 for"),
    ),
    ("sliding_window", Key("attention", "window")),
    ("window_size", Key("attention", "window")),
    (
        "layer_types",
        Other("attention", "full", "write `full = [...]` in [attention]: the layers with full attention"),
    ),
    (
        "max_window_layers",
        Other("attention", "pattern", "write `pattern` or `full` in [attention]: which layers are full"),
    ),
    (
        "use_sliding_window",
        Other("attention", "kind", "write `kind = \"swa\"` in [attention] where it is true"),
    ),
    ("torch_dtype", Key("weights", "dtype")),
    ("quantization_config", Note("there are no quantised weights here: give files of F32, F16 or BF16")),
    ("tokenizer_file", Key("tokenizer", "file")),
    ("repetition_penalty", Key("sampling", "repeat_penalty")),
    ("repeat_last_n", Key("sampling", "penalty_window")),
    (
        "do_sample",
        Other("sampling", "temperature", "write `temperature = 0` in [sampling] where it is false"),
    ),
    ("model_type", Note("leave it out: `kind` in [attention] says which family it is")),
    ("architectures", Note("leave it out: `kind` in [attention] says which family it is")),
    ("hidden_act", Note("leave it out where it is \"silu\": the feed-forward part is SwiGLU here")),
    (
        "attention_bias",
        Other(
            "model",
            "qkv_bias",
            "write `qkv_bias = true` in [model], where the output projection has none",
        ),
    ),
    ("mlp_bias", Note("leave it out where it is false: products have no biases here")),
    ("use_bias", Note("leave it out where it is false: products have no biases here")),
    ("attention_dropout", Note("leave it out: it is about training")),
    ("initializer_range", Note("leave it out: it is about training")),
    ("use_cache", Note("leave it out: KV caches are always used")),
    ("transformers_version", Note("leave it out: it says nothing of the model")),
];

/// What the name is here.
pub fn ours(word: &str) -> Option<Ours> {
    THEIRS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours)
}

/// Whether `word` is another name of this key, or stands for it.
pub fn means(word: &str, section: &str, key: &str) -> bool {
    matches!(ours(word), Some(Key(s, k) | Other(s, k, _)) if (s, k) == (section, key))
}

/// What to write for `word` that stands in `section` (`None`: outside of all) and is no key of it.
pub fn help(word: &str, section: Option<&SectionKeys>) -> String {
    let here = section.map_or("", |section| section.name);
    let place = |name: &str| if name == here { String::new() } else { format!(" in [{name}]") };
    match ours(word) {
        Some(Key(section, key)) => return format!("write `{key}`{}", place(section)),
        Some(Other(_, _, note) | Note(note)) => return note.to_string(),
        None => {}
    }
    let homes: Vec<String> = keys::homes(word).iter().map(|section| format!("[{}]", section.name)).collect();
    if let [home] = keys::homes(word).as_slice()
        && let Some(Type::Table(_)) = home.key(word).map(|key| key.ty)
    {
        let example = home.key(word).map_or("", |key| key.example);
        return format!("write `{word} = {example}` in [{}]", home.name);
    }
    if !homes.is_empty() {
        return format!("`{word}` belongs in {}", homes.join(" or "));
    }
    if keys::ROPE.key(word).is_some() {
        return format!("`{word}` belongs in `rope` of [model]");
    }
    let near = |words: &[&'static str]| nearest(word, words);
    if let Some(near) = section.and_then(|section| near(&section.names())) {
        return format!("did you mean `{near}`?");
    }
    let theirs: Vec<&'static str> = THEIRS.iter().map(|(theirs, _)| *theirs).collect();
    match (section, near(&theirs).and_then(ours)) {
        // A long name with a slip in it; short ones are near to anything.
        (_, Some(Key(section, key))) if word.len() >= 8 => format!("write `{key}`{}", place(section)),
        (Some(section), _) => format!("[{here}] takes: {}", section.names().join(", ")),
        (None, _) => {
            let names: Vec<&str> = keys::SECTIONS.iter().map(|section| section.name).collect();
            format!("a key stands in a section; sections are: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_it_is_a_key_here_and_no_name_of_ours() {
        for (theirs, ours) in THEIRS {
            assert!(keys::homes(theirs).is_empty(), "{theirs} is a key of ours");
            if let Key(section, key) | Other(section, key, _) = ours {
                let section = keys::section(section).unwrap_or_else(|| panic!("no section {section}"));
                assert!(section.key(key).is_some(), "{theirs}: no key {key}");
            }
        }
    }

    #[test]
    fn help_says_where_to_write_what() {
        let in_model = |word| help(word, Some(&keys::MODEL));
        assert_eq!(in_model("num_hidden_layers"), "write `layers`");
        assert_eq!(in_model("num_hiden_layers"), "write `layers`");
        assert_eq!(in_model("max_position_embeddings"), "write `max_context` in [target]");
        assert_eq!(in_model("top_k"), "`top_k` belongs in [attention] or [sampling]");
        assert_eq!(in_model("theta"), "`theta` belongs in `rope` of [model]");
        assert_eq!(in_model("hiden"), "did you mean `hidden`?");
        assert_eq!(help("hidden", None), "`hidden` belongs in [model]");
        assert_eq!(help("kind", None), "`kind` belongs in [attention] or [target]");
        assert!(help("colour", None).starts_with("a key stands in a section"));
    }
}
