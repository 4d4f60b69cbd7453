//! `hyc diff`.

use std::path::PathBuf;

use hyc_runtime::{LoadOptions, Model, SessionOptions};

use serde_json::json;

use crate::diff::{Difference, Options, diff};
use crate::error::{Error, ErrorKind, Result};
use crate::terminal;

/// Run the generated code beside the plan interpreter and name the first step that differs
///
/// Both run the artefact's own plan on the same tokens, step by step; the interpreter computes each step in
/// plain Rust. It is slow: some tokens are enough.
///
/// Examples:
///   hyc diff model.hyc
///   hyc diff model.hyc --tokens 100 --tolerance 1e-4
///   hyc diff model.hyc --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// Random tokens to run
    #[arg(long, default_value_t = 40)]
    tokens: usize,
    /// Seed of the tokens
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Largest relative error of a step's output that counts as equal
    #[arg(long, default_value_t = 1e-3)]
    tolerance: f64,
    /// Random weights of this seed, for an artefact compiled with --no-weights
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    #[command(flatten)]
    gpu: super::GpuArgs,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let options = LoadOptions { random_weights: args.random_weights, ..LoadOptions::default() };
    // SAFETY: whoever names the artefact asks for this program to be run.
    let model = unsafe { Model::load(&args.model, &options) }?;
    let options = Options { tokens: args.tokens, seed: args.seed, tolerance: args.tolerance };
    let report =
        diff(&model, &SessionOptions { gpu: args.gpu.options(), ..SessionOptions::default() }, &options)?;
    if args.json {
        let first = report.first.as_ref().map(|d| {
            json!({
                "step": d.step, "operand": d.operand, "element": d.element, "ours": d.ours,
                "reference": d.reference, "error": d.error,
            })
        });
        terminal::print(&super::json(json!({
            "steps": report.steps, "tokens": args.tokens, "worst": report.worst, "worst_step": report.worst_step,
            "differs": first,
        })))?;
    }
    match report.first {
        None if args.json => Ok(()),
        None => terminal::print(&format!(
            "{} steps over {} tokens agree; largest relative error {:.1e} in {}\n",
            report.steps, args.tokens, report.worst, report.worst_step
        )),
        Some(Difference { step, operand, element, ours, reference, error }) => Err(Error::new(
            ErrorKind::Differs,
            format!(
                "{step} differs first: `{operand}` has relative error {error:.1e}; element {element} is {ours}, \
                 the interpreter has {reference}"
            ),
        )),
    }
}
