//! What `hyc diff --json` found of the model that is shown.

use std::path::Path;

use hyc_plan::Plan;
use serde::Deserialize;

use super::head::Head;
use super::html::Html;
use crate::error::{Error, Result};
use crate::words::{place, shortened};

/// A comparison of generated code with the interpreter.
pub struct Comparison {
    tokens: u64,
    steps: u64,
    /// What ended it; `None`: they agree.
    pub found: Option<First>,
}

/// The first step that differs, or whose numbers end.
pub struct First {
    /// Its place in the plan.
    pub step: usize,
    /// In words.
    said: String,
}

/// The version of the form that is read, and that `hyc diff` writes.
pub const SCHEMA: u64 = 1;

#[derive(Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    tokens: u64,
    steps: u64,
    differs: Option<FileFirst>,
    not_finite: Option<FileFirst>,
}

#[derive(Deserialize)]
struct FileFirst {
    index: usize,
    operand: String,
    element: u64,
    ours: serde_json::Value,
    reference: serde_json::Value,
    error: serde_json::Value,
}

/// Reads a comparison of `plan`. Errors: none, or one of another model or target.
pub fn read(path: &Path, text: &[u8], plan: &Plan) -> Result<Comparison> {
    let refuse = |what: String| {
        Error::input(format!("{} is no comparison of this model: {what}", place(path)))
            .help("make one with `hyc diff MODEL.hyc --json`, of the same model, target and limits")
    };
    let file: File = serde_json::from_slice(text)
        .map_err(|e| refuse(format!("it is not what `hyc diff --json` prints ({e})")))?;
    file.head.check(SCHEMA, plan, "compared").map_err(refuse)?;
    let word = match (&file.differs, &file.not_finite) {
        (Some(_), Some(_)) => return Err(refuse("it ended twice".to_string())),
        (Some(_), None) => "differs first",
        _ => "is where the model's own numbers end",
    };
    let found = file.differs.or(file.not_finite).map(|first| {
        let Some(step) = plan.steps.get(first.index) else {
            return Err(refuse(format!("the plan has no step {}", first.index)));
        };
        let number = |value: &serde_json::Value| match value {
            serde_json::Value::String(word) => shortened(word).to_string(),
            other => shortened(&other.to_string()).to_string(),
        };
        let said = format!(
            "step {}, {}, {word}: element {} of `{}` is {}, the interpreter has {} (relative error {})",
            first.index,
            step.name,
            first.element,
            shortened(&first.operand),
            number(&first.ours),
            number(&first.reference),
            number(&first.error),
        );
        Ok(First { step: first.index, said })
    });
    Ok(Comparison { tokens: file.tokens, steps: file.steps, found: found.transpose()? })
}

/// A paragraph of it.
pub fn told(h: &mut Html, comparison: &Comparison) {
    let over = format!("Generated code beside the interpreter, {} tokens: ", comparison.tokens);
    match &comparison.found {
        None => h.leaf("p", &[("id", &"diff")], format!("{over}all {} steps agree.", comparison.steps)),
        Some(first) => {
            h.leaf("p", &[("id", &"diff"), ("class", &"differs")], format!("{over}{}.", first.said))
        }
    }
}
