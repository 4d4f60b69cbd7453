//! Sections of a description that a configuration fills.

use std::fmt::Write;
use std::path::Path;

use hyc_plan::RopeScaling;
use serde_json::Value;

use super::config::Config;
use super::experts::Experts;
use super::family::Family;
use super::hysparse;
use super::layers::{self, Layers};
use super::options::{Options, Seen, Selection};
use super::rope::{self, Rope};
use crate::error::{Error, ErrorKind, Result};

/// Tokens of a page, and of a block of a selection, where nothing is said.
pub const BLOCK: u64 = 64;

const GENERATION: &str = "generation_config.json";

/// Widths of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a query or key.
    pub head_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
}

/// What a configuration says of heads.
pub fn heads(config: &Config, family: Family) -> Result<Heads> {
    let hidden = config.needs_size("hidden_size")?;
    let heads = config.needs_size("num_attention_heads")?;
    let kv_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = config.size("head_dim")?.or(family.head_dim);
    let head_dim = head_dim.or(hidden.checked_div(heads)).unwrap_or(hidden);
    let v_dim = match family.v_dim {
        Some(usual) => config.size("v_head_dim")?.unwrap_or(usual),
        None if family.selects => config.size("v_head_dim")?.unwrap_or(head_dim),
        None => head_dim,
    };
    Ok(Heads { hidden, heads, kv_heads, head_dim, v_dim })
}

