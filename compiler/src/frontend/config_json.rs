//! A Hugging Face `config.json` given where a `model.toml` is expected: what its values come to in one.

use std::fmt::Write;

use serde_json::Value;

use super::keys::{Default, Key, SECTIONS, SectionKeys, Type};
use super::names::{self, Ours};

/// Whether this is JSON, which no TOML begins like.
pub fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
}

/// The beginning of a `model.toml` with what a `config.json` says. `None`: it is no such file.
pub fn as_toml(text: &str) -> Option<String> {
    let config: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    // Multimodal models keep the language model's in a part of its own.
    let config = config.get("text_config").filter(|inner| inner.is_object()).unwrap_or(&config);
    config.get("hidden_size").or(config.get("model_type")).or(config.get("architectures"))?;
    let has_experts = value_of(config, "moe", "experts").is_some();
    let mut out = String::new();
    for section in SECTIONS {
        let lines: String =
            section.keys.iter().filter_map(|key| line(config, section, key, has_experts)).collect();
        if section.required || !lines.is_empty() {
            let _ = write!(out, "[{}]\n{lines}\n", section.name);
        }
    }
    Some(out.trim_end().to_string() + "\n")
}

/// One key with what the configuration says of it, or with what must be found out.
fn line(config: &Value, section: &SectionKeys, key: &Key, has_experts: bool) -> Option<String> {
    let (name, example) = (key.name, key.example);
    let line = |value: String| Some(format!("{name} = {value}\n"));
    match (section.name, name) {
        ("model", "name") => return line(format!("\"{}\"", config.get("model_type").and_then(word)?)),
        ("model", "head_dim") => {
            let number = |key: &str| config.get(key).and_then(Value::as_u64);
            let split = || number("hidden_size")?.checked_div(number("num_attention_heads")?);
            return line(number("head_dim").or_else(split)?.to_string());
        }
        ("model", "rope") => {
            let inner = config.get("rope_parameters").and_then(|inner| inner.get("rope_theta"));
            let theta = inner.or(config.get("rope_theta")).and_then(Value::as_f64).unwrap_or(10000.0);
            return line(format!("{{ theta = {theta:?} }}"));
        }
        ("model", "ffn") if has_experts => return None,
        ("moe", _) if !has_experts => return None,
        ("attention", "kind") => {
            let what = "full attention in every layer; else say what the weights were trained for";
            return Some(format!("kind = \"full\"  # {what}\n"));
        }
        ("attention", _) => return None,
        ("weights", "files") => return line(example.to_string()),
        ("tokenizer", "file") => return line(example.to_string()),
        _ => {}
    }
    match value_of(config, section.name, name) {
        Some(value) => line(toml(key, value)?),
        None if matches!(key.default, Default::Required) => Some(format!("{name} = {example}  # not said\n")),
        None => None,
    }
}

/// What the configuration says of a key under another name.
fn value_of<'c>(config: &'c Value, section: &str, key: &str) -> Option<&'c Value> {
    let same = |ours: &Ours| matches!(ours, Ours::Key(s, k) if (*s, *k) == (section, key));
    let named = names::THEIRS.iter().filter(|(_, ours)| same(ours)).map(|(theirs, _)| *theirs);
    named.filter_map(|theirs| config.get(theirs)).find(|value| !value.is_null())
}

fn toml(key: &Key, value: &Value) -> Option<String> {
    match key.ty {
        Type::Word(words) => {
            let value = value.as_str()?;
            let ours = if value == "float32" { "f32" } else { "bf16" };
            words.contains(&ours).then(|| format!("\"{ours}\""))
        }
        Type::Positive => Some(format!("{:?}", value.as_f64()?)),
        _ => (value.is_u64() || value.is_boolean()).then(|| value.to_string()),
    }
}

fn word(value: &Value) -> Option<&str> {
    value.as_str().filter(|name| hyc_ir::text::is_model_name(name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::frontend::Ffn;

    #[test]
    fn a_configuration_becomes_a_description() {
        let llama = r#"{ "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "model_type": "llama",
            "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
            "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "rope_scaling": null, "vocab_size": 100,
            "max_position_embeddings": 8192, "tie_word_embeddings": false, "torch_dtype": "bfloat16" }"#;
        assert!(is_json(llama));
        let text = as_toml(llama).unwrap();
        let desc =
            crate::frontend::parse_model(Path::new("m"), &text).unwrap_or_else(|e| panic!("{text}{e:?}"));
        assert_eq!((desc.layers.len(), desc.hidden, desc.vocab), (3, 64, 100));
        for layer in &desc.layers {
            let a = &layer.attention;
            assert_eq!((a.heads, a.kv_heads, a.qk_dim, a.rope.theta), (4, 2, 16, 500000.0));
        }
        assert_eq!((desc.norm_eps, desc.target.max_context), (1e-5, 8192));
    }

    #[test]
    fn experts_become_a_section() {
        let moe = r#"{ "model_type": "qwen3_moe", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32,
            "num_key_value_heads": 2, "num_hidden_layers": 3, "rms_norm_eps": 1e-06, "vocab_size": 100,
            "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "intermediate_size": 96 }"#;
        let text = as_toml(moe).unwrap();
        let desc =
            crate::frontend::parse_model(Path::new("m"), &text).unwrap_or_else(|e| panic!("{text}{e:?}"));
        let ffn = Ffn::Moe { experts: 8, active: 2, expert_ffn: 24, shared_ffn: 0 };
        assert!(desc.layers.iter().all(|layer| layer.ffn == ffn));
    }

    #[test]
    fn other_json_is_none() {
        for text in ["{}", "{", "{\"a\": 1}", "[1]", "null", "{\"hidden_size\": \"x\", \"rope_theta\": []}"] {
            if let Some(toml) = as_toml(text) {
                assert!(toml.parse::<toml::Table>().is_ok(), "{toml}");
            }
        }
        assert!(!is_json("[model]\n") && is_json("\u{feff} {"));
    }
}
