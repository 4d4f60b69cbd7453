//! Artefacts without weights: refused as they are, run on weights of a seed.

mod common;
#[path = "common/inside.rs"]
mod inside;

use std::sync::Arc;

use hyc::complete;
use hyc::driver;
use hyc::output::{Kept, Target};
use hyc::source::Weights;
use hyc::write::{self, Artefact};
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::WeightId;
use hyc_runtime::{ErrorKind, LoadOptions, Model, Session, SessionOptions, Verify};
use hyc_tests::{golden_model, root};
use inside::hyc;

/// Logits after some tokens.
fn logits(model: impl Into<Arc<Model>>) -> Vec<f32> {
    let options = SessionOptions { threads: Some(1), max_sequences: Some(1), ..SessionOptions::default() };
    let mut session = Session::new(model, &options).expect("starts");
    let id = session.add_sequence().expect("adds");
    session.feed(id, &[5, 17, 3, 80, 41]).expect("feeds");
    session.step().expect("steps").logits.remove(0).1.expect("numbers")
}

#[test]
fn a_seed_makes_up_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let seeded = |seed| LoadOptions { random_weights: Some(seed), ..LoadOptions::default() };
    for name in ["dense", "moe-bf16", "own"] {
        let path = root().join("tests/golden").join(name).join("model.toml");
        let input = driver::load_input(&path).expect("reads");
        let level = CpuTarget::host().level;
        let mut lowered = driver::lower(input.graph, level, &mut |_| Ok(())).expect("lowers");
        let code = driver::generate_code(&mut lowered.plan, level, false, &|| Ok(())).expect("generates");
        let artefact = Artefact::bare(&lowered.plan, &code.blob);
        let out = folder.path().join(format!("{name}.hyc"));
        let target = Target::new(&out, &Kept::default()).expect("can be written");
        let size = write::artefact(&target, &artefact, &Weights::Absent, &mut |_| Ok(())).expect("writes");
        assert_eq!(size, std::fs::metadata(&out).expect("is there").len());

        // SAFETY: made here, and nobody changes it.
        let error = unsafe { Model::load(&out, &LoadOptions::default()) }.err().expect("is refused");
        assert_eq!(error.kind, ErrorKind::BadInput);
        assert!(error.message.contains("without weights") && error.help.is_some(), "{error}");
        let look = LoadOptions { verify: Verify::Full, allow_no_weights: true, ..LoadOptions::default() };
        // SAFETY: made here, and nobody changes it.
        let bare = unsafe { Model::load(&out, &look) }.expect("loads to be looked at");
        assert_eq!(*bare.plan(), lowered.plan);
        assert!(Session::new(bare, &SessionOptions::default()).is_err());

        // SAFETY: made here, and nobody changes it.
        let [a, again, b] =
            [1, 1, 2].map(|seed| logits(unsafe { Model::load(&out, &seeded(seed)) }.expect("loads")));
        assert_eq!(a, again);
        assert_ne!(a, b);
        let largest = a.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!((0.1..30.0).contains(&largest), "{name}: logits up to {largest}");
    }
    // Weights that are there are not made up.
    let whole = golden_model("dense", folder.path());
    // SAFETY: made here, and nobody changes it.
    let error = unsafe { Model::load(whole.path(), &seeded(1)) }.err().expect("is refused");
    assert_eq!(error.kind, ErrorKind::BadInput);
}

