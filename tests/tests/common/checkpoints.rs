//! Checkpoints through `hyc import`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hyc_runtime::{Session, SessionOptions};
use hyc_tests::parity::run;
use hyc_tests::{compiled_model, root};
use serde_json::{Map, Value};

use crate::common::hyc_binary;

/// What the command does with these arguments.
pub fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).output().expect("hyc runs")
}

/// Imports a checkpoint, and gives the description's path.
pub fn import(checkpoint: &Path, folder: &Path, args: &[&str]) -> PathBuf {
    let description = folder.join("model.toml");
    let output =
        hyc(&[&["import", checkpoint.to_str().unwrap(), "-o", description.to_str().unwrap()][..], args]
            .concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    description
}

/// The logits of all positions of a text.
pub fn logits(description: &Path, folder: &Path, tokens: &[u32]) -> Vec<f32> {
    let model = compiled_model(description, &folder.join("model.hyc"));
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    run(&mut session, tokens).unwrap().logits
}

/// A copy of a checkpoint with another `config.json`.
pub fn changed(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let (from, folder) = (root().join("tests/families").join(name), tempfile::tempdir().unwrap());
    let text = std::fs::read_to_string(from.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    std::fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    folder
}

/// Exit code, output and errors of an import to the output.
pub fn said(checkpoint: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = hyc(&[&["import", checkpoint.to_str().unwrap(), "-o", "-"][..], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
