//! `hyc version`, which `hyc --version` is too.

use std::env::consts::{ARCH, OS};

use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_plan::artefact;
use serde_json::json;

use crate::error::Result;
use crate::targets;
use crate::terminal;

/// Print the version; with -v also what this build is made of and what it runs on
///
/// Examples:
///   hyc version
///   hyc version -v        commit, features, targets, artefact version, this processor
///   hyc --version -v      the same
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Print everything
    #[arg(short, long)]
    verbose: bool,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.json {
        return terminal::print(&super::json(json!({
            "version": VERSION, "commit": commit(), "features": features(), "targets": targets::targets().map(|kind| kind.name()).collect::<Vec<_>>(),
            "artefact_version": artefact::VERSION, "plan_version": hyc_plan::PLAN_VERSION,
            "processor": { "name": processor(), "arch": ARCH, "level": level(), "features": cpu().features() },
        })));
    }
    print(args.verbose)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version for people.
pub fn print(verbose: bool) -> Result<()> {
    let mut out = format!("hyc {VERSION}\n");
    if verbose {
        let features = features();
        let lines = [
            ("commit", commit().unwrap_or("unknown: no release, or not built from a checkout").to_string()),
            ("features", if features.is_empty() { "none".to_string() } else { features.join(", ") }),
            ("targets", targets::listed(", ", "")),
            ("artefact", format!("version {}, plan version {}", artefact::VERSION, hyc_plan::PLAN_VERSION)),
            ("processor", format!("{}, level {} ({})", processor(), level(), cpu().features().join(", "))),
            ("system", format!("{OS} {ARCH}")),
        ];
        for (name, what) in lines {
            out.push_str(&format!("{name:10} {what}\n"));
        }
    }
    terminal::print(&out)
}

fn commit() -> Option<&'static str> {
    Some(env!("HYC_COMMIT")).filter(|commit| !commit.is_empty())
}

fn features() -> Vec<&'static str> {
    let all = [("llvm", cfg!(feature = "llvm")), ("cuda", cfg!(feature = "cuda"))];
    all.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name).collect()
}

fn cpu() -> CpuTarget {
    CpuTarget::host()
}

/// What `hyc compile --cpu native` means here.
pub fn level() -> &'static str {
    match cpu().level {
        Level::V3 => "v3",
        Level::Baseline => "baseline",
    }
}

/// The processor's name, as the system says it.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| ARCH.to_string(), |(_, name)| name.trim().to_string())
}
