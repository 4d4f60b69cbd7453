//! What each op was made of, through all rewriting passes: `tests/filetests/pipeline`, and every rewrite's own files.

use std::path::{Path, PathBuf};

use hyc_ir::{Graph, OpId, text};
use hyc_passes::{PASSES, origins, rewrites, run_named};
use hyc_plan::ops::{ExpertsUp, QkvAppend};
use hyc_plan::{
    Backend, CacheSpec, Codec, Format, KernelSpec, Kind, KvOrder, Layout, ListShape, Slicer, StepOp, Target,
    Variant,
};

/// A back end that keeps f32 in rows.
struct Rows;

impl Backend for Rows {
    fn target(&self) -> Target {
        Target::Host { arch: "x86_64".into(), features: vec![] }
    }

    fn layout(&self, _: &Kind, _: Codec) -> Option<Layout> {
        None
    }

    fn kv_order(&self, _: &CacheSpec) -> KvOrder {
        KvOrder::Columns
    }

    fn tiles_rows(&self, _: &StepOp, _: &[Layout]) -> bool {
        false
    }

    fn fp8_rows(&self, _: &StepOp, _: &[Format]) -> Option<u64> {
        None
    }

    fn projects_gates(&self, _: &QkvAppend, _: &[Layout]) -> bool {
        false
    }

    fn shares_experts(&self, _: &ExpertsUp, _: &[Layout]) -> bool {
        false
    }

    fn page_lists(&self, _: &StepOp, _: &[CacheSpec]) -> Option<ListShape> {
        None
    }

    fn slicer(&self) -> Option<Slicer> {
        None
    }

    fn samples(&self) -> bool {
        false
    }

    fn candidates(&self, _: &KernelSpec) -> Result<Vec<Variant>, String> {
        Err("no kernels are chosen here".into())
    }
}

fn filetests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests")
}

fn read(path: &Path) -> Graph {
    text::parse(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

/// An op by its name and its results'.
fn told(graph: &Graph, id: OpId) -> String {
    let data = graph.op(id);
    let results: Vec<&str> = data.results.iter().map(|value| graph.name(*value)).collect();
    format!("{} {}", data.op.name(), results.join(" "))
}

/// The op that makes the value of this name.
fn maker(graph: &Graph, value: &str) -> OpId {
    graph.def(graph.value(value).unwrap()).unwrap()
}

/// The graph after each rewriting pass, the input first.
fn stages(mut graph: Graph) -> Vec<(&'static str, Graph)> {
    let mut stages = vec![("input", graph.clone())];
    for pass in PASSES.iter().filter(|pass| rewrites(pass)) {
        run_named(pass, &mut graph, &Rows).unwrap();
        stages.push((pass, graph.clone()));
    }
    stages
}

/// What `value` was made of in one pass.
fn made_of(stages: &[(&str, Graph)], pass: &str, value: &str) -> Vec<String> {
    let at = stages.iter().position(|(name, _)| *name == pass).unwrap();
    let (before, after) = (&stages[at - 1].1, &stages[at].1);
    let all = origins(before, after);
    all.of(maker(after, value)).iter().map(|id| told(before, *id)).collect()
}

#[test]
fn a_fused_op_is_made_of_what_it_replaced() {
    let stages = stages(read(&filetests().join("pipeline/hysparse.hyir")));
    let branches = made_of(&stages, "fuse-branches", "L1.attn");
    let kinds: Vec<&str> = branches.iter().filter_map(|op| op.split(' ').next()).collect();
    assert_eq!(kinds, ["sparse_attention", "gate", "window_attention", "gate", "add"], "{branches:?}");
    let oracle = made_of(&stages, "fuse-topk", "L0.sel");
    let chain =
        ["attention L0.attn L0.probs", "block_max L0.block_max", "group_max L0.group_max", "topk L0.sel"];
    assert_eq!(oracle, chain);
    // What only named a value of another layer led to its reader.
    let resolved = made_of(&stages, "detect-chains", "L1.selected");
    assert_eq!(resolved, ["chain_selection L1.sel", "sparse_attention L1.selected"]);
    let aliased = made_of(&stages, "plan-kv", "L1.selected");
    assert_eq!(aliased, ["kv_share L1.shared_kv", "sparse_attention L1.selected"]);
    // A norm joins each of its readers.
    for value in ["L1.q_rot", "L1.gate_select", "L1.gate_window"] {
        let norm = made_of(&stages, "fuse-epilogues", value);
        assert!(norm.contains(&"rmsnorm L1.h".to_string()), "{value}: {norm:?}");
    }
    let swiglu = made_of(&stages, "fuse-epilogues", "L1.ffn_mid");
    assert_eq!(swiglu.iter().filter(|op| op.starts_with("linear ")).count(), 2, "{swiglu:?}");
}

#[test]
fn every_op_is_accounted_for_by_every_pass() {
    let mut files = 0;
    for folder in [
        "pipeline",
        "fp8-rows",
        "detect-chains",
        "plan-kv",
        "fuse-topk",
        "fuse-branches",
        "fuse-epilogues",
        "quantise-kv",
    ] {
        for entry in std::fs::read_dir(filetests().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let mut graph = read(&path);
            files += 1;
            for pass in PASSES.iter().filter(|pass| rewrites(pass)) {
                let before = graph.clone();
                // Some files are there to be refused.
                let Ok(changes) = run_named(pass, &mut graph, &Rows) else { break };
                let found = origins(&before, &graph);
                let mut seen: Vec<OpId> = found.dropped.clone();
                for id in graph.ops() {
                    let of = found.of(id);
                    assert!(!of.is_empty(), "{pass} on {}: {} is new", path.display(), told(&graph, id));
                    assert!(changes > 0 || of.len() == 1, "{pass} on {}", path.display());
                    seen.extend(of);
                }
                assert!(before.ops().all(|id| seen.contains(&id)), "{pass} on {}", path.display());
            }
        }
    }
    assert!(files > 40, "{files}");
}
