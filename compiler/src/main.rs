//! The `hyc` command.

use std::process::ExitCode;

use clap::Parser;
use hyc::commands::{self, Cli};
use hyc::error::Result;
use hyc::terminal::{self, Color};

fn main() -> ExitCode {
    let (result, color) = match Cli::try_parse() {
        Ok(cli) => {
            let color = cli.color;
            (commands::run(cli), color)
        }
        Err(answer) => {
            let color = Color::asked(std::env::args_os());
            match told(&answer, color) {
                Ok(()) => return u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
                Err(error) => (Err(error), color),
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::report(&error, color.enabled(terminal::stderr_is_terminal()));
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// Prints what the arguments' parser answers instead of a command: help and version to standard output, what is
/// wrong with the arguments to standard error.
fn told(answer: &clap::Error, color: Color) -> Result<()> {
    let to_stderr = answer.use_stderr();
    let terminal = if to_stderr { terminal::stderr_is_terminal() } else { terminal::stdout_is_terminal() };
    let styled = answer.render();
    if to_stderr {
        terminal::usage(&styled, color.enabled(terminal));
        return Ok(());
    }
    terminal::print(&if color.enabled(terminal) { styled.ansi().to_string() } else { styled.to_string() })
}
