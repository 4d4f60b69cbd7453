//! Sequences, pages and steps, on the hand-made model.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{BAD_TOKEN, Parts, Plain, Random, VOCAB, assert_close, naive};
use hyc_plan::abi::StepContext;
use hyc_runtime::{
    Clock, ErrorKind, HostRunner, KvRoom, Memory, MemoryPlan, Model, Result, Runner, Sampler, Sampling,
    SequenceId, Session, SessionOptions,
};

fn session(model: &Arc<Model>, options: &SessionOptions) -> Session {
    Session::with_kernels(model.clone(), Box::new(Plain), options).unwrap()
}

/// Steps until nothing waits; the last logits of each sequence.
fn drain(session: &mut Session) -> HashMap<SequenceId, Vec<f32>> {
    let mut all = HashMap::new();
    loop {
        let output = session.step().unwrap();
        if output.tokens == 0 {
            return all;
        }
        assert!(output.tokens <= 8, "{} rows in a step of at most 8", output.tokens);
        all.extend(output.logits.into_iter().map(|(id, logits)| (id, logits.unwrap())));
    }
}

/// A server keeps sessions where it likes, with no lifetime to mind and no model to leak.
const _: fn() = || {
    fn owned<T: Send + 'static>() {}
    owned::<Session>();
    owned::<hyc_runtime::Engine>();
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Model>();
};

#[test]
fn a_model_lives_as_long_as_its_sessions() {
    let model = Parts::new().load().unwrap();
    let alive = Arc::downgrade(&model);
    let [mut a, mut b] = [(); 2].map(|()| session(&model, &SessionOptions::default()));
    drop(model);
    let id = a.add_sequence().unwrap();
    a.feed(id, &[1, 2, 3]).unwrap();
    let logits = std::thread::spawn(move || drain(&mut a)[&id].clone()).join().unwrap();
    assert_close(&logits, &naive(&[1, 2, 3]), "on another thread");
    assert!(alive.upgrade().is_some());
    let id = b.add_sequence().unwrap();
    b.feed(id, &[4]).unwrap();
    assert_close(&drain(&mut b)[&id], &naive(&[4]), "the other session");
    drop(b);
    assert!(alive.upgrade().is_none(), "the last session let go of it");
}

#[test]
fn chunked_prefill_equals_the_whole() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    for len in [1, 7, 8, 9, 16, 17, 39, 40] {
        let tokens = Random(len).tokens(len as usize);
        let id = session.add_sequence().unwrap();
        session.feed(id, &tokens).unwrap();
        let logits = drain(&mut session).remove(&id).unwrap();
        assert_close(&logits, &naive(&tokens), &format!("{len} tokens"));
        session.remove_sequence(id).unwrap();
    }
}

/// Sequences come, grow by prompts and single tokens, and go, in any order; each one's logits are those of its
/// own tokens alone (`Plain` refuses a page of two sequences), and no page is lost.
#[test]
fn ragged_batches_do_not_mix() {
    let model = Parts::new().load().unwrap();
    for seed in 0..20 {
        let mut random = Random(seed);
        let options = SessionOptions { max_tokens: Some(60), ..SessionOptions::default() };
        let mut session = session(&model, &options);
        let whole = session.free_pages();
        let mut history: HashMap<SequenceId, Vec<u32>> = HashMap::new();
        for _ in 0..200 {
            let ids: Vec<SequenceId> = history.keys().copied().collect();
            match random.below(8) {
                0 => match session.add_sequence() {
                    Ok(id) => assert!(history.insert(id, Vec::new()).is_none(), "an id came twice"),
                    Err(error) => assert!(ids.len() == 3 && error.kind == ErrorKind::Resource, "{error}"),
                },
                1 if !ids.is_empty() => {
                    let id = ids[random.below(ids.len())];
                    session.remove_sequence(id).unwrap();
                    history.remove(&id);
                }
                2..=4 if !ids.is_empty() => {
                    let id = ids[random.below(ids.len())];
                    let count = [1, 1, 3, 12][random.below(4)];
                    let tokens = random.tokens(count);
                    let (free, before) = (session.free_pages(), session.len(id).unwrap());
                    match session.feed(id, &tokens) {
                        Ok(()) => history.get_mut(&id).unwrap().extend(tokens),
                        Err(_) => {
                            assert_eq!((free, before), (session.free_pages(), session.len(id).unwrap()))
                        }
                    }
                }
                _ => {
                    for (id, logits) in session.step().unwrap().logits {
                        assert_eq!(session.pending(id).unwrap(), 0);
                        assert_close(&logits.unwrap(), &naive(&history[&id]), &format!("seed {seed}"));
                    }
                }
            }
            let held: u64 = history.values().map(|tokens| tokens.len().div_ceil(4) as u64).sum();
            assert_eq!(session.free_pages() + held, whole);
        }
        for (id, logits) in drain(&mut session) {
            assert_close(&logits, &naive(&history[&id]), &format!("seed {seed}, the end"));
        }
    }
}

