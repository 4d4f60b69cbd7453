//! Compiles a model in a build script, so that a program is linked with it: its code is code of the program, never copied
//! to memory that is made executable, and its plan and texts, or all of it with the weights, are the program's own data.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), hyc_build::Error> {
//!     hyc_build::Model::new("models/tiny.toml").name("tiny").build()
//! }
//! ```
//!
//! ```ignore
//! // src/main.rs
//! hyc_runtime::linked_model!(mod tiny);
//! // The artefact that the build wrote has the weights; ship it beside the program.
//! // SAFETY: nobody writes to it while it is in use.
//! let model = unsafe { tiny::load_with_weights(tiny::ARTEFACT, &Default::default()) }?;
//! ```
//!
//! The module has `load` and `load_with_weights`, `NAME`, `VOCAB`, `MAX_CONTEXT`, `MAX_BATCH`, `ARTEFACT`, where the build
//! left the artefact with the weights, and `SHA256`, its digest.
//!
//! Cargo compiles build dependencies without optimisation, which packs weights some twenty times slower. In the program's
//! `Cargo.toml`:
//!
//! ```toml
//! [profile.dev.build-override]
//! opt-level = 3
//! [profile.release.build-override]
//! opt-level = 3
//! ```
//!
//! For a GPU, whose code takes LLVM to make, set `HYC` to a `hyc` that has it (`HYC=/usr/local/bin/hyc cargo build`): it
//! compiles in the place of this crate. `DOCS_RS` makes a stub, whose `load` is an error.

mod cargo;
mod compile;
mod error;
mod inputs;
mod module;

use std::path::{Path, PathBuf};

use hyc::object;

pub use self::error::{Error, Result};

/// Where a linked model's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// In the artefact that the build writes, which is mapped when the program runs.
    #[default]
    Beside,
    /// In the program, where they have at most so many bytes; else building is an error.
    Embedded {
        /// Most bytes; [`object::MOST_BYTES`] at the utmost.
        most: u64,
    },
}

/// Instructions that a processor's code may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cpu {
    /// Those of the program's target: AVX2 and FMA where `target-feature` or `target-cpu` has both, else SSE4.1.
    #[default]
    FromTarget,
    /// AVX2 and FMA (x86-64-v3).
    V3,
    /// SSE4.1.
    Baseline,
}

/// A model to compile and to link.
#[derive(Debug, Clone)]
pub struct Model {
    path: PathBuf,
    name: Option<String>,
    weights: Weights,
    cpu: Cpu,
}

impl Model {
    /// A description, or a graph dump, relative to the package's folder.
    pub fn new(path: impl AsRef<Path>) -> Model {
        Model {
            path: path.as_ref().to_path_buf(),
            name: None,
            weights: Weights::default(),
            cpu: Cpu::default(),
        }
    }

    /// How the module of [`linked_model!`](hyc_runtime::linked_model) is called; without it as the file is, with `_` for what no name has.
    pub fn name(mut self, name: impl Into<String>) -> Model {
        self.name = Some(name.into());
        self
    }

    /// Where the weights shall be.
    pub fn weights(mut self, weights: Weights) -> Model {
        self.weights = weights;
        self
    }

    /// What the code may use.
    pub fn cpu(mut self, cpu: Cpu) -> Model {
        self.cpu = cpu;
        self
    }

    /// Compiles, and tells cargo what to link and when to do it again. Nothing is done where no input has changed.
    ///
    /// Errors: those of `hyc compile`; a target that no code is made for; no build script.
    pub fn build(&self) -> Result<()> {
        let cargo = cargo::Cargo::of_environment()?;
        let path = cargo.package.join(&self.path);
        let name = match &self.name {
            Some(name) => name.clone(),
            None => object::name_of(&path.file_stem().unwrap_or_default().to_string_lossy()),
        };
        if !object::is_name(&name) {
            return Err(Error::new(format!("no module can be named `{name}`"))
                .help("take letters, digits and `_`, 64 at most, and no digit first"));
        }
        cargo::say("rerun-if-env-changed=HYC");
        cargo::say("rerun-if-env-changed=DOCS_RS");
        if cargo.is_docs_rs {
            return module::write_stub(&cargo.out, &name);
        }
        let inputs = inputs::Inputs::of(&path);
        inputs.files().for_each(|file| cargo::say(&format!("rerun-if-changed={}", file.display())));
        let work = compile::Work {
            input: &path,
            name: &name,
            symbol: format!("{}_{name}", object::name_of(&cargo.package_name)),
            embed: match self.weights {
                Weights::Beside => None,
                Weights::Embedded { most } => Some(most),
            },
            level: cargo.level(self.cpu)?,
            cargo: &cargo,
        };
        let stamp = inputs.stamp(&work.says()?)?;
        if !work.is_done(&stamp) {
            work.run()?;
            work.stamp(&stamp)?;
        }
        cargo::say(&format!("rustc-link-search=native={}", cargo.out.display()));
        Ok(())
    }
}
