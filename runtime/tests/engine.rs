//! What an engine refuses of a step's input.

mod common;

use common::{Parts, Plain, VOCAB};
use hyc_plan::sample::{SampleParams, Seen};
use hyc_runtime::{Engine, ErrorKind, KvRoom, StepInput};

/// Something wrong with an input.
type Change = Box<dyn Fn(&mut StepInput)>;

/// Two sequences of two rows each, on pages 0 and 1.
fn input() -> StepInput {
    StepInput {
        token_ids: vec![1, 2, 3, 4],
        positions: vec![0, 1, 2, 3],
        sequence: vec![0, 0, 1, 1],
        page_table: vec![0, 1],
        ring_slot: vec![0, 1],
        out_rows: vec![1, 3],
        sampling: vec![],
        seen: vec![],
    }
}

/// Penalties by which the first row looks at `count` of these tokens from `first` on.
fn penalties(count: u32, first: u32, ids: &[u32], change: impl Fn(&mut SampleParams)) -> StepInput {
    let mut row = SampleParams { first_seen: first, seen: count, repeat: 1.1, ..SampleParams::default() };
    change(&mut row);
    let seen = ids.iter().map(|id| Seen { id: *id, generated: 1 }).collect();
    StepInput { sampling: vec![row, SampleParams::default()], seen, ..input() }
}

#[test]
fn no_id_outside_the_vocabulary_reaches_a_kernel() {
    let model = Parts::new().load().unwrap();
    let mut engine = Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(4, 2)).unwrap();
    let last = VOCAB as u32 - 1;
    for good in [
        penalties(0, 0, &[], |_| {}),
        penalties(2, 0, &[0, last], |_| {}),
        penalties(1, 1, &[3, 0], |_| {}),
        penalties(0, 0, &[], |row| row.repeat = f32::NAN),
    ] {
        engine.begin(good).unwrap();
    }
    let many: Vec<u32> = (0..=2 * VOCAB as u32).collect();
    for (what, bad) in [
        ("do not ascend within", penalties(1, 0, &[last + 1], |_| {})),
        ("do not ascend within", penalties(1, 0, &[u32::MAX], |_| {})),
        ("do not ascend within", penalties(2, 0, &[3, 3], |_| {})),
        ("do not ascend within", penalties(2, 0, &[3, 2], |_| {})),
        ("not in the list", penalties(3, 0, &[1, 2], |_| {})),
        ("not in the list", penalties(0, 3, &[1, 2], |_| {})),
        ("not in the list", penalties(1, u32::MAX, &[1, 2], |_| {})),
        ("not in the list", penalties(u32::MAX, 1, &[1, 2], |_| {})),
        ("more tokens than", penalties(0, 0, &[many.clone(), many].concat(), |_| {})),
        ("out of range", penalties(1, 0, &[1], |row| row.repeat = 0.0)),
        ("out of range", penalties(1, 0, &[1], |row| row.repeat = f32::INFINITY)),
        ("out of range", penalties(1, 0, &[1], |row| row.presence = f32::NAN)),
        ("out of range", penalties(1, 0, &[1], |row| row.frequency = f32::NEG_INFINITY)),
    ] {
        let error = engine.begin(bad).unwrap_err();
        assert!(error.kind == ErrorKind::BadInput && error.message.contains(what), "{what}: {error}");
    }
}

#[test]
fn input_that_kernels_could_not_take_is_refused() {
    let model = Parts::new().load().unwrap();
    let mut engine = Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(4, 2)).unwrap();
    engine.begin(input()).unwrap();
    let params = |p: SampleParams| move |i: &mut StepInput| i.sampling = vec![p; 2];
    let cases: [(&str, Change); 15] = [
        ("do not stand together", Box::new(|i| i.sequence = vec![0, 1, 0, 1])),
        ("do not ascend one by one at 1", Box::new(|i| i.positions = vec![0, 1, 2, 1])),
        ("do not ascend one by one at 0", Box::new(|i| i.positions = vec![0, 0, 2, 3])),
        ("do not ascend one by one at 3", Box::new(|i| i.positions = vec![0, 1, 1, 3])),
        ("position 4 of sequence 1 is out of range", Box::new(|i| i.positions[3] = 4)),
        ("of sequence 2 is out of range", Box::new(|i| i.sequence[3] = 2)),
        ("has no page", Box::new(|i| i.page_table[1] = 4)),
        ("0 and 1 would both write to page 1", Box::new(|i| i.page_table = vec![1, 1])),
        (
            "sequence 0 would write to page 0, which sequence 1 has",
            Box::new(|i| (i.positions, i.page_table) = (vec![0, 1, 4, 5], vec![0, 3, 0, 1])),
        ),
        ("0 and 1 would both write to ring slot 1", Box::new(|i| i.ring_slot = vec![1, 1])),
        ("a ring slot is out of range", Box::new(|i| i.ring_slot = vec![0, -1])),
        ("differ in length", Box::new(|i| i.page_table = vec![0, 1, 2])),
        ("not in the vocabulary", Box::new(|i| i.token_ids[0] = -1)),
        ("sampling", Box::new(params(SampleParams { least: u32::MAX, ..SampleParams::default() }))),
        ("sampling", Box::new(params(SampleParams { scale: f32::NAN, ..SampleParams::default() }))),
    ];
    for (what, change) in cases {
        let mut changed = input();
        change(&mut changed);
        let error = engine.begin(changed).unwrap_err();
        assert!(error.kind == ErrorKind::BadInput && error.message.contains(what), "{what}: {error}");
    }
}
