//! A GGUF file as a description: its metadata under transformers' names, its tensors under a model's, its vocabulary as a
//! tokenizer.json beside the description.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hyc_plan::MOST_PAIRS;
use serde_json::{Map, Value as Json, json};

use super::config::Config;
use super::rope;
use super::vocabulary::{self, Vocabulary};
use crate::error::{Error, Result};
use crate::gguf::{self, Gguf, Value};
use crate::words::{listed, place, shortened};

/// A kind of model, as `general.architecture` names it.
struct Architecture {
    name: &'static str,
    /// Transformers' class.
    class: &'static str,
    /// Whether heads of q and k hold pairs side by side.
    interleaved: bool,
    /// Whether queries, keys and values are one tensor ([`FUSED`]), and gate and up another.
    fused: bool,
    /// Tensors beside those of every model.
    more: &'static [(&'static str, &'static str)],
}

const HALVES: Architecture =
    Architecture { name: "", class: "", interleaved: false, fused: false, more: &[] };

const ARCHITECTURES: [Architecture; 4] = [
    Architecture { name: "llama", class: "LlamaForCausalLM", interleaved: true, ..HALVES },
    Architecture { name: "phi3", class: "Phi3ForCausalLM", fused: true, ..HALVES },
    Architecture {
        name: "qwen2",
        class: "Qwen2ForCausalLM",
        more: &[
            ("blk.{i}.attn_q.bias", "model.layers.{i}.self_attn.q_proj.bias"),
            ("blk.{i}.attn_k.bias", "model.layers.{i}.self_attn.k_proj.bias"),
            ("blk.{i}.attn_v.bias", "model.layers.{i}.self_attn.v_proj.bias"),
        ],
        ..HALVES
    },
    Architecture {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        more: &[
            ("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
            ("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
        ],
        ..HALVES
    },
];

/// Tensors of which the file of a fused architecture has two in the place of five.
const PROJECTIONS: [&str; 5] =
    [INTERLEAVED[0], INTERLEAVED[1], "blk.{i}.attn_v.weight", "blk.{i}.ffn_gate.weight", FUSED[1]];
/// Queries, keys and values; gate and up.
const FUSED: [&str; 2] = ["blk.{i}.attn_qkv.weight", "blk.{i}.ffn_up.weight"];

/// Keys behind the architecture's name, and what transformers calls the same.
const KEYS: [(&str, &str); 11] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.freq_base", "rope_theta"),
    ("vocab_size", "vocab_size"),
];

/// The same of its scaling of RoPE.
const SCALING: [(&str, &str); 4] = [
    ("rope.scaling.type", "rope_type"),
    ("rope.scaling.factor", "factor"),
    ("rope.scaling.original_context_length", "original_max_position_embeddings"),
    ("rope.scaling.attn_factor", "attention_factor"),
];

/// Says how the model came to be, and nothing of what it computes.
const SILENT: &str = "rope.scaling.finetuned";
/// Sizes that are the width of a head here, unless a part of it may turn: elements of a value, and those that turn.
const WIDTHS: [&str; 2] = ["attention.value_length", TURNING];
const TURNING: &str = "rope.dimension_count";

const TENSORS: [(&str, &str); 12] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    (HEAD, "lm_head.weight"),
    ("blk.{i}.attn_norm.weight", "model.layers.{i}.input_layernorm.weight"),
    ("blk.{i}.ffn_norm.weight", "model.layers.{i}.post_attention_layernorm.weight"),
    (INTERLEAVED[0], "model.layers.{i}.self_attn.q_proj.weight"),
    (INTERLEAVED[1], "model.layers.{i}.self_attn.k_proj.weight"),
    ("blk.{i}.attn_v.weight", "model.layers.{i}.self_attn.v_proj.weight"),
    ("blk.{i}.attn_output.weight", "model.layers.{i}.self_attn.o_proj.weight"),
    ("blk.{i}.ffn_gate.weight", "model.layers.{i}.mlp.gate_proj.weight"),
    ("blk.{i}.ffn_up.weight", "model.layers.{i}.mlp.up_proj.weight"),
    ("blk.{i}.ffn_down.weight", "model.layers.{i}.mlp.down_proj.weight"),
];
/// What each pair's frequency of RoPE is divided by, as Llama 3.1 scales it.
const FACTORS: &str = "rope_freqs.weight";
/// The same of Phi-3, for sequences as long as those of training, and for longer ones.
const BY_LENGTH: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
const HEAD: &str = "output.weight";
const INTERLEAVED: [&str; 2] = ["blk.{i}.attn_q.weight", "blk.{i}.attn_k.weight"];

