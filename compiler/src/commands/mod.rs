//! The command line: one file per command; the doc comment on its arguments is its help.

mod activations;
mod add_weights;
mod bench;
mod chat;
mod check;
mod compile;
mod completions;
mod context;
mod destination;
mod diff;
mod doctor;
mod dump_args;
mod eval;
mod explain;
mod import;
mod inspect;
mod lines;
mod names;
mod prompt;
mod run;
mod sampling_args;
mod schema;
mod tune;
mod version;
mod view;

use std::sync::Arc;

use clap::{Parser, Subcommand};
use hyc_runtime::{GpuOptions, LoadOptions, Model, Session, SessionOptions};

use crate::error::{Error, ErrorKind, Result};
use crate::signal;
use crate::terminal::{self, Color};

/// An ahead-of-time compiler for HySparse language models.
///
/// Examples:
///   hyc import CHECKPOINT -o model.toml        make a description of a checkpoint of Hugging Face's
///   hyc check model.toml                       say what is wrong with a description, all at once
///   hyc compile model.toml -o model.hyc        compile a model and its weights into one file
///   hyc run model.hyc --prompt "Once upon"     stream a continuation
///   hyc chat model.hyc                         talk with a model that has a chat template
///   hyc compile --plan-only --json model.toml  sizes and KV table without weights
///   hyc inspect model.hyc kv                   what is in an artefact
///   hyc view model.toml -o page.html           the model as a page for a browser
#[derive(Debug, Parser)]
#[command(
    name = "hyc",
    disable_version_flag = true,
    verbatim_doc_comment,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// When to colour errors and help
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Print the version; with -v also commit, features, targets and processor
    #[arg(short = 'V', long)]
    version: bool,
    /// With --version: everything
    #[arg(short, long, requires = "version")]
    verbose: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Import(import::Args),
    Compile(compile::Args),
    AddWeights(add_weights::Args),
    Run(run::Args),
    Chat(chat::Args),
    Inspect(inspect::Args),
    View(view::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Tune(tune::Args),
    Diff(diff::Args),
    Explain(explain::Args),
    Schema(schema::Args),
    Doctor(doctor::Args),
    Version(version::Args),
    Completions(completions::Args),
}

/// Runs the command that the arguments name.
pub fn run(cli: Cli) -> Result<()> {
    if cli.version {
        return version::print(cli.verbose);
    }
    let Some(command) = cli.command else {
        return Err(Error::new(ErrorKind::Usage, "no command is given").help("`hyc help` lists them"));
    };
    match command {
        Command::Check(args) => check::run(args),
        Command::Import(args) => import::run(args),
        Command::Compile(args) => compile::run(args),
        Command::AddWeights(args) => add_weights::run(args),
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::View(args) => view::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Version(args) => version::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

/// What every command that computes on a processor takes.
#[derive(Debug, Clone, Copy, clap::Args)]
struct ThreadArgs {
    /// Threads, 1 to 1024: as many as the cores that this process may use, at most and without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    fn threads(self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

/// A session of one sequence of at most so many tokens.
fn one_sequence(threads: ThreadArgs, gpu: &GpuArgs, max_tokens: u64) -> SessionOptions {
    SessionOptions {
        threads: threads.threads(),
        max_sequences: Some(1),
        max_tokens: Some(max_tokens),
        prefixes: 0,
        gpu: gpu.options(),
    }
}

/// What every command that runs an artefact of a GPU takes.
#[derive(Debug, Clone, clap::Args)]
struct GpuArgs {
    /// On a GPU: launch each kernel by itself, so that an error says which one failed
    #[arg(long)]
    no_graphs: bool,
    /// On a GPU: compute runs of products of a decode step in one persistent launch each, not launch by launch
    #[arg(long)]
    slices: bool,
}

impl GpuArgs {
    /// The runtime's options.
    fn options(&self) -> GpuOptions {
        GpuOptions { graphs: !self.no_graphs, slices: self.slices, ..GpuOptions::default() }
    }
}

/// Loads an artefact with a progress bar where `show` says so; Ctrl-C ends it.
fn load(path: &std::path::Path, options: &LoadOptions, show: bool) -> Result<Arc<Model>> {
    let mut bar = None;
    let mut observe = |done, total| {
        let bar = bar.get_or_insert_with(|| terminal::progress(show, total, "loading", terminal::BYTES));
        bar.set_position(done);
        !signal::pressed()
    };
    // SAFETY: whoever names the artefact asks for this program to be run.
    let model = unsafe { Model::load_observed(path, options, &mut observe) };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(Arc::new(model?))
}

/// Opens a session, with a progress bar where `show` says so and weights are copied; Ctrl-C ends it.
fn session(model: &Arc<Model>, options: &SessionOptions, show: bool) -> Result<Session> {
    let mut bar = None;
    let session = Session::new_observed(model.clone(), options, &mut |done, total| {
        let bar = bar.get_or_insert_with(|| terminal::progress(show, total, "copying", terminal::BYTES));
        bar.set_position(done);
        !signal::pressed()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(session?)
}

/// The version of what `--json` prints: it goes up when a field goes or changes its meaning.
const JSON_SCHEMA: u32 = 1;

/// What `--json` prints: an object with its version.
fn json(mut value: serde_json::Value) -> String {
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".to_string(), JSON_SCHEMA.into());
    }
    format!("{value:#}\n")
}
