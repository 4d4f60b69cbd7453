//! An error's length does not depend on its input's, and nothing of an input acts on a terminal.

mod common;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use common::hyc_binary;
use hyc_tests::{root, tokenizers};
use serde_json::{Value, json};

/// What an error may have, carets and help included.
const MOST: usize = 10_000;

/// The error of a command that fails, which is short, on lines that are, and without control characters.
fn short(folder: &Path, args: &[OsString]) -> String {
    let mut command = Command::new(hyc_binary());
    let output = command.args(args).current_dir(folder).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let begin: Vec<String> =
        args.iter().map(|arg| arg.to_string_lossy().chars().take(40).collect()).collect();
    assert!(matches!(output.status.code(), Some(2 | 3 | 5)), "hyc {begin:?}: {:?}", output.status);
    assert!(!text.is_empty() && text.len() < MOST, "hyc {begin:?} says {} bytes", text.len());
    assert!(text.lines().all(|line| line.len() < 1000), "hyc {begin:?} has a long line");
    assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "hyc {begin:?}: {text:?}");
    text
}

fn says(folder: &Path, args: &[&str], words: &str) {
    let args: Vec<OsString> = args.iter().map(Into::into).collect();
    let text = short(folder, &args);
    assert!(text.contains(words), "no {words:?} in {text}");
}

/// A safetensors file of empty tensors of these names, and whatever else its header has.
fn weights(folder: &Path, tensors: Value) {
    let header = tensors.to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(folder.join("w.safetensors"), file).unwrap();
}

fn empty() -> Value {
    json!({ "dtype": "F32", "shape": [0], "data_offsets": [0, 0] })
}

#[test]
fn weight_files_with_long_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::copy(root().join("tests/golden/dense/model.toml"), at.join("model.toml")).unwrap();
    let compile = ["compile", "model.toml", "--weights", "w.safetensors", "-o", "m.hyc"];
    let (mega, most) = ("x".repeat(1 << 20), "y".repeat(4000));
    let one = |name: &str, tensor: Value| json!({ name: tensor });
    let typed = |dtype: &str| json!({ "dtype": dtype, "shape": [0], "data_offsets": [0, 0] });
    let control = "a\u{1b}[2Jb";
    for (header, words) in [
        (one(&mega, empty()), "4096 are the most"),
        (one(&mega, json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 0] })), "4096 are the most"),
        (one(&most, empty()), "do not fit"),
        (one(&most, json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 0] })), "takes 4 bytes"),
        (one(&most, json!({ "dtype": "F32", "shape": [0], "data_offsets": [9, 9] })), "unused"),
        (one("lm_head.weight", typed(&mega)), "do not fit"),
        (json!({ "__metadata__": { &mega: 1 } }), "`__metadata__` holds"),
        (json!({ &mega: { "dtype": "F32" } }), "missing field"),
        (one(control, empty()), "a\\u{1b}[2Jb"),
        ((0..20_000).map(|i| (format!("{most}{i}"), empty())).collect(), "more"),
    ] {
        weights(at, header);
        says(at, &compile, words);
    }
    // The same name twice, which serde_json would not write.
    let twice = json!({ &most: empty() }).to_string();
    let inner = &twice[1..twice.len() - 1];
    let header = format!("{{{inner},{inner}}}");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(at.join("w.safetensors"), file).unwrap();
    says(at, &compile, "is there twice");

    // Names that `rename` and `ignore` see.
    let toml = std::fs::read_to_string(at.join("model.toml")).unwrap();
    let names = "files = [\"w.safetensors\"]\nrename = { \"y*\" = \"z*\", \"yy*\" = \"q*\" }";
    std::fs::write(at.join("named.toml"), toml.replace("files = [\"model.safetensors\"]", names)).unwrap();
    weights(at, json!({ &most: empty(), format!("{most}2"): empty(), "yx": empty() }));
    says(at, &["check", "--weights", "named.toml"], "matches both");

    // An index and its shards.
    std::fs::copy(root().join("tests/golden/dense/model.safetensors"), at.join("s.safetensors")).unwrap();
    let index = ["compile", "model.toml", "--weights", "w.index.json", "-o", "m.hyc"];
    for (map, words) in [
        (json!({ "a": mega }), "not there"),
        (json!({ "a": format!("/{mega}") }), "no file beside it"),
        (json!({ &mega: "s.safetensors" }), "4096 are the most"),
        (json!({ &most: "s.safetensors" }), "disagree"),
        ((0..9999).map(|i| (i.to_string(), Value::from(format!("{most}{i}")))).collect(), "are not there"),
    ] {
        std::fs::write(at.join("w.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
        says(at, &index, words);
    }
    assert!(!at.join("m.hyc").exists());
}

#[test]
fn tokenizers_and_descriptions_with_long_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mega = "z".repeat(1 << 20);
    std::fs::write(at.join("tokenizer.json"), tokenizers::with_eos().to_string()).unwrap();
    let tiny = std::fs::read_to_string(root().join("examples/tiny-hysparse/model.toml")).unwrap();
    std::fs::write(at.join("tiny.toml"), &tiny).unwrap();
    let compile = ["compile", "tiny.toml", "--tokenizer", "tokenizer.json", "--no-weights", "-o", "m.hyc"];
    for (file, text, words) in [
        ("tokenizer_config.json", json!({ "eos_token": mega }).to_string(), "has no token"),
        (
            "tokenizer_config.json",
            json!({ "chat_template": [{ "name": mega, "template": "" }] }).to_string(),
            "default",
        ),
        ("tokenizer_config.json", format!("{{\"{mega}"), "no JSON object"),
        (
            "tokenizer_config.json",
            json!({ "chat_template": format!("{{{{ {mega}(") }).to_string(),
            "chat_template",
        ),
    ] {
        std::fs::write(at.join(file), text).unwrap();
        says(at, &compile, words);
    }
    std::fs::remove_file(at.join("tokenizer_config.json")).unwrap();
    std::fs::write(at.join("graph.hyir"), format!("graph \"{mega}\" {{\n}}\n%{mega} = {mega}()\n")).unwrap();
    says(at, &["compile", "graph.hyir"], "graph.hyir:");
    std::fs::write(
        at.join("config.json"),
        json!({ "architectures": [mega], "torch_dtype": mega }).to_string(),
    )
    .unwrap();
    says(at, &["check", "config.json"], "model.toml");
}

#[test]
fn arguments_of_any_length_and_of_any_characters() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // The system takes no longer ones.
    let long = "z".repeat(120_000);
    let hostile = "a\u{1b}]0;title\u{7}\nerror: b";
    std::fs::write(at.join(hostile), "[model]\n").unwrap();
    for word in [long.as_str(), hostile] {
        for args in [
            vec!["explain", word],
            vec!["explain", "--json", word],
            vec!["check", word],
            vec!["inspect", word],
            vec![word],
            vec!["run", "m.hyc", "--temperature", word],
            vec!["run", "m.hyc", "--prompt-file", word],
            vec!["compile", "--target", word, "x.toml"],
            vec!["compile", "--print-ir-after", word, "x.toml"],
            vec!["compile", word, "-o", word],
        ] {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            short(at, &args);
        }
    }
    let text = short(at, &["check".into(), hostile.into()]);
    assert!(text.contains("--> a\\u{1b}]0;title\\u{7}\\u{a}error: b:1"), "{text}");
    short(at, &["check".into(), OsStr::from_bytes(b"\xff\x1b[2J").into()]);
}
