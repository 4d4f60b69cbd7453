//! Arbitrary bytes as a GGUF file, or else as a `config.json` beside real weights, through `hyc import`: a description or one
//! error, no panic, and no memory for what a file only says it holds.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use hyc::import::{Options, import};
use libfuzzer_sys::fuzz_target;

/// A folder with weights, and where a GGUF file is put.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = || {
        let folder = tempfile::tempdir().expect("a folder");
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../families/llama/model.safetensors");
        std::fs::copy(weights, folder.path().join("model.safetensors")).expect("the weights");
        folder
    };
    FOLDER.get_or_init(made).path()
}

fuzz_target!(|bytes: &[u8]| {
    let options = Options {
        name: Some("fuzzed".to_string()),
        context: None,
        dtype: None,
        target: None,
        no_tokenizer: false,
        block: None,
        selection: None,
    };
    let folder = folder();
    let (checkpoint, written) = match bytes.starts_with(b"GGUF") {
        true => (folder.join("fuzzed.gguf"), folder.join("fuzzed.gguf")),
        false => (folder.to_path_buf(), folder.join("config.json")),
    };
    std::fs::write(written, bytes).expect("is written");
    if let Err(error) = import(&checkpoint, Some(Path::new("model.toml")), &options) {
        assert!(!error.message.is_empty() && error.message.len() < 1 << 16);
    }
});
