//! Prefills that are measured on made-up selections and routing.

mod common;

use std::sync::Arc;

use common::hyc_binary;
use hyc_plan::StepOp;
use hyc_runtime::{
    Engine, ErrorKind, KvRoom, LoadOptions, MemoryPlan, Model, SessionOptions, StepInput, Values, open_runner,
};
use hyc_tests::root;

/// A golden model, compiled for the host.
fn compiled(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.hyc");
    let model = root().join(format!("tests/golden/{name}/model.toml"));
    let out =
        std::process::Command::new(hyc_binary()).arg("compile").arg(model).arg("-o").arg(&path).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (folder, path)
}

#[test]
fn a_bench_says_what_was_made_up() {
    let (_folder, path) = compiled("moe");
    let bench = |more: &[&str]| {
        let mut command = std::process::Command::new(hyc_binary());
        command
            .arg("bench")
            .arg(&path)
            .args(["--context", "8", "--prefill", "64", "--steps", "1"])
            .args(more);
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (ran, text) = bench(&["--selection", "tiny", "--routing", "balanced"]);
    assert!(ran && text.contains("made-up selections;") && text.contains("U(4) "), "{text}");
    assert!(text.contains("made-up routing;") && text.contains("experts touched in a chunk"), "{text}");
    let (ran, text) = bench(&[]);
    assert!(ran && !text.contains("made-up"), "{text}");
    assert!(!bench(&["--selection", "large"]).0);
}

/// A pass over the first tokens of a sequence, of which the step chooses what it is told to.
#[test]
fn a_choice_is_replaced_in_one_pass_and_what_none_can_be_is_refused() {
    let (_folder, path) = compiled("dense");
    // SAFETY: the artefact was made above.
    let model = Arc::new(unsafe { Model::load(&path, &LoadOptions::default()) }.unwrap());
    let options = SessionOptions::default();
    let memory = MemoryPlan::new(&model, KvRoom::new(16, 1), options.thread_count());
    let mut engine = Engine::new(open_runner(&model, &options, &memory, &mut |_, _| true).unwrap());
    let plan = model.plan();
    let (oracle, step) = plan
        .steps
        .iter()
        .enumerate()
        .find(|(_, step)| matches!(step.op, StepOp::OracleAttention(_)))
        .unwrap();
    let StepOp::OracleAttention(op) = step.op else { panic!("it is one") };
    let hyc_plan::Operand::Buffer(sel) = *step.operands.last().unwrap() else { panic!("a selection") };
    let tokens = plan.model.chunk.min(8) as usize;
    let begin = |engine: &mut Engine| {
        let pages = tokens.div_ceil(plan.model.page as usize) as i32;
        let list = |f: &dyn Fn(i32) -> i32| (0..tokens as i32).map(f).collect::<Vec<_>>();
        let input = StepInput {
            token_ids: list(&|i| i + 1),
            positions: list(&|i| i),
            sequence: list(&|_| 0),
            page_table: (0..pages).collect(),
            ring_slot: vec![0],
            out_rows: vec![tokens as i32 - 1],
            ..StepInput::default()
        };
        engine.begin(input).unwrap();
    };
    let width = (op.select.kv_heads * op.select.blocks) as usize;
    // Block 0 alone, and nothing behind it, last: as no oracle writes it.
    let rows: Vec<i32> = (0..tokens * width).map(|i| if i % width == width - 1 { 0 } else { -1 }).collect();
    let selected = |engine: &mut Engine| {
        (0..=oracle).for_each(|index| engine.run_step(index).unwrap());
        match engine.buffer(sel).unwrap() {
            Values::I32(rows) => rows,
            Values::F32(_) => panic!("a selection is of i32"),
        }
    };
    assert_eq!(
        engine.replace_choice(&[oracle], &rows).unwrap_err().kind,
        ErrorKind::BadInput,
        "no pass begins"
    );
    begin(&mut engine);
    let own = selected(&mut engine);
    assert_ne!(own, rows);
    begin(&mut engine);
    engine.replace_choice(&[oracle], &rows).unwrap();
    assert_eq!(selected(&mut engine), rows);
    // The next pass is its own again.
    begin(&mut engine);
    assert_eq!(selected(&mut engine), own);

    begin(&mut engine);
    let far: Vec<i32> = rows.iter().map(|_| 1 << 20).collect();
    for (steps, rows) in
        [(oracle, &far), (oracle, &rows[1..].to_vec()), (0, &rows), (plan.steps.len(), &rows)]
    {
        let error = engine.replace_choice(&[steps], rows).unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadInput, "{error}");
    }
}
