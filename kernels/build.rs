//! With the feature `llvm`: makes the one library that Debian's MLIR 22 lacks, and says where the others lie.
//!
//! Debian ships `libMLIR.so`, but of MLIR's C interface only `libMLIRCAPI*.a`. They are merged into one
//! `libMLIR-C.a`, which is what mlir-sys links.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PREFIX: &str = "MLIR_SYS_220_PREFIX";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PREFIX}");
    if std::env::var_os("CARGO_FEATURE_LLVM").is_none() {
        return Ok(());
    }
    let prefix =
        PathBuf::from(std::env::var_os(PREFIX).ok_or(".cargo/config.toml sets MLIR_SYS_220_PREFIX")?);
    let libraries = prefix.join("lib");
    // Binaries find libMLIR.so through an rpath; the crates that make one read this in their build.rs.
    println!("cargo::metadata=libraries={}", libraries.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    if libraries.join("libMLIR-C.so").exists() {
        return Ok(());
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    merge(&prefix, &archives(&libraries)?, &out.join("libMLIR-C.a"))?;
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}

fn archives(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let missing = format!("no libMLIRCAPI*.a in {}: `. ./setup.sh --llvm` installs them", folder.display());
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{missing} ({e})"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libMLIRCAPI") && name.ends_with(".a") {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() { Err(missing.into()) } else { Ok(found) }
}

fn merge(prefix: &Path, archives: &[PathBuf], target: &Path) -> Result<(), Box<dyn Error>> {
    let mut script = format!("CREATE {}\n", target.display());
    archives.iter().for_each(|archive| script.push_str(&format!("ADDLIB {}\n", archive.display())));
    script.push_str("SAVE\nEND\n");
    let mut ar = Command::new(prefix.join("bin/llvm-ar")).arg("-M").stdin(Stdio::piped()).spawn()?;
    ar.stdin.take().ok_or("llvm-ar reads its script from a pipe")?.write_all(script.as_bytes())?;
    let status = ar.wait()?;
    if status.success() { Ok(()) } else { Err(format!("llvm-ar -M: {status}").into()) }
}
