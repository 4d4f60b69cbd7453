//! `hyc doctor`.

use crate::doctor::{self, State, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use crate::terminal;

/// Say whether this machine has what hyc needs, and what to do where it has not
///
/// Looks at processor, cores beside their quota and load, free memory, the temporary folder, NVIDIA's driver, ptxas
/// and LLVM. A warning is something slower or less than it could be; exit code 4: something that this build promises
/// does not work.
///
/// Examples:
///   hyc doctor
///   hyc doctor --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let checks = doctor::checks(&Surroundings::here());
    let text = if args.json { super::json(doctor::json(&checks)) } else { doctor::text(&checks) };
    let printed = terminal::print(&text);
    let broken: Vec<&str> = checks.iter().filter(|c| c.state == State::Broken).map(|c| c.name).collect();
    // What is broken counts, whatever became of its report.
    if broken.is_empty() {
        return printed;
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("this machine lacks what hyc needs: {}", broken.join(", ")),
    )
    .help("the lines above say what to do"))
}
