//! `hyc completions`.

use clap::CommandFactory;

use crate::error::Result;
use crate::terminal;

/// Print a shell's completion script
///
/// Examples:
///   hyc completions bash > ~/.local/share/bash-completion/completions/hyc
///   hyc completions zsh > ~/.zfunc/_hyc
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "hyc", &mut script);
    terminal::write(&script)
}
