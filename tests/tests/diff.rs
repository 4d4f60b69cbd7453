//! `hyc diff`: generated code beside the plan interpreter, on every architecture.

use hyc::diff::{Options, diff};
use hyc_runtime::SessionOptions;
use hyc_tests::{golden_model, golden_names};

#[test]
fn generated_code_agrees_with_the_interpreter_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    for name in golden_names() {
        let model = golden_model(&name, folder.path());
        // Two chunks, the second with a partly filled page.
        let options =
            Options { tokens: 70, seed: 3, tolerance: if name.ends_with("bf16") { 2e-2 } else { 1e-4 } };
        let report = diff(&model, &SessionOptions::default(), &options).unwrap();
        assert!(report.first.is_none(), "{name}: {:?}", report.first);
        assert!(report.steps > 20 && report.worst > 0.0, "{name}: nothing was compared");
    }
}
