//! `hyc tune`.

use std::path::PathBuf;

use hyc_kernels::table::Table;
use hyc_runtime::{LoadOptions, SessionOptions};

use crate::error::Result;
use crate::output::{Kept, Sink};
use crate::signal;
use crate::terminal;
use crate::tuning;

/// Measure the variants of a model's kernels on this machine's GPU
///
/// A kernel can be computed in several ways, each the fastest for some numbers of rows. `hyc compile --all-variants`
/// puts code of all of them into an artefact; this times each on steps of 1, 2, 4, ... rows, as many as the model
/// takes, and writes a table by which `hyc compile --table` chooses. It needs no compiler: the artefact is made on one
/// machine and measured on another. Steps of as many rows as the model takes sequences are decodes, one row of each; larger
/// ones are parts of one prompt, whose rows share keys and values: give it the `max_batch` that will be served. What the table says holds for the same card and the same code alone.
///
/// Examples:
///   hyc tune all.hyc --out table.json --random-weights 1
///   hyc tune small.hyc large.hyc --out table.json --context 32768
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Artefacts compiled with `--target sm_90a --all-variants`
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// The table to write; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens that each sequence has, or as many as the model takes
    #[arg(long, default_value_t = 8192, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    context: u64,
    /// Random weights of this seed, for artefacts compiled with --no-weights
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    #[command(flatten)]
    gpu: super::GpuArgs,
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    let mut kept = Kept::of_process();
    args.models.iter().for_each(|path| kept.add("the artefact", path));
    let sink = Sink::new(Some(&args.out), &kept)?;
    let load = LoadOptions { random_weights: args.random_weights, ..LoadOptions::default() };
    let options = SessionOptions { gpu: args.gpu.options(), ..SessionOptions::default() };
    let mut table = Table::default();
    for path in &args.models {
        let model = super::load(path, &load, true)?;
        let context = args.context.min(model.plan().model.max_context);
        let entries = tuning::measure(&model, &options, context, &|| signal::check("measuring"))?;
        let name = &model.plan().model.name;
        terminal::note(&format!("{name}: {} variants at {context} tokens\n", entries.len()));
        table.add(entries);
    }
    sink.write(table.to_json().as_bytes())
}