/// Weights that a runtime made up are written as they are, and read in parts as in one.
#[test]
fn packed_weights_are_written_and_read_in_parts() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = root().join("examples/tiny-hysparse/model.toml");
    let (bare, whole) = (folder.path().join("bare.hyc"), folder.path().join("whole.hyc"));
    let args = ["compile", "-q", "--no-weights", tiny.to_str().expect("a name"), "-o", "bare.hyc"];
    assert_eq!(hyc(folder.path(), &args).0, 0);
    let load = |path: &std::path::Path, random_weights, verify| {
        // SAFETY: made here, and nobody changes it while it is loaded.
        let model =
            unsafe { Model::load(path, &LoadOptions { random_weights, verify, ..LoadOptions::default() }) };
        Arc::new(model.expect("loads"))
    };
    let made = load(&bare, Some(1), Verify::OnRead);
    let target = Target::new(&whole, &Kept::default()).expect("can be written");
    let weights = Weights::Packed(Arc::clone(&made));
    complete::complete(&made, &weights, &target, &mut |_| Ok(())).expect("writes");
    let other = golden_model("dense", folder.path());
    let error = complete::complete(&other, &weights, &target, &mut |_| Ok(())).expect_err("is refused");
    assert!(error.message.contains("of another plan"), "{error}");

    let largest = (0u32..).zip(&made.plan().weights).max_by_key(|(_, weight)| weight.bytes());
    let (id, len) = largest.map(|(id, weight)| (WeightId(id), weight.bytes() as usize)).expect("has weights");
    assert!(len >= 2 << 20, "the largest weight has {len} bytes");
    let (mib, place) = (1 << 20, {
        let file = std::fs::read(&whole).expect("is there");
        let weight = made.weight(id).expect("is made");
        file.windows(64).position(|window| *window == weight[..64]).expect("has it")
    });
    let parts = [(0, len), (0, mib), (mib, mib), (mib - 1, 2), (5, len - 9), (len - 1, 1), (len, 0)];
    for damaged in [None, Some(0), Some(mib + 3), Some(len - 1)] {
        if let Some(at) = damaged {
            let mut file = std::fs::read(&whole).expect("is there");
            file[place + at] ^= 16;
            std::fs::write(folder.path().join("damaged.hyc"), file).expect("writes");
        }
        let path = if damaged.is_some() { folder.path().join("damaged.hyc") } else { whole.clone() };
        for (from, count) in parts {
            let model = load(&path, None, Verify::OnRead);
            let mut copy = vec![0; count];
            let result = model.read_weight(id, from, &mut copy);
            let leaves = from / mib..(from + count).div_ceil(mib);
            let wrong = damaged.is_some_and(|at| leaves.contains(&(at / mib)) && count > 0);
            let what = format!("{count} bytes at {from}, damaged {damaged:?}");
            assert_eq!(result.as_ref().err().is_some_and(|e| e.message.contains("digest")), wrong, "{what}");
            assert_eq!(result.is_err(), wrong, "{what}");
            assert!(wrong || copy == made.weight(id).expect("is made")[from..from + count], "{what}");
            let unchecked = load(&path, None, Verify::Header);
            unchecked.read_weight(id, from, &mut copy).expect("reads");
        }
    }
    let sound = load(&whole, None, Verify::OnRead);
    for id in (0..made.plan().weights.len() as u32).map(WeightId) {
        assert!(sound.weight(id).expect("reads") == made.weight(id).expect("is made"), "{id}");
    }
}

/// `hyc add-weights` makes, to the byte, what `hyc compile` does where the weights are.
#[test]
fn weights_are_added_to_an_artefact() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = root().join("examples/tiny-hysparse/model.toml");
    let tiny = tiny.to_str().expect("a name");
    let ok = |args: &[&str]| {
        let (code, _, said) = hyc(folder.path(), args);
        assert_eq!((code, said.as_str()), (0, ""), "{args:?}");
    };
    ok(&["compile", "-q", tiny, "-o", "whole.hyc"]);
    ok(&["compile", "-q", "--no-weights", tiny, "-o", "bare.hyc"]);
    ok(&["add-weights", "-q", "bare.hyc", tiny, "-o", "added.hyc"]);
    let [whole, added] =
        ["whole.hyc", "added.hyc"].map(|name| std::fs::read(folder.path().join(name)).expect("is there"));
    assert!(whole == added, "{} bytes and {}", whole.len(), added.len());

    let refused = |args: &[&str], why: &str| {
        let (code, _, said) = hyc(folder.path(), args);
        assert!((1..4).contains(&code) && said.contains(why), "{args:?}: {code}: {said}");
    };
    refused(&["add-weights", "whole.hyc", tiny, "-o", "x.hyc"], "has its weights already");
    refused(&["add-weights", "bare.hyc", tiny, "-o", "bare.hyc"], "the artefact");
    refused(&["add-weights", "bare.hyc", tiny, "-o", tiny], "the description");
    let other = root().join("tests/golden/dense/model.toml");
    refused(
        &["add-weights", "bare.hyc", other.to_str().expect("a name"), "-o", "x.hyc"],
        "was compiled of the model",
    );
    ok(&["compile", "-q", "--plan-only", "--emit", "graph", tiny, "-o", "dump.hyir"]);
    refused(&["add-weights", "bare.hyc", "dump.hyir", "-o", "x.hyc"], "is a graph dump");
    let toml = std::fs::read_to_string(tiny).expect("is there");
    let short = toml.replace("hidden = ", "# hidden = ");
    std::fs::write(folder.path().join("short.toml"), short).expect("writes");
    refused(&["add-weights", "bare.hyc", "short.toml", "-o", "x.hyc"], "hidden");
    assert!(!folder.path().join("x.hyc").exists());
}
