//! What cargo tells a build script, and what it is told.

use std::path::PathBuf;

use hyc_kernels::cpu::Level;

use crate::{Cpu, Error, Result};

/// What a build script finds in its environment.
pub struct Cargo {
    /// The package's folder.
    pub package: PathBuf,
    /// The package.
    pub package_name: String,
    /// Where a build script writes.
    pub out: PathBuf,
    /// A `hyc` that compiles in the place of this crate.
    pub hyc: Option<PathBuf>,
    /// Whether documentation alone is made.
    pub is_docs_rs: bool,
    arch: String,
    features: Vec<String>,
}

impl Cargo {
    /// Errors: this is no build script.
    pub fn of_environment() -> Result<Cargo> {
        let get = |name: &str| {
            std::env::var_os(name).ok_or_else(|| {
                Error::new(format!("{name} is not set: this is no build script"))
                    .help("call `hyc_build` in a package's build.rs")
            })
        };
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().into_owned());
        let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
        Ok(Cargo {
            package: get("CARGO_MANIFEST_DIR")?.into(),
            package_name: text("CARGO_PKG_NAME")?,
            out: get("OUT_DIR")?.into(),
            hyc: std::env::var_os("HYC").filter(|path| !path.is_empty()).map(PathBuf::from),
            is_docs_rs: std::env::var_os("DOCS_RS").is_some(),
            arch: text("CARGO_CFG_TARGET_ARCH")?,
            features: features.split(',').map(str::to_string).collect(),
        })
    }

    /// What code for the program's target may use. Errors: a target that no code is made for.
    pub fn level(&self, cpu: Cpu) -> Result<Level> {
        if self.arch != "x86_64" {
            return Err(Error::new(format!(
                "the program is built for {}, models are compiled for x86_64",
                self.arch
            ))
            .help("build it with `--target x86_64-unknown-linux-gnu`"));
        }
        let has = |name: &str| self.features.iter().any(|feature| feature == name);
        Ok(match cpu {
            Cpu::V3 => Level::V3,
            Cpu::Baseline => Level::Baseline,
            Cpu::FromTarget if has("avx2") && has("fma") => Level::V3,
            Cpu::FromTarget => Level::Baseline,
        })
    }
}

/// Says something to cargo.
#[allow(clippy::print_stdout, reason = "cargo reads a build script's standard output")]
pub fn say(what: &str) {
    println!("cargo::{what}");
}
