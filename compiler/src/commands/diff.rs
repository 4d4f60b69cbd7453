//! `hyc diff`.

use std::path::PathBuf;
use std::sync::Arc;

use hyc_runtime::{LoadOptions, Model, SessionOptions};

use serde_json::json;

use crate::diff::{Difference, Found, Options, diff};
use crate::error::{Error, ErrorKind, Result};
use crate::terminal;
use crate::view::difference;

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
    /// Random tokens to run; without it 40, or as many as the context holds
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Seed of the tokens
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Largest relative error of a step's output that counts as equal: a finite number from 0
    #[arg(long, default_value_t = 1e-3, allow_negative_numbers = true)]
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
    let model = Arc::new(unsafe { Model::load(&args.model, &options) }?);
    let most = model.plan().model.max_context;
    let tokens = args.tokens.unwrap_or(most.min(40));
    let options = Options { tokens, seed: args.seed, tolerance: args.tolerance };
    let session = SessionOptions { gpu: args.gpu.options(), ..SessionOptions::default() };
    let report = diff(&model, &session, &options)?;
    let mut printed = Ok(());
    if args.json {
        let place = |d: &Difference| {
            json!({
                "index": d.index, "step": d.step, "operand": d.operand, "element": d.element, "ours": number(d.ours),
                "reference": number(d.reference), "error": number(d.error),
            })
        };
        let (differs, not_finite) = match &report.found {
            Found::Equal => (None, None),
            Found::Differs(first) => (Some(place(first)), None),
            Found::NotFinite(first) => (None, Some(place(first))),
        };
        let plan = model.plan();
        printed = terminal::print(&super::json(json!({
            "schema": difference::SCHEMA, "model": plan.model.name, "target": plan.target.kind().name(),
            "steps": report.steps, "tokens": report.tokens, "worst": report.worst, "worst_step": report.worst_step,
            "differs": differs, "not_finite": not_finite,
        })));
    }
    // A difference counts, whatever became of its report.
    match report.found {
        Found::Equal if args.json => printed,
        Found::Equal => terminal::print(&format!(
            "{} steps over {} tokens agree; largest relative error {:.1e} in {}\n",
            report.steps, report.tokens, report.worst, report.worst_step
        )),
        Found::NotFinite(at) => Err(not_finite(&at)),
        Found::Differs(Difference { step, operand, element, ours, reference, error, .. }) => {
            let error = if error.is_finite() { format!("{error:.1e}") } else { "without bound".to_string() };
            Err(Error::new(
                ErrorKind::Differs,
                format!(
                    "{step} differs first: `{operand}` has relative error {error}; element {element} is {ours}, \
                     the interpreter has {reference}"
                ),
            ))
        }
    }
}

/// JSON has no infinities and no NaN: they are words.
fn number(x: f64) -> serde_json::Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}

/// What both have is not the generated code's fault.
fn not_finite(at: &Difference) -> Error {
    let Difference { step, operand, element, ours, reference, .. } = at;
    Error::input(format!(
        "the model's numbers end in {step}: element {element} of `{operand}` is {ours}, and {reference} in the \
         interpreter, which agrees up to here"
    ))
    .help("its weights are too large, or are not those that it was trained to")
}
