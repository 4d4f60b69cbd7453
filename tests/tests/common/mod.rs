//! The command under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyc_tests::root;

/// The command beside this test's own executable: cargo builds it for `--workspace`, and here where it is
/// missing.
pub fn hyc_binary() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE");
    static BUILD: std::sync::Once = std::sync::Once::new();
    BUILD.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", "hyc", "--locked"]).current_dir(root());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success());
    });
    folder.join("hyc")
}
