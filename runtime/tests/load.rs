//! What `Model::load` accepts, and that it accepts nothing else.

mod common;

use std::path::Path;

use common::Parts;
use hyc_plan::artefact::{CODE, TOKENIZER};
use hyc_plan::{Code, Layout, StepOp, Target, WeightId, ops};
use hyc_runtime::{Error, ErrorKind, LoadOptions, Model, Storage, Verify};

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
        let weight = model.weight(WeightId(i as u32)).unwrap();
        assert_eq!(weight, tensor.bytes, "{}", tensor.name);
        assert_eq!(weight.as_ptr() as usize % 64, 0, "{}", tensor.name);
    }
    assert!(model.tokenizer_json().is_some());
    assert_eq!(model.graph_text(), None);
}

/// Every byte near a boundary, and others all over the file.
fn places(parts: &Parts, file: &[u8]) -> Vec<usize> {
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut edges = vec![0, data, file.len()];
    let mut at = data;
    for tensor in &parts.tensors {
        edges.push(at + tensor.bytes.len());
        at += tensor.bytes.len().next_multiple_of(64);
        edges.push(at);
    }
    let near = |at: &usize| edges.iter().any(|edge| at.abs_diff(*edge) <= 9);
    (0..file.len()).filter(|at| near(at) || at % 17 == 0).collect()
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::new().with_code().with_tokenizer();
    let file = parts.file();
    for len in places(&parts, &file) {
        let error = refused(folder.path(), &file[..len], Verify::Header, &format!("{len} bytes"));
        assert_eq!(error.kind, ErrorKind::BadArtefact, "{len} bytes: {error}");
        assert!(error.help.is_some());
    }
    let longer = [&file[..], &[0]].concat();
    refused(folder.path(), &longer, Verify::Header, "a byte more");
}

/// A flipped bit is found when the file is loaded; in a weight when it is first read, unless nobody asks; in what
/// nobody reads only where all is asked for.
#[test]
fn every_flipped_bit_is_found_before_it_matters() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::new().with_code().with_tokenizer();
    let file = parts.file();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let code = data + parts.tensors[0].bytes.len() + parts.tensors[1].bytes.len();
    let code_bytes = parts.tensors[2].bytes.len();
    let tokenizer = code + code_bytes.next_multiple_of(64) + parts.tensors[3].bytes.len();
    for at in places(&parts, &file) {
        let mut bad = file.clone();
        bad[at] ^= 1 << (at % 8);
        let what = format!("byte {at}, bit {}", at % 8);
        refused(folder.path(), &bad, Verify::Full, &what);
        let (weight, pad) = (
            (data..code).contains(&at),
            (code + code_bytes..code + code_bytes.next_multiple_of(64)).contains(&at),
        );
        let pad = pad || (tokenizer..tokenizer.next_multiple_of(64)).contains(&at);
        for verify in [Verify::OnRead, Verify::Header] {
            if !weight && !pad {
                let error = refused(folder.path(), &bad, verify, &what);
                assert_eq!(error.kind, ErrorKind::BadArtefact, "{what}: {error}");
                continue;
            }
            let model =
                load(&folder.path().join("bad.hyc"), verify).unwrap_or_else(|e| panic!("{what}: {e}"));
            let read: Vec<bool> = (0..2).map(|i| model.weight(WeightId(i)).is_ok()).collect();
            let piece = |i| model.weight_pieces(WeightId(i), 1, &mut |_| Ok(())).is_ok();
            assert_eq!(read, [piece(0), piece(1)], "{what}");
            // Of its own digests, so that nothing is checked before.
            let model = load(&folder.path().join("bad.hyc"), verify).unwrap();
            let copied = |i: u32, from: usize| {
                let bytes = model.plan().weights[i as usize].bytes() as usize;
                let mut copy = vec![0; bytes - from];
                model.read_weight(WeightId(i), from, &mut copy).is_ok_and(|()| {
                    assert_eq!(copy, model.weight(WeightId(i)).unwrap()[from..], "{what}");
                    true
                })
            };
            assert_eq!(read, [copied(0, at % 2), copied(1, at % 2)], "{what}, {verify:?}");
            let bad = weight && verify == Verify::OnRead;
            let first = at < data + parts.tensors[0].bytes.len();
            assert_eq!(read, [!(bad && first), !bad || first], "{what}, {verify:?}");
            assert_eq!(model.check_weights(&mut |_, _| true).is_err(), bad, "{what}");
        }
    }
    let mut bad = file.clone();
    bad[data] ^= 1;
    let error = refused(folder.path(), &bad, Verify::Full, "a weight");
    assert!(error.message.contains("`table`"), "{error}");
}

/// Of a tensor of many leaves, which many threads check.
#[test]
fn a_damaged_leaf_is_named_and_checking_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let blob: Vec<u8> =
        (0..(9 << 20) + 100u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = Parts::new().with_bytes("hyc.other", blob.clone()).file();
    let start = file.windows(64).position(|window| window == &blob[..64]).unwrap();
    for at in [0, (1 << 20) - 1, 1 << 20, (5 << 20) + 7, blob.len() - 1] {
        let mut bad = file.clone();
        bad[start + at] ^= 4;
        let error = refused(folder.path(), &bad, Verify::OnRead, "a leaf");
        let from = start + (at >> 20 << 20);
        assert!(error.message.contains("`hyc.other`"), "{error}");
        assert!(error.message.contains(&format!("in bytes {from} to")), "{error}");
    }
    let path = folder.path().join("bad.hyc");
    std::fs::write(&path, &file).unwrap();
    let mut seen = Vec::new();
    let mut all = |done, total| {
        seen.push((done, total));
        true
    };
    // SAFETY: its code is never called.
    unsafe { Model::load_observed(&path, &LoadOptions::default(), &mut all) }.unwrap();
    assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total && *done > 9 << 20));
    // SAFETY: as above.
    let cancelled = unsafe { Model::load_observed(&path, &LoadOptions::default(), &mut |_, _| false) };
    assert_eq!(cancelled.err().unwrap().kind, ErrorKind::Cancelled);
}

