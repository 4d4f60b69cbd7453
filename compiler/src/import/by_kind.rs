//! MiMo-V2-Flash: layers with a window have heads, RoPE and sinks of their own. Its `config.json` is read as transformers
//! writes it, and as its makers did.

use std::fmt::Write;

use super::config::Config;
use super::family::Family;
use super::layers::Layers;
use super::rope::{self, Of, Rope};
use super::sections::{self, Heads};
use crate::error::Result;

/// What values are multiplied by, where nothing is said.
const VALUE_SCALE: f64 = 0.707;

/// Tensors of layers that predict tokens after the next one.
pub const FURTHER: &str = "model.mtp.*";
/// Projections to values.
pub const VALUES: &str = "model.layers.{i}.self_attn.v_proj.weight";

/// What values are multiplied by; `None`: they are not.
pub fn value_scale(config: &Config) -> Result<Option<f64>> {
    const KEY: &str = "attention_value_scale";
    let scale = match config.says_null(KEY) {
        true => None,
        false => Some(config.positive(KEY)?.unwrap_or(VALUE_SCALE)),
    };
    Ok(scale.filter(|scale| *scale != 1.0))
}

/// Heads of layers with a window.
fn heads(config: &Config, full: Heads) -> Result<Heads> {
    let kv_heads = config.size("swa_num_key_value_heads")?.unwrap_or(full.kv_heads.saturating_mul(2));
    Ok(Heads {
        heads: config.size("swa_num_attention_heads")?.unwrap_or(full.heads),
        kv_heads,
        head_dim: config.size("swa_head_dim")?.unwrap_or(full.head_dim),
        v_dim: config.size("swa_v_head_dim")?.unwrap_or(full.v_dim),
        ..full
    })
}

/// The keys of `[attention]` that tell layers with a window from those that see all tokens. The former's RoPE.
pub fn attention(
    out: &mut String,
    config: &Config,
    family: Family,
    (full_rope, layers): (&Rope, &Layers),
    context: Option<u64>,
) -> Result<Rope> {
    let full = sections::heads(config, family)?;
    let of = heads(config, full)?;
    let rope = rope::read(config, family, Of::Windows, of.head_dim, context)?;
    let (full_sink, sink) = sinks(config)?;
    if full_sink {
        out.push_str("full_sink = true\n");
    }
    if *layers == Layers::Full {
        return Ok(rope);
    }
    if !sink {
        out.push_str("sparse_sink = false\n");
    }
    for (key, own, full) in [
        ("sparse_heads", of.heads, full.heads),
        ("sparse_kv_heads", of.kv_heads, full.kv_heads),
        ("sparse_qk_head_dim", of.head_dim, full.head_dim),
        ("sparse_v_head_dim", of.v_dim, full.v_dim),
    ] {
        if own != full {
            let _ = writeln!(out, "{key} = {own}");
        }
    }
    let table = sections::rope_table(&rope);
    if table != sections::rope_table(full_rope) || of.head_dim != full.head_dim {
        let _ = writeln!(out, "sparse_rope = {table}");
    }
    Ok(rope)
}

/// Whether layers that see all tokens have sinks, and those with a window.
fn sinks(config: &Config) -> Result<(bool, bool)> {
    let full = config.flag("add_full_attention_sink_bias")?.unwrap_or(false);
    Ok((full, config.flag("add_swa_attention_sink_bias")?.unwrap_or(true)))
}

/// What sinks are called in the files, and here. Keys that say nothing are known.
pub fn names(config: &Config, layers: &Layers, list: &mut Vec<(String, String)>) -> Result<()> {
    ["attention_chunk_size", "hybrid_block_size"].iter().for_each(|key| _ = config.get(key));
    let count = config.layers()?;
    let (full_sink, sink) = sinks(config)?;
    let is_full = |layer: u64| match layers {
        Layers::Full => true,
        Layers::Windows { full, .. } => full.binary_search(&layer).is_ok(),
    };
    let with: Vec<u64> = (0..count).filter(|layer| if is_full(*layer) { full_sink } else { sink }).collect();
    let mut line = |layer: &str, name: &str| {
        let at = format!("model.layers.{layer}.self_attn");
        list.push((format!("{at}.attention_sink_bias"), format!("{at}.{name}")));
    };
    if with.iter().any(|layer| is_full(*layer)) {
        with.iter().for_each(|i| line(&i.to_string(), if is_full(*i) { "sink" } else { "sink_window" }));
    } else if !with.is_empty() {
        line("{i}", "sink_window");
    }
    Ok(())
}
