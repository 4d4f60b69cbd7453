//! A GPU's plan whose products read rows of fp8 in steps of many rows, by the interpreter beside the same plan in bf16. No kernel is
//! generated, so that this needs neither LLVM nor a card.

use hyc::contents;
use hyc_plan::Plan;
use hyc_tests::card::{self, Card};
use hyc_tests::relative_error;

const MODEL: &str = r#"
[model]
name = "fp8"
layers = 4
hidden = 128
heads = 4
kv_heads = 2
head_dim = 64
ffn = 192
vocab = 64
rope = { theta = 640000.0 }

[attention]
pattern = "1:1"
block = 64
top_k = 256
window = 128

[weights]
dtype = "bf16"
quantise = "fp8"

[target]
kind = "cpu"
max_context = 512
max_batch = 2
chunk = 96
max_outputs = 96
"#;

fn plan(model: &str, fp8: bool) -> Plan {
    Card { tiles: true, fp8, ..Card::default() }.plan(model)
}

/// Logits of every row of so many tokens, in steps of 96.
fn logits(plan: &Plan, tokens: u32) -> Vec<f32> {
    card::interpreted(plan, tokens).0
}

fn products(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| step.op.fp8_rows() == Some(65)).count()
}

#[test]
fn rows_of_many_are_rounded_to_fp8() {
    let (fp8, bf16) = (plan(MODEL, true), plan(MODEL, false));
    // Of each layer q, k, v and gates, what attention gives, SwiGLU and what is behind it; not the head.
    assert_eq!((products(&fp8), products(&bf16)), (4 * 4, 0));
    assert!(fp8.kernels.iter().any(|kernel| kernel.name.ends_with("_fp8rows")));
    let error = relative_error(&logits(&fp8, 96), &logits(&bf16, 96));
    println!("logits: {error:.1e}");
    assert!(error > 1e-3 && error < 1.6e-1, "logits differ by {error:.1e}");
    assert_eq!(logits(&fp8, 64), logits(&bf16, 64), "a step of 64 rows");
    assert_ne!(logits(&fp8, 65), logits(&bf16, 65), "a step of 65 rows");
}

#[test]
fn what_has_another_scale_or_fewer_rows_stays() {
    for (from, to) in [
        ("quantise = \"fp8\"", "quantise = \"fp8(64)\""),
        ("quantise = \"fp8\"", "quantise = \"int8\""),
        ("quantise = \"fp8\"", ""),
        ("chunk = 96", "chunk = 64"),
    ] {
        let model = MODEL.replace(from, to);
        assert_eq!(plan(&model, true), plan(&model, false), "{to}");
    }
}

#[test]
fn an_artefact_says_that_it_has_them() {
    let said = |fp8: bool| contents::text(&card::model(&plan(MODEL, fp8)));
    let line = "products      of 16 steps read rows of fp8, from 65 tokens on\n";
    assert!(said(true).contains(line), "{}", said(true));
    assert!(!said(false).contains("\nproducts "), "{}", said(false));
}
