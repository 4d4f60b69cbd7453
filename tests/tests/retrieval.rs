//! The trained model under greedy decoding against PyTorch's tokens on planted-key prompts of 4k tokens.
//!
//! A few prompts by default; `HYC_PROMPTS=100 cargo test --release -p hyc-tests --test retrieval` runs all.

#![allow(clippy::print_stdout)] // A test's output is captured.

use std::sync::Arc;

use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions};
use hyc_tests::retrieval::{Prompts, decode};
use hyc_tests::{compile, root};

/// Logits closer than this are a tie: f32 sums in another order may swap them.
const TIE: f32 = 1e-3;

#[test]
fn planted_keys_at_4k_give_pytorchs_tokens() {
    let folder = root().join("examples/tiny-hysparse");
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("tiny.hyc");
    compile(&folder.join("model.toml"), &out, CpuTarget::host().level, |_| {});
    // SAFETY: made here, and nobody changes it.
    let model = Arc::new(unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap());
    let prompts = Prompts::open(&folder.join("retrieval.safetensors"));
    let count = std::env::var("HYC_PROMPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let count = count.min(prompts.prompts.len());
    let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
    let report = decode(&mut session, &model, &prompts, count).unwrap();
    for other in &report.others {
        assert!(other.margin < TIE, "{other:?}");
    }
    println!("{count} prompts, {} keys right, ties: {:?}", report.keys_right, report.others);
}
