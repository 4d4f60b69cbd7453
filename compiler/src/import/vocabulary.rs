//! The vocabulary of a GGUF file as a tokenizer.json.

use std::collections::BTreeMap;

use super::tokens::{Keys, UNUSED, text_of};
use super::{byte_level, pieces};
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

/// Reads it; `None`: the file has none. Errors: one of a kind that is not known, or that is none.
pub fn read(keys: &BTreeMap<String, Value>) -> Result<Option<Vocabulary>> {
    let template = keys.get("tokenizer.chat_template").and_then(text_of).map(str::to_string);
    let keys = Keys::of(keys);
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
        _ => (byte_level::tokenizer(&keys, &tokens, kinds)?, false),
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
