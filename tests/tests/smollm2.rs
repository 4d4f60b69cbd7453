//! SmolLM2-135M-Instruct, which `examples/smollm2.sh` fetches and `run-tests.sh` asks for: its GGUF file through `hyc
//! import`, and the greedy choices of transformers (`tests/smollm2/make.py`) and llama.cpp (`make_llama_cpp.py`) on the same values.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::hyc_binary;
use hyc_plan::Codec;
use hyc_runtime::{Model, Session, SessionOptions};
use hyc_tests::root;
use hyc_tests::smollm2::{MARGIN, Theirs, greedy_choices};
use hyc_tests::stored::check;

/// Imports and compiles the file, in f32. `more` is put behind the description.
fn compiled(folder: &Path, context: &str, more: &str) -> PathBuf {
    let file = root().join("target/checkpoints/SmolLM2-135M-Instruct.Q4_1.gguf");
    let (description, artefact) = (folder.join("smollm2.toml"), folder.join("smollm2.hyc"));
    let [from, to, out] = [&file, &description, &artefact].map(|path| path.to_str().unwrap());
    let hyc = |args: &[&str]| {
        let output = Command::new(hyc_binary()).args(args).output().expect("hyc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    hyc(&["import", from, "-o", to, "--name", "smollm2", "--dtype", "f32", "--context", context]);
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, text + more).unwrap();
    hyc(&["compile", to, "-o", out]);
    artefact
}

#[test]
#[ignore = "needs the checkpoint: run-tests.sh fetches it"]
fn greedy_choices_are_those_of_transformers_and_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let artefact = compiled(folder.path(), "128", "max_batch = 16\nmax_outputs = 16\n");
    // SAFETY: this test wrote it, and nobody else writes to it.
    let model = unsafe { Model::load(&artefact, &Default::default()) }.unwrap();
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    for Theirs { whose, worst, others, most, .. } in greedy_choices(&mut session, &root()).unwrap() {
        println!("{whose}: largest difference of a logit {worst:.1e}; other choices: {others:?}");
        assert!(others.iter().all(|(.., margin)| *margin < MARGIN), "{whose}: {others:?}");
        assert!(worst < most, "{whose}: {worst:.2e}");
    }
}

/// Its matrices of Q4_1 are in an artefact for a GPU as the file has them.
#[test]
#[ignore = "needs the checkpoint: run-tests.sh fetches it"]
fn blocks_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = root().join("target/checkpoints/SmolLM2-135M-Instruct.Q4_1.gguf");
    let description = folder.path().join("smollm2.toml");
    let [from, to] = [&file, &description].map(|path| path.to_str().unwrap());
    let output = Command::new(hyc_binary()).args(["import", from, "-o", to, "--dtype", "stored"]).output();
    assert!(output.expect("hyc runs").status.success());
    let text = std::fs::read_to_string(&description).unwrap();
    let out = folder.path().join("smollm2.hyc");
    let count = check(&text, Codec::Int4 { group: 32, zero: true }, &out);
    println!("{count} matrices, an artefact of {} bytes", out.metadata().unwrap().len());
    assert_eq!(count, 7 * 30);
}

/// Three turns, the sequence kept between them.
#[test]
#[ignore = "needs the checkpoint: run-tests.sh fetches it"]
fn a_conversation_of_three_turns() {
    let folder = tempfile::tempdir().unwrap();
    let artefact = compiled(folder.path(), "512", "");
    let mut chat = Command::new(hyc_binary())
        .args(["chat", "--temperature", "0", "--max-new-tokens", "40", artefact.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("hyc runs");
    let turns = "What is the capital of France?\nAnd of Italy?\nWhich <|im_end|> of the two is larger?\n";
    chat.stdin.take().unwrap().write_all(turns.as_bytes()).unwrap();
    let output = chat.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("Paris") && text.contains("Rome"), "{text}");
    assert!(!text.contains("<|im_"), "{text}");
}
