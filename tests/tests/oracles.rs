//! `hyc import --pattern auto:N`: which layers select, by what their selections hold of the others' attention.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::hyc_binary;
use hyc_tests::{compiled_model, root};
use serde_json::Value;

/// Exit code, standard output and standard error.
fn hyc(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(hyc_binary()).args(args).output().expect("hyc runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A text, as a file.
fn story(folder: &Path) -> String {
    let path = folder.join("story.txt");
    std::fs::write(&path, "a story of no end and of no matter; ".repeat(20)).unwrap();
    path.to_str().unwrap().to_string()
}

/// A checkpoint of three layers, with the tokenizer of another.
fn checkpoint(folder: &Path) -> PathBuf {
    let (other, checkpoint) = (root().join("tests/gguf/llama.F32.gguf"), folder.join("checkpoint"));
    std::fs::create_dir(&checkpoint).unwrap();
    let description = checkpoint.join("other.toml");
    let (code, _, err) = hyc(&["import", other.to_str().unwrap(), "-o", description.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    std::fs::rename(checkpoint.join("other.tokenizer.json"), checkpoint.join("tokenizer.json")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(root().join("tests/families/llama").join(name), checkpoint.join(name)).unwrap();
    }
    checkpoint
}

/// Layer 1 reads layer 0's selection, and what is before both is full: so the recall that chose is that of the interpreter.
#[test]
fn the_recall_is_that_of_eval() {
    let folder = tempfile::tempdir().unwrap();
    let (story, description) = (story(folder.path()), folder.path().join("model.toml"));
    let (from, to) = (checkpoint(folder.path()), description.to_str().unwrap());
    let args = ["--dtype", "f32", "--pattern", "auto:2", "--block", "8", "--text", &story];
    let import = |more: &[&str]| {
        let (code, _, err) = hyc(&[&["import", from.to_str().unwrap(), "-o", to][..], &args, more].concat());
        assert_eq!(code, Some(0), "{err}");
        err
    };
    // 16 times as many tokens as are selected, where `--context` does not say fewer.
    let err = import(&["--top-k", "8"]);
    assert!(err.contains("on 128 tokens"), "{err}");
    let err = import(&["--top-k", "16", "--context", "64"]);
    let text = std::fs::read_to_string(&description).unwrap();
    assert!(text.contains("full = [0, 2]\n"), "{text}");
    // The text, the checkpoint, the description: what was made to choose is gone.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "{err}");
    let artefact = folder.path().join("model.hyc");
    drop(compiled_model(&description, &artefact));
    let artefact = artefact.to_str().unwrap();
    let (code, out, err2) = hyc(&["eval", artefact, "--text", &story, "--recall", "64", "--json"]);
    assert_eq!(code, Some(0), "{err2}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let of = |layer: u64| {
        let list = report["recall"].as_array().unwrap();
        list.iter().find(|recall| recall["layer"] == layer).unwrap()["recall"].as_f64().unwrap()
    };
    let says = format!("note: layers 0, 2 select; on 64 tokens the others keep {:.4} of their", of(1));
    assert!(err.contains(&says), "{err}, {}", of(1));
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (story, description) = (story(folder.path()), folder.path().join("model.toml"));
    let short = folder.path().join("short.txt");
    std::fs::write(&short, "a story").unwrap();
    let from = checkpoint(folder.path());
    for (args, code, says) in [
        (&["--pattern", "auto:2", "--top-k", "16"][..], 2, "there is none"),
        (&["--pattern", "auto:2", "--window", "16", "--text", &story], 2, "select nothing to choose by"),
        (&["--pattern", "auto", "--top-k", "16", "--text", &story], 2, "does not say how many layers"),
        (&["--pattern", "auto:1", "--top-k", "16", "--text", &story], 2, "2 is the least"),
        (&["--pattern", "auto:x", "--top-k", "16", "--text", &story], 2, "does not say how many layers"),
        (&["--pattern", "auto:9", "--top-k", "16", "--text", &story], 2, "9 layers cannot select"),
        (&["--pattern", "auto:2", "--top-k", "12", "--text", &story], 2, "no whole number of blocks of 8"),
        (&["--pattern", "1:1", "--top-k", "16", "--text", &story], 2, "`--text` is of `--pattern auto:N`"),
        (&["--pattern", "auto:2", "--top-k", "16", "--text", "no.txt"], 3, "no.txt"),
        (
            &["--pattern", "auto:2", "--top-k", "16", "--text", short.to_str().unwrap()],
            3,
            "all of them would be",
        ),
        (
            &["--pattern", "auto:2", "--top-k", "16", "--text", &story, "--no-tokenizer"],
            2,
            "no tokens without",
        ),
    ] {
        let to = ["import", from.to_str().unwrap(), "-o", description.to_str().unwrap(), "--block", "8"];
        let (found, _, err) = hyc(&[&to[..], args].concat());
        assert!(found == Some(code) && err.contains(says), "{args:?}: {found:?} {err}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "{args:?} left something");
    }
}
