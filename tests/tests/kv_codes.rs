//! Models whose growing caches store codes of 8 bits with scales, on this processor: generated code beside the interpreter, equal
//! bits for any chunks and batches, forks and prefixes, and what the trained model is still worth.

#![allow(clippy::print_stdout)] // A test's output is captured.

use std::path::Path;
use std::sync::Arc;

use hyc::diff::{Found, Options, diff};
use hyc_plan::{CacheId, CachePolicy, KvCodec, StepOp};
use hyc_runtime::{Model, SequenceId, Session, SessionOptions};
use hyc_tests::parity::{logits, run_batch, run_pieces, tokens};
use hyc_tests::retrieval::{Prompts, decode};
use hyc_tests::{edited_model, golden_tensors, relative_error, root};

const CODECS: [KvCodec; 2] = [KvCodec::Int8, KvCodec::Fp8];

/// A description compiled with caches of this codec.
fn of(model: &Path, codec: KvCodec, folder: &Path) -> Arc<Model> {
    edited_model(model, &folder.join("codes.hyc"), |desc| desc.target.kv_dtype = codec)
}

/// One of tests/golden.
fn golden(name: &str, codec: KvCodec, folder: &Path) -> Arc<Model> {
    of(&root().join("tests/golden").join(name).join("model.toml"), codec, folder)
}

/// Caches that grow have codes, made of a ring each; the others have none.
#[test]
fn every_growing_cache_stores_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, codec) in
        ["dense", "own", "moe-shared-both", "full-sink", "swa"].iter().zip(CODECS.iter().cycle())
    {
        let model = golden(name, *codec, folder.path());
        let plan = model.plan();
        let growing = plan.caches.iter().filter(|cache| cache.policy == CachePolicy::Growing);
        assert!(growing.clone().count() > 0 && growing.clone().all(|cache| cache.codec == *codec), "{name}");
        let rings = plan.caches.iter().filter(|cache| cache.policy != CachePolicy::Growing);
        assert!(rings.clone().all(|cache| !cache.codec.scaled()), "{name}");
        let made = plan.steps.iter().filter(|step| matches!(step.op, StepOp::QuantiseKv(_))).count();
        assert_eq!(made, growing.count(), "{name}");
        let fresh = rings.filter(|cache| matches!(cache.policy, CachePolicy::Ring { window: 1, .. })).count();
        assert_eq!(fresh, made, "{name}");
    }
}

/// Each engine appends by itself: a number that lies between two codes may become either, which is the error here.
#[test]
fn generated_code_agrees_with_the_interpreter() {
    let (folder, mut others) = (tempfile::tempdir().expect("a folder"), 0);
    for name in ["dense", "moe", "moe-shared-both", "head-gates", "full-sink", "own", "wide", "swa"] {
        for codec in CODECS {
            let model = golden(name, codec, folder.path());
            // Twice what one other code was measured to make.
            let options = Options { tokens: 70, seed: 3, tolerance: 2.4e-3 };
            let report = diff(&model, &SessionOptions::default(), &options).expect("runs");
            println!("{name} {codec}: {:.1e} in {}", report.worst, report.worst_step);
            assert!(matches!(report.found, Found::Equal), "{name} in {codec}: {:?}", report.found);
            others += usize::from(report.worst > 1e-6);
        }
    }
    // Twice as many as were measured, of 16: elsewhere all codes are the same.
    assert!(others <= 8, "{others} models have other codes");
}

/// Finer codes give nearer logits, and none gives those of f32.
#[test]
fn codecs_are_as_near_as_they_are_fine() {
    let folder = tempfile::tempdir().expect("a folder");
    // Twice what was measured: random weights have no large logits.
    for (name, limits) in [("swa", [4.2e-2, 0.2]), ("dense", [0.106, 0.34])] {
        let tokens = tokens(&golden_tensors(name));
        let want = logits(&golden(name, KvCodec::F32, folder.path()), &tokens);
        let mut last = 0.0;
        for (codec, most) in CODECS.into_iter().zip(limits) {
            let error = relative_error(&logits(&golden(name, codec, folder.path()), &tokens), &want);
            println!("{name} {codec}: {error:.1e}");
            assert!(error > last && error < most, "{name} in {codec}: {error:.1e}, before {last:.1e}");
            last = error;
        }
    }
}

/// Keys and values of all positions of the first sequence.
fn held(session: &Session, count: u64) -> Vec<f32> {
    let mut all = Vec::new();
    for (id, cache) in (0..).map(CacheId).zip(&session.model().plan().caches) {
        if cache.policy == CachePolicy::Growing {
            for position in 0..count {
                let (key, value) = session.engine().cache_kv(id, 0, position).expect("is there");
                all.extend(key.into_iter().chain(value));
            }
        }
    }
    all
}

