//! From a model to what a program is linked with: an object, a module, and the artefact with the weights.

use std::path::{Path, PathBuf};
use std::process::Command;

use hyc::output::{Kept, Target};
use hyc::{compile, object};
use hyc_kernels::cpu::Level;
use hyc_plan::artefact::VERSION;
use hyc_runtime::{Model, Verify};

use crate::cargo::{Cargo, say};
use crate::module::{self, Module};
use crate::{Error, Result};

/// Weights that take long to pack without optimisation.
const SLOW_BYTES: u64 = 100 << 20;

/// A model to be made.
pub struct Work<'a> {
    pub input: &'a Path,
    pub name: &'a str,
    /// How the object's symbols begin.
    pub symbol: String,
    /// Whether weights go into the object, and how many bytes at most.
    pub embed: Option<u64>,
    pub level: Level,
    pub cargo: &'a Cargo,
}

impl Work<'_> {
    /// What the outputs depend on beside the files: the build script is the compiler, and when it was made tells it from others.
    pub fn says(&self) -> Result<String> {
        let Work { name, symbol, embed, level, cargo, .. } = self;
        let compiler = match &cargo.hyc {
            Some(hyc) => PathBuf::from(hyc),
            None => {
                std::env::current_exe().map_err(|e| Error::io("find", Path::new("the build script"), &e))?
            }
        };
        // What is looked up in PATH is told by its name alone.
        let made = std::fs::metadata(&compiler).and_then(|file| file.modified()).ok();
        Ok(format!("{VERSION} {name} {symbol} {embed:?} {level:?} {} {made:?}", compiler.display()))
    }

    fn place(&self, end: &str) -> PathBuf {
        self.cargo.out.join(format!("{}{end}", self.name))
    }

    /// Whether everything was made of the same before.
    pub fn is_done(&self, stamp: &str) -> bool {
        let library = self.cargo.out.join(format!("lib{}.a", self.library()));
        let there = [".o", ".hyc", ".rs"].iter().all(|end| self.place(end).is_file()) && library.is_file();
        there && std::fs::read_to_string(self.place(".stamp")).is_ok_and(|old| old == stamp)
    }

    /// Keeps what everything was made of.
    pub fn stamp(&self, stamp: &str) -> Result<()> {
        let path = self.place(".stamp");
        std::fs::write(&path, stamp).map_err(|e| Error::io("write", &path, &e))
    }

    /// Makes the object and its library, the artefact and the module.
    pub fn run(&self) -> Result<()> {
        match &self.cargo.hyc {
            Some(hyc) => self.run_command(hyc)?,
            None => self.run_here()?,
        }
        // Nothing of it is run.
        let model = Model::open_to_look(self.place(".hyc"), Verify::Header)?;
        if let Some(most) = self.embed {
            check_embedded(model.plan(), most)?;
        }
        let module = Module {
            input: self.input,
            symbol: &self.symbol,
            library: &self.library(),
            embedded: self.embed.is_some(),
            object: &self.place(".o"),
            artefact: &self.place(".hyc"),
        };
        module::write(&module, &model, &self.place(".rs"))?;
        self.pack()
    }

    fn run_here(&self) -> Result<()> {
        let compiled = compile::compile(self.input, self.level, &|| Ok(()))?;
        if let Some(most) = self.embed {
            check_embedded(&compiled.plan, most)?;
        }
        if compiled.has_weights() {
            warn_of_slow(&compiled.plan);
        }
        let target = Target::new(&self.place(".hyc"), &Kept::default())?;
        compiled.write(&target, &mut |_| Ok(()))?;
        let object = compiled.object(&self.symbol, self.embed.is_some())?;
        let path = self.place(".o");
        std::fs::write(&path, object).map_err(|e| Error::io("write", &path, &e))
    }

    /// The same by another `hyc`.
    fn run_command(&self, hyc: &Path) -> Result<()> {
        let level = if self.level == Level::V3 { "v3" } else { "baseline" };
        let compile = |arguments: &[&str], to: &Path| {
            let mut command = Command::new(hyc);
            command.args(["--color=never", "compile", "--cpu", level]).args(arguments);
            let output = command.arg("-o").arg(to).arg(self.input).output();
            let output = output.map_err(|e| {
                Error::new(format!("cannot run HYC, {}: {e}", hyc.display()))
                    .help("set HYC to a `hyc` command")
            })?;
            match output.status.success() {
                true => Ok(()),
                false => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    Err(Error::new(format!(
                        "HYC, {}, failed: {}\n{}",
                        hyc.display(),
                        output.status,
                        said.trim_end()
                    )))
                }
            }
        };
        compile(&["--quiet"], &self.place(".hyc"))?;
        let embed = self.embed.map(|_| "--embed-weights");
        let arguments: Vec<&str> =
            ["--emit", "obj", "--symbol", &self.symbol].into_iter().chain(embed).collect();
        compile(&arguments, &self.place(".o"))
    }

    /// The library that the module names.
    pub fn library(&self) -> String {
        format!("{}_model", self.symbol)
    }

    /// Packs the object into that library.
    fn pack(&self) -> Result<()> {
        let compiled = cc::Build::new()
            .cargo_metadata(false)
            .out_dir(&self.cargo.out)
            .object(self.place(".o"))
            .try_compile(&self.library());
        compiled.map_err(|e| {
            Error::new(format!("cannot make a library of the model: {e}")).help("install binutils")
        })
    }
}

fn bytes(plan: &hyc_plan::Plan) -> u64 {
    plan.weights.iter().map(hyc_plan::Weight::bytes).fold(0, u64::saturating_add)
}

/// Errors: more weights than shall be in the program.
fn check_embedded(plan: &hyc_plan::Plan, most: u64) -> Result<()> {
    let (bytes, most) = (bytes(plan), most.min(object::MOST_BYTES));
    if bytes <= most {
        return Ok(());
    }
    let message = format!("the weights of `{}` have {bytes} bytes, {most} may be embedded", plan.model.name);
    Err(Error::new(message).help("leave them beside the program (`Weights::Beside`), or allow more"))
}

fn warn_of_slow(plan: &hyc_plan::Plan) {
    if bytes(plan) > SLOW_BYTES && matches!(env!("HYC_BUILD_OPT_LEVEL"), "" | "0") {
        say(&format!(
            "warning={} MiB of weights are packed by code that is not optimised: set opt-level = 3 in \
             [profile.dev.build-override] and [profile.release.build-override]",
            bytes(plan) >> 20
        ));
    }
}
