//! Arguments that have no meaning beside others.

use hyc_plan::TargetKind;

use super::args::{Args, Emit};
use crate::error::{Error, ErrorKind, Result};

/// Errors: an assembler for what needs none.
pub fn tools(args: &Args) -> Result<()> {
    if args.ptxas.is_none() || args.cubin || matches!(args.emit, Some(Emit::Cubin | Emit::Sass)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "`--ptxas` has no meaning here: nothing is assembled")
        .help("it goes with `--cubin`, `--emit cubin` and `--emit sass`"))
}

/// Errors: what says how an object is, where none is made.
pub fn object(args: &Args) -> Result<()> {
    let given = [("--symbol", args.symbol.is_some()), ("--embed-weights", args.embed_weights)];
    match given.iter().find(|(_, given)| *given && args.emit != Some(Emit::Obj)) {
        None => Ok(()),
        Some((flag, _)) => {
            let message = format!("`{flag}` has no meaning here: no object is made");
            Err(Error::new(ErrorKind::Usage, message).help("it goes with `--emit obj`"))
        }
    }
}

/// Errors: what chooses a GPU's kernels, for a processor; code of all variants where none is made.
pub fn gpu(args: &Args, target: TargetKind) -> Result<()> {
    let code = [("--all-variants", args.all_variants), ("--clocks", args.clocks)];
    let card = ("--card", args.card.is_some());
    let mut flags = code.into_iter().chain([card]).filter(|(_, given)| *given);
    if let (TargetKind::Host, Some((flag, _))) = (target, flags.next()) {
        let message = format!("`{flag}` has no meaning for a processor, whose kernels have one variant each");
        return Err(Error::new(ErrorKind::Usage, message).help("it goes with `--target sm_90a`"));
    }
    let given = code.iter().find(|(_, given)| *given);
    let no_code = matches!(args.emit, Some(Emit::Graph | Emit::Plan | Emit::Dot | Emit::Mlir));
    if let (Some((flag, _)), true) = (given, no_code) {
        return Err(Error::new(ErrorKind::Usage, format!("`{flag}` has no meaning here: no code is made"))
            .help("it goes with an artefact and with `--emit llvm`, `ptx`, `cubin` and `sass`"));
    }
    Ok(())
}
