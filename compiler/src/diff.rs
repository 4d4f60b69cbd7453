//! Two executors on one plan, step by step.

use hyc_ir::plan::{BufferId, Operand, Plan};
use hyc_runtime::{Engine, MemoryPlan, Model, SessionOptions, StepInput, Values, open_executor};

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interpreter;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Random tokens.
    pub tokens: usize,
    /// Their seed.
    pub seed: u64,
    /// Largest relative error that counts as equal.
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
    /// The first step that differs.
    pub first: Option<Difference>,
}

/// The first difference.
#[derive(Debug)]
pub struct Difference {
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
pub fn diff(model: &Model, session: &SessionOptions, options: &Options) -> Result<Report> {
    let m = &model.plan().model;
    let tokens = (options.tokens as u64).clamp(1, m.max_context);
    let pages = m.max_context.div_ceil(m.page);
    let memory = MemoryPlan::new(model, pages, 1, session.thread_count());
    let executor = open_executor(model, session, &memory, &mut |_, _| true)?;
    let mut ours = Engine::new(model, executor, pages, 1)?;
    let mut reference = Engine::new(model, Box::new(Interpreter), pages, 1)?;
    let mut report = Report { steps: 0, worst: 0.0, worst_step: String::new(), first: None };
    let mut state = options.seed;
    let mut begin = 0;
    while begin < tokens {
        let end = tokens.min(begin + m.chunk);
        let input = chunk(begin..end, pages, m.vocab, &mut state);
        ours.begin(input.clone())?;
        reference.begin(input)?;
        for (index, step) in model.plan().steps.iter().enumerate() {
            ours.run_step(index)?;
            reference.run_step(index)?;
            report.steps += 1;
            for (operand, role) in step.operands.iter().zip(step.op.signature()) {
                let (Operand::Buffer(id), true) = (operand, role.write) else { continue };
                let found = compare(model.plan(), &ours, &reference, *id)?;
                if found.error > report.worst {
                    report.worst = found.error;
                    report.worst_step = format!("step {index}, {}", step.name);
                }
                if found.error > options.tolerance || found.error.is_nan() {
                    let step = format!("step {index}, {}", step.name);
                    report.first = Some(Difference { step, operand: role.name, ..found });
                    return Ok(report);
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
    }
}

fn compare(plan: &Plan, ours: &Engine<'_>, reference: &Engine<'_>, id: BufferId) -> Result<Difference> {
    let buffer = &plan.buffers[id.index()];
    let (a, b) = match (ours.buffer(id)?, reference.buffer(id)?) {
        (Values::F32(a), Values::F32(b)) => (a, b),
        (Values::I32(a), Values::I32(b)) => {
            let list = buffer.selection.map_or(buffer.width, |select| select.blocks);
            return Ok(compare_choices(&buffer.name, &a, &b, list as usize));
        }
        _ => return Err(Error::new(ErrorKind::Internal, "two executors disagree on a buffer's type")),
    };
    let wide = |list: Vec<f32>| -> Vec<f64> { list.into_iter().map(f64::from).collect() };
    let (a, b) = (wide(a), wide(b));
    let norm: f64 = b.iter().map(|x| x * x).sum();
    let distance: f64 = a.iter().zip(&b).map(|(x, y)| (x - y) * (x - y)).sum();
    let worst =
        (0..a.len()).max_by(|i, j| (a[*i] - b[*i]).abs().total_cmp(&(a[*j] - b[*j]).abs())).unwrap_or(0);
    Ok(Difference {
        step: buffer.name.clone(),
        operand: "",
        element: worst,
        ours: a.get(worst).copied().unwrap_or(0.0),
        reference: b.get(worst).copied().unwrap_or(0.0),
        error: (distance / norm.max(1e-30)).sqrt(),
    })
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
    Difference { step: name.into(), operand: "", element, ours: at(ours), reference: at(reference), error }
}
