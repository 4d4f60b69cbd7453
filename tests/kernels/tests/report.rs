//! What the passes tell their callers: the KV table, the names of passes, errors that say where.

mod common;

use std::path::Path;

use common::Policy;
use hyc_ir::{Graph, text};
use hyc_passes::{KvTable, PASSES, PassError, kv_table};
use hyc_plan::TargetKind;

fn model(name: &str) -> Graph {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests/pipeline");
    text::parse(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// The table, and the passes that reported.
fn compile(graph: Graph) -> Result<(KvTable, Vec<&'static str>), PassError> {
    let mut passes = Vec::new();
    let compiled = hyc_passes::run(graph, &Policy::of(TargetKind::Host), &mut |report| {
        passes.push(report.name);
        true
    })?;
    Ok((kv_table(&compiled.plan), passes))
}

/// 2 KV heads of 8 + 8 f32: 128 bytes a token and layer. Three layers, the second sparse with a window of 11.
const TOKEN: u64 = 2 * (8 + 8) * 4;
const WINDOW: u64 = 11 * TOKEN;
/// ceil((11 + 32) / 8) + 1 pages of 8 tokens.
const RING: u64 = 7 * 8 * TOKEN;

#[test]
fn hysparse_keeps_what_hybrid_swa_keeps() {
    let (table, _) = compile(model("hysparse.hyir")).unwrap();
    let [own, full, swa] = table.rows.clone();
    assert_eq!((own.growing, own.token_bytes), (2, 2 * TOKEN));
    assert_eq!((own.window_bytes, own.ring_bytes), (WINDOW, RING));
    assert_eq!(own.at, [32, 128, 1024].map(|k| k * 1024 * 2 * TOKEN + RING));
    // Whole pages.
    assert_eq!(own.at_max, table.max_context.next_multiple_of(8) * 2 * TOKEN + RING);
    assert_eq!((full.growing, full.token_bytes, full.ring_bytes), (3, 3 * TOKEN, 0));
    assert_eq!((swa.growing, swa.token_bytes), (2, 2 * TOKEN));
    assert_eq!((swa.window_bytes, swa.ring_bytes), (WINDOW, RING));
    assert!((full.ratio - 1.5).abs() < 1e-3 && own.ratio == 1.0 && swa.ratio == 1.0);
}

#[test]
fn own_keys_cost_what_full_attention_costs() {
    let (table, _) = compile(model("own.hyir")).unwrap();
    let [own, full, swa] = table.rows;
    assert_eq!((own.growing, own.token_bytes, own.ring_bytes), (3, 3 * TOKEN, 0));
    assert_eq!((full.token_bytes, swa.token_bytes), (3 * TOKEN, 2 * TOKEN));
}

#[test]
fn every_pass_reports_in_order() {
    assert_eq!(compile(model("moe.hyir")).unwrap().1, PASSES);
}

#[test]
fn an_unknown_pass_is_told_the_known_ones() {
    let error =
        hyc_passes::run_named("fuse-all", &mut model("moe.hyir"), &Policy::of(TargetKind::Host)).unwrap_err();
    assert_eq!(error.to_string(), "pipeline: no rewriting pass is named `fuse-all`");
    assert!(error.help.unwrap().contains("fuse-topk"));
}

#[test]
fn an_error_says_pass_line_layer_op_and_what_to_do() {
    let error = compile(text::parse(include_str!("../../filetests/detect-chains/no-oracle.hyir")).unwrap())
        .unwrap_err();
    assert_eq!((error.pass, error.layer, error.line), ("detect-chains", Some(0), Some(8)));
    assert_eq!(error.op.as_deref(), Some("%L0.sel = chain_selection"));
    assert!(error.help.is_some_and(|help| help.contains("layer 0 full")));
}