/// `[weights.split]` of the names, in the files, of queries, keys and values and of gate and up.
pub fn split(out: &mut String, config: &Config, family: Family, [qkv, gate_up]: [&str; 2]) -> Result<()> {
    let Heads { heads, kv_heads, head_dim, .. } = heads(config, family)?;
    let (q, kv) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
    let ffn = config.needs_size("intermediate_size")?;
    let line = |from: &str, parts: &[(&str, u64)]| {
        let parts: Vec<String> =
            parts.iter().map(|(to, rows)| format!("[\"model.layers.{{i}}.{to}.weight\", {rows}]")).collect();
        format!("\"{from}\" = [{}]\n", parts.join(", "))
    };
    out.push_str("\n[weights.split]\n");
    let attention = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
    out.push_str(&line(qkv, &attention));
    out.push_str(&line(gate_up, &[("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)]));
    Ok(())
}

/// `[model]`.
pub fn model(
    out: &mut String,
    config: &Config,
    family: Family,
    (rope, experts): (&Rope, Option<&Experts>),
    name: &str,
) -> Result<()> {
    let silu = [Value::from("silu"), Value::from("swish")];
    config.must_be("hidden_act", &silu, "the feed-forward part is no SwiGLU");
    for key in ["attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias"] {
        config.must_be(key, &[Value::Bool(false)], "products have biases");
    }
    config.must_be("pretraining_tp", &[Value::from(1)], "products are summed in slices");
    config.must_be("rope_interleaved", &[Value::Bool(false)], "neighbours turn in place of halves");
    // Of Phi-3: what its later configurations say beside what transformers reads.
    config.must_be("full_attn_mod", &[Value::from(1)], "some layers have other attention");
    config.must_be("interpolate_factor", &[Value::from(1)], "positions are interpolated");
    config.must_be("lm_head_bias", &[Value::Bool(false)], "products have biases");
    let Heads { hidden, heads, kv_heads, head_dim, v_dim } = heads(config, family)?;
    let other = if family.by_kind || family.selects { config.positive("layernorm_epsilon")? } else { None };
    let eps = config.positive("rms_norm_eps")?.or(other).unwrap_or(family.eps);
    let width = match head_dim == v_dim {
        true => format!("head_dim = {head_dim}"),
        false => format!("qk_head_dim = {head_dim}\nv_head_dim = {v_dim}"),
    };
    let layers = config.layers()?;
    let vocab = config.needs_size("vocab_size")?;
    // Of a model of experts it is what its dense layers would have.
    let ffn = match experts.is_some_and(Experts::everywhere) {
        true => config.size("intermediate_size").map(|_| String::new())?,
        false => format!("ffn = {}\n", config.needs_size("intermediate_size")?),
    };
    let lines = format!(
        "[model]\nname = {}\nlayers = {layers}\nhidden = {hidden}\nheads = {heads}\nkv_heads = {kv_heads}\n\
         {width}\n{ffn}vocab = {vocab}\nnorm_eps = {eps:?}\nrope = {}\n",
        toml::Value::from(name),
        rope_table(rope)
    );
    out.push_str(&lines);
    if family.qkv_bias {
        out.push_str("qkv_bias = true\n");
    }
    if family.qk_norm || family.selects && hysparse::qk_norm(config)? {
        out.push_str("qk_norm = true\n");
    }
    if config.flag("tie_word_embeddings")? == Some(true) {
        out.push_str("tie_embeddings = true\n");
    }
    Ok(())
}

/// RoPE as a table of `[model]` or `[attention]`.
pub fn rope_table(rope: &Rope) -> String {
    let dims = rope.dims.map(|dims| format!(", dims = {dims}")).unwrap_or_default();
    let theta = format!("{:?}{dims}", rope.theta);
    match rope.scaling {
        None => format!("{{ theta = {theta} }}"),
        Some(RopeScaling::Linear { factor }) => {
            format!("{{ theta = {theta}, scaling = \"linear\", factor = {factor:?} }}")
        }
        Some(RopeScaling::Llama3 { factor, low, high, original }) => format!(
            "{{ theta = {theta}, scaling = \"llama3\", factor = {factor:?}, low_freq_factor = {low:?}, \
             high_freq_factor = {high:?}, original_context = {original:?} }}"
        ),
        Some(RopeScaling::Yarn { factor, fast, slow, original, magnitude }) => format!(
            "{{ theta = {theta}, scaling = \"yarn\", factor = {factor:?}, beta_fast = {fast:?}, beta_slow = {slow:?}, \
             original_context = {original:?}, attention_factor = {magnitude:?} }}"
        ),
        Some(RopeScaling::Factors { factors, magnitude }) => {
            let list: Vec<f64> = factors.shortest().collect();
            format!(
                "{{ theta = {theta}, scaling = \"factors\", attention_factor = {magnitude:?}, factors = {list:?} }}"
            )
        }
    }
}

/// `[attention]`: full attention, windows in some layers or all, or layers that select for others.
pub fn attention(out: &mut String, config: &Config, family: Family, options: &Options) -> Result<Layers> {
    let (block, selection) = (options.block.unwrap_or(BLOCK), options.selection.as_ref());
    let layers = layers::read(config, family)?;
    match (&layers, selection) {
        (Layers::Windows { window, full }, Some(_)) => {
            let which = if full.is_empty() { "every layer sees" } else { "some layers see" };
            return Err(Error::new(ErrorKind::Usage, format!("{which} a window of {window} tokens alone"))
                .help("leave `--pattern` out: layers without full attention choose nothing"));
        }
        (Layers::Windows { window, full }, None) => {
            let _ = write!(
                out,
                "\n[attention]\nkind = \"swa\"\nfull = {full:?}\nwindow = {window}\nblock = {block}\n"
            );
            if !family.by_kind {
                out.push_str("sparse_sink = false\n");
            }
        }
        (Layers::Full, None) => {
            let _ = write!(out, "\n[attention]\nkind = \"full\"\nblock = {block}\n");
        }
        (Layers::Full, Some(Selection { pattern, seen })) => {
            let full = full_layers(pattern);
            let _ = match seen {
                Seen::TopK(top_k) => write!(
                    out,
                    "\n[attention]\n{full}\nblock = {block}\ntop_k = {top_k}\nsparse_kv = \"own\"\n\
                     window_branch = false\ngate = \"none\"\nsparse_sink = false\n"
                ),
                Seen::Window(window) => write!(
                    out,
                    "\n[attention]\nkind = \"swa\"\n{full}\nwindow = {window}\nsparse_sink = false\nblock = {block}\n"
                ),
            };
        }
    }
    let still = rope::layers_without(config, family)?;
    if !still.is_empty() {
        let _ = writeln!(out, "no_rope = {still:?}");
    }
    Ok(layers)
}

/// The key that says which layers are full: layers between commas are a list, all else a pattern, whatever it says.
fn full_layers(pattern: &str) -> String {
    let layers: Result<Vec<u64>, _> = pattern.split(',').map(|layer| layer.trim().parse()).collect();
    match layers {
        Ok(layers) => format!("full = {layers:?}"),
        Err(_) => format!("pattern = {}", toml::Value::from(pattern)),
    }
}

/// `[sampling]`: how tokens are chosen, as the model's makers say.
pub fn sampling(out: &mut String, folder: &Path) -> Result<()> {
    let file = folder.join(GENERATION);
    if !file.exists() {
        return Ok(());
    }
    let config = Config::read(&file)?;
    if config.flag("do_sample")? != Some(true) {
        return Ok(());
    }
    let temperature = config.number("temperature")?.unwrap_or(1.0);
    let top_p = config.number("top_p")?.unwrap_or(1.0);
    let min_p = config.number("min_p")?.unwrap_or(0.0);
    // What transformers takes where nothing is said.
    let top_k = config.number("top_k")?.unwrap_or(50.0);
    let penalty = config.positive("repetition_penalty")?.unwrap_or(1.0);
    let _ = write!(
        out,
        "\n[sampling]\ntemperature = {temperature:?}\ntop_k = {top_k:.0}\ntop_p = {top_p:?}\nmin_p = {min_p:?}\n\
         repeat_penalty = {penalty:?}\n"
    );
    Ok(())
}
