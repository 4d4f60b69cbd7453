//! The trained model by its own `[sampling]` does not go in circles; taking the likeliest token it does.

use std::collections::HashSet;

use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{
    CancelToken, GenerateOptions, LoadOptions, Model, Sampling, Session, SessionOptions, Tokenizer, generate,
};
use hyc_tests::{compile, root};

const PROMPTS: [&str; 10] = [
    "The kernel",
    "The garbage collector",
    "To install a package",
    "A function that returns",
    "The file system",
    "In this chapter",
    "When a process",
    "git commit",
    "The maintainer of a package",
    "This option",
];
/// Tokens of a continuation.
const TOKENS: usize = 128;
/// The share of a text's 4-grams that are distinct, below which it goes in circles.
const LEAST: f64 = 0.5;

/// Distinct 4-grams of tokens beside all of them.
fn distinct(tokens: &[u32]) -> f64 {
    let all = tokens.windows(4);
    all.clone().collect::<HashSet<_>>().len() as f64 / all.len().max(1) as f64
}

#[test]
fn the_shipped_defaults_give_readable_text() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("tiny.hyc");
    let description = root().join("examples/tiny-hysparse/model.toml");
    compile(&description, &out, CpuTarget::host().level, |_| {});
    // SAFETY: made here, and nobody changes it.
    let model = unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    let mut shares = |sampling: Option<Sampling>| {
        let options =
            GenerateOptions { max_new_tokens: TOKENS, sampling, seed: Some(1), ..GenerateOptions::default() };
        let mut share = |prompt: &str| {
            let prompt = tokenizer.encode(prompt).unwrap();
            let done =
                generate(&mut session, &tokenizer, &prompt, &options, &CancelToken::new(), &mut |_| {})
                    .unwrap();
            assert!(done.tokens.len() > TOKENS / 4, "{:?}", done.text);
            distinct(&done.tokens)
        };
        PROMPTS.map(&mut share)
    };
    let own = shares(None);
    assert!(own.iter().all(|share| *share >= LEAST), "by its own defaults: {own:?}");
    // What the check is there to find.
    let greedy = shares(Some(Sampling::default()));
    assert!(
        greedy.iter().filter(|share| **share < LEAST).count() > PROMPTS.len() / 2,
        "greedily: {greedy:?}"
    );
}
