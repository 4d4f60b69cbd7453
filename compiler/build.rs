//! Lets the binary find libMLIR.so, where hyc-kernels is built with the feature `llvm`, and tells `hyc --version -v` the
//! commit: of a release alone, since a build for development would be made again at each commit.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(folder) = std::env::var_os("DEP_HYC_MLIR_LIBRARIES") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    let commit =
        if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") { commit() } else { None };
    println!("cargo::rustc-env=HYC_COMMIT={}", commit.unwrap_or_default());
}

/// The commit, and whether its files were changed since. `None`: there is no git, or this is no checkout (a source
/// package has no history, but may lie within some other project's).
fn commit() -> Option<String> {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).parent()?.canonicalize().ok()?;
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(&root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root {
        return None;
    }
    // What a commit and a checkout change; a path that does not exist would start this at every build.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        let path = root.join(git(&["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    // The crates that `hyc` is made of, so that what is said of changes stays true: it is built again then anyway.
    for folder in ["ir", "passes", "kernels", "runtime", "compiler"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).join("src").display());
    }
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    Some(if changed { format!("{hash}, with changes") } else { hash })
}
