//! Two runners on one plan, step by step.

use std::sync::Arc;

use hyc_plan::{BufferId, Operand, Plan};
use hyc_runtime::{Engine, KvRoom, MemoryPlan, Model, SessionOptions, StepInput, Values, open_runner};

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interpreter;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Random tokens, from 1 to the model's context.
    pub tokens: u64,
    /// Their seed.
    pub seed: u64,
    /// Largest relative error that counts as equal: finite, not negative.
    pub tolerance: f64,
}

/// How the two compare.
#[derive(Debug)]
pub struct Report {
    /// Steps compared.
    pub steps: usize,
    /// Largest relative error met.
    pub worst: f64,
    /// Where.
    pub worst_step: String,
    /// Tokens that ran.
    pub tokens: u64,
    /// What ended it.
    pub found: Found,
}

/// Whether the two agree.
#[derive(Debug)]
pub enum Found {
    /// They do.
    Equal,
    /// The first step that differs.
    Differs(Difference),
    /// The first step in which both have an infinity or NaN at the same place, and neither has one where the other
    /// has none: there the model's own numbers end.
    NotFinite(Difference),
}

/// An element of a step's result.
#[derive(Debug)]
pub struct Difference {
    /// Its place in the plan.
    pub index: usize,
    /// Step of the plan, as `step 31, L3.hybrid_attention`.
    pub step: String,
    /// Which of its results.
    pub operand: &'static str,
    /// Index of the element that differs most.
    pub element: usize,
    /// Ours.
    pub ours: f64,
    /// The interpreter's.
    pub reference: f64,
    /// ||ours - reference|| / ||reference||.
    pub error: f64,
}

/// Runs both on random tokens of one sequence, in chunks. Each step starts from the interpreter's results of those
/// before it (but for the caches, which each appends to by itself), so that a difference is that step's own.
pub fn diff(model: &Arc<Model>, session: &SessionOptions, options: &Options) -> Result<Report> {
    let m = &model.plan().model;
    let tokens = check(options, m.max_context)?;
    let pages = m.max_context.div_ceil(m.page);
    let room = KvRoom::new(pages, 1);
    let memory = MemoryPlan::new(model, room, session.thread_count());
    let mut ours = Engine::new(open_runner(model, session, &memory, &mut |_, _| true)?);
    let mut reference = Engine::with_kernels(model.clone(), Box::new(Interpreter), room)?;
    let mut report =
        Report { steps: 0, worst: 0.0, worst_step: String::new(), tokens: 0, found: Found::Equal };
    let mut state = options.seed;
    let mut begin = 0;
    while begin < tokens {
        let end = tokens.min(begin + m.chunk);
        report.tokens = end;
        let input = chunk(begin..end, pages, m.vocab, &mut state);
        ours.begin(input.clone())?;
        reference.begin(input)?;
        for (index, step) in model.plan().steps.iter().enumerate() {
            ours.run_step(index)?;
            reference.run_step(index)?;
            report.steps += 1;
            for (operand, role) in step.operands.iter().zip(step.op.roles()) {
                let (Operand::Buffer(id), true) = (operand, role.writes()) else { continue };
                let (found, finite) = compare(model.plan(), &ours, &reference, *id)?;
                let name = format!("step {index}, {}", step.name);
                let differs = found.error.is_nan() || found.error > options.tolerance;
                if differs || !finite {
                    let at = Difference { index, step: name, operand: role.name, ..found };
                    report.found = if differs { Found::Differs(at) } else { Found::NotFinite(at) };
                    return Ok(report);
                }
                if found.error > report.worst {
                    report.worst = found.error;
                    report.worst_step = name;
                }
                ours.adopt(&reference, *id)?;
            }
        }
        begin = end;
    }
    if report.steps == 0 {
        return Err(Error::new(ErrorKind::Input, "the plan has no steps"));
    }
    Ok(report)
}

/// The number of tokens. Errors: none, more than the context holds, a tolerance that is no number to compare with.
fn check(options: &Options, max_context: u64) -> Result<u64> {
    let usage = |message: String| Error::new(ErrorKind::Usage, message);
    if !(options.tolerance.is_finite() && options.tolerance >= 0.0) {
        return Err(usage(format!("a tolerance of {} compares nothing", options.tolerance))
            .help("give a finite number from 0, as `--tolerance 1e-3`"));
    }
    if options.tokens == 0 || options.tokens > max_context {
        return Err(usage(format!(
            "{} tokens cannot be run: the model was compiled for {max_context}",
            options.tokens
        ))
        .help(format!("give a number from 1, at most `--tokens {max_context}`")));
    }
    Ok(options.tokens)
}

fn chunk(range: std::ops::Range<u64>, pages: u64, vocab: u64, state: &mut u64) -> StepInput {
    let mut next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) % vocab) as i32
    };
    let rows = range.end - range.start;
    StepInput {
        token_ids: (0..rows).map(|_| next()).collect(),
        positions: range.map(|p| p as i32).collect(),
        sequence: vec![0; rows as usize],
        page_table: (0..pages as i32).collect(),
        ring_slot: vec![0],
        out_rows: vec![rows as i32 - 1],
        sampling: vec![],
        seen: vec![],
    }
}

