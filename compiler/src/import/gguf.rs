//! A GGUF file as a description: its metadata under transformers' names, its tensors under a model's, its vocabulary as a
//! tokenizer.json beside the description.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hyc_plan::MOST_PAIRS;
use serde_json::{Map, Value as Json, json};

use super::config::Config;
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
    /// Tensors beside those of every model.
    more: &'static [(&'static str, &'static str)],
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "llama", class: "LlamaForCausalLM", interleaved: true, more: &[] },
    Architecture {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        interleaved: false,
        more: &[
            ("blk.{i}.attn_q_norm.weight", "model.layers.{i}.self_attn.q_norm.weight"),
            ("blk.{i}.attn_k_norm.weight", "model.layers.{i}.self_attn.k_norm.weight"),
        ],
    },
];

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
/// Sizes that are the width of a head here: elements of a value, and those that turn.
const WIDTHS: [&str; 2] = ["attention.value_length", "rope.dimension_count"];

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
    /// Names in the file of tensors that the configuration says, too.
    pub ignored: &'static [&'static str],
    file: Gguf,
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
    let rename =
        TENSORS.iter().chain(of.more).copied().filter(|(from, _)| *from != HEAD || has(HEAD)).collect();
    let tied = !has(HEAD);
    let quantised = file.tensors.values().any(|tensor| tensor.stored.elements() > 1);
    let interleaved: &'static [&'static str] = if of.interleaved { &INTERLEAVED } else { &[] };
    let mut config = config(&file, of, tied)?;
    let ignored: &'static [&'static str] = if has(FACTORS) { &[FACTORS] } else { &[] };
    if let Some(tensor) = file.tensors.get(FACTORS) {
        by_factors(&mut config, &factors(path, &opened, tensor)?, path)?;
    }
    let config = Config::of(path, config);
    Ok(Opened { config, quantised, rename, interleaved, ignored, file })
}

/// The numbers of [`FACTORS`]. Errors: it is no list of as many as can be.
fn factors(path: &Path, file: &File, tensor: &gguf::Tensor) -> Result<Vec<f32>> {
    let most = MOST_PAIRS as u64;
    if tensor.shape.len() != 1 || tensor.shape[0] > most {
        let message = format!("`{FACTORS}` in {} has the shape {:?}", place(path), tensor.shape);
        return Err(Error::input(message).help(format!("it is a list of at most {most} numbers")));
    }
    let mut bytes = vec![0; (tensor.bytes.end - tensor.bytes.start) as usize];
    file.read_exact_at(&mut bytes, tensor.bytes.start).map_err(|e| Error::io("read", path, e))?;
    let mut list = Vec::new();
    tensor.stored.decode(&bytes, &mut |x| list.push(x));
    Ok(list)
}

