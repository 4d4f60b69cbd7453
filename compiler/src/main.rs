//! The `hyc` command.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use hyc::commands::{self, Cli};
use hyc::error::Error;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = cli.color.enabled(std::io::stderr().is_terminal());
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, color);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn report(error: &Error, color: bool) {
    let (red, bold, reset) = if color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    match &error.rendered {
        Some(diagnostics) => eprintln!("{}", diagnostics.render(color).trim_end()),
        None => eprintln!("{red}error{reset}{bold}:{reset} {}", error.message),
    }
    if let Some(help) = &error.help {
        eprintln!("  {bold}help{reset}: {help}");
    }
}
