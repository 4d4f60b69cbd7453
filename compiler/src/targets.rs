//! The targets that this build carries.

use hyc_plan::TargetKind;

use crate::error::{Error, ErrorKind, Result};

/// What to say behind a list of targets.
pub const NEEDS_LLVM: &str =
    if cfg!(feature = "llvm") { "" } else { "; GPU targets need a build with the feature `llvm`" };

/// The targets that this build carries.
pub fn targets() -> impl Iterator<Item = TargetKind> {
    TargetKind::ALL.into_iter().filter(|kind| *kind == TargetKind::Host || cfg!(feature = "llvm"))
}

/// Their names with `between` between them, each in two of `quote`.
pub fn listed(between: &str, quote: &str) -> String {
    targets().map(|kind| format!("{quote}{kind}{quote}")).collect::<Vec<_>>().join(between)
}

/// A target that this build does not carry is an error that says so.
pub fn check_target(kind: TargetKind) -> Result<()> {
    if targets().any(|carried| carried == kind) { Ok(()) } else { Err(unknown(kind.name())) }
}

/// The target of this name. Errors: there is none, or this build does not carry it.
#[cfg(feature = "cli")]
pub fn parse(name: &str) -> Result<TargetKind> {
    let kind = name.parse().map_err(|_| unknown(name))?;
    check_target(kind).map(|()| kind)
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this build of hyc has no target `{name}`"))
        .help(format!("it carries: {}{NEEDS_LLVM}", listed(", ", "")))
}
