//! What commands print: texts of `tests/expected` word for word, and JSON with its version.
//!
//! `HYC_BLESS=1 cargo test -p hyc-tests --test says` writes the texts.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use common::hyc_binary;
use hyc_kernels::cpu::CpuTarget;
use hyc_tests::{compile, root};

fn hyc(args: &[&str], folder: &Path) -> Output {
    Command::new(hyc_binary()).args(args).current_dir(folder).output().expect("runs")
}

/// What `hyc ARGS` prints and how it ends, beside `tests/expected/NAME.txt`.
fn check(name: &str, args: &[&str], folder: &Path) {
    let output = hyc(args, folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = format!("$ hyc {}\n{}", args.join(" "), text(&output.stdout));
    if !output.status.success() {
        found.push_str(&format!("{}exit code {:?}\n", text(&output.stderr), output.status.code().unwrap()));
    }
    let path = root().join("tests/expected").join(format!("{name}.txt"));
    hyc_filetest::expect(&path, &found);
}

#[test]
fn keys_are_explained() {
    let here = &root();
    check("explain-key", &["explain", "attention.gate"], here);
    check("explain-formula", &["explain", "attention.top_k"], here);
    check("explain-table", &["explain", "model.rope"], here);
    check("explain-section", &["explain", "moe"], here);
    check("explain-json", &["explain", "--json", "target.max_context"], here);
    check("explain-theirs", &["explain", "num_hidden_layers"], here);
    check("explain-slip", &["explain", "attention.windw"], here);
    check("explain-two-homes", &["explain", "kind"], here);
}

#[test]
fn passes_are_shown() {
    let here = &root();
    let tiny = "examples/tiny-hysparse/model.toml";
    let decided =
        ["plan-memory", "select-kernels", "schedule"].map(|pass| format!("--print-ir-after={pass}"));
    let decided = decided.each_ref().map(String::as_str);
    let args = [&["compile", "--cpu", "v3"], &decided[..], &["--layers", "4-5", tiny]].concat();
    check("ir-decided", &args, here);
    check("ir-graph", &["compile", "--emit", "graph", "--layers", "1", tiny], here);
    check("ir-faults", &["compile", "--plan-only", "tests/expected/ir-faults.hyir"], here);
}

#[test]
fn a_configuration_of_others_is_translated() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 16,
        "head_dim": 64, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "vocab_size": 128256,
        "max_position_embeddings": 131072, "tie_word_embeddings": true, "torch_dtype": "bfloat16" }"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    std::fs::write(folder.path().join("other.json"), "{ \"weight_map\": {} }").unwrap();
    check("config-json", &["check", "config.json"], folder.path());
    check("other-json", &["compile", "other.json"], folder.path());
}

#[test]
fn an_artefact_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.hyc");
    compile(&root().join("examples/tiny-hysparse/model.toml"), &out, CpuTarget::host().level, |_| {});
    let output = hyc(&["inspect", "m.hyc"], folder.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("wrote"), "{text}");
    for words in [
        "artefact version",
        "tiny-hysparse: 9 layers of width 256, vocabulary of 4096",
        "cpu: x86_64, level",
        "max_context 4608 tokens, max_batch 4 sequences, chunk 256 tokens",
        "matrices bf16, KV caches f32",
        "3 growing, 6 ring; pages of 32 tokens",
        "BPE, 4096 entries",
        "sampling",
        "layer 4 selects for layers 5-7",
        "at 4608",
        "of this at 1M",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    check("inspect-selections", &["inspect", "m.hyc", "selections"], folder.path());
    check("inspect-provenance", &["inspect", "m.hyc", "provenance"], folder.path());
}

/// Every command with a JSON form prints one object with its version; the others refuse the flag.
#[test]
fn json_has_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.hyc");
    let model = root().join("tests/golden/dense/model.toml");
    compile(&model, &out, CpuTarget::host().level, |_| {});
    let (tiny, with_text) =
        (root().join("examples/tiny-hysparse/model.toml"), folder.path().join("tiny.hyc"));
    compile(&tiny, &with_text, CpuTarget::host().level, |_| {});
    let model = model.to_str().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "[model]\n").unwrap();
    let parts = ["summary", "graph", "plan", "kernels", "selections", "provenance", "kv", "memory"];
    let mut all: Vec<Vec<&str>> = parts.iter().map(|part| vec!["inspect", "m.hyc", part, "--json"]).collect();
    all.extend([
        vec!["check", "--json", model],
        vec!["check", "--json", "bad.toml"],
        vec!["compile", "--plan-only", "--json", model],
        vec!["compile", "--json", "-o", "again.hyc", model],
        vec!["explain", "--json"],
        vec!["explain", "--json", "moe"],
        vec!["diff", "--json", "--tokens", "4", "m.hyc"],
        vec!["bench", "--json", "--prefill", "8", "--context", "16", "--steps", "1", "m.hyc"],
        vec!["run", "--json", "-n", "2", "--prompt", "The kernel", "tiny.hyc"],
        vec!["version", "--json"],
        vec!["doctor", "--json"],
    ]);
    for args in all {
        let output = hyc(&args, folder.path());
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("hyc {args:?}: {e}: {}", String::from_utf8_lossy(&output.stderr));
        });
        assert_eq!(value["schema"], 1, "hyc {args:?}: {value}");
    }
    for args in [
        vec!["compile", "--json", "--emit", "graph", model],
        vec!["compile", "--json", "--print-ir-after-all", model],
        vec!["completions", "--json", "bash"],
    ] {
        let output = hyc(&args, folder.path());
        assert_eq!(output.status.code(), Some(2), "hyc {args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--json"), "hyc {args:?}");
    }
}

