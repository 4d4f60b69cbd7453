//! An artefact whose code no processor can run is looked at, and not run.

mod common;

use std::process::Command;

use common::hyc_binary;
use hyc_kernels::cpu::CpuTarget;
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions, Verify};
use hyc_tests::{compile_wrongly, root};

#[test]
fn inspect_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("strange.hyc");
    let model = root().join("tests/golden/dense/model.toml");
    let strange = |plan: &mut hyc_plan::Plan| match &mut plan.target {
        hyc_plan::Target::Host { features, .. } => features.push("avx9000".into()),
        hyc_plan::Target::Nvidia(_) => panic!("a plan of the host"),
    };
    compile_wrongly(&model, &out, CpuTarget::host().level, |_| {}, strange);

    // SAFETY: made here, and nobody changes it.
    let error = unsafe { Model::load(&out, &LoadOptions::default()) }.err().expect("no processor has that");
    assert!(error.message.contains("avx9000") && error.help.is_some(), "{error}");
    let looked = Model::open_to_look(&out, Verify::Full).unwrap();
    let error = Session::new(looked, &SessionOptions::default()).err().expect("there is nothing to run");
    assert!(error.message.contains("to be looked at"), "{error}");

    let hyc = |args: &[&str]| Command::new(hyc_binary()).args(args).arg(&out).output().unwrap();
    let inspected = hyc(&["inspect"]);
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    assert_eq!(hyc(&["run", "--prompt", "x"]).status.code(), Some(4));
}
