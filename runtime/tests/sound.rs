//! What safe code cannot make a session do: run another model's code, follow a stray index, mix up sequences, lose
//! another sequence's tokens, or stay broken after a panic of the caller's.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::{Parts, Plain, Random, assert_close, naive};
use hyc_plan::{BufferId, CacheId, WeightId};
use hyc_runtime::{
    CancelToken, Engine, ErrorKind, Event, GenerateOptions, Kernels, KvRoom, LoadOptions, Model, ModelId,
    NativeKernels, Result, Session, SessionOptions, StepCall, StepInput, Tokenizer, Verify, generate,
};

/// `Plain`, made for one model.
struct Bound(ModelId);

// SAFETY: it does what `Plain` does.
unsafe impl Kernels for Bound {
    fn model(&self) -> Option<ModelId> {
        Some(self.0)
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { Plain.run(call) }
    }
}

fn session(model: &Arc<Model>) -> Session {
    Session::with_kernels(model.clone(), Box::new(Plain), &SessionOptions::default()).unwrap()
}

fn input() -> StepInput {
    StepInput {
        token_ids: vec![1, 2],
        positions: vec![0, 1],
        sequence: vec![0, 0],
        page_table: vec![0],
        ring_slot: vec![0],
        out_rows: vec![1],
        sampling: vec![],
        seen: vec![],
    }
}

#[test]
fn kernels_serve_their_own_model_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = Parts::new().with_code().save(folder.path());
    // SAFETY: its code is never called.
    let load = || Arc::new(unsafe { Model::load(&path, &LoadOptions::default()) }.unwrap());
    let (a, b) = (load(), load());
    assert_ne!(a.id(), b.id(), "one file, loaded twice: two models");
    let options = SessionOptions::default();
    assert!(Session::with_kernels(a.clone(), Box::new(Bound(a.id())), &options).is_ok());
    let native = Box::new(NativeKernels::new(&b, 1).unwrap());
    for error in [
        Session::with_kernels(a.clone(), native, &options).err().unwrap(),
        Engine::with_kernels(a.clone(), Box::new(Bound(b.id())), KvRoom::new(1, 1)).err().unwrap(),
    ] {
        assert_eq!(error.kind, ErrorKind::BadInput);
        assert!(error.message.contains("another model") && error.help.is_some(), "{error}");
    }
}

#[test]
fn what_was_opened_to_look_at_has_no_code_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = Parts::new().with_code().save(folder.path());
    let model = Arc::new(Model::open_to_look(&path, Verify::Full).unwrap());
    assert_eq!(model.plan().steps.len(), 8);
    for error in [
        NativeKernels::new(&model, 1).err().unwrap(),
        Session::new(model.clone(), &SessionOptions::default()).err().unwrap(),
    ] {
        assert!(error.message.contains("to be looked at") && error.help.is_some(), "{error}");
    }
}

#[test]
fn what_happens_to_a_file_later_does_not_reach_who_looks_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = Parts::new().with_code().save(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    let weight = hyc_plan::WeightId(0);
    let [all, some] = [Verify::Full, Verify::Header].map(|v| Model::open_to_look(&path, v).unwrap());
    let before = all.weight(weight).unwrap().to_vec();
    std::fs::write(&path, vec![0x55; bytes.len()]).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
    assert_eq!(all.weight(weight).unwrap(), before);
    assert!(all.has_weights() && some.has_weights());
    assert_eq!(some.file_bytes(), bytes.len() as u64);
    let error = some.weight(weight).unwrap_err();
    assert!(error.message.contains("without its weights") && error.help.is_some(), "{error}");
    assert!(some.weight_pieces(weight, 1, &mut |_| Ok(())).is_err());
    assert!(some.read_weight(weight, 0, &mut []).is_err());
    // Files of every length, in the header and behind it.
    for len in (0..300).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(Model::open_to_look(&path, Verify::Header).is_err(), "{len} bytes");
    }
}

#[test]
fn stray_indices_are_errors() {
    let model = Parts::new().load().unwrap();
    let mut engine = Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(4, 1)).unwrap();
    assert!(engine.run_step(0).unwrap_err().message.contains("no input"));
    engine.begin(input()).unwrap();
    let order = engine.run_step(2).unwrap_err();
    assert!(order.message.contains("before step 0"), "{order}");
    engine.run_pass().unwrap();
    assert!(engine.run_step(99).unwrap_err().message.contains("no step 99"));
    // Again from the middle: what follows must run again, too.
    engine.run_step(1).unwrap();
    assert!(engine.run_step(3).is_err());
    engine.run_step(2).unwrap();
    let logits = model.plan().logits;
    let errors = [
        engine.buffer(BufferId(6)).err(),
        engine.row(BufferId(99), 0).err(),
        engine.row(logits, 1).err(),
        engine.row(logits, u64::MAX).err(),
        engine.cache_kv(CacheId(2), 0, 0).err(),
        engine.cache_kv(CacheId(0), 1, 0).err(),
        engine.cache_kv(CacheId(1), 1, 0).err(),
        engine.cache_kv(CacheId(0), 0, 4).err(),
        engine.cache_kv(CacheId(0), usize::MAX, u64::MAX).err(),
        model.weight(WeightId(2)).err(),
        model.weight_pieces(WeightId(u32::MAX), 1, &mut |_| Ok(())).err(),
        model.read_weight(WeightId(2), 0, &mut []).err(),
        model.read_weight(WeightId(0), usize::MAX, &mut [0]).err(),
        model.read_weight(WeightId(0), 1, &mut vec![0; model.plan().weights[0].bytes() as usize]).err(),
    ];
    for (i, error) in errors.into_iter().enumerate() {
        assert_eq!(error.unwrap_or_else(|| panic!("case {i}")).kind, ErrorKind::BadInput, "case {i}");
    }
    // A ring has every position.
    engine.cache_kv(CacheId(1), 0, u64::MAX).unwrap();
}