/// A file's model.
pub struct Opened {
    /// What it says, under transformers' names.
    pub config: Config,
    /// Whether some of its tensors are stored in blocks.
    pub quantised: bool,
    /// Names in the file and in the model.
    pub rename: Vec<(&'static str, &'static str)>,
    /// Names in the file of tensors whose heads hold pairs side by side.
    pub interleaved: &'static [&'static str],
    /// Names in the file of tensors that hold several projections each: see [`FUSED`].
    pub fused: Option<[&'static str; 2]>,
    /// Names in the file of tensors that the configuration says, too.
    pub ignored: &'static [&'static str],
    file: Gguf,
}

impl Opened {
    /// The vocabulary; see [`vocabulary::read`].
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>> {
        vocabulary::read(&self.file.keys)
    }
}

/// Whether it is one.
pub fn is_one(path: &Path) -> bool {
    let mut first = [0; 4];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut first));
    read.is_ok() && first == *gguf::MAGIC
}

/// Reads one. Errors: those of [`gguf::read`]; an architecture that is not known.
pub fn open(path: &Path) -> Result<Opened> {
    let opened = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let file = gguf::read(path, &opened)?;
    let name = match file.keys.get("general.architecture") {
        Some(Value::Text(name)) => name.as_str(),
        _ => return Err(Error::input(format!("{} does not say its architecture", place(path)))),
    };
    let Some(of) = ARCHITECTURES.iter().find(|known| known.name == name) else {
        let known = ARCHITECTURES.map(|known| known.name);
        let message = format!("GGUF models of the architecture {} cannot be imported yet", shortened(name));
        return Err(Error::input(message).help(format!("hyc imports {}", listed(&known, ", "))));
    };
    let has = |name: &str| file.tensors.contains_key(name);
    let own = |name: &str| (name != HEAD || has(HEAD)) && !(of.fused && PROJECTIONS.contains(&name));
    let rename = TENSORS.iter().chain(of.more).copied().filter(|(from, _)| own(from)).collect();
    let tied = !has(HEAD);
    let quantised = file.tensors.values().any(|tensor| tensor.stored.elements() > 1);
    let interleaved: &'static [&'static str] = if of.interleaved { &INTERLEAVED } else { &[] };
    let mut config = config(&file, of, tied)?;
    let ignored: &'static [&'static str] = if has(FACTORS) {
        &[FACTORS]
    } else if BY_LENGTH.iter().any(|name| has(name)) {
        if let Some(missing) = BY_LENGTH.iter().find(|name| !has(name)) {
            let message = format!("{} has no `{missing}`, and the other list of factors", place(path));
            return Err(Error::input(message).help("download it again: RoPE has both or neither"));
        }
        &BY_LENGTH
    } else {
        &[]
    };
    let lists = ignored.iter().filter_map(|name| Some((name, file.tensors.get(*name)?)));
    let lists: Vec<Vec<f32>> =
        lists.map(|(name, tensor)| factors(path, &opened, name, tensor)).collect::<Result<_>>()?;
    match &lists[..] {
        [all] => by_factors(&mut config, [all, all], Some(1.0), path)?,
        [short, long] => by_factors(&mut config, [short, long], None, path)?,
        _ => {}
    }
    let fused = of.fused.then_some(FUSED);
    let config = Config::of(path, config);
    Ok(Opened { config, quantised, rename, interleaved, fused, ignored, file })
}

