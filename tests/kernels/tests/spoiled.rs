//! The check of kernels can fail: results that are wrong in one place, and the reference's own on other inputs or for
//! another kernel, are told from right ones.

use std::collections::BTreeMap;

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{Batch, Case, Fill, Memory, Rng, cases, memory, run_reference};
use hyc_plan::*;

/// A case that the reference has run.
struct Run<'a> {
    case: &'a Case,
    batch: Batch,
    before: Vec<Memory>,
    /// All operands behind the step.
    after: Vec<Memory>,
}

/// What `spec` leaves of the operands, inputs included.
fn after(spec: &KernelSpec, batch: &Batch, before: &[Memory]) -> Vec<Memory> {
    let written = run_reference(spec, batch, before, &rows(spec, batch));
    let roles = spec.op.roles();
    let operands = roles.iter().zip(before.iter().zip(&written));
    operands.map(|(role, (b, w))| if role.writes() { w } else { b }.clone()).collect()
}

fn rows(spec: &KernelSpec, batch: &Batch) -> Vec<u64> {
    (0..if spec.rows == Rows::Tokens { batch.rows() } else { batch.outputs() }).collect()
}

impl<'a> Run<'a> {
    fn new(case: &'a Case, seed: u64) -> Run<'a> {
        let mut rng = Rng::of(seed, &case.name());
        let batch = case.batch(&mut rng);
        let before = memory(&mut rng, &case.spec, &batch, case.fill);
        let after = after(&case.spec, &batch, &before);
        Run { case, batch, before, after }
    }

    /// Whether these operands pass as what the case must leave.
    fn passes(&self, got: &[Memory]) -> bool {
        let (spec, batch) = (&self.case.spec, &self.batch);
        let rows = rows(spec, batch);
        let step = Step { spec, batch, before: &self.before, want: &self.after, got, rows: &rows };
        let margin = if self.case.selects_exactly() { 0.0 } else { 1e-6 };
        step.check(&Limits { error: self.case.f32_error, bf16_cache: 3e-3, margin }).is_ok()
    }

    /// The operands with one changed.
    fn spoiled(&self, operand: usize, change: impl FnOnce(&mut [u8])) -> Vec<Memory> {
        let mut got = self.after.clone();
        change(got[operand].bytes_mut());
        got
    }
}

fn small() -> Vec<Case> {
    cases::portable().into_iter().filter(|case| case.small).collect()
}

fn change<T>(bytes: &mut [u8], at: u64, size: usize, to: impl FnOnce([u8; 4]) -> T)
where
    T: Into<Vec<u8>>,
{
    let at = at as usize * size;
    let mut word = [0; 4];
    word[..size].copy_from_slice(&bytes[at..at + size]);
    bytes[at..at + size].copy_from_slice(&to(word).into()[..size]);
}

/// Entries of one list of indices.
fn list_len(op: &StepOp) -> u64 {
    match op {
        StepOp::OracleAttention(ops::OracleAttention { select, .. }) => select.blocks,
        StepOp::Router(ops::Router { active, .. }) => *active,
        _ => 1,
    }
}

/// Wrong results in one place of written operand `i`, each with a name.
fn wrong(run: &Run<'_>, rng: &mut Rng, i: usize) -> Vec<(&'static str, Vec<Memory>)> {
    let spec = &run.case.spec;
    let row = rng.below(rows(spec, &run.batch).len() as u64);
    // A router's row with a logit that is NaN, or infinite in a softmax: its shares are none, and any experts may stand there.
    let hopeless = match spec.op {
        StepOp::Router(op) if run.case.fill == Fill::BadLogits && row % 3 == 0 => match row / 3 % 3 {
            0 => true,
            1 => op.rule.scores == Scores::Softmax,
            _ => false,
        },
        _ => false,
    };
    match spec.operands[i] {
        OperandSpec::Tensor { elem: Elem::I32, width, stride } => {
            let at = row * stride + rng.below(width);
            let first = row * stride;
            let mut all = vec![
                ("an index that is none", run.spoiled(i, |b| change(b, at, 4, |_| i32::MAX.to_le_bytes()))),
                ("an index too few", run.spoiled(i, |b| change(b, first, 4, |_| (-1i32).to_le_bytes()))),
            ];
            let list = run.after[i].bytes();
            let word = |col: u64| {
                let at = 4 * (first + col) as usize;
                i32::from_le_bytes([list[at], list[at + 1], list[at + 2], list[at + 3]])
            };
            if list_len(&spec.op) > 1 && word(1) >= 0 && !hopeless {
                all.push((
                    "an index twice",
                    run.spoiled(i, |b| change(b, first + 1, 4, |_| word(0).to_le_bytes())),
                ));
                let swapped = run.spoiled(i, |b| {
                    change(b, first, 4, |_| word(1).to_le_bytes());
                    change(b, first + 1, 4, |_| word(0).to_le_bytes());
                });
                all.push(("two indices swapped", swapped));
            }
            all
        }
        OperandSpec::Tensor { width, stride, .. } => {
            let at = row * stride + rng.below(width);
            let values = run.after[i].bytes()[4 * (row * stride) as usize..][..4 * width as usize].chunks(4);
            let square = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).powi(2);
            let rms = (values.map(square).sum::<f32>() / width as f32).sqrt();
            let off = |word: [u8; 4]| {
                let x = f32::from_le_bytes(word);
                (x + 20.0 * run.case.f32_error as f32 * x.abs().max(rms).max(1e-20)).to_le_bytes()
            };
            let end = rows(spec, &run.batch).len() as u64 * stride;
            let (word, number) = if hopeless { ("a number", 0.5) } else { ("no number", f32::NAN) };
            let mut all = vec![
                (word, run.spoiled(i, |b| change(b, at, 4, |_| f32::to_le_bytes(number)))),
                ("an element behind the end", run.spoiled(i, |b| change(b, end, 4, |_| 1f32.to_le_bytes()))),
            ];
            if !hopeless {
                all.push(("an element", run.spoiled(i, |b| change(b, at, 4, off))));
            }
            all
        }
        OperandSpec::Cache(cache) => {
            let (sequence, position) = (run.batch.sequence(row), run.batch.position(row));
            let (size, place) = (cache.codec.bytes() as usize, position % cache.page);
            let base = run.batch.page_base(&cache, sequence, position) / size as u64;
            let head = rng.below(cache.kv_heads);
            let key = base + cache.key_index(head, place, rng.below(cache.qk_dim));
            let value = base + cache.value_index(head, place, rng.below(cache.v_dim));
            // 8.0 in both formats, by its upper half.
            let eight = |word: [u8; 4]| match size {
                4 => vec![0, 0, 0, 0x41],
                2 => vec![0, 0x41],
                // Another code.
                _ => vec![word[0] ^ 1],
            };
            let last = (run.after[i].bytes().len() / size - 1) as u64;
            let mut all = vec![
                ("a key", run.spoiled(i, |b| change(b, key, size, eight))),
                ("a value", run.spoiled(i, |b| change(b, value, size, eight))),
                ("an element of nobody's", run.spoiled(i, |b| change(b, last, size, eight))),
            ];
            if cache.codec.scaled() {
                let at = (base + cache.scale_offset(head, true)) / 4 + place;
                all.push(("a scale", run.spoiled(i, |b| change(b, at, 4, |_| 8f32.to_le_bytes()))));
            }
            all
        }
        OperandSpec::Weight(_) => Vec::new(),
    }
}