#[test]
fn decode_rows_go_before_prompts() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let (long, short) = (session.add_sequence().unwrap(), session.add_sequence().unwrap());
    session.feed(long, &Random(1).tokens(20)).unwrap();
    session.feed(short, &[3]).unwrap();
    let output = session.step().unwrap();
    assert_eq!(output.tokens, 8);
    assert_eq!(output.logits.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [short]);
    assert_eq!((session.pending(long).unwrap(), session.pending(short).unwrap()), (13, 0));
}

#[test]
fn all_logits_are_those_of_each_prefix() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    session.set_all_logits(true);
    let tokens = Random(9).tokens(21);
    let id = session.add_sequence().unwrap();
    session.feed(id, &tokens).unwrap();
    let mut rows = Vec::new();
    while session.pending(id).unwrap() > 0 {
        rows.extend(session.step().unwrap().logits);
    }
    assert_eq!(rows.len(), 21);
    for (i, (_, logits)) in rows.iter().enumerate() {
        assert_close(logits.as_ref().unwrap(), &naive(&tokens[..=i]), &format!("row {i}"));
    }
}

#[test]
fn requests_that_cannot_be_met_change_nothing() {
    let model = Parts::new().load().unwrap();
    let options =
        SessionOptions { max_sequences: Some(2), max_tokens: Some(16), ..SessionOptions::default() };
    let mut session = session(&model, &options);
    let (a, b) = (session.add_sequence().unwrap(), session.add_sequence().unwrap());
    assert_eq!(session.add_sequence().unwrap_err().kind, ErrorKind::Resource);
    session.feed(a, &[1, 2, 3]).unwrap();

    let error = session.feed(a, &[0; 38]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadInput);
    assert!(error.message.contains("41 tokens") && error.message.contains("40"), "{error}");
    let error = session.feed(a, &[1, VOCAB as u32]).unwrap_err();
    assert!(error.message.contains("token 16"), "{error}");
    let error = session.feed(b, &[0; 24]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Resource);
    assert!(error.message.contains("6 pages") && error.message.contains("5 are free"), "{error}");

    assert_eq!((session.len(a).unwrap(), session.len(b).unwrap()), (3, 0));
    let logits = drain(&mut session);
    assert_close(&logits[&a], &naive(&[1, 2, 3]), "after the refusals");

    session.remove_sequence(a).unwrap();
    let again = session.add_sequence().unwrap();
    assert_ne!(a, again);
    assert_eq!(session.feed(a, &[1]).unwrap_err().kind, ErrorKind::BadInput);
    assert_eq!(session.remove_sequence(a).unwrap_err().kind, ErrorKind::BadInput);
    assert_eq!(session.len(again).unwrap(), 0, "an old id reached the new sequence");
    for n in [0, 4] {
        let options = SessionOptions { max_sequences: Some(n), ..SessionOptions::default() };
        let error = Session::with_kernels(model.clone(), Box::new(Plain), &options).err().unwrap();
        assert_eq!(error.kind, ErrorKind::BadInput);
    }
}

/// One sequence's error is its own: the others have their results, and the step that went wrong is named for each.
#[test]
fn numbers_that_overflow_are_an_error_of_their_sequence() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let [good, bad, last] = [(); 3].map(|()| session.add_sequence().unwrap());
    session.feed(good, &[1, 2]).unwrap();
    session.feed(bad, &[3, BAD_TOKEN]).unwrap();
    session.feed(last, &[BAD_TOKEN, 5, 6]).unwrap();
    let output = session.step().unwrap();
    assert_eq!(output.tokens, 2);
    let [(a, Ok(logits)), (b, Err(second)), (c, Err(third))] = &output.logits[..] else {
        panic!("{output:?}")
    };
    assert_eq!([*a, *b, *c], [good, bad, last]);
    assert_close(logits, &naive(&[1, 2]), "the other sequence");
    for (error, id, place) in
        [(second, bad, "row 3 of step embed (inf)"), (third, last, "row 4 of step embed")]
    {
        assert_eq!(error.kind, ErrorKind::BadNumbers);
        assert!(error.message.starts_with(&format!("sequence {id}: {place}")), "{error}");
    }
    // It stands as before, and is tried again; without its bad token it goes on.
    assert_eq!([good, bad, last].map(|id| session.pending(id).unwrap()), [0, 2, 3]);
    session.remove_sequence(last).unwrap();
    session.feed(good, &[7]).unwrap();
    let output = session.step().unwrap();
    let [(_, Ok(logits)), (_, Err(again))] = &output.logits[..] else { panic!("{output:?}") };
    assert_close(logits, &naive(&[1, 2, 7]), "the other sequence, later");
    assert!(again.message.contains("row 2 of step embed"), "{again}");
    session.truncate(bad, 1).unwrap();
    session.feed(bad, &[8]).unwrap();
    assert_close(&drain(&mut session)[&bad], &naive(&[3, 8]), "without its bad token");
    // Pages and slot, full of infinities, serve the next one.
    let next = session.add_sequence().unwrap();
    session.feed(next, &[4, 5, 6]).unwrap();
    assert_close(&drain(&mut session)[&next], &naive(&[4, 5, 6]), "the next one");
}

