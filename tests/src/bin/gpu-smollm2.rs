//! SmolLM2-135M-Instruct on a GPU: its greedy choices beside those of transformers and llama.cpp with the same values in f32.
//! What is computed in f32 chooses alike save ties; what bf16 chooses otherwise is listed.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use hyc_plan::{Codec, Layout, Plan};
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions};
use hyc_tests::smollm2::{MARGIN, Theirs, greedy_choices};
use hyc_tests::{Table, each_artefact, text};

/// Compare a pretrained model's greedy choices with those of others
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts of SmolLM2-135M-Instruct, for 16 sequences of 128 tokens with logits of 16 rows
    #[arg(default_value = "target/gpu/smollm2")]
    folder: PathBuf,
    /// The repository, for its golden tensors
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    each_artefact(&args.folder, &args.filter, &mut |path, name, table| model(&args, path, name, table))
}

fn model(args: &Args, path: &Path, name: &str, table: &mut Table) -> Result<(), String> {
    // SAFETY: whoever runs this test made it.
    let model = unsafe { Model::load(path, &LoadOptions::default()) }.map_err(text)?;
    let exact = is_exact(model.plan());
    let mut session = Session::new(model, &SessionOptions::default()).map_err(text)?;
    for theirs in greedy_choices(&mut session, &args.root).map_err(text)? {
        table.row(name, theirs.whose, judged(&theirs, exact));
    }
    Ok(())
}

/// Whether no weight and no product of a plan is in bf16.
fn is_exact(plan: &Plan) -> bool {
    let in_f32 = |w: &hyc_plan::Weight| {
        w.format.codec == Codec::F32 && !matches!(w.format.layout, Layout::Tiles { .. })
    };
    plan.weights.iter().all(in_f32)
}

/// A choice that bf16 makes otherwise was nearer than this to the next: twice what was measured.
const BF16_MARGIN: f32 = 0.5;

fn judged(theirs: &Theirs, exact: bool) -> Result<String, String> {
    let Theirs { worst, most, choices, others, .. } = theirs;
    let margin = others.iter().fold(0f32, |most, (.., margin)| most.max(*margin));
    let listed: Vec<String> =
        others.iter().map(|(piece, place, margin)| format!("{piece}:{place} {margin:.1e}")).collect();
    let what = format!(
        "{} of {choices} choices alike, the others nearer than {margin:.1e}; logits differ by {worst:.1e} at most; {}",
        choices - others.len(),
        if listed.is_empty() { "no other choice".to_string() } else { listed.join(", ") }
    );
    let right = if exact { margin < MARGIN && worst < most } else { margin < BF16_MARGIN };
    if right { Ok(what) } else { Err(what) }
}