#[test]
fn results_are_taken_over_from_the_same_step_alone() {
    let (model, other) = (Parts::new().load().unwrap(), Parts::new().load().unwrap());
    let engine =
        |model: &Arc<Model>| Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(4, 1)).unwrap();
    let (mut ours, mut theirs, mut strange) = (engine(&model), engine(&model), engine(&other));
    for engine in [&mut ours, &mut theirs, &mut strange] {
        engine.begin(input()).unwrap();
        engine.run_step(0).unwrap();
    }
    ours.adopt(&theirs, BufferId(0)).unwrap();
    assert!(ours.adopt(&theirs, BufferId(1)).is_err(), "a buffer of another step");
    assert!(ours.adopt(&theirs, BufferId(77)).is_err());
    assert!(ours.adopt(&strange, BufferId(0)).is_err(), "an engine of another model");
    theirs.run_step(1).unwrap();
    assert!(ours.adopt(&theirs, BufferId(0)).is_err(), "an engine further on");
    theirs.begin(StepInput { token_ids: vec![2, 1], ..input() }).unwrap();
    theirs.run_step(0).unwrap();
    assert!(ours.adopt(&theirs, BufferId(0)).is_err(), "an engine of another input");
}

#[test]
fn a_sequence_belongs_to_one_session() {
    let model = Parts::new().load().unwrap();
    let (mut a, mut b) = (session(&model), session(&model));
    let (of_a, of_b) = (a.add_sequence().unwrap(), b.add_sequence().unwrap());
    assert_ne!(of_a, of_b);
    a.feed(of_a, &[1]).unwrap();
    for error in [
        b.feed(of_a, &[1]).unwrap_err(),
        b.len(of_a).unwrap_err(),
        b.step_sampled_of(of_a).unwrap_err(),
        b.remove_sequence(of_a).unwrap_err(),
    ] {
        assert!(error.message.contains("another session") && error.help.is_some(), "{error}");
    }
    b.remove_sequence(of_b).unwrap();
    assert!(b.remove_sequence(of_b).unwrap_err().message.contains("was removed"));
    assert_eq!(a.len(of_a).unwrap(), 1);
}

#[test]
fn generation_leaves_other_sequences_their_tokens() {
    let model = Parts::new().with_tokenizer().load().unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model);
    let other = session.add_sequence().unwrap();
    let tokens = Random(9).tokens(11);
    session.feed(other, &tokens).unwrap();
    let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    let done =
        generate(&mut session, &tokenizer, &[1, 2], &options, &CancelToken::new(), &mut |_| {}).unwrap();
    assert_eq!(done.tokens.len(), 4);
    assert_eq!(session.pending(other).unwrap(), 11, "its tokens wait as before");
    let mut sampled = Vec::new();
    while session.pending(other).unwrap() > 0 {
        sampled.extend(session.step_sampled().unwrap().sampled);
    }
    let best = naive(&tokens).iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert!(
        matches!(sampled[..], [(id, Ok(token))] if id == other && naive(&tokens)[token as usize] >= best - 1e-4)
    );
}

#[test]
fn a_panic_in_a_callback_leaves_a_session_that_works() {
    let model = Parts::new().with_tokenizer().load().unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model);
    let free = session.free_pages();
    let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    for at in 0..4 {
        let mut events = 0;
        let mut on_event = |_: Event| {
            assert_ne!(events, at, "a caller's fault");
            events += 1;
        };
        let run = AssertUnwindSafe(|| {
            generate(&mut session, &tokenizer, &[1, 2], &options, &CancelToken::new(), &mut on_event)
        });
        assert!(catch_unwind(run).is_err(), "event {at}");
        assert_eq!(session.free_pages(), free, "pages stayed behind");
    }
    let ids: Vec<_> = (0..3).map(|_| session.add_sequence().expect("no sequence stayed behind")).collect();
    session.feed(ids[1], &[3, 4]).unwrap();
    let look = AssertUnwindSafe(|| session.step_observed(&mut |step, _| assert_ne!(step.name, "L1.append")));
    assert!(catch_unwind(look).is_err());
    // The step has not happened; it does now.
    assert_eq!(session.pending(ids[1]).unwrap(), 2);
    assert_close(session.step().unwrap().logits[0].1.as_ref().unwrap(), &naive(&[3, 4]), "after a panic");
}
