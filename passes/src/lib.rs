//! The passes of `hyc`: graph in, graph out, and at the end a Plan. Nothing here knows a target; which ways a
//! target has to compute a step is asked through [`Backend::candidates`].

mod decided;
mod detect_chains;
mod error;
mod fp8_rows;
mod fuse_branches;
mod fuse_epilogues;
mod fuse_topk;
mod kernel_name;
mod kv_table;
mod lifetimes;
mod limits;
mod list_pages;
mod lower;
mod origins;
mod plan_kv;
mod plan_memory;
mod quantise_kv;
mod rewrite;
mod schedule;
mod select_kernels;
mod slices;
mod tile_rows;
mod told_plan;
mod told_slices;

use std::time::Instant;

use hyc_ir::{Graph, verify};
use hyc_plan::{Backend, Plan};

pub use decided::Decided;
pub use error::PassError;
pub use kv_table::{CONTEXTS, KvRow, KvTable, kv_table};
pub use lower::Lowered;
pub use origins::{Origins, origins};
pub use plan_memory::{Arena, Placement};
pub use select_kernels::{KernelChoice, Selected};
pub use told_plan::steps;

/// The passes in their order; each one's file says what it does, with the graph before and after.
pub const PASSES: &[&str] = &[
    "detect-chains",
    "plan-kv",
    "fuse-topk",
    "fuse-branches",
    "fuse-epilogues",
    "quantise-kv",
    "tile-rows",
    "fp8-rows",
    "list-pages",
    "plan-memory",
    "select-kernels",
    "schedule",
];

/// Rewrites a graph and says how often.
type Rewrite = fn(&mut Graph, &dyn Backend) -> Result<usize, PassError>;

/// The passes that rewrite the graph; the others compute side tables from it.
const REWRITES: &[(&str, Rewrite)] = &[
    ("detect-chains", |graph, _| detect_chains::run(graph)),
    ("plan-kv", |graph, _| plan_kv::run(graph)),
    ("fuse-topk", |graph, _| fuse_topk::run(graph)),
    ("fuse-branches", |graph, _| fuse_branches::run(graph)),
    ("fuse-epilogues", fuse_epilogues::run),
    ("quantise-kv", |graph, _| quantise_kv::run(graph)),
    ("tile-rows", tile_rows::run),
    ("fp8-rows", fp8_rows::run),
    ("list-pages", list_pages::run),
];

/// Whether a pass rewrites the graph; the others compute side tables from it.
pub fn rewrites(pass: &str) -> bool {
    REWRITES.iter().any(|(name, _)| *name == pass)
}

/// What happened in one pass.
pub struct PassReport<'a> {
    /// The pass.
    pub name: &'static str,
    /// The graph after it.
    pub graph: &'a Graph,
    /// What it computed beside the graph: `None` for a pass that rewrites.
    pub decided: Option<Decided<'a>>,
    /// Rewrites made; for the last three passes buffers, kernels and steps.
    pub changes: usize,
    /// Wall time.
    pub seconds: f64,
}

/// The pipeline's result.
pub struct Compiled {
    /// The graph after the last rewrite.
    pub graph: Graph,
    /// The Plan, without code.
    pub plan: Plan,
}

/// Runs all passes, with the verifier after each rewrite. A dump printed after any pass may come in again:
/// passes that have run before find nothing to do.
///
/// Errors: a graph for another target than the back end's, or that the verifier refuses, before or after a pass; sizes beyond all limits; an op that
/// the target has no kernel for; an observer that returns false, which ends it.
pub fn run(
    mut graph: Graph,
    backend: &dyn Backend,
    observer: &mut dyn FnMut(&PassReport<'_>) -> bool,
) -> Result<Compiled, PassError> {
    check("input", &graph)?;
    limits::check(&graph)?;
    let (wanted, made) = (graph.header.target, backend.target().kind());
    if wanted != made {
        let message = format!("the graph is for target `{wanted}`, the back end makes code for `{made}`");
        return Err(PassError::new("pipeline", message));
    }
    for (name, rewrite) in REWRITES {
        let start = Instant::now();
        let changes = rewrite(&mut graph, backend)?;
        check(name, &graph)?;
        let seconds = start.elapsed().as_secs_f64();
        told(observer, &PassReport { name, graph: &graph, decided: None, changes, seconds })?;
    }
    let mut report = |name, changes, decided, start: Instant| {
        let (decided, seconds) = (Some(decided), start.elapsed().as_secs_f64());
        told(observer, &PassReport { name, graph: &graph, decided, changes, seconds })
    };
    let start = Instant::now();
    let arena = plan_memory::run(&graph)?;
    report("plan-memory", arena.placements.len(), Decided::Memory(&arena), start)?;

    let start = Instant::now();
    let selected = select_kernels::run(&graph, backend)?;
    report("select-kernels", selected.kernels.len(), Decided::Kernels(&selected), start)?;

    let start = Instant::now();
    let plan = schedule::run(&graph, &arena, &selected, backend)?;
    report("schedule", plan.steps.len(), Decided::Plan(&plan), start)?;
    Ok(Compiled { graph, plan })
}

fn told(observer: &mut dyn FnMut(&PassReport<'_>) -> bool, report: &PassReport<'_>) -> Result<(), PassError> {
    match observer(report) {
        true => Ok(()),
        false => Err(PassError::new(report.name, "stopped after this pass, as was asked".to_string())),
    }
}

/// Runs one rewriting pass, with the verifier before and after it. Returns the rewrites made.
pub fn run_named(name: &str, graph: &mut Graph, backend: &dyn Backend) -> Result<usize, PassError> {
    let Some((name, pass)) = REWRITES.iter().find(|(pass, _)| *pass == name) else {
        let names: Vec<&str> = REWRITES.iter().map(|(name, _)| *name).collect();
        return Err(PassError::new("pipeline", format!("no rewriting pass is named `{name}`"))
            .help(format!("they are: {}", names.join(", "))));
    };
    check("input", graph)?;
    limits::check(graph)?;
    let changes = pass(graph, backend)?;
    check(name, graph)?;
    Ok(changes)
}

/// Where the arena's buffers are placed for this graph, for reports and tests.
pub fn plan_memory(graph: &Graph) -> Result<Arena, PassError> {
    plan_memory::run(graph)
}

fn check(pass: &'static str, graph: &Graph) -> Result<(), PassError> {
    verify::verify(graph).map_err(|violations| {
        // The first one's line is the error's own.
        let mut faults = violations.clone();
        let line = faults.first_mut().and_then(|violation| violation.line.take());
        let when = if pass == "input" { "" } else { " after this pass" };
        let message = format!("the graph is not valid{when}: {}", error::listed(&faults));
        PassError { line, ..PassError::new(pass, message) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rewrites_are_the_first_passes() {
        let rewrites: Vec<&str> = REWRITES.iter().map(|(name, _)| *name).collect();
        assert_eq!(rewrites, PASSES[..rewrites.len()]);
    }
}