/// What a cache holds does not depend on how tokens came.
#[test]
fn chunks_and_batches_change_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, codec) in
        [("dense", KvCodec::Int8), ("moe", KvCodec::Fp8), ("own", KvCodec::Int8), ("wide", KvCodec::Fp8)]
    {
        let (model, tokens) = (golden(name, codec, folder.path()), tokens(&golden_tensors(name)));
        let whole = logits(&model, &tokens);
        for pieces in [vec![1; tokens.len()], vec![7, 64, 1, 1, 50, 80]] {
            let pieces = run_pieces(&model, &SessionOptions::default(), &tokens, &pieces).expect("runs");
            assert!(pieces == whole, "{name} in {codec}: other chunks, other logits");
        }
        let parts = [&tokens[..90], &tokens[50..51], &tokens[100..120]];
        let together = run_batch(&model, &parts, &tokens[..3]).expect("runs");
        for (part, together) in parts.iter().zip(&together) {
            let alone = run_batch(&model, &[part], &tokens[..3]).expect("runs");
            assert!(together == &alone[0], "{name} in {codec}: the batch changes a sequence");
        }
        let [chunks, singles] = [tokens.len(), 1].map(|piece| {
            let mut session = Session::new(model.clone(), &SessionOptions::default()).expect("starts");
            let id = session.add_sequence().expect("starts");
            for piece in tokens.chunks(piece) {
                feed(&mut session, id, piece);
            }
            held(&session, tokens.len() as u64)
        });
        assert!(
            chunks == singles && chunks.iter().any(|x| *x != 0.0),
            "{name} in {codec}: other keys or values"
        );
    }
}

/// The logits after some tokens.
fn feed(session: &mut Session, id: SequenceId, tokens: &[u32]) -> Vec<f32> {
    session.feed(id, tokens).expect("takes them");
    let mut last = Vec::new();
    while session.pending(id).expect("is there") > 0 {
        for (_, row) in session.step().expect("runs").logits {
            last = row.expect("logits");
        }
    }
    last
}

/// Sequences that share a beginning are what they are alone.
#[test]
fn sequences_share_a_beginning() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, codec) in [("dense", KvCodec::Fp8), ("own", KvCodec::Int8)] {
        let (model, tokens) = (golden(name, codec, folder.path()), tokens(&golden_tensors(name)));
        let options = SessionOptions { prefixes: 2, ..SessionOptions::default() };
        let alone = |tokens: &[u32]| {
            let mut session = Session::new(model.clone(), &options).expect("starts");
            let id = session.add_sequence().expect("starts");
            feed(&mut session, id, tokens)
        };
        let (beginning, one, other) = (&tokens[..61], &tokens[61..70], &tokens[80..95]);
        let [first, second] = [one, other].map(|end| alone(&[beginning, end].concat()));
        let mut session = Session::new(model.clone(), &options).expect("starts");
        let id = session.add_sequence().expect("starts");
        feed(&mut session, id, beginning);
        let stored = session.save_prefix(id, 61).expect("is stored");
        let fork = session.fork(id).expect("forks");
        assert_eq!(feed(&mut session, fork, other), second, "{name}: a fork");
        assert_eq!(feed(&mut session, id, one), first, "{name}: what was forked");
        // Within the window of every ring.
        session.truncate(id, 66).expect("is short enough");
        assert_eq!(feed(&mut session, id, &one[5..]), first, "{name}: what was taken back");
        session.remove_sequence(fork).expect("goes");
        let whole = [beginning, other].concat();
        let (again, shared) = session.add_sequence_with_prefix(&whole).expect("starts");
        assert!(shared == stored && stored > 0, "{name}: {shared} of {stored}");
        assert_eq!(feed(&mut session, again, &whole[shared as usize..]), second, "{name}: a prefix");
    }
}

/// The trained model still finds planted keys: of four, as many as with caches of f32.
#[test]
fn the_trained_model_finds_its_keys() {
    let (tiny, folder) = (root().join("examples/tiny-hysparse"), tempfile::tempdir().expect("a folder"));
    let prompts = Prompts::open(&tiny.join("retrieval.safetensors"));
    for codec in CODECS {
        let model = of(&tiny.join("model.toml"), codec, folder.path());
        let mut session = Session::new(model.clone(), &SessionOptions::default()).expect("starts");
        let report = decode(&mut session, &model, &prompts, 4).expect("runs");
        println!("{codec}: {report:?}");
        assert!(report.keys_right >= 3, "{codec}: {report:?}");
    }
}
