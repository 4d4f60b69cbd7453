//! The watchdog of slices: with no patience at all the first task that has to wait for another ends its launch, and the error
//! names the steps of both. The process is of no use behind it, so that it looks at one artefact.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyc_plan::Plan;
use hyc_runtime::{ErrorKind, GpuOptions, LoadOptions, Model, Session, SessionOptions};
use hyc_tests::{Table, text};

/// Have a launch of slices give up
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts with weights: the first one with slices is taken
    #[arg(default_value = "target/gpu/models")]
    folder: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
}

/// Decode steps, of which the first that has slices fails.
const STEPS: usize = 8;

fn main() -> ExitCode {
    let args = Args::parse();
    let mut table = Table::default();
    match first(&args) {
        Ok((name, model)) => table.row(&name, "gives up", gives_up(&model)),
        Err(message) => table.row("", "gives up", Err(message)),
    }
    table.finish()
}

/// The first artefact with slices, with its name. Errors: there is none; one cannot be read.
fn first(args: &Args) -> Result<(String, Arc<Model>), String> {
    let entries = std::fs::read_dir(&args.folder).map_err(|e| format!("{}: {e}", args.folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "hyc")) {
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        if !name.contains(&args.filter) {
            continue;
        }
        let model = load(path)?;
        if !model.plan().slices.is_empty() {
            return Ok((name, model));
        }
    }
    Err(format!("{} has no artefact with slices", args.folder.display()))
}

fn load(path: &Path) -> Result<Arc<Model>, String> {
    // SAFETY: tests/gpu/build.sh made it.
    Ok(Arc::new(unsafe { Model::load(path, &LoadOptions::default()) }.map_err(text)?))
}

/// Whether a step fails, with the names of two steps of a slice.
fn gives_up(model: &Arc<Model>) -> Result<String, String> {
    let gpu = GpuOptions { slices: true, patience: Duration::ZERO, ..GpuOptions::default() };
    let options = SessionOptions { max_sequences: Some(1), gpu, ..SessionOptions::default() };
    let mut session = Session::new(Arc::clone(model), &options).map_err(text)?;
    let id = session.add_sequence().map_err(text)?;
    for step in 0..STEPS {
        session.feed(id, &[1]).map_err(text)?;
        let Err(error) = session.step() else { continue };
        if error.kind != ErrorKind::Device {
            return Err(format!("step {step}: {error}"));
        }
        return match names_a_wait(model.plan(), &error.message) {
            true => Ok(format!("step {step}: {}", error.message)),
            false => Err(format!("step {step} names no task that waited: {error}")),
        };
    }
    Err(format!("{STEPS} steps, none of which waited for anything"))
}

/// Whether a message says that a task of a slice's step waited, and for which other.
fn names_a_wait(plan: &Plan, message: &str) -> bool {
    let Some((task, awaited)) = message.split_once(" waited in vain for ") else { return false };
    plan.slices.iter().any(|slice| {
        let names = || slice.steps().map(|index| format!("step {index}, {},", plan.steps[index].name));
        let waits = |name: String| task.starts_with(&format!("a task of {name}"));
        names().any(waits) && names().any(|name| awaited.starts_with(&name))
    })
}
