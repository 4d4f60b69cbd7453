//! Models whose matrices share scales, on this processor: generated code beside the interpreter, equal bits for any chunks and
//! batches, what the trained model is still worth, and what is refused.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::hyc_binary;
use hyc::diff::{Found, Options, diff};
use hyc::frontend::MatrixFormat;
use hyc_plan::Layout;
use hyc_runtime::{Model, Session, SessionOptions};
use hyc_tests::parity::{logits, run_batch, run_pieces, tokens};
use hyc_tests::retrieval::{Prompts, decode};
use hyc_tests::{edited_model, golden_tensors, relative_error, root};

/// Rows and groups, whole and not: the goldens' rows have 20 to 96 numbers.
const FORMATS: [&str; 7] = ["int8", "int8(16)", "fp8", "fp8(7)", "int4", "int4(32)", "int4z(32)"];

/// A description compiled in this format.
fn quantised(model: &Path, format: &str, folder: &Path) -> Arc<Model> {
    let format = MatrixFormat::parse(format).expect("a format");
    edited_model(model, &folder.join("quantised.hyc"), |desc| desc.weights.formats.all = Some(format))
}

/// One of tests/golden in this format.
fn golden(name: &str, format: &str, folder: &Path) -> Arc<Model> {
    quantised(&root().join("tests/golden").join(name).join("model.toml"), format, folder)
}

#[test]
fn generated_code_agrees_with_the_interpreter() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["dense", "moe", "moe-shared-both", "head-gates", "full-sink", "wide", "swa"] {
        for format in FORMATS {
            let model = golden(name, format, folder.path());
            let grouped = model.plan().weights.iter().filter(|w| w.format.codec.group().is_some());
            assert!(grouped.clone().count() > 10, "{name}: few matrices in {format}");
            assert!(grouped.into_iter().all(|w| matches!(w.format.layout, Layout::Panels { .. })));
            let options = Options { tokens: 70, seed: 3, tolerance: 1e-4 };
            let report = diff(&model, &SessionOptions::default(), &options).expect("runs");
            assert!(matches!(report.found, Found::Equal), "{name} in {format}: {:?}", report.found);
        }
    }
}

/// Finer formats give nearer logits, and none gives those of f32.
#[test]
fn formats_are_as_near_as_they_are_fine() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = tokens(&golden_tensors("swa"));
    let want = logits(&golden("swa", "f32", folder.path()), &tokens);
    let mut last = 0.0;
    // Twice what was measured: random weights have no large logits.
    for (format, most) in [("int8", 0.09), ("fp8", 0.36), ("int4z(16)", 0.82), ("int4", 1.08)] {
        let error = relative_error(&logits(&golden("swa", format, folder.path()), &tokens), &want);
        println!("{format}: {error:.1e}");
        assert!(error > last && error < most, "{format}: logits differ by {error:.1e}, before by {last:.1e}");
        last = error;
    }
}

#[test]
fn chunks_and_batches_change_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, format) in [("dense", "int4z(32)"), ("moe", "int4(16)"), ("own", "fp8"), ("wide", "int8(64)")]
    {
        let (model, tokens) = (golden(name, format, folder.path()), tokens(&golden_tensors(name)));
        let whole = logits(&model, &tokens);
        for pieces in [vec![1; tokens.len()], vec![7, 64, 1, 1, 50, 80]] {
            let pieces = run_pieces(&model, &SessionOptions::default(), &tokens, &pieces).expect("runs");
            assert!(pieces == whole, "{name} in {format}: other chunks, other logits");
        }
        let parts = [&tokens[..90], &tokens[50..51], &tokens[100..120]];
        let together = run_batch(&model, &parts, &tokens[..3]).expect("runs");
        for (part, together) in parts.iter().zip(&together) {
            let alone = run_batch(&model, &[part], &tokens[..3]).expect("runs");
            assert!(together == &alone[0], "{name} in {format}: the batch changes a sequence");
        }
    }
}