/// A path that is no UTF-8 is a path like any other: written and read, and shown as far as it is text.
#[test]
fn json_takes_every_path() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let golden = root().join("tests/golden/dense");
    std::fs::copy(golden.join("model.toml"), at(b"\xff.toml")).unwrap();
    std::fs::copy(golden.join("model.safetensors"), at(b"model.safetensors")).unwrap();
    std::fs::write(at(b"bad\xff.toml"), "[model]\n").unwrap();
    std::fs::write(at(b"\xff.txt"), "The kernel").unwrap();
    compile(
        &root().join("examples/tiny-hysparse/model.toml"),
        &at(b"tiny\xff.hyc"),
        CpuTarget::host().level,
        |_| {},
    );
    let commands: &[(i32, &[&[u8]])] = &[
        (0, &[b"compile", b"--json", b"\xff.toml", b"-o", b"\xff.hyc"]),
        (0, &[b"compile", b"--json", b"\xff.toml", b"--weights", b"model.safetensors", b"-o", b"\xfe.hyc"]),
        (0, &[b"compile", b"--json", b"--plan-only", b"\xff.toml"]),
        (0, &[b"check", b"--json", b"--weights", b"\xff.toml"]),
        (3, &[b"check", b"--json", b"bad\xff.toml"]),
        (3, &[b"check", b"--json", b"absent\xff.toml"]),
        (0, &[b"inspect", b"--json", b"\xff.hyc"]),
        (0, &[b"inspect", b"--json", b"\xff.hyc", b"plan"]),
        (0, &[b"diff", b"--json", b"--tokens", b"2", b"\xff.hyc"]),
        (0, &[b"bench", b"--json", b"--prefill", b"8", b"--context", b"16", b"--steps", b"1", b"\xff.hyc"]),
        (0, &[b"run", b"--json", b"-n", b"1", b"--prompt-file", b"\xff.txt", b"tiny\xff.hyc"]),
    ];
    for (code, args) in commands {
        let args: Vec<&OsStr> = args.iter().map(|arg| OsStr::from_bytes(arg)).collect();
        let output = Command::new(hyc_binary()).args(&args).current_dir(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "hyc {args:?}: {text}");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let path = value["file"]["path"].as_str();
        assert!(path.is_none_or(|path| path.ends_with("\u{fffd}.hyc")), "hyc {args:?}: {value}");
    }
}

/// Sizes beyond the model's are measured at its limit, with a note; several rounds give their range.
#[test]
fn a_bench_stays_within_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.hyc");
    compile(&root().join("tests/golden/dense/model.toml"), &out, CpuTarget::host().level, |_| {});
    let args =
        ["bench", "m.hyc", "--context", "100,512,32768", "--batch", "1,64", "--prefill", "9999", "--steps"];
    let output = hyc(&[&args[..], &["1", "--repeat", "2"]].concat(), folder.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "note: a context of 32768 is measured at 211",
        "note: a batch of 64 is measured at 3",
        "note: a prompt of 9999 is measured at 211",
        "least to most",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    // A model of 300 KB lies in the processor's caches.
    assert_eq!(text.contains("come from the processor's caches"), text.lines().any(above_all), "{text}");
    let zero = hyc(&["bench", "m.hyc", "--context", "0"], folder.path());
    assert_eq!(zero.status.code(), Some(2));
}

/// Whether a row of the decode table is above 100 % of the bandwidth.
fn above_all(line: &str) -> bool {
    let is_decode = line.contains(" ms") && line.contains(" % ");
    let share = line.split(" %").next().and_then(|head| head.split_whitespace().last());
    is_decode && share.and_then(|share| share.parse::<f64>().ok()).is_some_and(|share| share > 100.0)
}