/// The numbers of a list of factors. Errors: it is no list of as many as can be.
fn factors(path: &Path, file: &File, name: &str, tensor: &gguf::Tensor) -> Result<Vec<f32>> {
    let most = MOST_PAIRS as u64;
    if tensor.shape.len() != 1 || tensor.shape[0] > most {
        let message = format!("`{name}` in {} has the shape {:?}", place(path), tensor.shape);
        return Err(Error::input(message).help(format!("it is a list of at most {most} numbers")));
    }
    let mut bytes = vec![0; (tensor.bytes.end - tensor.bytes.start) as usize];
    file.read_exact_at(&mut bytes, tensor.bytes.start).map_err(|e| Error::io("read", path, e))?;
    let mut list = Vec::new();
    tensor.stored.decode(&bytes, &mut |x| list.push(x));
    Ok(list)
}

/// What frequencies are divided by: LongRoPE, whose two lists are the same where it is so at every length, and `grown` is what
/// queries and keys grow by where the file does not say it. Errors: another scaling beside.
fn by_factors(
    config: &mut Map<String, Json>,
    lists: [&[f32]; 2],
    grown: Option<f64>,
    path: &Path,
) -> Result<()> {
    let said = config.remove("rope_scaling");
    let mut scaling = said.and_then(|said| said.as_object().cloned()).unwrap_or_default();
    if let Some(other) =
        scaling.get("rope_type").filter(|kind| !["default", "longrope"].iter().any(|k| *kind == k))
    {
        let message = format!("{} scales RoPE by a list of factors and by {other}", place(path));
        return Err(Error::input(message).help("import the safetensors that it was converted from"));
    }
    let list = |factors: &[f32]| factors.iter().map(|x| json(&Value::Float(f64::from(*x)))).collect::<Json>();
    let [short, long] = lists.map(list);
    scaling.insert("rope_type".into(), json!("longrope"));
    scaling.insert("short_factor".into(), short);
    scaling.insert("long_factor".into(), long);
    if let Some(grown) = grown {
        scaling.entry("attention_factor").or_insert(json!(grown));
    }
    config.insert("rope_scaling".into(), Json::Object(scaling));
    Ok(())
}

/// What a config.json would say.
fn config(file: &Gguf, of: &Architecture, tied: bool) -> Result<Map<String, Json>> {
    let mut config = Map::new();
    let mut scaling = Map::new();
    let within = format!("{}.", of.name);
    let size = |key: &str| match file.keys.get(&format!("{within}{key}")) {
        Some(Value::Unsigned(n)) => Some(*n),
        _ => None,
    };
    let split = || size("embedding_length")?.checked_div(size("attention.head_count")?);
    let width = size("attention.key_length").or_else(split);
    for (key, value) in &file.keys {
        let Some(own) = key.strip_prefix(&within) else { continue };
        let named =
            |table: &[(&str, &'static str)]| table.iter().find(|(k, _)| *k == own).map(|(_, name)| *name);
        if let Some(name) = named(&KEYS) {
            config.insert(name.to_string(), json(value));
        } else if let Some(name) = named(&SCALING) {
            let none = *value == Value::Text("none".into());
            scaling.insert(name.to_string(), if none { json!("default") } else { json(value) });
        } else if own == TURNING && of.fused {
            config.insert(rope::TURNING.into(), json(value));
        } else if own != SILENT && !(WIDTHS.contains(&own) && size(own) == width) {
            // Nobody asks for it, which is an error that names it.
            config.insert(key.clone(), json(value));
        }
    }
    if !scaling.is_empty() {
        config.insert("rope_scaling".into(), Json::Object(scaling));
    }
    // A window of no tokens is none.
    if config.get("sliding_window") == Some(&json!(0)) {
        config.remove("sliding_window");
    }
    if let Some(table) = file.tensors.get("token_embd.weight") {
        config.insert("vocab_size".into(), json!(table.shape.first()));
    }
    config.insert("architectures".into(), json!([of.class]));
    config.insert("tie_word_embeddings".into(), json!(tied));
    Ok(config)
}

/// A number that was an f32 is the shortest that gives it: 1e-5 and not 9.999999747378752e-6.
fn json(value: &Value) -> Json {
    match value {
        Value::Unsigned(n) => json!(n),
        Value::Negative(n) => json!(n),
        Value::Float(x) if f64::from(*x as f32) == *x => {
            json!(format!("{}", *x as f32).parse::<f64>().unwrap_or(*x))
        }
        Value::Float(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::Text(text) => json!(text),
        Value::List(list) => list.iter().map(json).collect(),
    }
}
