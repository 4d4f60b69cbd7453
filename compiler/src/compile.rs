//! From a description to all that an artefact has, in one call, for build scripts and bindings. The command has more to
//! choose, and shows what it does (`commands/compile`).

use std::path::Path;

use hyc_kernels::cpu::Level;
use hyc_plan::Plan;
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::SamplingDefaults;

use crate::driver;
use crate::error::{Error, Result};
use crate::object;
use crate::output::Target;
use crate::source::Weights;
use crate::text::{self, Text};
use crate::write::{self, Artefact};

/// A compiled model, whose weights are still in their files.
pub struct Compiled {
    /// The plan, with the kernels' places in the code.
    pub plan: Plan,
    code: Vec<u8>,
    graph: String,
    text: Option<Text>,
    sampling: Option<SamplingDefaults>,
    eval: Option<EvalGates>,
    weights: Weights,
}

/// Compiles a description, or a graph dump, for a processor of `level`, or for the GPU that it names. `check` may end it
/// between two kernels.
///
/// Errors: whatever is wrong with the description, its weight files or its tokenizer; a target that this build makes no code
/// for.
pub fn compile(input: &Path, level: Level, check: &dyn Fn() -> Result<()>) -> Result<Compiled> {
    let mut loaded = driver::load_input(input)?;
    let text = match &loaded.desc {
        Some(desc) => text::read(&desc.tokenizer, loaded.graph.header.vocab)?,
        None => None,
    };
    driver::choose_of(&mut loaded.graph, text.as_ref());
    let options = driver::Options::of(level, loaded.desc.as_ref());
    let mut lowered = driver::lower(loaded.graph, options, &mut |_| check())?;
    let code = driver::generate_code(&mut lowered.plan, level, false, check)?.blob;
    let (plan, graph) = (lowered.plan, lowered.graph.to_string());
    driver::check_plan(&plan)?;
    let Some(desc) = loaded.desc else {
        let (sampling, eval, weights) = (None, None, Weights::Absent);
        return Ok(Compiled { plan, code, graph, text: None, sampling, eval, weights });
    };
    let (sampling, eval) = (desc.sampling, desc.eval);
    if desc.weights.files.is_empty() {
        return Ok(Compiled { plan, code, graph, text, sampling, eval, weights: Weights::Absent });
    }
    let weights = Weights::of_files(&desc.weights.files, &desc.weights.names, &plan)?;
    Ok(Compiled { plan, code, graph, text, sampling, eval, weights })
}

impl Compiled {
    /// Whether the description names weight files.
    pub fn has_weights(&self) -> bool {
        !matches!(self.weights, Weights::Absent)
    }

    /// Bytes of the weights, as they are packed.
    pub fn weight_bytes(&self) -> u64 {
        self.plan.weight_bytes()
    }

    /// Writes the artefact, with its weights where it has any, and returns its size. `progress` gets the bytes of each piece
    /// and may end it.
    pub fn write(&self, target: &Target, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<u64> {
        let artefact = Artefact {
            plan: &self.plan,
            code: &self.code,
            cubin: None,
            graph: &self.graph,
            asm: "",
            text: self.text.as_ref(),
            sampling: self.sampling,
            eval: self.eval,
        };
        write::artefact(target, &artefact, &self.weights, progress)
    }

    /// The object of [`object::object()`], with its weights or without. Errors: those; weights to embed and none named.
    pub fn object(&self, name: &str, embed: bool) -> Result<Vec<u8>> {
        if embed && !self.has_weights() {
            return Err(Error::input(format!("`{}` names no weight files to embed", self.plan.model.name))
                .help("name them under [weights]"));
        }
        let Compiled { plan, code, text, sampling, eval, .. } = self;
        let model = object::Model { plan, code, text: text.as_ref(), sampling: *sampling, eval: *eval };
        let weights = if embed { &self.weights } else { &Weights::Absent };
        object::object(name, &model, weights, &mut |_| Ok(()))
    }
}
