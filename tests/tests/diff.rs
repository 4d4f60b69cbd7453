//! `hyc diff`: generated code beside the plan interpreter, on every architecture.

use hyc::diff::{Found, Options, diff};
use hyc_ir::plan::StepOp;
use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{LoadOptions, Model, SessionOptions};
use hyc_tests::{compile_wrongly, golden_model, golden_names, root};

#[test]
fn generated_code_agrees_with_the_interpreter_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    for name in golden_names() {
        let model = golden_model(&name, folder.path());
        // Two chunks, the second with a partly filled page.
        let tokens = model.plan().model.max_context.min(70);
        let options =
            Options { tokens, seed: 3, tolerance: if name.ends_with("bf16") { 2e-2 } else { 1e-4 } };
        let report = diff(&model, &SessionOptions::default(), &options).unwrap();
        assert!(matches!(report.found, Found::Equal), "{name}: {:?}", report.found);
        assert_eq!(report.tokens, tokens);
        assert!(report.steps > 10 && report.worst > 0.0, "{name}: nothing was compared");
    }
}

/// Code whose window is not the plan's: the first step that has it is named, and its layer.
#[test]
fn the_first_step_that_differs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("wrong.hyc");
    let model = root().join("tests/golden/dense/model.toml");
    let mut expected = None;
    compile_wrongly(
        &model,
        &out,
        CpuTarget::host().level,
        |_| {},
        |plan| {
            let steps = plan.steps.len();
            for (index, step) in plan.steps.iter_mut().enumerate().skip(steps / 2) {
                if let StepOp::HybridAttention { window, .. } = &mut step.op {
                    *window -= 1;
                    expected = Some(format!("step {index}, {}", step.name));
                    break;
                }
            }
        },
    );
    // SAFETY: made here, and nobody changes it.
    let model = unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap();
    let options = Options { tokens: 70, seed: 3, tolerance: 1e-4 };
    let report = diff(&model, &SessionOptions::default(), &options).unwrap();
    let Found::Differs(first) = report.found else { panic!("no difference: {report:?}") };
    assert_eq!(Some(first.step), expected);
    assert_eq!(first.operand, "out");
}
