//! Variants of kernels on the command line: what is said of them, and of tables and artefacts that are none.

mod common;
#[path = "common/inside.rs"]
mod inside;

use hyc::frontend::{build_graph, parse_model};
use hyc_kernels::{Generator, Nvidia, shipped, table};
use hyc_plan::{Gpu, NvidiaArch, TargetKind};
use hyc_tests::root;
use inside::hyc;

fn compiled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/golden/dense/model.toml");
    let (code, _, said) = hyc(folder.path(), &["compile", "-q", model.to_str().unwrap(), "-o", "m.hyc"]);
    assert_eq!(code, 0, "{said}");
    folder
}

#[test]
fn a_processors_kernels_have_one_variant() {
    let folder = compiled();
    let (code, text, said) = hyc(folder.path(), &["inspect", "m.hyc", "kernels"]);
    assert_eq!(code, 0, "{said}");
    assert!(text.lines().count() > 5 && text.lines().all(|line| line.ends_with("): cranelift")), "{text}");
    let (_, json, _) = hyc(folder.path(), &["inspect", "m.hyc", "kernels", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let kernels = json["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), text.lines().count());
    let [chosen] = kernels[0]["chosen"].as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!((&chosen["variant"], &chosen["rows"]["least"]), (&"cranelift".into(), &1.into()));

    let (code, _, said) = hyc(folder.path(), &["tune", "m.hyc", "--out", "t.json"]);
    assert!(code == 3 && said.contains("one variant each") && said.contains("--all-variants"), "{said}");
    assert!(!folder.path().join("t.json").exists());
}

#[test]
fn only_clocked_code_has_a_timeline() {
    let folder = compiled();
    let (code, _, said) = hyc(folder.path(), &["bench", "m.hyc", "--timeline", "t.json"]);
    assert!(code == 3 && said.contains("no times of its blocks") && said.contains("--clocks"), "{said}");
    assert!(!folder.path().join("t.json").exists());
    let (code, _, said) = hyc(folder.path(), &["bench", "m.hyc", "--timeline", "m.hyc"]);
    assert!(code == 2 && said.contains("the artefact"), "{said}");
}

/// The table that comes with hyc has the kernels of the published models, whatever their specs are called today: of the card that its
/// target usually is, or of another with the same processor.
#[test]
fn the_shipped_table_has_the_published_models() {
    let gpu = Gpu::of(NvidiaArch::Sm90a);
    let backend = Nvidia::new(gpu, Generator::of_anything());
    for name in ["hysparse-7b", "full-7b", "swa-7b", "hysparse-80b", "hysparse-80b-qk192"] {
        let path = root().join(format!("examples/models/{name}.toml"));
        let desc = parse_model(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut graph = build_graph(&desc);
        graph.header.target = TargetKind::Nvidia(gpu.arch);
        let plan = hyc_passes::run(graph, &backend, &mut |_| true).unwrap().plan;
        let chosen = ["linear", "qkv_append", "attention", "experts"];
        let steps = plan.steps.iter().filter(|step| chosen.iter().any(|part| step.op.name().contains(part)));
        let mut count = 0;
        for step in steps {
            let kernel = &plan.kernels[step.kernel.index()].name;
            let key = table::key(&plan.spec(step));
            let known = [gpu.arch.card(), "NVIDIA H200"].iter().any(|card| shipped().has(card, &key));
            assert!(known, "{name}: {kernel}: run `hyc tune` again");
            count += 1;
        }
        assert!(count > 100, "{name}");
    }
}

#[test]
fn what_chooses_a_gpus_kernels_is_refused_for_a_processor() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/golden/dense/model.toml");
    for flags in [
        &["--card", "NVIDIA H200"][..],
        &["--all-variants", "--emit", "graph"],
        &["--clocks"],
        &["--activations", "f32"],
        &["--activations", "fp8"],
    ] {
        let (code, _, said) = hyc(folder.path(), &[&["compile"], flags, &[model.to_str().unwrap()]].concat());
        assert!(code == 2 && said.contains(flags[0]) && said.contains("--target sm_90a"), "{said}");
    }
}

#[test]
fn tables_are_read_or_refused() {
    let folder = compiled();
    let model = root().join("tests/golden/dense/model.toml");
    let compile = |table: &str, rest: &[&str]| {
        let args = ["compile", "-q", "--table", table, model.to_str().unwrap()];
        hyc(folder.path(), &[&args, rest].concat())
    };
    let write = |text: &str| std::fs::write(folder.path().join("t.json"), text).unwrap();
    let refused = |why: &str| {
        let (code, _, said) = compile("t.json", &["--plan-only"]);
        assert!(code == 3 && said.contains("t.json: ") && said.contains(why), "{said}");
    };
    assert_eq!(compile("absent.json", &["--plan-only"]).0, 3);
    write("model");
    refused("not a table of measurements");
    write("{ \"version\": 7, \"entries\": [] }");
    refused("version 7, this build reads 1");
    write("{ \"version\": 1, \"entries\": [3] }");
    refused("invalid type");
    // A table is of no use to a processor, and not replaced by what is written.
    write("{ \"version\": 1, \"entries\": [] }");
    let (code, _, said) = compile("t.json", &["--plan-only"]);
    assert!(code == 0 && said.contains("one variant each"), "{said}");
    let (code, _, said) = compile("t.json", &["-o", "t.json"]);
    assert!(code != 0 && said.contains("the table of measurements"), "{said}");
    // Nor is the artefact that is measured.
    let (code, _, said) = hyc(folder.path(), &["tune", "m.hyc", "--out", "m.hyc"]);
    assert!(code != 0 && said.contains("the artefact m.hyc, which is read"), "{said}");
}
