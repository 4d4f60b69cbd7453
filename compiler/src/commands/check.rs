//! `hyc check`.

use std::path::{Path, PathBuf};

use hyc_ir::Graph;

use crate::driver::{self, Input};
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::ModelDesc;
use crate::report::table;
use crate::signal;
use crate::source::{Expected, WeightSource};
use crate::terminal;
use crate::text;
use crate::words::place;

/// Say what is wrong with a model description, all at once
///
/// Examples:
///   hyc check model.toml              the description alone
///   hyc check --weights model.toml    and that weight files and tokenizer fit it
///   hyc check --tensors model.toml    and which tensors the weight files must hold
///   hyc check --json model.toml       diagnostics for an editor
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model.toml, or a graph dump
    input: PathBuf,
    /// Also read the weight files and the tokenizer that the model.toml names: tensors have the model's names
    /// and shapes, every element is finite in the artefact's element type, the tokenizer loads and is no
    /// larger than the vocabulary. Takes as long as reading the files
    #[arg(long)]
    weights: bool,
    /// Also list every tensor that the weight files must hold, with its shape and its element type in the
    /// artefact
    #[arg(long)]
    tensors: bool,
    /// Print diagnostics as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// What was found, where nothing is wrong.
#[derive(Default)]
struct Found {
    text: String,
    tensors: Vec<Expected>,
}

pub fn run(args: Args) -> Result<()> {
    let result = check(&args);
    if !args.json {
        return terminal::print(&result?.text);
    }
    let (diagnostics, more) = match &result {
        Ok(_) => (serde_json::json!([]), 0),
        Err(error) => match &error.rendered {
            Some(diagnostics) => (diagnostics.to_json(), diagnostics.more),
            None => (serde_json::json!([{ "message": error.message, "help": error.help }]), 0),
        },
    };
    let mut json = serde_json::json!({ "ok": result.is_ok(), "diagnostics": diagnostics, "more": more });
    if let (Ok(found), true) = (&result, args.tensors) {
        let tensor = |t: &Expected| serde_json::json!({ "name": t.name, "shape": t.shape, "dtype": t.codec.to_string() });
        json["tensors"] = found.tensors.iter().map(tensor).collect();
    }
    let printed = terminal::print(&super::json(json));
    // A fault counts, whatever became of its report.
    result?;
    printed
}

fn check(args: &Args) -> Result<Found> {
    let Input { graph, desc, .. } = driver::load_input(&args.input)?;
    let mut found = Found::default();
    if args.tensors {
        found.tensors = Expected::of_graph(&graph);
        let row = |t: &Expected| vec![t.name.clone(), format!("{:?}", t.shape), t.codec.to_string()];
        let rows: Vec<Vec<String>> = found.tensors.iter().map(row).collect();
        found.text = table(&["tensor", "shape", "in the artefact"], &rows) + "\n";
    }
    found.text.push_str(&format!(
        "{}: {} layers, {} ops, no fault found\n",
        place(&args.input),
        graph.header.layers,
        graph.len()
    ));
    if args.weights {
        let Some(desc) = &desc else {
            let message = format!("{} is a dump, which names no weight files", place(&args.input));
            return Err(Error::new(ErrorKind::Usage, message)
                .help("check the model.toml; `hyc compile --weights FILE` compares files with a dump"));
        };
        found.text.push_str(&check_weights(&args.input, &graph, desc, !args.json)?);
        found.text.push_str(&check_tokenizer(desc)?);
    }
    Ok(found)
}

/// Reads every element of every weight.
fn check_weights(input: &Path, graph: &Graph, desc: &ModelDesc, show: bool) -> Result<String> {
    if desc.weights.files.is_empty() {
        let message = format!("{} names no weight files", place(input));
        return Err(Error::input(message).help("write `files = [\"model.safetensors\"]` under [weights]"));
    }
    signal::install(|| {});
    let expected = Expected::of_graph(graph);
    let source = WeightSource::open(&desc.weights.files)?.renamed(&desc.weights.names)?;
    source.check(&expected)?;
    let bytes = |t: &Expected| t.codec.code_bytes(t.shape.iter().product::<u64>());
    let total = expected.iter().map(bytes).sum();
    let bar = terminal::progress(show, total, "reading", terminal::BYTES);
    let read = source.check_elements(&expected, &mut |bytes| {
        bar.inc(bytes);
        signal::check("reading the weights")
    });
    // Also before an error is told.
    bar.finish_and_clear();
    read?;
    Ok(format!("weights: {} tensors in {} files fit\n", expected.len(), source.paths().count()))
}

fn check_tokenizer(desc: &ModelDesc) -> Result<String> {
    text::read(&desc.tokenizer, desc.vocab as u64)?;
    Ok(match &desc.tokenizer.file {
        Some(path) => format!("tokenizer: {} fits\n", place(path)),
        None => "tokenizer: none\n".to_string(),
    })
}
