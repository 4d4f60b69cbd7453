//! `--activations`: what a GPU's products read.

use clap::ValueEnum;
use hyc_kernels::Activations;
use hyc_plan::TargetKind;

use crate::frontend::ModelDesc;
use crate::terminal;

/// Its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Word {
    /// Rounded to bf16: tensor cores multiply
    Bf16,
    /// Kept in f32: the same numbers as on a CPU, and many times slower
    F32,
    /// Rounded to fp8 (E4M3) with a scale a row in steps of 65 tokens and more, by weights in fp8 with a scale a row; else to bf16
    Fp8,
}

/// What was given, or the description's, which is left out of a model that is compiled for a processor, and that is said. What was
/// given for one, the driver refuses.
pub fn of(given: Option<Word>, desc: Option<&ModelDesc>, target: TargetKind) -> Option<Activations> {
    let told = desc.and_then(|desc| desc.target.activations);
    let given = given.map(|word| match word {
        Word::Bf16 => Activations::Bf16,
        Word::F32 => Activations::F32,
        Word::Fp8 => Activations::Fp8,
    });
    if target == TargetKind::Host && given.is_none() && told.is_some() {
        let why = "is for a GPU: a processor's products read f32";
        terminal::note(&format!("note: `activations` under [target] {why}\n"));
        return None;
    }
    given.or(told)
}
