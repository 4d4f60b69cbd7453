//! Whatever a tokenizer.json says, it is an error with a sentence, or a tokenizer, within time and memory.

use std::time::{Duration, Instant};

use hyc_runtime::{Error, ErrorKind, TextStream, Tokenizer};
use serde_json::{Value, json};

/// A BPE of single letters, in which `</s>` is special.
fn letters() -> Value {
    let table: serde_json::Map<String, Value> =
        (32..127u8).map(|byte| (char::from(byte).to_string(), json!(byte - 32))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"},
        "added_tokens": [{"id": 95, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": table, "merges": []},
    })
}

/// Loads, encodes and decodes, as a model does.
fn use_of(json: &Value, text: &str) -> Result<String, Error> {
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), 200)?;
    let tokens = tokenizer.encode(text)?;
    let mut stream = TextStream::new(&tokenizer, &[], &[], false)?;
    let mut out = String::new();
    for token in tokens {
        out.push_str(&stream.push(token)?.0);
    }
    let (rest, _) = stream.finish()?;
    Ok(out + &rest)
}

fn refused(stage: &str, step: Value) -> String {
    let mut json = letters();
    json[stage] = step;
    let start = Instant::now();
    let error = use_of(&json, "a word of letters").expect_err(stage);
    assert_eq!(error.kind, ErrorKind::BadInput, "{error}");
    assert!(error.message.contains("token") && error.message.len() < 600, "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{error}: {:?}", start.elapsed());
    error.message
}

fn precompiled(map: &str) -> Value {
    json!({"type": "Precompiled", "precompiled_charsmap": map})
}

/// One whose trie has no entry, with the text `abc`.
fn empty_map() -> String {
    format!("AAQA{}AABhYmMA", "AAAA".repeat(341))
}

fn template(single: Value) -> Value {
    json!({
        "type": "TemplateProcessing", "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [95], "tokens": ["</s>"]}},
    })
}

fn times(list: &str, count: usize, step: &Value) -> Value {
    let mut all = json!({"type": "Sequence"});
    all[list] = vec![step.clone(); count].into();
    all
}

#[test]
fn a_sound_one_works() {
    let mut json = letters();
    json["normalizer"] = times("normalizers", 3, &precompiled(&empty_map()));
    json["post_processor"] = template(json!([
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    ]));
    assert_eq!(use_of(&json, "a word").unwrap(), "a word");
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), 200).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [65, 66, 95]);
}

#[test]
fn maps_of_characters_are_not_believed() {
    // A trie that is longer than the file, that is empty, that points beyond itself; what is no base64.
    for map in ["////fwAAAAA=", "AAAAAA==", "CAAAAP////8AAAAAYWJj", "////////", "AAAA*", "AA"] {
        refused("normalizer", precompiled(map));
    }
    let long = format!("{}{}", empty_map(), "YWFh".repeat(2000));
    assert!(refused("normalizer", precompiled(&long)).contains("6000 bytes"));
}

#[test]
fn parts_that_do_not_fit_each_other_are_errors() {
    let mut json = letters();
    json["model"]["continuing_subword_prefix"] = json!("a long prefix");
    json["model"]["merges"] = json!([["a", "b"]]);
    json["model"]["vocab"]["ab"] = json!(96);
    let error = use_of(&json, "ab").unwrap_err();
    assert!(error.message.contains("does not load"), "{error}");

    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let unknown = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    assert!(refused("post_processor", template(json!([unknown, a]))).contains("`<s>`"));
    let second = json!({"Sequence": {"id": "B", "type_id": 0}});
    assert!(refused("post_processor", template(json!([a, second]))).contains("second"));
    refused("pre_tokenizer", json!({"type": "FixedLength", "length": 0}));
    refused("decoder", json!({"type": "Strip", "content": "a", "start": 1, "stop": 1}));
    let empty = json!({"type": "Replace", "pattern": {"String": "a"}, "content": ""});
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    refused("decoder", json!({"type": "Sequence", "decoders": [empty, strip]}));
}

#[test]
fn no_stage_makes_much_of_little() {
    let long = "x".repeat(32);
    for pattern in [json!({"Regex": "."}), json!({"Regex": ""}), json!({"String": "x"})] {
        let replace = json!({"type": "Replace", "pattern": pattern, "content": long});
        let mut all = times("normalizers", 6, &replace);
        all["normalizers"][0]["pattern"] = json!({"Regex": "."});
        assert!(refused("normalizer", all.clone()).contains("more than 40 bytes"));
        all["decoders"] = all["normalizers"].take();
        assert!(refused("decoder", all).contains("more than 40 bytes"));
    }
    let prepend = json!({"type": "Prepend", "prepend": "x".repeat(4000)});
    assert!(refused("normalizer", times("normalizers", 60, &prepend)).contains("more than 40 bytes"));
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let isolated =
        json!({"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false});
    let both = json!({"type": "Sequence", "pretokenizers": [isolated, bytes]});
    assert!(refused("pre_tokenizer", times("pretokenizers", 30, &both)).contains("more than 40 bytes"));

    let huge = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "x".repeat(5000)});
    assert!(refused("normalizer", huge).contains("5000 bytes"));
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    assert!(refused("post_processor", template(json!([a, a]))).contains("more than once"));
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    assert!(refused("post_processor", template(vec![end; 1025].into())).contains("1024"));
    for (stage, list, step) in [
        ("normalizer", "normalizers", json!({"type": "Lowercase"})),
        ("pre_tokenizer", "pretokenizers", json!({"type": "Whitespace"})),
        ("post_processor", "processors", template(json!([a]))),
        ("decoder", "decoders", json!({"type": "Fuse"})),
    ] {
        assert!(refused(stage, times(list, 65, &step)).contains("more than 64"));
    }
}

/// A caught panic says nothing; one of the program's own does.
#[test]
fn panics_of_others_are_still_told() {
    if std::env::var_os("HYC_TEST_PANIC").is_some() {
        refused("pre_tokenizer", json!({"type": "FixedLength", "length": 0}));
        panic!("the program's own");
    }
    let program = std::env::current_exe().unwrap();
    let name = "panics_of_others_are_still_told";
    let output = std::process::Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env("HYC_TEST_PANIC", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches("panicked at").count(), 1, "{text}");
    assert!(text.contains("the program's own"), "{text}");
}
