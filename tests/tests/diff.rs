//! `hyc diff`: generated code beside the plan interpreter, on every architecture.

mod common;

use std::sync::Arc;

use hyc::diff::{Found, Options, diff};
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::{StepOp, ops};
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
            // All steps of the kernel, which is one for them all.
            for (index, step) in plan.steps.iter_mut().enumerate() {
                if let StepOp::HybridAttention(ops::HybridAttention { window, .. }) = &mut step.op {
                    *window -= 1;
                    expected.get_or_insert_with(|| format!("step {index}, {}", step.name));
                }
            }
        },
    );
    // SAFETY: made here, and nobody changes it.
    let model = Arc::new(unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap());
    let options = Options { tokens: 70, seed: 3, tolerance: 1e-4 };
    let report = diff(&model, &SessionOptions::default(), &options).unwrap();
    let Found::Differs(first) = report.found else { panic!("no difference: {report:?}") };
    assert_eq!(Some(first.step), expected);
    assert_eq!(first.operand, "out");
}

/// Text of `hyc diff` with these arguments on the artefact: exit code, standard output and error.
fn command(artefact: &std::path::Path, args: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(common::hyc_binary());
    let out = command.arg("diff").arg(artefact).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_comparison_is_of_numbers_and_says_how_many_ran() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.hyc");
    compile_wrongly(
        &root().join("tests/golden/dense/model.toml"),
        &out,
        CpuTarget::host().level,
        |_| {},
        |_| {},
    );
    for tolerance in ["inf", "-inf", "NaN", "-1", "-0.001", "1e999"] {
        let (code, said) = command(&out, &["--tokens", "4", &format!("--tolerance={tolerance}")]);
        assert!(code == 2 && said.contains("compares nothing"), "{tolerance}: {said}");
    }
    assert!(command(&out, &["--tolerance", "-1"]).1.contains("compares nothing"));
    for tokens in ["0", "212", "1000000"] {
        let (code, said) = command(&out, &["--tokens", tokens]);
        assert!(code == 2 && said.contains("compiled for 211") && said.contains("--tokens 211"), "{said}");
    }
    let (code, said) = command(&out, &["--tokens", "70"]);
    assert!(code == 0 && said.contains("over 70 tokens agree"), "{said}");
    // No two executions agree to the last bit.
    let (code, said) = command(&out, &["--tokens", "70", "--tolerance", "0"]);
    assert!(code == 1 && said.contains("differs first"), "{said}");
}

/// Weights that are finite, and whose products are not: no fault of the generated code.
#[test]
fn where_the_model_itself_is_not_finite_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("tests/golden/dense");
    std::fs::copy(source.join("model.toml"), folder.path().join("model.toml")).unwrap();
    let mut bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let places = ["gate", "up"].map(|which| {
        let view = all.tensor(&format!("model.layers.2.mlp.{which}_proj.weight")).unwrap();
        let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        at..at + view.data().len()
    });
    // 1e25 as bfloat16: both products are finite, and the SwiGLU of them is not.
    for place in places {
        bytes[place].chunks_exact_mut(2).for_each(|x| x.copy_from_slice(&0x6904u16.to_le_bytes()));
    }
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let out = folder.path().join("m.hyc");
    compile_wrongly(&folder.path().join("model.toml"), &out, CpuTarget::host().level, |_| {}, |_| {});
    let (code, said) = command(&out, &["--tokens", "40"]);
    assert!(code == 3 && said.contains("the model's numbers end in step") && said.contains("L2."), "{said}");
    assert!(!said.contains("differs"), "{said}");
    let (code, said) = command(&out, &["--tokens", "40", "--json"]);
    assert!(code == 3 && said.contains("\"not_finite\""), "{said}");
}
