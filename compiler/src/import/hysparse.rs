//! HySparse in MiMo-V2-Flash's naming, a convention of `hyc` (docs/hysparse-checkpoints.md): nobody has published such weights.

use std::fmt::Write;

use serde_json::Value;

use super::config::Config;
use super::options::Options;
use crate::error::{Error, ErrorKind, Result};

/// Says of each layer whether it is full (0) or sparse (1).
const PATTERN: &str = "hybrid_layer_pattern";
const BLOCK: &str = "sparse_block_size";
const TOP_K: &str = "sparse_topk";
const WINDOW: &str = "sliding_window";
const GATE: &str = "attention_gate";
const SPARSE_KV: &str = "sparse_kv";

/// Whether heads of q and k are normalised.
pub fn qk_norm(config: &Config) -> Result<bool> {
    Ok(config.flag("use_qk_norm")?.unwrap_or(false))
}

/// What layers have.
struct Layers {
    /// Layers that see all tokens and select, ascending.
    full: Vec<u64>,
    count: u64,
    window: Option<u64>,
    gate: &'static str,
    sparse_kv: &'static str,
    full_gate: bool,
    full_sink: bool,
    sparse_sink: bool,
}

fn layers(config: &Config) -> Result<Layers> {
    let count = config.layers()?;
    let sparse = config.flags(PATTERN, count)?.ok_or_else(|| config.missing(PATTERN))?;
    let value = || config.get(PATTERN).cloned().unwrap_or_default();
    if sparse.first() == Some(&true) {
        return Err(config.refused(
            PATTERN,
            &value(),
            "layer 0 is sparse, and no full layer before it selects",
        ));
    }
    if sparse.last() == Some(&true) {
        return Err(config.refused(PATTERN, &value(), "the last layer is sparse, where it must be full"));
    }
    let window = match config.says_null(WINDOW) {
        true => None,
        false => Some(config.needs_size(WINDOW)?),
    };
    let gate = one_of(config, GATE, &["elementwise", "head", "none"])?;
    let sparse_kv = one_of(config, SPARSE_KV, &["shared", "own", "shared-both"])?;
    if window.is_none() && sparse_kv == "shared-both" {
        let why = "nothing else is shared: `sliding_window` is null, so that there is no second branch";
        return Err(config.refused(SPARSE_KV, &Value::from(sparse_kv), why));
    }
    let full_gate = config.flag("add_full_attention_gate")?.unwrap_or(false);
    if full_gate && gate == "none" {
        let why = "`attention_gate` is \"none\"";
        return Err(config.refused("add_full_attention_gate", &Value::Bool(true), why));
    }
    Ok(Layers {
        full: (0..).zip(sparse).filter(|(_, sparse)| !sparse).map(|(layer, _)| layer).collect(),
        count,
        window,
        gate,
        sparse_kv,
        full_gate,
        full_sink: config.flag("add_full_attention_sink_bias")?.unwrap_or(false),
        sparse_sink: config.flag("add_sparse_attention_sink_bias")?.unwrap_or(true),
    })
}

/// One of these words, the first where nothing is said.
fn one_of(config: &Config, key: &str, words: &[&'static str]) -> Result<&'static str> {
    let Some(said) = config.word(key)? else { return Ok(words[0]) };
    words.iter().copied().find(|word| *word == said).ok_or_else(|| {
        let list: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        config.wrong(key, &Value::from(said), &format!("one of {}", list.join(", ")))
    })
}

/// `[attention]`. Errors: numbers that no description has, and an option that says otherwise.
pub fn attention(out: &mut String, config: &Config, options: &Options) -> Result<()> {
    if options.selection.is_some() || options.block.is_some() {
        let message = "the checkpoint says which layers select, and in blocks of how many tokens";
        return Err(Error::new(ErrorKind::Usage, message).help("leave `--pattern` and `--block` out"));
    }
    let has = layers(config)?;
    let all_full = has.full.len() as u64 == has.count;
    let block = config.size(BLOCK)?.unwrap_or(64);
    if !block.is_multiple_of(8) || block > 256 {
        return Err(config.wrong(BLOCK, &Value::from(block), "a multiple of 8 from 8 to 256"));
    }
    let top_k = config.needs_size(TOP_K)?;
    if !top_k.is_multiple_of(block) {
        let want = format!("a whole number of blocks of {block} tokens");
        return Err(config.wrong(TOP_K, &Value::from(top_k), &want));
    }
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "{key} = {value}");
    };
    line("\n[attention]\nblock", block.to_string());
    if all_full {
        line("kind", "\"full\"".into());
    } else {
        line("full", format!("{:?}", has.full));
        line("top_k", top_k.to_string());
        match has.window {
            Some(window) => line("window", window.to_string()),
            None => line("window_branch", "false".into()),
        }
        line("sparse_kv", format!("\"{}\"", has.sparse_kv));
        line("sparse_sink", has.sparse_sink.to_string());
    }
    if !all_full || has.full_gate {
        line("gate", format!("\"{}\"", has.gate));
    }
    line("full_gate", has.full_gate.to_string());
    line("full_sink", has.full_sink.to_string());
    Ok(())
}

/// What tensors of attention are called in the files, and here.
pub fn names(config: &Config, list: &mut Vec<(String, String)>) -> Result<()> {
    let has = layers(config)?;
    let mut add = |there: bool, theirs: &str, ours: &str| {
        let at = "model.layers.{i}.self_attn";
        list.extend(there.then(|| (format!("{at}.{theirs}"), format!("{at}.{ours}"))));
    };
    let sparse = (has.full.len() as u64) < has.count;
    let (window, gated) = (sparse && has.window.is_some(), has.gate != "none");
    add(has.full_sink, "attention_sink_bias", "sink");
    add(sparse && has.sparse_sink, "sparse_sink_bias", "sink_select");
    add(window && has.sparse_sink, "window_sink_bias", "sink_window");
    add(has.full_gate, "gate_proj.weight", "gate.weight");
    add(sparse && gated, "sparse_gate_proj.weight", "gate_select.weight");
    add(window && gated, "window_gate_proj.weight", "gate_window.weight");
    Ok(())
}