#[test]
fn one_wrong_place_is_caught() {
    let seed = Rng::fresh_seed();
    println!("seed {seed}");
    let mut spoils = 0;
    for case in &small() {
        let run = Run::new(case, seed);
        assert!(run.passes(&run.after), "{}: the reference is not what it is", case.name());
        let mut rng = Rng::of(seed, "places");
        for (i, role) in case.spec.op.roles().iter().enumerate() {
            let input = |b: &mut [u8]| b[0] ^= 1;
            let wrong = if role.writes() {
                wrong(&run, &mut rng, i)
            } else {
                vec![("an input", run.spoiled(i, input))]
            };
            for (name, got) in wrong {
                assert!(!run.passes(&got), "{}: {name} of operand {i} is wrong and passes", case.name());
                spoils += 1;
            }
        }
    }
    assert!(spoils > 500, "{spoils}");
}

/// The reference on other inputs gives other results, for each input of each kernel: no case is blind to one.
#[test]
fn every_input_matters() {
    let mut seen: BTreeMap<(String, usize), bool> = BTreeMap::new();
    // Equal keys are equal whatever the query.
    for case in small().iter().filter(|case| case.fill != Fill::EqualKeys) {
        let run = Run::new(case, 5);
        let other = memory(&mut Rng::of(6, &case.name()), &case.spec, &run.batch, case.fill);
        for (i, role) in case.spec.op.roles().iter().enumerate() {
            if role.writes() || other[i].bytes() == run.before[i].bytes() {
                continue;
            }
            let mut before = run.before.clone();
            before[i] = other[i].clone();
            let mut got = after(&case.spec, &run.batch, &before);
            got[i] = run.before[i].clone();
            *seen.entry((hyc_kernel_tests::case::label(&case.spec), i)).or_default() |= !run.passes(&got);
        }
    }
    let blind: Vec<_> = seen.iter().filter(|(_, caught)| !**caught).collect();
    assert!(blind.is_empty() && seen.len() > 100, "{} inputs, without effect: {blind:?}", seen.len());
}

/// A kernel that is wrong in a parameter.
fn mutated(spec: &KernelSpec) -> Option<KernelSpec> {
    let mut spec = spec.clone();
    match &mut spec.op {
        StepOp::WindowAttention(ops::WindowAttention { window, .. })
        | StepOp::HybridAttention(ops::HybridAttention { window, .. }) => *window -= 1,
        StepOp::Rope(ops::Rope { rope, .. }) | StepOp::QkvAppend(ops::QkvAppend { rope, .. }) => {
            if rope.scaling.take().is_none() {
                rope.theta *= 1.5;
            }
        }
        StepOp::RmsNorm(ops::RmsNorm { eps, .. }) | StepOp::Linear(ops::Linear { norm: Some(eps), .. }) => {
            *eps += 0.1
        }
        // What is whole where all are chosen is what is not, and with a bias there are other operands.
        StepOp::Router(ops::Router { rule, .. }) => rule.scale *= 1.5,
        _ => return None,
    }
    Some(spec)
}

#[test]
fn a_wrong_parameter_is_caught() {
    let mut seen: BTreeMap<String, bool> = BTreeMap::new();
    for case in &small() {
        let Some(wrong) = mutated(&case.spec) else { continue };
        let run = Run::new(case, 7);
        let got = after(&wrong, &run.batch, &run.before);
        *seen.entry(hyc_kernel_tests::case::label(&case.spec)).or_default() |= !run.passes(&got);
    }
    let missed: Vec<_> = seen.iter().filter(|(_, caught)| !**caught).collect();
    assert!(missed.is_empty() && seen.len() > 20, "{} kernels, wrong ones that pass: {missed:?}", seen.len());
}
