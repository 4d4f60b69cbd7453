//! Artefacts without weights: refused as they are, run on weights of a seed.

mod common;
#[path = "common/inside.rs"]
mod inside;

use std::sync::Arc;

use hyc::driver;
use hyc::output::{Kept, Target};
use hyc::source::Weights;
use hyc::write::{self, Artefact};
use hyc_kernels::cpu::CpuTarget;
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
