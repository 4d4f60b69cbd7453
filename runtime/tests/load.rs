//! What `Model::load` accepts, and that it accepts nothing else.

mod common;

use std::path::Path;

use common::Parts;
use hyc_ir::artefact::{CODE, TOKENIZER};
use hyc_ir::plan::{Layout, StepOp};
use hyc_runtime::{Error, ErrorKind, LoadOptions, Model, Verify};

fn load(path: &Path, verify: Verify) -> Result<Model, Error> {
    // SAFETY: its code is never called.
    unsafe { Model::load(path, &LoadOptions { verify, ..LoadOptions::default() }) }
}

/// The error of a file with these bytes.
fn refused(folder: &Path, bytes: &[u8], verify: Verify, what: &str) -> Error {
    let path = folder.join("bad.hyc");
    std::fs::write(&path, bytes).unwrap();
    load(&path, verify).err().unwrap_or_else(|| panic!("{what}: it loads"))
}

/// The error of parts that are whole and signed but wrong.
fn wrong(change: impl FnOnce(&mut Parts)) -> Error {
    let mut parts = Parts::new().with_code();
    change(&mut parts);
    parts.load().err().expect("it loads")
}

#[test]
fn a_whole_file_loads() {
    let parts = Parts::new().with_code().with_tokenizer();
    let model = parts.load().unwrap();
    assert_eq!(*model.plan(), parts.plan);
    assert_eq!(model.file_bytes(), parts.file().len() as u64);
    for (i, tensor) in parts.tensors[..2].iter().enumerate() {
        let weight = model.weight(hyc_ir::plan::WeightId(i as u32)).unwrap();
        assert_eq!(weight, tensor.bytes, "{}", tensor.name);
        assert_eq!(weight.as_ptr() as usize % 64, 0, "{}", tensor.name);
    }
    assert!(model.tokenizer_json().is_some());
    assert_eq!(model.graph_text(), None);
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = Parts::new().with_code().with_tokenizer().file();
    for len in 0..file.len() {
        for verify in [Verify::Full, Verify::Header] {
            let error = refused(folder.path(), &file[..len], verify, &format!("{len} bytes"));
            assert_eq!(error.kind, ErrorKind::BadArtefact, "{len} bytes: {error}");
            assert!(error.help.is_some());
        }
    }
    let longer = [&file[..], &[0]].concat();
    refused(folder.path(), &longer, Verify::Header, "a byte more");
}

#[test]
fn every_flipped_bit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::new().with_code().with_tokenizer();
    let file = parts.file();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let code = data + parts.tensors[0].bytes.len() + parts.tensors[1].bytes.len();
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1 << (at % 8);
        let what = format!("byte {at}, bit {}", at % 8);
        refused(folder.path(), &bad, Verify::Full, &what);
        // Header and code are checked in any case; a damaged weight is what `Header` lets through.
        if at < data || (code..code + parts.tensors[2].bytes.len()).contains(&at) {
            refused(folder.path(), &bad, Verify::Header, &what);
        }
    }
    let mut bad = file.clone();
    bad[data] ^= 1;
    let error = refused(folder.path(), &bad, Verify::Full, "a weight");
    assert!(error.message.contains("`table`"), "{error}");
}

#[test]
fn other_versions_and_machines_are_told_apart() {
    let error = wrong(|p| p.version = "2".into());
    assert_eq!(error.kind, ErrorKind::BadArtefact);
    assert!(error.message.contains("version 2"), "{error}");
    let error = wrong(|p| p.plan.version = 77);
    assert!(error.message.contains("version 77"), "{error}");
    for change in [
        |p: &mut Parts| p.plan.target.kind = "tpu".into(),
        |p: &mut Parts| p.plan.target.arch = "pdp11".into(),
        |p: &mut Parts| p.plan.target.features = vec!["avx9000".into()],
    ] {
        let error = wrong(change);
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.help.is_some());
    }
}

#[test]
fn what_does_not_fit_the_plan_is_an_error() {
    type Case = (&'static str, fn(&mut Parts));
    let cases: [Case; 8] = [
        ("`head`", |p| drop(p.tensors.remove(1))),
        ("`head`", |p| p.tensors[1].shape = vec![WIDTH_SQUARED]),
        ("`table`", |p| p.tensors[0].dtype = "I32"),
        ("`table`", |p| p.tensors[0].shape = vec![32, 8]),
        ("table of 8 rows", |p| {
            p.plan.steps[0].op = StepOp::Embed { vocab: 8, hidden: 16 };
            p.plan.weights[0].layout = Layout::Rows { rows: 8, cols: 16 };
        }),
        ("possible", |p| p.plan.weights[0].layout = Layout::Rows { rows: u64::MAX, cols: 16 }),
        ("inside the code", |p| p.plan.kernels[7].code_bytes = 41),
        ("inside the code", |p| p.plan.kernels[0].code_offset = 32),
    ];
    for (words, change) in cases {
        let error = wrong(change);
        assert_eq!(error.kind, ErrorKind::BadArtefact, "{error}");
        assert!(error.message.contains(words), "{words}: {error}");
    }
}

const WIDTH_SQUARED: usize = common::WIDTH * common::WIDTH;

#[test]
fn files_of_other_kinds_are_named_so() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [&b""[..], b"[model]\nname = \"tiny\"\n", &[0xff; 200]] {
        let error = refused(folder.path(), bytes, Verify::Full, "no artefact");
        assert!(error.message.contains("no hyc artefact"), "{error}");
    }
    // A plain safetensors file.
    let bytes = [&2u64.to_le_bytes()[..], b"{}"].concat();
    let error = refused(folder.path(), &bytes, Verify::Full, "no artefact");
    assert!(error.message.contains("no hyc artefact"), "{error}");
    let error = load(&folder.path().join("nowhere"), Verify::Full).err().unwrap();
    assert_eq!(error.kind, ErrorKind::BadInput);
    assert!(load(folder.path(), Verify::Full).is_err());
}

#[test]
fn no_code_and_no_tokenizer_are_errors_of_who_needs_them() {
    let model = Parts::new().load().unwrap();
    assert!(!Parts::new().tensors.iter().any(|t| t.name == CODE || t.name == TOKENIZER));
    let error = hyc_runtime::NativeExecutor::new(&model, 1).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    let error = hyc_runtime::Tokenizer::of(&model).err().unwrap();
    assert!(error.message.contains("no tokenizer"), "{error}");
}

/// Code of another plan, whatever hashes say: the kernel and the step are named.
#[test]
fn code_is_bound_to_its_plan() {
    type Case = (&'static str, fn(&mut Parts));
    let cases: [Case; 4] = [
        ("kernel `k0` of step 0, embed", |p| p.plan.model.max_context = 41),
        ("kernel `k6` of step 5, add", |p| {
            let (five, six) = (p.plan.steps[5].kernel, p.plan.steps[6].kernel);
            (p.plan.steps[5].kernel, p.plan.steps[6].kernel) = (six, five);
        }),
        ("its plan is not the one", |p| p.plan.model.max_batch = 4),
        ("its plan is not the one", |p| p.plan.steps[5].operands.swap(0, 1)),
    ];
    for (words, change) in cases {
        let mut parts = Parts::new().with_code();
        hyc_ir::bind::seal(&parts.plan, &mut parts.tensors[2].bytes);
        parts.sealed = true;
        change(&mut parts);
        let error = parts.load().err().unwrap_or_else(|| panic!("{words}: it loads"));
        assert_eq!(error.kind, ErrorKind::BadArtefact);
        assert!(error.message.contains(words) && error.help.is_some(), "{words}: {error}");
    }
}
