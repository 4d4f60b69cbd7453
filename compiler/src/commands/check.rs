//! `hyc check`.

use std::path::PathBuf;

use crate::driver::{self, Input};
use crate::error::Result;
use crate::source::{Expected, WeightSource};
use crate::terminal;

/// Say what is wrong with a model description, all at once
///
/// Examples:
///   hyc check model.toml              the description alone
///   hyc check --weights model.toml    and that the weight files fit it
///   hyc check --json model.toml       diagnostics for an editor
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model.toml, or a graph dump
    input: PathBuf,
    /// Also compare the weight files' tensors with the model
    #[arg(long)]
    weights: bool,
    /// Print diagnostics as JSON on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let result = check(&args);
    if args.json {
        let diagnostics = match &result {
            Ok(()) => serde_json::json!([]),
            Err(error) => match &error.rendered {
                Some(diagnostics) => diagnostics.to_json(),
                None => serde_json::json!([{ "message": error.message, "help": error.help }]),
            },
        };
        let value = serde_json::json!({ "ok": result.is_ok(), "diagnostics": diagnostics });
        return result.and(terminal::print(&super::json(value)));
    }
    result
}

fn check(args: &Args) -> Result<()> {
    let Input { graph, desc } = driver::load_input(&args.input)?;
    if let (true, Some(desc)) = (args.weights, &desc) {
        let expected: Vec<Expected> = desc
            .weights_expected()
            .into_iter()
            .map(|w| Expected { name: w.name, shape: w.shape.iter().map(|dim| *dim as u64).collect() })
            .collect();
        WeightSource::open(&desc.weights.files)?.check(&expected)?;
    }
    if args.json {
        return Ok(());
    }
    terminal::print(&format!(
        "{}: {} layers, {} ops, no fault found\n",
        args.input.display(),
        graph.header.layers,
        graph.len()
    ))
}
