//! `hyc eval --against`: that it says what two sessions compute, what each format of weights costs the trained model in logits
//! and selections, and what is refused.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::hyc_binary;
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions};
use hyc_tests::parity::{Run, run, tokens};
use hyc_tests::retrieval::Prompts;
use hyc_tests::{golden_tensors, relative_error, root};
use serde_json::Value;

/// Exit code, standard output and error.
fn hyc(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(hyc_binary()).args(args).output().expect("hyc runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A folder's description with some words of it replaced, compiled in this format.
fn artefact(from: &str, format: &str, words: &[(&str, &str)], folder: &Path, name: &str) -> PathBuf {
    let model = root().join(from);
    let mut text = std::fs::read_to_string(model.join("model.toml")).expect("a description");
    for file in ["model.safetensors", "tokenizer.json"] {
        let whole = model.join(file).canonicalize().unwrap_or_default();
        text = text.replace(&format!("\"{file}\""), &format!("{whole:?}"));
    }
    for (old, new) in words {
        assert!(text.contains(old), "{from} has no {old}");
        text = text.replace(old, new);
    }
    let (description, out) = (folder.join(format!("{name}.toml")), folder.join(format!("{name}.hyc")));
    std::fs::write(&description, text).expect("writes");
    let [description, to] = [&description, &out].map(|path| path.to_str().expect("a name"));
    let (code, _, said) = hyc(&["compile", "-q", "--quantise", format, description, "-o", to]);
    assert_eq!(code, Some(0), "{from} in {format}: {said}");
    out
}

/// What `hyc eval` says of a model beside a reference, with these arguments.
fn against(model: &Path, reference: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let [model, reference] = [model, reference].map(|path| path.to_str().expect("a name"));
    hyc(&[&["eval", "-q", model, "--against", reference], args].concat())
}

/// The same as JSON: the part on the comparison.
fn compared(model: &Path, reference: &Path, args: &[&str]) -> Value {
    let (code, out, said) = against(model, reference, &[args, &["--json"]].concat());
    assert_eq!(code, Some(0), "{said}");
    let all: Value = serde_json::from_str(&out).expect("JSON");
    all["against"].clone()
}

fn ids(folder: &Path, tokens: &[u32]) -> String {
    let path = folder.join("ids.json");
    std::fs::write(&path, format!("{tokens:?}")).expect("writes");
    path.to_str().expect("a name").to_string()
}

fn near(found: &Value, want: f64) -> bool {
    (found.as_f64().expect("a number") - want).abs() <= 1e-6 * want.abs()
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

/// ln of the softmax.
fn ln_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - sum.ln()).collect()
}

fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

/// In windows of 70 of the golden's tokens, by models whose steps give other numbers of rows.
#[test]
fn it_says_what_two_sessions_compute() {
    const WINDOW: usize = 70;
    let folder = tempfile::tempdir().expect("a folder");
    let model = artefact("tests/golden/head-gates", "int4(16)", &[], folder.path(), "model");
    let words = [("chunk = 64\nmax_outputs = 64", "chunk = 17\nmax_outputs = 5")];
    let reference = artefact("tests/golden/head-gates", "f32", &words, folder.path(), "reference");
    let tokens = tokens(&golden_tensors("head-gates"));
    let ids = ids(folder.path(), &tokens);
    let said = compared(&model, &reference, &["--ids", &ids, "--context", &WINDOW.to_string()]);

    let runs = |path: &Path| -> Vec<Run> {
        // SAFETY: made here, and nobody changes it.
        let model = Arc::new(unsafe { Model::load(path, &LoadOptions::default()) }.expect("loads"));
        let one = |window| {
            let mut session = Session::new(model.clone(), &SessionOptions::default()).expect("starts");
            run(&mut session, window).expect("runs")
        };
        tokens.chunks(WINDOW).map(one).collect()
    };
    let (mut errors, mut rows, mut divergences, mut same) = (vec![], vec![], vec![], vec![]);
    let (vocab, kept, block, kv_heads) = (61, 4, 8, 2);
    let mut agreements = std::collections::BTreeMap::<u32, Vec<f64>>::new();
    for (a, b) in runs(&model).iter().zip(&runs(&reference)) {
        // The last row predicts what is not there.
        let predict = b.logits.len() - vocab;
        errors.push(relative_error(&a.logits[..predict], &b.logits[..predict]));
        for (a, b) in a.logits[..predict].chunks(vocab).zip(b.logits.chunks(vocab)) {
            rows.push(relative_error(a, b));
            let (ln_p, ln_q) = (ln_softmax(a), ln_softmax(b));
            divergences.push(ln_p.iter().zip(&ln_q).map(|(p, q)| q.exp() * (q - p)).sum());
            same.push(f64::from(u8::from(best(a) == best(b))));
        }
        for (layer, b) in &b.selected {
            let lists = a.selected[layer].chunks(kept).zip(b.chunks(kept)).skip(kept * block * kv_heads);
            let share = |(a, b): (&[i32], &[i32])| {
                b.iter().filter(|block| a.contains(block)).count() as f64 / kept as f64
            };
            agreements.entry(*layer).or_default().extend(lists.map(share));
        }
    }
    let worst = rows.iter().copied().fold(0.0, f64::max);
    assert!(near(&said["error"], mean(&errors)) && near(&said["worst"]["error"], worst), "{said}");
    let at = |name: &str| said["worst"][name].as_u64().expect("a number") as usize;
    // A window's first token is predicted by none.
    assert_eq!(rows[at("window") * (WINDOW - 1) + at("token") - 1], worst);
    assert!(near(&said["divergence"], mean(&divergences)), "{said}, {}", mean(&divergences));
    assert!(near(&said["same_choice"], mean(&same)) && mean(&same) < 1.0, "{said}");
    let layers = said["selections"]["layers"].as_array().expect("layers");
    assert!(layers.len() == 2 && agreements.len() == 2, "{said}");
    for (said, (layer, shares)) in layers.iter().zip(&agreements) {
        assert_eq!(said["layer"].as_u64(), Some(u64::from(*layer)));
        assert_eq!(said["tokens"].as_u64(), Some((shares.len() / kv_heads) as u64));
        assert!(near(&said["agreement"], mean(shares)) && mean(shares) < 1.0, "{said}");
    }
    let all: Vec<f64> = agreements.into_values().flatten().collect();
    assert!(near(&said["selections"]["agreement"], mean(&all)), "{said}");
    // Both the same: nothing differs, and chunks change no bit.
    let same = compared(&reference, &reference, &["--ids", &ids, "--context", "70"]);
    assert!(same["error"] == 0.0 && same["divergence"] == 0.0 && same["same_choice"] == 1.0, "{same}");
    assert!(same["selections"]["agreement"] == 1.0, "{same}");
}

/// What a format costs the trained model, beside its weights in f32, on the first 1,536 tokens of its first prompt in windows of
/// 768: error of logits, tokens of another greedy choice, blocks that are selected otherwise. Twice what was measured.
#[test]
fn formats_cost_the_trained_model_no_more_than_was_measured() {
    const LIMITS: [(&str, [f64; 3]); 5] = [
        // The trained weights are bf16.
        ("bf16", [0.0, 0.0, 0.0]),
        ("int8", [0.021, 0.034, 0.0084]),
        ("fp8", [0.070, 0.091, 0.032]),
        ("int4z(32)", [0.19, 0.26, 0.079]),
        ("int4(64)", [0.24, 0.34, 0.095]),
    ];
    let (tiny, folder) = ("examples/tiny-hysparse", tempfile::tempdir().expect("a folder"));
    let prompts = Prompts::open(&root().join(tiny).join("retrieval.safetensors"));
    let ids = ids(folder.path(), &prompts.prompts[0][..1536]);
    let words = [("chunk = 256", "chunk = 256\nmax_outputs = 256")];
    let reference = artefact(tiny, "f32", &words, folder.path(), "reference");
    let mut last = [-1.0; 3];
    for (format, most) in LIMITS {
        let model = artefact(tiny, format, &words, folder.path(), "model");
        let said = compared(&model, &reference, &["--ids", &ids, "--context", "768"]);
        let of = |number: &Value| number.as_f64().expect("a number");
        let layers = said["selections"]["layers"].as_array().expect("layers");
        assert!(layers.len() == 2 && layers.iter().all(|layer| layer["tokens"] == 1024), "{said}");
        let selected = 1.0 - of(&said["selections"]["agreement"]);
        let found = [of(&said["error"]), 1.0 - of(&said["same_choice"]), selected];
        println!("{format}: {found:?}");
        for (found, most) in found.iter().zip(most) {
            assert!(*found <= most, "{format}: {said}");
        }
        // Finer formats are nearer in all three.
        assert!(
            found.iter().zip(last).all(|(now, before)| *now > before),
            "{format}: {said}, before {last:?}"
        );
        last = found;
    }
}

#[test]
fn models_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = |golden: &str, words: &[(&str, &str)], name: &str| {
        artefact(&format!("tests/golden/{golden}"), "f32", words, folder.path(), name)
    };
    let dense = golden("dense", &[], "dense");
    let few = ids(folder.path(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    let refused = |[model, reference]: [&Path; 2], args: &[&str], code: i32, says: &[&str]| {
        let (found, _, said) = against(model, reference, args);
        assert!(found == Some(code) && says.iter().all(|says| said.contains(says)), "{found:?}: {said}");
        assert!(said.contains("help: "), "{said}");
    };
    let ids = ["--ids", &few];
    let other = golden("head-gates", &[], "other");
    let says = ["dense.hyc has a vocabulary of 97, ", "other.hyc one of 61: they cannot be compared"];
    refused([&dense, &other], &ids, 3, &says);
    let short = golden("moe-sigmoid", &[], "short");
    refused([&other, &short], &ids, 3, &["other.hyc has 6 layers, ", "short.hyc 3 layers"]);
    let ties = golden("ties", &[], "ties");
    let says = ["other.hyc has selections of layers 0, 3, ", "ties.hyc selections of layers 0:"];
    refused([&other, &ties], &ids, 3, &says);
    let fewer = golden("dense", &[("top_k = 32", "top_k = 16")], "fewer");
    let says = ["in layer 0 selections of 4 blocks of 8 tokens for 2 KV heads, ", "fewer.hyc 2 blocks of 8"];
    refused([&dense, &fewer], &ids, 3, &says);
    // One that selects nothing has logits to compare.
    let full = golden("full", &[], "full");
    let (code, out, said) = against(&dense, &full, &ids);
    assert!(code == Some(0) && out.contains("no layer of both models selects"), "{out}{said}");
    let brief = golden("dense", &[("max_context = 211", "max_context = 90")], "brief");
    refused(
        [&dense, &brief],
        &[&ids[..], &["--context", "91"]].concat(),
        2,
        &["the reference's context of 90"],
    );
    let (code, out, said) = against(&dense, &brief, &ids);
    assert!(code == Some(0) && out.contains("no token of a window sees more blocks"), "{out}{said}");
    refused([&dense, &folder.path().join("none.hyc")], &ids, 3, &["none.hyc"]);
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let (tiny, folder) = ("examples/tiny-hysparse", tempfile::tempdir().expect("a folder"));
    let model = artefact(tiny, "int8", &[], folder.path(), "model");
    // The same pieces, of which fewer are joined.
    let json = std::fs::read_to_string(root().join(tiny).join("tokenizer.json")).expect("a tokenizer");
    let mut json: Value = serde_json::from_str(&json).expect("JSON");
    let merges = json["model"]["merges"].as_array_mut().expect("merges");
    merges.truncate(merges.len() / 2);
    let other = folder.path().join("other.json");
    std::fs::write(&other, json.to_string()).expect("writes");
    let whole = root().join(tiny).join("tokenizer.json").canonicalize().expect("a path");
    let [from, to] = [&whole, &other].map(|path| format!("file = {path:?}"));
    let cut = artefact(tiny, "int8", &[(&from, &to)], folder.path(), "cut");
    let begins = artefact(
        tiny,
        "int8",
        &[(&from, &format!("{from}\nbos = 1\nadd_special = true"))],
        folder.path(),
        "begins",
    );
    let bare = artefact(tiny, "int8", &[("[tokenizer]\n", ""), (&from, "")], folder.path(), "bare");
    let text = folder.path().join("text");
    std::fs::write(&text, "A tokenizer joins pieces of words; an artefact has one.").expect("writes");
    let args = ["--text", text.to_str().expect("a name")];
    for (reference, says) in [
        (&cut, "give other tokens for this text, from token "),
        (&begins, "begin a text with other tokens"),
        (&bare, "has no tokenizer"),
    ] {
        let (code, _, said) = against(&model, reference, &args);
        assert!(code == Some(3) && said.contains(says) && said.contains("help: "), "{code:?}: {said}");
    }
    let (code, _, said) = against(&model, &model, &args);
    assert_eq!(code, Some(0), "{said}");
}
