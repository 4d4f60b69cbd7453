//! The vocabulary of a GGUF file as a tokenizer.json.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::pieces;
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::words::shortened;

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

/// The metadata of a file, `tokenizer.ggml.` before the keys.
pub struct Keys<'k>(&'k BTreeMap<String, Value>);

impl<'k> Keys<'k> {
    fn get(&self, key: &str) -> Option<&'k Value> {
        self.0.get(&format!("tokenizer.ggml.{key}"))
    }

    fn text(&self, key: &str) -> Option<&'k str> {
        text_of(self.get(key)?)
    }

    /// A token's number.
    pub fn id(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Unsigned(id)) => Some(*id),
            _ => None,
        }
    }

    /// A list.
    pub fn list(&self, key: &str) -> Option<&'k [Value]> {
        match self.get(key) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<&'k str>> {
        let list = self.list(key).and_then(|list| list.iter().map(text_of).collect());
        list.ok_or_else(|| broken(&format!("no list of {key}")))
    }

    /// true or false; what it is where nothing is said.
    pub fn flag(&self, key: &str, otherwise: bool) -> bool {
        match self.get(key) {
            Some(Value::Bool(flag)) => *flag,
            _ => otherwise,
        }
    }
}

/// The error of a vocabulary that is none; `has`: what it has or has not.
pub fn broken(has: &str) -> Error {
    Error::input(format!("the file's tokenizer has {has}"))
        .help("download the file again; `--no-tokenizer` imports the model without")
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// Kinds of tokens that are not plain text: what stands for text that no token spells, those that a program sets, those that a
/// user's text may spell, what a model has rows for and no text has.
pub const UNKNOWN: Value = Value::Unsigned(2);
pub const CONTROL: Value = Value::Unsigned(3);
const USERS: Value = Value::Unsigned(4);
const UNUSED: Value = Value::Unsigned(5);
/// A piece of text.
pub const PLAIN: Value = Value::Unsigned(1);

/// Reads it; `None`: the file has none. Errors: one of a kind that is not known, or that is none.
pub fn read(keys: &BTreeMap<String, Value>) -> Result<Option<Vocabulary>> {
    let template = keys.get("tokenizer.chat_template").and_then(text_of).map(str::to_string);
    let keys = Keys(keys);
    let Some(model) = keys.text("model") else { return Ok(None) };
    if !["gpt2", "llama"].contains(&model) {
        let message = format!("the file's tokenizer is of the kind `{}`", shortened(model));
        return Err(Error::input(message).help(
            "hyc reads byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`); `--no-tokenizer` imports the model without",
        ));
    }
    let kinds = keys.list("token_type").unwrap_or_default();
    let mut tokens = keys.texts("tokens")?;
    // Rows that fill the table up.
    while kinds.get(tokens.len().wrapping_sub(1)) == Some(&UNUSED) {
        tokens.pop();
    }
    let (tokenizer, begins) = match model {
        "llama" => (pieces::tokenizer(&keys, &tokens, kinds)?, true),
        _ => (byte_level(&keys, &tokens, kinds)?, false),
    };
    let eos = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let mut eos: Vec<u64> = eos.iter().filter_map(|key| keys.id(key)).collect();
    eos.dedup();
    Ok(Some(Vocabulary {
        tokenizer: tokenizer.to_string(),
        template,
        bos: keys.id("bos_token_id"),
        eos,
        add_bos: keys.flag("add_bos_token", begins),
    }))
}

/// Tokens that are found in a text before it is cut, of these kinds: those that are no text themselves, and a user's.
pub fn added(tokens: &[&str], kinds: &[Value], special: &[Value]) -> Vec<Json> {
    let of = |kind: &Value| *kind == USERS || special.contains(kind);
    let found = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| of(kind));
    let added = found.map(|(id, (token, kind))| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *kind != USERS,
        })
    });
    added.collect()
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

fn byte_level(keys: &Keys<'_>, tokens: &[&str], kinds: &[Value]) -> Result<Json> {
    let pre = keys.text("pre").unwrap_or("default");
    let Some(pre) = pre_tokenizer(pre) else {
        let message = format!("the file's tokenizer cuts text as `{}`, which is not known", shortened(pre));
        return Err(Error::input(message).help("`--no-tokenizer` imports the model without"));
    };
    let merges = keys.texts("merges")?;
    let vocab: Map<String, Json> =
        tokens.iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id))).collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(tokens, kinds, &[CONTROL]),
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.cuts,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "ignore_merges": pre.ignore_merges, "byte_fallback": false, "fuse_unk": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}