/// How one buffer differs, and whether all of it is finite.
fn compare(plan: &Plan, ours: &Engine, reference: &Engine, id: BufferId) -> Result<(Difference, bool)> {
    let buffer = &plan.buffers[id.index()];
    match (ours.buffer(id)?, reference.buffer(id)?) {
        (Values::F32(a), Values::F32(b)) if a.len() == b.len() => Ok(compare_numbers(&buffer.name, &a, &b)),
        (Values::I32(a), Values::I32(b)) if a.len() == b.len() => {
            let list = buffer.selection.map_or(buffer.width, |select| select.blocks);
            Ok((compare_choices(&buffer.name, &a, &b, list as usize), true))
        }
        _ => Err(Error::new(ErrorKind::Internal, "two runners disagree on a buffer's type")),
    }
}

/// The relative error in the norm, and the element that differs most. Where one side alone is not finite the error
/// is infinite, and the element that one; else, where both are not, it is the first such element, and does not
/// count as a difference.
fn compare_numbers(name: &str, ours: &[f32], reference: &[f32]) -> (Difference, bool) {
    let at = |element: usize, error: f64| Difference {
        index: 0,
        step: name.to_string(),
        operand: "",
        element,
        ours: ours.get(element).copied().map_or(0.0, f64::from),
        reference: reference.get(element).copied().map_or(0.0, f64::from),
        error,
    };
    let mut pairs = ours.iter().zip(reference);
    if let Some(alone) = pairs.clone().position(|(a, b)| a.is_finite() != b.is_finite()) {
        return (at(alone, f64::INFINITY), true);
    }
    if let Some(both) = pairs.position(|(a, b)| !a.is_finite() && !b.is_finite()) {
        return (at(both, 0.0), false);
    }
    let apart = |i: usize| (f64::from(ours[i]) - f64::from(reference[i])).abs();
    let norm: f64 = reference.iter().map(|x| f64::from(*x).powi(2)).sum();
    let distance: f64 = (0..ours.len()).map(|i| apart(i).powi(2)).sum();
    let worst = (0..ours.len()).max_by(|i, j| apart(*i).total_cmp(&apart(*j))).unwrap_or(0);
    (at(worst, (distance / norm.max(1e-30)).sqrt()), true)
}

/// Chosen blocks or experts, in lists of `list`: the error is the share of choices that the reference has not made, or
/// that only it has made, or that were made before in the same list.
/// Their order is that of scores, which rounding may exchange.
fn compare_choices(name: &str, ours: &[i32], reference: &[i32], list: usize) -> Difference {
    let (mut others, mut first) = (0, None);
    for (i, (a, b)) in ours.chunks(list.max(1)).zip(reference.chunks(list.max(1))).enumerate() {
        let again = |at: usize| a[at] >= 0 && a[..at].contains(&a[at]);
        let other = (0..a.len()).find(|at| again(*at) || !b.contains(&a[*at]));
        let wrong = (0..a.len()).filter(|at| again(*at) || !b.contains(&a[*at])).count();
        others += wrong.max(b.iter().filter(|choice| !a.contains(choice)).count());
        first = first.or(other.map(|at| i * list + at));
    }
    let element = first.unwrap_or(0);
    let at = |list: &[i32]| list.get(element).map_or(0.0, |x| f64::from(*x));
    let error = others as f64 / ours.len().max(1) as f64;
    Difference {
        index: 0,
        step: name.into(),
        operand: "",
        element,
        ours: at(ours),
        reference: at(reference),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_on_one_side_alone_differs() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (ours, reference) in [([1.0, bad], [1.0, 2.0]), ([1.0, 2.0], [1.0, bad])] {
                let (found, _) = compare_numbers("x", &ours, &reference);
                assert!(found.error.is_infinite() && found.element == 1, "{found:?}");
            }
            let (found, finite) = compare_numbers("x", &[1.0, bad, 3.0], &[1.0, bad, 3.0]);
            assert!(!finite && found.error == 0.0 && found.element == 1, "{found:?}");
            // A difference elsewhere is one.
            let (found, _) = compare_numbers("x", &[bad, 3.0], &[bad, f32::NAN]);
            assert!(found.error.is_infinite() && found.element == 1, "{found:?}");
        }
        let (found, finite) = compare_numbers("x", &[f32::MAX, 0.0], &[-f32::MAX, 0.0]);
        assert!(finite && found.error == 2.0, "{found:?}");
        assert_eq!(compare_numbers("x", &[], &[]).0.error, 0.0);
    }

    #[test]
    fn a_tolerance_is_a_number() {
        let check = |tokens, tolerance| check(&Options { tokens, seed: 0, tolerance }, 211).is_ok();
        assert!(check(211, 0.0) && check(1, 1e-3));
        for tolerance in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert!(!check(4, tolerance), "{tolerance}");
        }
        assert!(!check(0, 1e-3) && !check(212, 1e-3));
    }
}
