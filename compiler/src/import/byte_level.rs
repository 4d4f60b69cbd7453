//! Byte-level BPE from a GGUF file, as a tokenizer.json.

use serde_json::{Map, Value as Json, json};

use super::tokens::{CONTROL, Keys, added};
use crate::error::{Error, Result};
use crate::gguf::Value;
use crate::words::shortened;

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

/// The vocabulary in `keys`, whose tokens and their kinds are given. Errors: one that is cut in a way that is not known; no merges.
pub fn tokenizer(keys: &Keys<'_>, tokens: &[&str], kinds: &[Value]) -> Result<Json> {
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
