//! SmolLM2-135M-Instruct, which `examples/smollm2.sh` fetches and `run-tests.sh` asks for: its GGUF file through `hyc
//! import`, and the greedy choices of transformers (`tests/smollm2/make.py`) and llama.cpp (`make_llama_cpp.py`) on the same values.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::hyc_binary;
use hyc_runtime::{Model, SequenceId, Session, SessionOptions};
use hyc_tests::{Golden, root};

/// Sequences of a step.
const BATCH: usize = 16;
/// Where the two likeliest tokens are nearer to each other, either may be first.
const MARGIN: f32 = 1e-3;

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

/// What another project computes of the pieces.
struct Theirs {
    whose: &'static str,
    best: Vec<i32>,
    logits: Vec<f32>,
    /// The largest difference of a logit that may be: twice what was measured.
    most: f32,
    worst: f32,
    near: Vec<(usize, usize)>,
}

impl Theirs {
    fn open(whose: &'static str, file: &str, most: f32) -> Theirs {
        let golden = Golden::open(&root().join("tests/smollm2").join(file));
        let ((shape, best), (_, logits)) = (golden.i32("best").unwrap(), golden.f32("logits").unwrap());
        assert_eq!(shape, [50, 128, 2], "{file}");
        Theirs { whose, best, logits, most, worst: 0.0, near: Vec::new() }
    }

    /// Logits of a place of a piece beside theirs.
    fn compare(&mut self, row: &[f32], (piece, place): (usize, usize), length: usize) {
        let at = 2 * (piece * length + place);
        let [first, second] = [self.logits[at], self.logits[at + 1]];
        self.worst = self.worst.max((row[self.best[at] as usize] - first).abs());
        let chosen = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        if chosen != self.best[at] as usize {
            let best = self.best[at];
            assert!(
                first - second < MARGIN,
                "{}: piece {piece}, place {place}: {chosen}, not {best}",
                self.whose
            );
            self.near.push((piece, place));
        }
    }
}

#[test]
#[ignore = "needs the checkpoint: run-tests.sh fetches it"]
fn greedy_choices_are_those_of_transformers_and_of_llama_cpp() {
    let golden = Golden::open(&root().join("tests/smollm2/golden.safetensors"));
    let (shape, tokens) = golden.i32("tokens").unwrap();
    let (count, length) = (shape[0], shape[1]);
    let mut theirs = [
        Theirs::open("transformers", "golden.safetensors", 7.6e-3),
        Theirs::open("llama.cpp", "llama_cpp.safetensors", 8.8e-3),
    ];
    let folder = tempfile::tempdir().unwrap();
    let artefact = compiled(folder.path(), "128", "max_batch = 16\nmax_outputs = 16\n");
    // SAFETY: this test wrote it, and nobody else writes to it.
    let model = unsafe { Model::load(&artefact, &Default::default()) }.unwrap();
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    for pieces in (0..count).collect::<Vec<usize>>().chunks(BATCH) {
        let ids: Vec<SequenceId> = pieces.iter().map(|_| session.add_sequence().unwrap()).collect();
        for place in 0..length {
            for (id, piece) in ids.iter().zip(pieces) {
                session.feed(*id, &[tokens[piece * length + place] as u32]).unwrap();
            }
            session.step_sampled().unwrap();
            for (id, piece) in ids.iter().zip(pieces) {
                let row = session.output(*id, "logits").unwrap();
                theirs.iter_mut().for_each(|theirs| theirs.compare(&row, (*piece, place), length));
            }
        }
        ids.into_iter().for_each(|id| session.remove_sequence(id).unwrap());
    }
    for Theirs { whose, worst, near, most, .. } in theirs {
        println!("{whose}: largest difference of a logit {worst:.1e}; ties chosen otherwise: {near:?}");
        assert!(worst < most, "{whose}: {worst:.2e}");
    }
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
