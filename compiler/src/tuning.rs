//! Measurements of kernels' variants: made on a GPU, kept as a table, read where kernels are chosen.

use std::path::Path;
use std::sync::Arc;

use hyc_kernels::table::{self, Entry, Table};
use hyc_plan::{Kernel, KernelId, ModelInfo, Plan, Step, Target, Timing, Variant};
use hyc_runtime::{Model, SessionOptions};

use crate::error::{Error, Result};
use crate::input;
use crate::measure::{Bench, Sizes};
use crate::terminal;
use crate::words::place;

/// Passes that are timed of each step, after one that warms up; the median counts.
const ROUNDS: usize = 7;

/// Reads a table. Errors: no such file; what is wrong with it.
pub fn read(path: &Path) -> Result<Arc<Table>> {
    let bytes = input::read("read", path, input::TEXT_BYTES)?;
    let table = Table::parse(&String::from_utf8_lossy(&bytes));
    let table = table.map_err(|e| {
        Error::input(format!("{}: {e}", place(path))).help("give a file that `hyc tune --out` has written")
    })?;
    Ok(Arc::new(table))
}

/// Says which of a table's measurements the plan's kernels were not chosen by, where some were not. `path`: of a table that
/// was given, in place of the one that comes with hyc. `card`: the one that was asked for.
pub fn note_unused(table: &Table, path: Option<&Path>, plan: &Plan, card: Option<&str>) {
    let source = path.map_or("the table that comes with hyc".to_string(), |path| place(path).to_string());
    let Target::Nvidia(gpu) = &plan.target else {
        return terminal::note(&format!("note: {source}: a processor's kernels have one variant each\n"));
    };
    let card = card.unwrap_or(gpu.arch.card());
    let variants = || plan.kernels.iter().flat_map(|kernel| &kernel.variants);
    let (used, stale) = (variants().any(|v| !v.measured.is_empty()), variants().filter(|v| v.stale).count());
    let mut note = Vec::new();
    if stale > 0 {
        note.push(format!("{stale} measurements are of other code than this build makes, and were not used"));
    }
    if !used && stale == 0 {
        let mut cards: Vec<&str> = table.entries.iter().map(|entry| entry.card.as_str()).collect();
        cards.sort_unstable();
        cards.dedup();
        note.push(match (cards.contains(&card), cards.as_slice()) {
            (true, _) => "it has no measurements of these kernels".to_string(),
            (false, []) => "it is empty".to_string(),
            (false, cards) => format!(
                "its measurements are of {}, and those of {card} count (`--card`)",
                cards.join(" and ")
            ),
        });
    }
    if !note.is_empty() {
        terminal::note(&format!("note: {source}: {}; `hyc tune` makes new ones\n", note.join("; ")));
    }
}

/// A step that is measured: so many sequences, each with rows `begin..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    begin: u64,
    end: u64,
    batch: u64,
}

/// Steps of a model whose sequences end at `context` tokens: decodes as far as there may be sequences, then parts of one
/// prompt, in powers of two and of as many rows as there may be.
fn shapes(m: &ModelInfo, context: u64) -> Vec<Shape> {
    let sequences = m.max_batch.min(m.max_outputs).min(m.chunk);
    let counts = |most: u64| {
        let powers = (0..u64::BITS).map(|i| 1 << i).take_while(move |n| *n < most);
        powers.chain([most])
    };
    let decodes = counts(sequences).map(|batch| Shape { begin: context - 1, end: context, batch });
    let most = m.chunk.min(context);
    let parts = counts(most).filter(|rows| *rows > sequences);
    decodes.chain(parts.map(|rows| Shape { begin: context - rows, end: context, batch: 1 })).collect()
}

/// The pages that these take.
fn sizes(m: &ModelInfo, shapes: &[Shape]) -> Sizes {
    let most = |f: &dyn Fn(&Shape) -> u64| shapes.iter().map(f).max().unwrap_or(1);
    Sizes { batch: most(&|s| s.batch), pages: most(&|s| s.batch * s.end.div_ceil(m.page)) }
}

