//! `hyc eval`: perplexity as transformers' logits have it, gates, keys, and what is refused.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::hyc_binary;
use hyc_tests::parity::tokens;
use hyc_tests::{Golden, compiled_model, root};
use serde_json::Value;

fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).output().expect("hyc runs")
}

/// The artefact of a checkpoint that is imported with these arguments.
fn artefact(checkpoint: &str, folder: &Path, args: &[&str]) -> PathBuf {
    let (from, description) = (root().join(checkpoint), folder.join("model.toml"));
    let words = ["import", from.to_str().unwrap(), "-o", description.to_str().unwrap()];
    let output = hyc(&[&words[..], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let artefact = folder.join("model.hyc");
    drop(compiled_model(&description, &artefact));
    artefact
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// The tokens of a golden file as a file of ids, and the mean of -ln p that its logits give tokens `begin + 1 .. end`.
fn ids(golden: &Golden, folder: &Path) -> (PathBuf, impl Fn(usize, usize) -> f64) {
    let (tokens, (shape, logits)) = (tokens(golden), golden.f32("logits").unwrap());
    let vocab = *shape.last().unwrap();
    let path = folder.join("ids.json");
    std::fs::write(&path, format!("{tokens:?}")).unwrap();
    let mean = move |begin: usize, end: usize| {
        let one = |at: usize| {
            let row = &logits[at * vocab..(at + 1) * vocab];
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            sum.ln() - f64::from(row[tokens[at + 1] as usize])
        };
        (begin..end - 1).map(one).sum::<f64>() / (end - 1 - begin) as f64
    };
    (path, mean)
}

#[test]
fn perplexity_is_that_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let model = artefact("tests/families/llama3", folder.path(), &[]);
    let golden = Golden::open(&root().join("tests/families/llama3/golden.safetensors"));
    let (ids, mean) = ids(&golden, folder.path());
    let count = tokens(&golden).len();
    let value = |more: &[&str]| {
        let words = ["eval", model.to_str().unwrap(), "--ids", ids.to_str().unwrap(), "--json"];
        let output = hyc(&[&words[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let perplexity = &report["perplexity"];
        (perplexity["value"].as_f64().unwrap(), perplexity["tokens"].as_u64().unwrap() as usize)
    };
    let all = value(&[]);
    assert_eq!(all.1, count - 1);
    assert!((all.0 / mean(0, count).exp() - 1.0).abs() < 1e-5, "{all:?}, {}", mean(0, count).exp());
    // The first window alone, in which every token but the first is predicted as in the whole.
    let window = value(&["--tokens", "16", "--context", "16"]);
    assert!((window.0 / mean(0, 16).exp() - 1.0).abs() < 1e-5, "{window:?}");
    // Windows begin anew: each but its first token.
    assert_eq!(value(&["--context", "16"]).1, count - count.div_ceil(16));
}

#[test]
fn a_gate_names_the_layer_that_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::open(&root().join("tests/families/llama3/golden.safetensors"));
    let (ids, _) = ids(&golden, folder.path());
    let run = |top_k: &str, gates: &[&str]| {
        let args = ["--pattern", "1:1", "--top-k", top_k, "--block", "8"];
        let model = artefact("tests/families/llama3", folder.path(), &args);
        let words = ["eval", model.to_str().unwrap(), "--ids", ids.to_str().unwrap()];
        let output = hyc(&[&words[..], gates].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // One block of eight tokens is far from all attention.
    let (code, out, err) = run("8", &["--gate", "recall=0.99"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("error: layer ") && err.contains("less than 0.99"), "{err}");
    assert!(out.contains("selection of  recall"), "{out}");
    let (code, _, err) = run("8", &["--gate", "recall=0.01", "--gate", "perplexity=1.5"]);
    assert!(code == Some(1) && err.contains("perplexity is "), "{err}");
    let (code, _, err) = run("8", &["--gate", "recall=0.01", "--gate", "perplexity=1e7"]);
    assert_eq!(code, Some(0), "{err}");
    // Nothing is left out.
    let (code, out, err) = run("256", &["--gate", "recall=1"]);
    assert!(code == Some(0) && out.contains("recall 1: no token"), "{out}{err}");
}

/// What an artefact says must hold does, where no flag says otherwise; `hyc inspect` shows it.
#[test]
fn a_gate_ships_in_the_artefact() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::open(&root().join("tests/families/llama3/golden.safetensors"));
    let (ids, _) = ids(&golden, folder.path());
    let model = artefact(
        "tests/families/llama3",
        folder.path(),
        &["--pattern", "1:1", "--top-k", "8", "--block", "8"],
    );
    let description = folder.path().join("model.toml");
    let plain = std::fs::read_to_string(&description).unwrap();
    let run = |eval: &str, args: &[&str]| {
        std::fs::write(&description, format!("{plain}\n[eval]\n{eval}")).unwrap();
        drop(compiled_model(&description, &model));
        let words = ["eval", model.to_str().unwrap(), "--ids", ids.to_str().unwrap()];
        let output = hyc(&[&words[..], args].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = run("recall = 0.99\n", &[]);
    assert!(code == Some(1) && err.contains("error: layer ") && err.contains("less than 0.99"), "{err}");
    assert!(out.contains("selection of  recall"), "{out}");
    // A flag takes the place of all that the artefact says.
    for args in [&["--gate", "perplexity=1e7"][..], &["--no-gate"]] {
        let (code, out, err) = run("recall = 0.99\nperplexity = 1\n", args);
        assert!(code == Some(0) && !out.contains("recall"), "{args:?}: {out}{err}");
    }
    let windows = |context: usize| format!("in {} windows", tokens(&golden).len().div_ceil(context));
    let (code, out, err) = run("recall = 0.01\nperplexity = 1e7\ncontext = 16\n", &[]);
    assert!(code == Some(0) && out.contains(&windows(16)), "{out}{err}");
    let (code, out, _) = run("context = 16\n", &["--context", "24"]);
    assert!(code == Some(0) && out.contains(&windows(24)), "{out}");
    let (code, _, err) = run("keys = 0.5\n", &[]);
    assert!(code == Some(2) && err.contains("planted in a text") && err.contains("--no-gate"), "{err}");
    drop(run("recall = 0.01\nperplexity = 1e7\ncontext = 16\n", &[]));
    let inspect =
        |args: &[&str]| text(&hyc(&[&["inspect", model.to_str().unwrap()][..], args].concat()).stdout);
    let shown = inspect(&[]);
    assert!(
        shown.contains("eval          recall=0.01, perplexity=10000000, windows of 16 tokens\n"),
        "{shown}"
    );
    let json: Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    assert_eq!(json["eval"]["recall"], 0.01);
}

#[test]
fn a_text_its_keys_and_what_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = artefact("tests/gguf/llama.F32.gguf", folder.path(), &["--dtype", "f32"]);
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let story = file("story.txt", &"a story of no end and of no matter; ".repeat(9));
    let eval = |args: &[&str]| {
        let output = hyc(&[&["eval", model.to_str().unwrap(), "-q"][..], args].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // Random weights know nothing.
    let (code, out, err) = eval(&["--text", &story, "--keys", "2", "--context", "160"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("bits per byte") && out.contains("keys 0 of 2 found; missed at depth 0.25, 0.75"),
        "{out}"
    );
    let (code, _, err) = eval(&["--text", &story, "--gate", "keys=0.5", "--context", "160"]);
    assert!(code == Some(1) && err.contains("0 of 10 keys were found"), "{err}");
    for (args, code, says) in [
        (&["--text", &story, "--context", "1000000"][..], 2, "longer than the model's context"),
        (&["--text", &story, "--context", "1"], 3, "two tokens are the least"),
        (&["--text", &story, "--context", "20", "--keys", "1"], 2, "no room for a key"),
        (&["--text", &file("empty.txt", "")], 3, "there is nothing to predict"),
        (&["--ids", &file("ids", "1 2 x")], 3, "word 3 of"),
        (&["--ids", &file("far", "1 4000000000 2")], 3, "4000000000"),
        (&["--ids", &file("few", "1 2 3"), "--gate", "keys=1"], 2, "planted in a text"),
        (&["--text", &story, "--gate", "speed=1"], 2, "the gates are"),
        (&[], 2, "--text"),
    ] {
        let (found, _, err) = eval(args);
        assert!(found == Some(code) && err.contains(says), "{args:?}: {found:?} {err}");
    }
}
