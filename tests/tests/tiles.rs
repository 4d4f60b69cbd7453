//! A GPU's plan whose rows lie in bf16 tiles, by the interpreter beside the same plan in f32 rows: logits and hidden states differ
//! by rounding alone. And one whose sparse layers walk along page lists, beside the same that read the selection. No kernel is generated, so that this needs neither LLVM nor a card.

use hyc_plan::{Elem, Plan};
use hyc_tests::card::{self, Card};
use hyc_tests::relative_error;

/// All experts are active and all blocks are kept: rounding changes no choice.
const MODEL: &str = r#"
[model]
name = "tiles"
layers = 4
hidden = 128
heads = 4
kv_heads = 2
head_dim = 64
vocab = 64
rope = { theta = 640000.0 }

[attention]
pattern = "1:1"
block = 64
top_k = 256
window = 128

[moe]
experts = 6
active = 6
expert_ffn = 64
shared_ffn = 64

[weights]
dtype = "bf16"

[target]
kind = "cpu"
max_context = 512
max_batch = 2
chunk = 96
max_outputs = 96
"#;

fn plan(model: &str, tiles: bool, lists: Option<u64>) -> Plan {
    Card { tiles, lists, ..Card::default() }.plan(model)
}

/// Logits of every row, and the last token's hidden state.
fn run(plan: &Plan) -> (Vec<f32>, Vec<f32>) {
    card::interpreted(plan, 150)
}

#[test]
fn rows_in_tiles_hold_what_f32_rows_hold() {
    let (tiled, rows) = (plan(MODEL, true, None), plan(MODEL, false, None));
    let in_tiles = |plan: &Plan| plan.buffers.iter().filter(|b| b.elem == Elem::Bf16).count();
    assert_eq!(in_tiles(&rows), 0);
    // A norm a layer, which several products read, what attention and experts give, a shared one among them; a layer's gates.
    assert_eq!(in_tiles(&tiled), 4 * 3 + 2);
    let ((logits, hidden), (want_logits, want_hidden)) = (run(&tiled), run(&rows));
    assert_eq!((logits.len(), hidden.len()), (150 * 64, 128));
    for (what, got, want) in [("logits", logits, want_logits), ("hidden", hidden, want_hidden)] {
        let error = relative_error(&got, &want);
        println!("{what}: {error:.1e}");
        assert!(error > 0.0 && error < 1.8e-2, "{what} differ by {error:.1e}");
    }
}

#[test]
fn page_lists_name_what_was_selected() {
    // One block of two and a half.
    let model = MODEL.replace("top_k = 256", "top_k = 64");
    let want = run(&plan(&model, false, None));
    for tile in [1, 7, 48, 96] {
        let plan = plan(&model, false, Some(tile));
        assert_eq!(plan.steps.iter().filter(|step| step.op.name() == "page_lists").count(), 1);
        let got = run(&plan);
        for (what, got, want) in [("logits", &got.0, &want.0), ("hidden", &got.1, &want.1)] {
            let error = relative_error(got, want);
            println!("tiles of {tile}, {what}: {error:.1e}");
            assert!(error < 1e-6, "tiles of {tile}: {what} differ by {error:.1e}");
        }
    }
}
