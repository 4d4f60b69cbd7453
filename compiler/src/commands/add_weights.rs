//! `hyc add-weights`.

use std::path::PathBuf;

use hyc_runtime::{Model, Verify};

use super::destination::{keep_files, keep_model, keep_program};
use crate::complete;
use crate::driver;
use crate::error::Result;
use crate::output::{Kept, Target};
use crate::report::bytes;
use crate::signal;
use crate::terminal;
use crate::words::place;

/// Put weights into an artefact that was compiled without
///
/// A GPU's code is compiled where LLVM is, and weights may be elsewhere, too large to move. What comes out is, to the byte,
/// what `hyc compile` makes where both are. Of the description `[weights]` counts, and that it is of the same model.
///
/// Examples:
///   hyc compile --target sm_90a --no-weights model.toml -o bare.hyc     where LLVM is
///   hyc add-weights bare.hyc model.toml -o model.hyc                    where the weights are
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact that was compiled with --no-weights
    artefact: PathBuf,
    /// The model.toml that it was compiled of
    description: PathBuf,
    /// The artefact to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// No progress bar and no summary
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    let mut kept = Kept::of_process();
    let desc = driver::load_description(&args.description)?;
    keep_model(&mut kept, &args.artefact, None);
    kept.add("the description", &args.description);
    keep_files(&mut kept, &desc);
    keep_program(&mut kept);
    let target = Target::new(&args.output, &kept)?;
    let model = Model::open_to_look(&args.artefact, Verify::Full)?;
    let weights = complete::weights(&model, &desc)?;
    let total = model.plan().weight_bytes();
    let bar = terminal::progress(!args.quiet, total, "packing", terminal::BYTES);
    let size = complete::complete(&model, &weights, &target, &mut |bytes| {
        bar.inc(bytes);
        signal::check("packing the weights")
    });
    // Also before an error is told.
    bar.finish_and_clear();
    let size = size?;
    if args.quiet {
        return Ok(());
    }
    terminal::print(&format!("{}: {}\n", place(target.path()), bytes(size)))
}