/// Measures every variant of a model's kernels, each sequence having `context` tokens, which the model takes. `check` may end it between two steps.
///
/// Errors: not a GPU's model; no code of some variant; a device's.
pub fn measure(
    model: &Arc<Model>,
    options: &SessionOptions,
    context: u64,
    check: &dyn Fn() -> Result<()>,
) -> Result<Vec<Entry>> {
    let plan = model.plan();
    let subjects = subjects(plan);
    let without = |kernel: &&Kernel| kernel.variants.iter().any(|v| !kernel.has_code(&v.name));
    let wrong = match plan.kernels.iter().find(without) {
        _ if plan.target.is_host() => {
            Some("a processor's kernels have one variant each: there is nothing to choose".to_string())
        }
        Some(kernel) => Some(format!("this artefact does not have code of all variants of {}", kernel.name)),
        None if subjects.is_empty() => {
            Some("each of its kernels has one variant: there is nothing to choose".to_string())
        }
        None => None,
    };
    if let Some(message) = wrong {
        return Err(Error::input(message).help("compile the model with `--target sm_90a --all-variants`"));
    }
    let shapes = shapes(&plan.model, context);
    let mut bench = Bench::new(model, options, sizes(&plan.model, &shapes), None)?;
    bench.fill()?;
    let Some(card) = bench.device_name()? else { return Ok(vec![]) };
    let most = subjects.iter().map(|subject| subject.kernel.variants.len()).max().unwrap_or(0);
    let mut entries: Vec<Vec<Entry>> = subjects.iter().map(|s| s.entries(plan, &card, context)).collect();
    for shape in shapes {
        for turn in 0..most {
            // Each subject's next variant, all in one pass.
            for subject in &subjects {
                let variants = &subject.kernel.variants;
                bench.force_variant(subject.id, &variants[turn % variants.len()].name)?;
            }
            let times = bench.step_seconds((shape.begin, shape.end), shape.batch, ROUNDS, check)?;
            for (subject, entries) in subjects.iter().zip(&mut entries) {
                let Some(entry) = entries.get_mut(turn) else { continue };
                let (tokens, outputs) = (shape.batch * (shape.end - shape.begin), shape.batch);
                let rows = subject.kernel.rows.count(tokens, outputs);
                let known = entry.times.last().is_some_and(|last| last.rows >= rows);
                if subject.kernel.variants[turn].rows.contains(rows) && !known {
                    entry.times.push(Timing { rows, ns: mean_ns(plan, subject.id, &times) });
                }
            }
        }
    }
    Ok(entries.into_iter().flatten().filter(|entry| !entry.times.is_empty()).collect())
}

/// What a step of the kernel took, in the mean.
fn mean_ns(plan: &Plan, kernel: KernelId, seconds: &[f64]) -> u64 {
    let own = || plan.steps.iter().zip(seconds).filter(|(step, _)| step.kernel == kernel);
    let (sum, count) = (own().map(|(_, seconds)| seconds).sum::<f64>(), own().count().max(1));
    ((sum / count as f64 * 1e9) as u64).max(1)
}

/// A kernel with several variants, and a step that it runs.
struct Subject<'p> {
    id: KernelId,
    kernel: &'p Kernel,
    step: &'p Step,
}

fn subjects(plan: &Plan) -> Vec<Subject<'_>> {
    let subject = |(kernel, id): (&'_ Kernel, u32)| {
        let id = KernelId(id);
        let step = plan.steps.iter().position(|step| step.kernel == id)?;
        // Where there is nothing to do, there is nothing to choose.
        let some = kernel.variants.iter().filter(|variant| variant.launches > 0);
        (some.count() > 1).then_some((id, step))
    };
    let found = plan.kernels.iter().zip(0..).filter_map(subject);
    found
        .map(|(id, step)| Subject { id, kernel: &plan.kernels[id.index()], step: &plan.steps[step] })
        .collect()
}

impl Subject<'_> {
    /// An entry for each variant, without times.
    fn entries(&self, plan: &Plan, card: &str, context: u64) -> Vec<Entry> {
        let spec = table::key(&plan.spec(self.step));
        let entry = |variant: &Variant| Entry {
            card: card.to_string(),
            kernel: self.kernel.name.clone(),
            spec: spec.clone(),
            variant: variant.name.clone(),
            code: variant.code.clone(),
            context,
            times: vec![],
        };
        self.kernel.variants.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_decodes_and_then_parts_of_a_prompt() {
        let model = |max_batch, chunk, max_outputs| ModelInfo {
            name: "t".into(),
            layers: 1,
            hidden: 8,
            vocab: 8,
            named: None,
            max_context: 512,
            max_batch,
            chunk,
            max_outputs,
            page: 64,
        };
        let rows = |m: &ModelInfo, context| -> Vec<u64> {
            shapes(m, context).iter().map(|s| s.batch * (s.end - s.begin)).collect()
        };
        assert_eq!(rows(&model(4, 48, 4), 512), [1, 2, 4, 8, 16, 32, 48]);
        assert_eq!(rows(&model(5, 64, 8), 512), [1, 2, 4, 5, 8, 16, 32, 64]);
        // A prompt is no longer than the context, a decode no wider than rows of logits or a chunk.
        assert_eq!(rows(&model(64, 48, 3), 20), [1, 2, 3, 4, 8, 16, 20]);
        assert_eq!(rows(&model(64, 8, 64), 1), [1, 2, 4, 8]);
        let m = model(4, 48, 4);
        let sizes = sizes(&m, &shapes(&m, 100));
        assert_eq!((sizes.batch, sizes.pages), (4, 8));
    }
}