/// The trained model still finds planted keys: of four, of which it finds three in bf16.
#[test]
fn the_trained_model_finds_its_keys() {
    let (tiny, folder) = (root().join("examples/tiny-hysparse"), tempfile::tempdir().expect("a folder"));
    let prompts = Prompts::open(&tiny.join("retrieval.safetensors"));
    for format in ["fp8", "int4"] {
        let model = quantised(&tiny.join("model.toml"), format, folder.path());
        let mut session = Session::new(model.clone(), &SessionOptions::default()).expect("starts");
        let report = decode(&mut session, &model, &prompts, 4).expect("runs");
        assert!(report.keys_right >= 2, "{format}: {report:?}");
    }
}

/// Exit code, standard output and error of `hyc` in a folder.
fn hyc(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(hyc_binary()).args(args).current_dir(folder).output().expect("hyc runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// `--quantise` in its words, and what `hyc inspect` says of bytes: those of a number are its codec's, of each matrix but the table.
#[test]
fn the_command_takes_every_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = root().join("examples/tiny-hysparse/model.toml");
    let tiny = tiny.to_str().expect("a name");
    let bytes = |format: &str| {
        let args = ["compile", "-q", "--quantise", format, "--no-weights", tiny, "-o", "x.hyc"];
        let (code, _, said) = hyc(folder.path(), &args);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{format}");
        let (code, json, said) = hyc(folder.path(), &["inspect", "x.hyc", "--json"]);
        assert_eq!(code, Some(0), "{format}: {said}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        json["weights"]["bytes"].as_u64().expect("bytes")
    };
    let plain = bytes("bf16");
    // Rows are 256 and 576 numbers.
    let saved = [("int8(64)", 1.0 + 4.0 / 64.0), ("fp8(32)", 1.0 + 4.0 / 32.0), ("int4", 0.5 + 2.0 / 64.0)];
    let saved = [&saved[..], &[("int4z(32)", 0.5 + 4.0 / 32.0), ("int4(16)", 0.5 + 2.0 / 16.0)]].concat();
    let numbers: Vec<f64> =
        saved.iter().map(|(format, each)| (plain - bytes(format)) as f64 / (2.0 - each)).collect();
    assert!(numbers[0] > 5e6 && numbers.iter().all(|n| *n == numbers[0]), "{numbers:?}");
    // Last groups that are shorter, and whole rows.
    assert!(bytes("int4(100)") > bytes("int4(128)") && bytes("fp8") == bytes("int8"));

    for (format, says) in [
        ("int5", "no format is named `int5`"),
        ("int8(0)", "no format is named `int8(0)`"),
        ("int4(-1)", "no format is named `int4(-1)`"),
    ] {
        let (code, _, said) = hyc(folder.path(), &["compile", "--quantise", format, "--plan-only", tiny]);
        assert!(code == Some(2) && said.contains(says), "{format}: {code:?}: {said}");
    }
    // A dump's table can say what a description's cannot.
    let args = ["compile", "-q", "--plan-only", "--emit", "graph", tiny, "-o", "tiny.hyir"];
    assert_eq!(hyc(folder.path(), &args).0, Some(0));
    let dump = std::fs::read_to_string(folder.path().join("tiny.hyir")).expect("a dump");
    let table = dump.lines().find(|line| line.contains("embed_tokens")).expect("a table");
    let other = dump.replace(table, &table.replace("x bf16>", "x int8(64)>"));
    std::fs::write(folder.path().join("table.hyir"), other).expect("writes");
    let (code, _, said) = hyc(folder.path(), &["compile", "--no-weights", "table.hyir", "-o", "y.hyc"]);
    assert!(
        code == Some(3)
            && said.contains("no kernel of `embed` reads weights of int8(64)")
            && said.contains("help"),
        "{code:?}: {said}"
    );
    assert!(!folder.path().join("y.hyc").exists());
}