/// The rows of a sequence before its bad one have their logits, and the sequence waits with all of them.
#[test]
fn errors_are_by_row() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    session.set_all_logits(true);
    let id = session.add_sequence().unwrap();
    session.feed(id, &[1, 2, BAD_TOKEN]).unwrap();
    let output = session.step().unwrap();
    let [(_, Ok(first)), (_, Ok(second)), (_, Err(_))] = &output.logits[..] else { panic!("{output:?}") };
    assert_close(first, &naive(&[1]), "the first row");
    assert_close(second, &naive(&[1, 2]), "the second row");
    assert_eq!((output.tokens, session.pending(id).unwrap()), (0, 3));
}

#[test]
fn too_little_memory_is_told_before_anything_is_allocated() {
    let mut parts = Parts::new();
    parts.plan.model.max_context = 1 << 30;
    let model = parts.load().unwrap();
    let error =
        Session::with_kernels(model.clone(), Box::new(Plain), &SessionOptions::default()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Resource);
    // 3 sequences of 2^28 pages of 512 bytes.
    assert!(error.message.contains("393216 of KV caches") && error.message.contains("are free"), "{error}");
    assert!(error.help.unwrap().contains("max_context"));
    let options = SessionOptions { max_tokens: Some(1000), ..SessionOptions::default() };
    let session = session(&model, &options);
    // 250 + 3 pages of the growing cache, 3 rings of 5.
    assert_eq!(session.memory().caches, (253 + 15) * 512);
    assert_eq!(session.memory().arena, parts.plan.arena_bytes);
}

#[test]
fn an_observer_sees_buffers_and_caches() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let id = session.add_sequence().unwrap();
    session.feed(id, &[7, 2]).unwrap();
    let mut names = Vec::new();
    session
        .step_observed(&mut |step, engine| {
            names.push(step.name.clone());
            if step.name == "L1.append" {
                let row = engine.row(hyc_plan::BufferId(0), 1).unwrap();
                for cache in [0, 1] {
                    let (k, v) = engine.cache_kv(hyc_plan::CacheId(cache), 0, 1).unwrap();
                    assert_eq!((&k, &v), (&row, &row), "cache {cache}");
                }
            }
        })
        .unwrap();
    assert_eq!(names, model.plan().steps.iter().map(|s| s.name.clone()).collect::<Vec<_>>());
}

/// A runner that counts the passes that it is given whole.
struct AtOnce(HostRunner, Arc<AtomicUsize>);

// SAFETY: all that it says is what the other says.
unsafe impl Runner for AtOnce {
    fn model(&self) -> &Arc<Model> {
        self.0.model()
    }

    fn memory(&self) -> &Memory {
        self.0.memory()
    }

    unsafe fn memory_mut(&mut self) -> &mut Memory {
        // SAFETY: passed on from the caller.
        unsafe { self.0.memory_mut() }
    }

    unsafe fn begin(&mut self, context: &StepContext) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { self.0.begin(context) }
    }

    unsafe fn run_step(&mut self, index: usize, context: &StepContext) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { self.0.run_step(index, context) }
    }

    unsafe fn run_pass(&mut self, context: &StepContext) -> Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { self.0.run_pass(context) }
    }

    fn sampled(&mut self, rows: usize) -> Result<Option<Vec<i32>>> {
        self.0.sampled(rows)
    }

    fn synchronise(&mut self) -> Result<()> {
        self.0.synchronise()
    }

    fn clock(&mut self) -> &mut dyn Clock {
        self.0.clock()
    }
}

