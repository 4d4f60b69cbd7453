//! Tokenizers of other kinds over the trained model's vocabulary, so that a model that can speak shows what each
//! kind does.

use serde_json::{Value, json};

use crate::root;

/// The tiny model's own tokenizer.
pub fn plain() -> Value {
    let path = root().join("examples/tiny-hysparse/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).expect("the tokenizer")).expect("JSON")
}

/// The two sides of a merge, in either of its spellings.
fn sides(merge: &Value) -> (String, String) {
    match merge {
        Value::Array(pair) => {
            let side = |i: usize| pair[i].as_str().expect("a string").to_string();
            (side(0), side(1))
        }
        other => {
            let (left, right) = other.as_str().and_then(|text| text.split_once(' ')).expect("a pair");
            (left.to_string(), right.to_string())
        }
    }
}

fn vocab(json: &Value) -> Vec<(String, u64)> {
    let table = json["model"]["vocab"].as_object().expect("a vocabulary");
    let mut list: Vec<(String, u64)> =
        table.iter().map(|(text, id)| (text.clone(), id.as_u64().expect("an id"))).collect();
    list.sort_by_key(|(_, id)| *id);
    list
}

/// The same in which token `id` is the special token `text`.
pub fn special(mut json: Value, id: u64, text: &str) -> Value {
    let old = vocab(&json).into_iter().find(|(_, other)| *other == id).expect("the token").0;
    let table = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    table.remove(&old);
    table.insert(text.to_string(), json!(id));
    json["model"]["merges"].as_array_mut().expect("merges").retain(|merge| {
        let (left, right) = sides(merge);
        left != old && right != old && format!("{left}{right}") != old
    });
    let added = json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    json["added_tokens"].as_array_mut().expect("a list").push(added);
    json
}

/// The number of a token.
fn id(json: &Value, text: &str) -> u64 {
    json["model"]["vocab"][text].as_u64().expect("the token")
}

/// One whose post-processor begins a text with `<s>`, the last token.
pub fn with_bos() -> Value {
    let mut json = special(plain(), 4095, "<s>");
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [4095], "tokens": ["<s>"]}},
    });
    json
}

/// One in which the full stop, which the model soon writes, is <|endoftext|>.
pub fn with_eos() -> Value {
    let json = plain();
    let dot = id(&json, ".");
    special(json, dot, "<|endoftext|>")
}

/// One that was saved with the truncation and padding of its training.
pub fn truncating() -> Value {
    let mut json = plain();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 30}, "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    json
}

/// Llama's pipeline over the same ids: spaces are part of the words after them, single bytes are `<0xNN>`, and a text
/// begins with a space that decoding drops.
pub fn llama() -> Value {
    let json = plain();
    let bytes = byte_of_letter();
    let mut spelled: Vec<(String, String)> = Vec::new();
    let mut table = serde_json::Map::new();
    for (token, id) in vocab(&json) {
        let raw: Vec<u8> = token.chars().map(|c| bytes[&c]).collect();
        let mut text = match (String::from_utf8(raw.clone()), raw.as_slice()) {
            (Err(_) | Ok(_), [byte]) if !(32..128).contains(byte) => format!("<0x{byte:02X}>"),
            (Ok(text), _) => text.replace(' ', "\u{2581}"),
            (Err(_), _) => format!("<junk{id}>"),
        };
        while table.contains_key(&text) {
            text.push('\u{200b}');
        }
        table.insert(text.clone(), json!(id));
        spelled.push((token, text));
    }
    let spelling: std::collections::HashMap<String, String> = spelled.into_iter().collect();
    let merges: Vec<Value> = json["model"]["merges"]
        .as_array()
        .expect("merges")
        .iter()
        .map(sides)
        .map(|(left, right)| (spelling[&left].clone(), spelling[&right].clone()))
        .filter(|(left, right)| table.contains_key(&format!("{left}{right}")))
        .map(|(left, right)| json!([left, right]))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": table, "merges": merges},
    })
}

/// The byte behind each letter of a byte-level vocabulary.
fn byte_of_letter() -> std::collections::HashMap<char, u8> {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..=255u8)
        .map(|byte| {
            let code = if plain(byte) { u32::from(byte) } else { next };
            next += u32::from(!plain(byte));
            (char::from_u32(code).expect("a letter"), byte)
        })
        .collect()
}