#[test]
fn a_copied_file_may_change_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::new().with_code();
    let path = parts.save(folder.path());
    let options = LoadOptions { storage: Storage::Copied, ..LoadOptions::default() };
    // SAFETY: its code is never called.
    let model = unsafe { Model::load(&path, &options) }.unwrap();
    std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    for (i, tensor) in parts.tensors[..2].iter().enumerate() {
        assert_eq!(model.weight(WeightId(i as u32)).unwrap(), tensor.bytes, "{}", tensor.name);
    }
}

#[test]
fn headers_are_bounded_before_they_are_parsed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.hyc");
    let file = |length: u64, begin: &[u8], len: u64| {
        let bytes = [&length.to_le_bytes()[..], begin].concat();
        std::fs::write(&path, bytes).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
        load(&path, Verify::Header).err().unwrap()
    };
    let error = file(120_000_000, b"{", 130_000_000);
    assert!(error.message.contains("120000000 bytes; 100000000 are the most"), "{error}");
    assert!(file(120_000_000, b"[", 130_000_000).message.contains("no hyc artefact"));
    assert!(file(99_000_000, b"{", 1000).message.contains("ends inside its header"));
    assert!(file(u64::MAX, b"{", 1000).message.contains("are the most"));
    for (json, words) in [
        (
            r#"{"__metadata__":{"hyc.version":"2"},"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1]}}"#,
            "8 dimensions",
        ),
        (r#"{"__metadata__":{"hyc.version":"2"},"a":[1,2,3]}"#, "tensor `a`"),
        (r#"{"__metadata__":{"hyc.version":"2"},"a":[[[[[[1"#, "its header"),
    ] {
        let error = file(json.len() as u64, json.as_bytes(), 8 + json.len() as u64);
        assert!(error.message.contains(words), "{json}: {error}");
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path(), Verify::Full).err().unwrap();
    assert!(error.message.contains("it is a folder"), "{error}");
    let error = load(Path::new("/dev/zero"), Verify::Full).err().unwrap();
    assert!(error.message.contains("no regular file"), "{error}");
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = load(&fifo, Verify::Full).err().unwrap();
    assert!(error.message.contains("no regular file"), "{error}");
}

#[test]
fn other_versions_and_machines_are_told_apart() {
    let host = |arch: &str, features: &[&str]| Target::Host {
        arch: arch.into(),
        features: features.iter().map(|name| name.to_string()).collect(),
    };
    let error = wrong(|p| p.version = "1".into());
    assert_eq!(error.kind, ErrorKind::BadArtefact);
    assert!(error.message.contains("version 1;"), "{error}");
    let error = wrong(|p| p.plan.version = 77);
    assert!(error.message.contains("version 77"), "{error}");
    for target in [host("pdp11", &[]), host(std::env::consts::ARCH, &["avx9000"])] {
        let error = wrong(|p| p.plan.target = target);
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.help.is_some());
    }
}

/// Offset and bytes of a kernel.
fn place(parts: &mut Parts, kernel: usize) -> (&mut u64, &mut u64) {
    match &mut parts.plan.kernels[kernel].code {
        Code::Host { offset, bytes, .. } => (offset, bytes),
        Code::Nvidia { .. } => panic!("a plan of the host"),
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
            p.plan.steps[0].op = StepOp::Embed(ops::Embed { vocab: 8, hidden: 16 });
            p.plan.weights[0].format.layout = Layout::Rows { rows: 8, cols: 16 };
        }),
        ("possible", |p| p.plan.weights[0].format.layout = Layout::Rows { rows: u64::MAX, cols: 16 }),
        ("inside the code", |p| *place(p, 7).1 = 41),
        ("inside the code", |p| *place(p, 0).0 = 32),
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
    let error = hyc_runtime::NativeKernels::new(&model, 1).err().unwrap();
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
        ("kernel `k3` of step 1, L0.append", |p| {
            let (one, three) = (p.plan.steps[1].kernel, p.plan.steps[3].kernel);
            (p.plan.steps[1].kernel, p.plan.steps[3].kernel) = (three, one);
        }),
        ("its plan is not the one", |p| p.plan.model.max_batch = 4),
        ("its plan is not the one", |p| p.plan.steps[5].operands.swap(0, 1)),
    ];
    for (words, change) in cases {
        let mut parts = Parts::new().with_code();
        hyc_plan::bind::seal(&parts.plan, &mut parts.tensors[2].bytes);
        parts.sealed = true;
        change(&mut parts);
        let error = parts.load().err().unwrap_or_else(|| panic!("{words}: it loads"));
        assert_eq!(error.kind, ErrorKind::BadArtefact);
        assert!(error.message.contains(words) && error.help.is_some(), "{words}: {error}");
    }
}