/// What frequencies are divided by at every length: LongRoPE whose two lists are the same. Errors: another scaling beside.
fn by_factors(config: &mut Map<String, Json>, factors: &[f32], path: &Path) -> Result<()> {
    let scaled = config.get("rope_scaling").map(|scaling| &scaling["rope_type"]);
    if let Some(other) = scaled.filter(|kind| **kind != json!("default")) {
        let message = format!("{} scales RoPE by `{FACTORS}` and by {other}", place(path));
        return Err(Error::input(message).help("import the safetensors that it was converted from"));
    }
    let list: Vec<Json> = factors.iter().map(|x| json(&Value::Float(f64::from(*x)))).collect();
    let scaling = json!({
        "rope_type": "longrope", "short_factor": list, "long_factor": list, "attention_factor": 1.0,
    });
    config.insert("rope_scaling".into(), scaling);
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
        } else if own != SILENT && !(WIDTHS.contains(&own) && size(own) == width) {
            // Nobody asks for it, which is an error that names it.
            config.insert(key.clone(), json(value));
        }
    }
    if !scaling.is_empty() {
        config.insert("rope_scaling".into(), Json::Object(scaling));
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

/// What a vocabulary becomes.
pub struct Vocabulary {
    /// tokenizer.json.
    pub tokenizer: String,
    /// Chat template.
    pub template: Option<String>,
    /// The token that begins a text.
    pub bos: Option<u64>,
    /// Tokens that end one.
    pub eos: Vec<u64>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
}

impl Opened {
    fn text(&self, key: &str) -> Option<&str> {
        text_of(self.file.keys.get(key)?)
    }

    fn id(&self, key: &str) -> Option<u64> {
        match self.file.keys.get(key) {
            Some(Value::Unsigned(id)) => Some(*id),
            _ => None,
        }
    }

    fn list(&self, key: &str) -> Option<&[Value]> {
        match self.file.keys.get(key) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    fn texts(&self, key: &str) -> Option<Vec<&str>> {
        self.list(key)?.iter().map(text_of).collect()
    }

    /// The vocabulary; `None`: the file has none. Errors: one of a kind that is not known, or that is none.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>> {
        let Some(model) = self.text("tokenizer.ggml.model") else { return Ok(None) };
        if model != "gpt2" {
            let message = format!("the file's tokenizer is of the kind `{}`", shortened(model));
            return Err(Error::input(message)
                .help("hyc reads byte-level BPE (`gpt2`); `--no-tokenizer` imports the model without"));
        }
        let pre = self.text("tokenizer.ggml.pre").unwrap_or("default");
        let Some(pre) = pre_tokenizer(pre) else {
            let message =
                format!("the file's tokenizer cuts text as `{}`, which is not known", shortened(pre));
            return Err(Error::input(message).help("`--no-tokenizer` imports the model without"));
        };
        let broken = |what: &str| Error::input(format!("the file's tokenizer has no list of {what}"));
        let tokens = self.texts("tokenizer.ggml.tokens").ok_or_else(|| broken("tokens"))?;
        let merges = self.texts("tokenizer.ggml.merges").ok_or_else(|| broken("merges"))?;
        let kinds = self.list("tokenizer.ggml.token_type").unwrap_or_default();
        let flag = |key: &str| self.file.keys.get(key) == Some(&Value::Bool(true));
        let eos = ["eos_token_id", "eot_token_id", "eom_token_id"];
        let mut eos: Vec<u64> =
            eos.iter().filter_map(|key| self.id(&format!("tokenizer.ggml.{key}"))).collect();
        eos.dedup();
        Ok(Some(Vocabulary {
            tokenizer: tokenizer(&tokens, kinds, &merges, pre).to_string(),
            template: self.text("tokenizer.chat_template").map(str::to_string),
            bos: self.id("tokenizer.ggml.bos_token_id"),
            eos,
            add_bos: flag("tokenizer.ggml.add_bos_token"),
        }))
    }
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// How text is cut before it is merged: normalizer, pre-tokenizer, and whether a whole word that is a token stays one.
struct Pre {
    normalizer: Json,
    cuts: Json,
    ignore_merges: bool,
}

/// By llama.cpp's names, as the tokenizer.json has it that each was converted from.
fn pre_tokenizer(name: &str) -> Option<Pre> {
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let split = |pattern: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
    };
    const WORDS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}DIGITS| ?[^\\s\\p{L}\\p{N}]+\
                         [\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    let plain = |cuts| Some(Pre { normalizer: Json::Null, cuts, ignore_merges: false });
    match name {
        "default" | "gpt-2" => plain(bytes(true)),
        "smollm" => {
            let digits = json!({ "type": "Digits", "individual_digits": true });
            plain(json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] }))
        }
        "qwen2" => {
            let cuts = split(&WORDS.replace("DIGITS", ""));
            Some(Pre { normalizer: json!({ "type": "NFC" }), cuts, ignore_merges: false })
        }
        "llama-bpe" => {
            let cuts = split(&WORDS.replace("DIGITS", "{1,3}"));
            Some(Pre { normalizer: Json::Null, cuts, ignore_merges: true })
        }
        _ => None,
    }
}

/// Kinds of tokens: those that a program sets, and those that a user's text may spell.
const CONTROL: Value = Value::Unsigned(3);
const USERS: Value = Value::Unsigned(4);

fn tokenizer(tokens: &[&str], kinds: &[Value], merges: &[&str], pre: Pre) -> Json {
    let vocab: Map<String, Json> =
        tokens.iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id))).collect();
    let added = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| [CONTROL, USERS].contains(kind));
    let added: Vec<Json> = added
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.cuts,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "ignore_merges": pre.ignore_merges, "byte_fallback": false, "fuse_unk": false,
            "vocab": vocab, "merges": merges,
        },
    })
}
