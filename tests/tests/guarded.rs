//! Kernels touch what is theirs and not a byte beside it: every architecture with a page without access at either end of
//! each block, weight, list and scratch. The logits must be those of ordinary memory, bit for bit.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hyc::frontend::MatrixFormat;
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::{Codec, Weight, WeightId};
use hyc_runtime::{ErrorKind, LoadOptions, MemoryPlan, Model, Session, SessionOptions};
use hyc_tests::guard::{Guarded, GuardedMemory, Side};
use hyc_tests::parity::{run, tokens};
use hyc_tests::{compile, golden_model, golden_names, golden_tensors, root};

/// A session that has nothing but guarded memory.
fn session(model: &Arc<Model>, memory: GuardedMemory) -> Session {
    let room = MemoryPlan::of(model, &SessionOptions::default()).unwrap().room;
    Session::with_runner(Box::new(memory.run(model, 2, room).unwrap()))
}

#[test]
fn kernels_stay_inside_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    for name in golden_names() {
        let model = golden_model(&name, folder.path());
        stays_inside(&name, &model, &tokens(&golden_tensors(&name)));
    }
}

/// A run between pages without access gives what one in ordinary memory gives.
fn stays_inside(name: &str, model: &Arc<Model>, tokens: &[u32]) {
    let options = SessionOptions { threads: Some(2), ..SessionOptions::default() };
    let plain = run(&mut Session::new(model.clone(), &options).unwrap(), tokens).unwrap();
    for side in [Side::Behind, Side::Before] {
        let mut session = session(model, GuardedMemory::new(model, side).unwrap());
        let guarded = run(&mut session, tokens).unwrap();
        assert!(guarded.logits == plain.logits, "{name}, {side:?}: other logits");
        assert!(guarded.selected == plain.selected, "{name}, {side:?}: other selections");
    }
}

/// One of tests/golden, whose matrices share scales as this format says.
fn quantised(name: &str, format: &str, folder: &Path) -> Arc<Model> {
    let out = folder.join(format!("{name}.hyc"));
    let format = MatrixFormat::parse(format).unwrap();
    let toml = root().join("tests/golden").join(name).join("model.toml");
    compile(&toml, &out, CpuTarget::host().level, |desc| desc.weights.formats.all = Some(format));
    // SAFETY: made here, and nobody changes it.
    Arc::new(unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap())
}

/// Panels whose last groups are short, or whose outputs are padding; a scale that is no number shows in the logits.
#[test]
fn kernels_of_shared_scales_stay_inside_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in
        [("dense", "int8(16)"), ("moe", "int4z(32)"), ("moe-own", "fp8(7)"), ("head-gates", "int4(16)")]
    {
        let model = quantised(name, format, folder.path());
        let tokens = tokens(&golden_tensors(name));
        stays_inside(&format!("{name} in {format}"), &model, &tokens);
        let grouped = |(weight, _): &(&Weight, u32)| weight.format.codec.group().is_some();
        for (weight, id) in model.plan().weights.iter().zip(0..).filter(grouped) {
            let mut memory = GuardedMemory::new(&model, Side::Behind).unwrap();
            memory.fill_weight(WeightId(id), &[0xff]).unwrap();
            no_numbers(&format!("{name} in {format}, {}", weight.name), &model, memory, &tokens);
        }
    }
}

/// Weights are data, not promises: where nothing is a number, no index leads out of its memory.
#[test]
fn weights_that_are_no_numbers_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let infinite = [0, 0, 0x80, 0x7f];
    for name in ["dense", "moe", "moe-top-1", "moe-sigmoid", "own", "dense-bf16"] {
        let model = golden_model(name, folder.path());
        let tokens = tokens(&golden_tensors(name));
        for pattern in [&[0xff][..], &infinite, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x40]] {
            let mut memory = GuardedMemory::new(&model, Side::Behind).unwrap();
            memory.fill_weights(pattern).unwrap();
            no_numbers(name, &model, memory, &tokens);
        }
    }
}

/// No kernel makes numbers of what is none: whichever weight it stands in, it shows in the logits.
#[test]
fn one_weight_that_is_no_number_shows() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dense-bf16", "moe", "moe-own", "moe-sigmoid", "head-gates", "full-sink"] {
        let model = golden_model(name, folder.path());
        let tokens = tokens(&golden_tensors(name));
        for (weight, id) in model.plan().weights.iter().zip(0..) {
            // With a payload, which arithmetic on bits would add to.
            let pattern: &[u8] =
                if weight.format.codec == Codec::F32 { &[0xef, 0xbe, 0xcd, 0x7f] } else { &[0xcd, 0x7f] };
            let mut memory = GuardedMemory::new(&model, Side::Behind).unwrap();
            memory.fill_weight(WeightId(id), pattern).unwrap();
            no_numbers(&format!("{name}, {}", weight.name), &model, memory, &tokens);
        }
    }
}

/// A run of `tokens` ends with the error that logits are no numbers.
fn no_numbers(name: &str, model: &Arc<Model>, memory: GuardedMemory, tokens: &[u32]) {
    let mut session = session(model, memory);
    let id = session.add_sequence().unwrap();
    session.feed(id, tokens).unwrap();
    let error = loop {
        match session.step().unwrap().logits.pop() {
            Some((_, logits)) => break logits.expect_err("logits of nothing"),
            None => assert!(session.pending(id).unwrap() > 0, "{name}: no logits"),
        }
    };
    assert_eq!(error.kind, ErrorKind::BadNumbers, "{name}: {error}");
    assert!(error.message.contains("no number") && error.help.is_some(), "{name}: {error}");
}

/// The guards can fail: a child of this test steps over each end, and does not live to tell.
#[test]
fn a_byte_too_far_ends_the_process() {
    const VARIABLE: &str = "HYC_TEST_STEP_OVER";
    if let Ok(side) = std::env::var(VARIABLE) {
        let (side, at) = if side == "behind" { (Side::Behind, 640) } else { (Side::Before, -1) };
        let block = Guarded::zeroed(640, side, 64).unwrap();
        // SAFETY: none, which is what is tried.
        unsafe { hyc_runtime::Block::address(&block).offset(at).write_volatile(1) };
        return;
    }
    for side in ["behind", "before"] {
        let this = std::env::current_exe().unwrap();
        let status = Command::new(this)
            .args(["a_byte_too_far_ends_the_process", "--exact"])
            .env(VARIABLE, side)
            .output()
            .unwrap()
            .status;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(11), "{side}: {status}");
    }
    // Less than an alignment too far is seen when the block goes.
    let short = std::panic::catch_unwind(|| {
        let block = Guarded::zeroed(10, Side::Behind, 64).unwrap();
        // SAFETY: what alignment leaves is mapped.
        unsafe { hyc_runtime::Block::address(&block).add(10).write(0) };
    });
    assert!(short.is_err());
}
