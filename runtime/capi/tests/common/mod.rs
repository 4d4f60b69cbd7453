//! Where things are.

#![allow(dead_code, reason = "each test uses some of them")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// This crate's folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The shared library that cargo has built for these tests.
pub fn library() -> PathBuf {
    let here = std::env::current_exe().expect("a test");
    let deps = here.parent().expect("deps");
    let found = [deps.join("libhyc_c.so"), deps.with_file_name("libhyc_c.so")];
    found.into_iter().find(|path| path.is_file()).expect("libhyc_c.so beside the tests")
}

/// Runs a command, and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {:?}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// A compiler, and the flags under which nothing may be said.
pub const C99: [&str; 8] = ["cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"];
/// The same for C++.
pub const CPP11: [&str; 10] =
    ["c++", "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"];

/// Compiles sources to a program that finds the library.
pub fn build(compiler: &[&str], sources: &[&Path], to: &Path) {
    let library = library();
    let beside = library.parent().expect("a folder");
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).arg("-I").arg(folder().join("include")).args(sources);
    command.args(["-x", "none"]).arg(&library).arg(format!("-Wl,-rpath,{}", beside.display()));
    run(command.args(["-lpthread", "-o"]).arg(to));
}
