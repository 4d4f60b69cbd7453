//! The command in a folder.

use std::path::Path;
use std::process::Command;

use crate::common::hyc_binary;

/// Exit code, standard output and error.
pub fn hyc(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let out = Command::new(hyc_binary()).args(args).current_dir(folder).output().expect("hyc runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}
