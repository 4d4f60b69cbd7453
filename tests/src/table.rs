//! What the programs for a GPU share: the artefacts of a folder, and a line for each check of one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The artefacts of a folder whose path holds `filter`, in the order of their names. Errors: it cannot be read.
fn artefacts(folder: &Path, filter: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let named = |path: &PathBuf| path.to_string_lossy().contains(filter);
    paths.retain(|path| path.extension().is_some_and(|e| e == "hyc") && named(path));
    paths.sort();
    Ok(paths)
}

/// Counts what it prints.
#[derive(Default)]
pub struct Table {
    rows: usize,
    failed: usize,
}

impl Table {
    /// A check that passed, or failed, and what there is to say of it.
    pub fn row(&mut self, model: &str, check: &str, result: Result<String, String>) {
        self.rows += 1;
        self.failed += usize::from(result.is_err());
        let (verdict, text) = match result {
            Ok(text) => ("pass", text),
            Err(text) => ("FAIL", text),
        };
        println!("{model:<16} {check:<24} {verdict}  {text}");
    }

    /// A check of an error against its limit.
    pub fn error(&mut self, model: &str, check: &str, error: f64, limit: f64) -> bool {
        let text = format!("{error:.1e} (limit {limit:.0e})");
        let right = error < limit;
        self.row(model, check, if right { Ok(text) } else { Err(text) });
        right
    }

    /// Prints the counts; whether there were checks and all passed.
    pub fn finish(&self) -> ExitCode {
        println!("{} checks, {} failed", self.rows, self.failed);
        if self.failed == 0 && self.rows > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs `check` on each artefact of `folder` whose name holds `filter`; one that cannot be run is a failed row. Prints
/// the table.
pub fn each_artefact(
    folder: &Path,
    filter: &str,
    check: &mut dyn FnMut(&Path, &str, &mut Table) -> Result<(), String>,
) -> ExitCode {
    let paths = match artefacts(folder, filter) {
        Ok(paths) => paths,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let mut table = Table::default();
    for path in &paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(message) = check(path, &name, &mut table) {
            table.row(&name, "runs", Err(message));
        }
    }
    table.finish()
}

/// An error as a row's text.
pub fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}
