//! The trained model under greedy decoding against PyTorch's tokens on planted-key prompts of 4k tokens.
//!
//! A few prompts by default; `HYC_PROMPTS=100 cargo test --release -p hyc-tests --test retrieval` runs all.

use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{
    CancelToken, Event, GenerateOptions, LoadOptions, Model, Session, SessionOptions, Tokenizer, generate,
};
use hyc_tests::{compile, root};
use safetensors::SafeTensors;

/// Logits closer than this are a tie: f32 sums in another order may swap them.
const TIE: f32 = 1e-3;

fn rows(tensors: &SafeTensors<'_>, name: &str) -> Vec<Vec<u32>> {
    let view = tensors.tensor(name).unwrap();
    let words: Vec<u32> =
        view.data().chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
    words.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
}

#[test]
fn planted_keys_at_4k_give_pytorchs_tokens() {
    let folder = root().join("examples/tiny-hysparse");
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("tiny.hyc");
    compile(&folder.join("model.toml"), &out, CpuTarget::host().level, |_| {});
    let model = Model::load(&out, &LoadOptions::default()).unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let bytes = std::fs::read(folder.join("retrieval.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (prompts, expected, keys) =
        (rows(&tensors, "prompts"), rows(&tensors, "expected"), rows(&tensors, "keys"));
    let margins: Vec<f32> = tensors
        .tensor("margins")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let count =
        std::env::var("HYC_PROMPTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4).min(prompts.len());
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let (mut ties, mut right) = (Vec::new(), 0);
    for i in 0..count {
        let prompt: Vec<u32> = prompts[i].iter().copied().filter(|t| *t != 65535).collect();
        let new = expected[i].len();
        let options = GenerateOptions { max_new_tokens: new, ..GenerateOptions::default() };
        let done =
            generate(&mut session, &tokenizer, &prompt, &options, &CancelToken::new(), &mut |_: Event| {});
        let tokens = done.unwrap().tokens;
        right += usize::from(tokens.starts_with(&keys[i]));
        if let Some(at) = (0..new).find(|at| tokens[*at] != expected[i][*at]) {
            let margin = margins[i * new + at];
            assert!(
                margin < TIE,
                "prompt {i}, token {at}: {} for {}, margin {margin}",
                tokens[at],
                expected[i][at]
            );
            ties.push((i, at, margin));
        }
    }
    println!("{count} prompts, {right} keys right, ties (prompt, token, margin): {ties:?}");
}
