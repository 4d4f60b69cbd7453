//! `cargo xtask TASK [ARGUMENTS]`: what there is to do in this repository, by name. `cargo xtask` lists it.
//!
//! A task is a script or a cargo command that stands elsewhere; nothing of either is repeated here.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // It prints a list, and may end at a closed pipe.

mod bless;
mod tasks;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use tasks::{Run, TASKS, Task};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Cargo in the repository: the one that runs this.
fn cargo() -> Command {
    command(Path::new(&std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Runs a command to its end. Errors: its exit code, 1 where a signal ended it or it cannot be started.
fn done(command: &mut Command) -> Result<(), u8> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {}: {error}", command.get_program().display());
            Err(1)
        }
    }
}

/// A line a task.
fn list() -> String {
    let call = |task: &Task| format!("{} {}", task.name, task.arguments);
    TASKS.iter().map(|task| format!("  cargo xtask {:<38} {}\n", call(task), task.what)).collect()
}

fn run(task: &Task, arguments: &[String]) -> Result<(), u8> {
    if task.arguments.is_empty() && !arguments.is_empty() {
        eprintln!("error: `{}` takes no arguments", task.name);
        return Err(2);
    }
    match task.run {
        Run::Script(script) => done(command(&root().join(script)).args(arguments)),
        Run::Cargo(words) => done(cargo().args(words).args(arguments)),
        Run::Bless => bless::run(arguments),
    }
}

fn main() -> ExitCode {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, arguments)) =
        all.split_first().filter(|(name, _)| !["help", "-h", "--help"].contains(&name.as_str()))
    else {
        print!("{}", list());
        return ExitCode::SUCCESS;
    };
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprint!("error: there is no task `{name}`; there are\n{}", list());
        return ExitCode::from(2);
    };
    run(task, arguments).map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}