#[test]
fn passes_are_offered_whole_unless_somebody_looks() {
    let model = Parts::new().load().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let room = KvRoom::new(30, 3);
    let runner = HostRunner::new(model.clone(), Box::new(Plain), room).unwrap();
    let mut session = Session::with_runner(Box::new(AtOnce(runner, Arc::clone(&taken))));
    assert_eq!((session.memory().room, session.free_pages()), (room, 30));
    let count = || taken.load(Ordering::Relaxed);
    let id = session.add_sequence().unwrap();
    let mut tokens = vec![3, 4, 5];
    session.feed(id, &tokens).unwrap();
    assert_close(session.step().unwrap().logits[0].1.as_ref().unwrap(), &naive(&tokens), "prefill");
    assert_eq!(count(), 1);
    for (token, whole) in [(6, true), (7, false), (8, true)] {
        tokens.push(token);
        session.feed(id, &[token]).unwrap();
        let before = count();
        let output = if whole { session.step() } else { session.step_observed(&mut |_, _| {}) };
        assert_close(output.unwrap().logits[0].1.as_ref().unwrap(), &naive(&tokens), "decode");
        assert_eq!(count() - before, usize::from(whole));
    }
}

/// `step_sampled` draws for each sequence what a sampler of its seed draws from its logits, and the error of
/// one sequence is no other's.
#[test]
fn sampled_steps_equal_a_sampler_on_the_logits() {
    let model = Parts::new().load().unwrap();
    let sampling = Sampling { temperature: 2.0, top_p: 0.9, ..Sampling::default() };
    let mut session = session(&model, &SessionOptions::default());
    let [a, b, greedy] = [0; 3].map(|_| session.add_sequence().unwrap());
    session.set_sampling(a, sampling, 1).unwrap();
    session.set_sampling(b, sampling, 2).unwrap();
    let mut samplers = [Sampler::new(sampling, 1), Sampler::new(sampling, 2), Sampler::default()];
    let mut tokens = [vec![1], vec![2, 3], vec![4, 5, 6]];
    for round in 0..=5 {
        for (id, tokens) in [a, b, greedy].into_iter().zip(&tokens) {
            let fed = session.len(id).unwrap() as usize;
            session.feed(id, &tokens[fed..]).unwrap();
        }
        let mut bad = None;
        if round == 5 {
            session.remove_sequence(greedy).unwrap();
            let id = session.add_sequence().unwrap();
            session.feed(id, &[BAD_TOKEN]).unwrap();
            bad = Some(id);
            tokens[2].clear();
        }
        let (mut left, mut wrong) = (Vec::new(), Vec::new());
        for (id, token) in session.step_sampled().unwrap().sampled {
            token.map_or_else(|error| wrong.push((id, error.kind)), |token| left.push((id, token)));
        }
        let expected: Vec<_> = bad.map(|id| (id, ErrorKind::BadNumbers)).into_iter().collect();
        assert_eq!(wrong, expected, "round {round}");
        left.sort_unstable();
        let mut expected = Vec::new();
        for ((id, tokens), sampler) in [a, b, greedy].into_iter().zip(&mut tokens).zip(&mut samplers) {
            if !tokens.is_empty() {
                let token = sampler.sample(&naive(tokens)).min(BAD_TOKEN - 1);
                expected.push((id, token));
                tokens.push(token);
            }
        }
        left.iter_mut().for_each(|(_, token)| *token = (*token).min(BAD_TOKEN - 1));
        assert_eq!(left, expected, "round {round}");
    }
    session.set_all_logits(true);
    assert_eq!(session.step_sampled().unwrap_err().kind, ErrorKind::BadInput);
    let wrong = Sampling { top_p: 2.0, ..sampling };
    assert_eq!(session.set_sampling(a, wrong, 0).unwrap_err().kind, ErrorKind::BadInput);
}

#[test]
fn what_a_session_takes_is_known_without_one() {
    let model = Parts::new().load().unwrap();
    for max_tokens in [None, Some(1), Some(17), Some(u64::MAX)] {
        let options = SessionOptions { max_tokens, max_sequences: Some(2), ..SessionOptions::default() };
        let known = MemoryPlan::of(&model, &options).unwrap();
        assert_eq!(*session(&model, &options).memory(), known);
        // 4 tokens per page, at most 40 tokens per sequence; rings of 5 pages.
        let pages = max_tokens.map_or(20, |tokens| tokens.div_ceil(4).saturating_add(2).min(20));
        assert_eq!((known.room, known.caches), (KvRoom::new(pages, 2), (pages + 10) * 512));
        assert_eq!(known.total(), model.file_bytes() + model.plan().arena_bytes + known.caches);
    }
    for max_sequences in [0, 4] {
        let options = SessionOptions { max_sequences: Some(max_sequences), ..SessionOptions::default() };
        assert_eq!(MemoryPlan::of(&model, &options).unwrap_err().kind, ErrorKind::BadInput);
    }
}
