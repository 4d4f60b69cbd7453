//! `[weights] formats` beside the model's matrices: each line gives some of them their format.

use std::collections::HashMap;

use hyc_ir::text::nearest;

use super::build::build_graph;
use super::desc::ModelDesc;
use super::reader::{Faults, Section};
use crate::source::{Expected, generalised};

/// Errors: a line that is of no matrix; one all of whose matrices have their format from lines before it.
pub fn check(weights: &Section, desc: &ModelDesc, faults: &Faults) {
    let some = &desc.weights.formats.some;
    let lines = weights.table("formats");
    // Where they differ in number a line had a fault of its own.
    if some.is_empty() || lines.len() != some.len() {
        return;
    }
    let (matrices, vectors): (Vec<_>, Vec<_>) =
        Expected::of_graph(&build_graph(desc)).into_iter().partition(|weight| weight.shape.len() > 1);
    // The line that each matrix has its format from.
    let mut given: HashMap<&str, usize> = HashMap::new();
    for (line, ((pattern, _), (key, _))) in some.iter().zip(lines).enumerate() {
        let own = matrices.iter().map(|weight| weight.name.as_str()).filter(|name| pattern.is_of(name));
        let (mut earlier, mut counts) = (None, false);
        for name in own {
            let first = *given.entry(name).or_insert(line);
            counts |= first == line;
            earlier = earlier.or(Some(first).filter(|first| *first != line));
        }
        match earlier {
            _ if counts => {}
            Some(earlier) => {
                let (earlier, text) = (some[earlier].0.text(), pattern.text());
                let message = format!("`formats`: `{text}` gives no matrix its format");
                let help = format!(
                    "the first line that fits counts, as `{earlier}` does: write this one before it, or remove it"
                );
                faults.add(key.span(), message, "lines before it fit all that it does", &help);
            }
            None => {
                let help = if vectors.iter().any(|weight| pattern.is_of(&weight.name)) {
                    "it fits vectors, which are f32 in any case: remove it".to_string()
                } else {
                    near(pattern.text(), matrices.iter().map(|weight| weight.name.as_str()))
                };
                let message = format!("`formats`: no matrix of the model is called `{}`", pattern.text());
                faults.add(key.span(), message, "fits none", &help);
            }
        }
    }
}

/// What to write in place of a pattern that is of no name.
fn near<'n>(pattern: &str, names: impl Iterator<Item = &'n str>) -> String {
    let mut names: Vec<String> = names.map(generalised).collect();
    names.sort();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match nearest(&generalised(pattern), &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`hyc check --tensors MODEL.toml` lists the model's matrices, by the names that count here"
            .to_string(),
    }
}
