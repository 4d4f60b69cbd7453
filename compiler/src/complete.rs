//! An artefact without weights becomes a whole one: compiled where LLVM is, completed where the weights are.

use hyc_runtime::Model;

use crate::error::{Error, Result};
use crate::frontend::ModelDesc;
use crate::output::Target;
use crate::source::Weights;
use crate::text::Text;
use crate::words::place;
use crate::write::{self, Artefact};

/// The weights that a description names, which must be those of the plan of an artefact: of `[weights]` files, names and
/// scales count, of all else the model's name.
///
/// Errors: the artefact has weights, or is of a model of another name; the description names no files; a tensor that is
/// missing, too much, or of another shape.
pub fn weights(model: &Model, desc: &ModelDesc) -> Result<Weights> {
    let (plan, artefact) = (model.plan(), place(model.path()));
    if model.has_weights() {
        return Err(Error::input(format!("{artefact} has its weights already"))
            .help("give an artefact that was compiled with `--no-weights`"));
    }
    if plan.model.name != desc.name {
        let message = format!(
            "{artefact} was compiled of the model `{}`, and this is `{}`",
            plan.model.name, desc.name
        );
        return Err(Error::input(message).help("give the description that it was compiled of"));
    }
    if desc.weights.files.is_empty() {
        return Err(Error::input(format!("the description of `{}` names no weight files", desc.name))
            .help("name them under [weights]"));
    }
    Weights::of_files(&desc.weights.files, &desc.weights.names, plan)
}

/// Writes all of an artefact with these weights in it, as compiling it with them would have, and returns its size.
/// `progress` gets the bytes of each piece and may end it.
pub fn complete(
    model: &Model,
    weights: &Weights,
    target: &Target,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let tokenizer = model.tokenizer_json().zip(model.text_settings());
    let text = tokenizer.map(|(tokenizer, settings)| Text {
        tokenizer: tokenizer.to_vec(),
        settings: settings.clone(),
        named: None,
    });
    let artefact = Artefact {
        plan: model.plan(),
        code: model.code().unwrap_or_default(),
        cubin: model.cubin(),
        graph: model.graph_text().unwrap_or_default(),
        asm: model.asm_text().unwrap_or_default(),
        text: text.as_ref(),
        sampling: Some(model.sampling_defaults()).filter(|defaults| *defaults != Default::default()),
        eval: model.eval_gates(),
    };
    write::artefact(target, &artefact, weights, progress)
}
