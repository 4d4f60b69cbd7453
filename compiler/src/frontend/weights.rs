//! `[weights]`: the files, and how their names become the model's.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::desc::{WeightDtype, WeightsDesc};
use super::reader::{Faults, Section};
use crate::source::{Names, Pattern, Rename, Stack};

/// The words of `dtype` and of `kv_dtype` under `[target]`.
pub const DTYPES: &[(&str, WeightDtype)] = &[("bf16", WeightDtype::Bf16), ("f32", WeightDtype::F32)];

const RENAME: &str = "\"from.{i}.weight\" = \"to.{i}.weight\"";
const STACK: &str = "\"experts.{e}.up.weight\" = \"experts.up.weight\"";

/// Reads the section; files lie relative to `folder`.
pub fn read(folder: &Path, weights: &Section, faults: &Faults) -> WeightsDesc {
    let files = strings(weights, "files", "path", "model.safetensors", faults);
    let files: Vec<PathBuf> = files.into_iter().map(|file| folder.join(file.get_ref())).collect();
    let names = Names {
        rename: read_names(weights, ("rename", RENAME), Rename::parse, faults),
        stack: read_names(weights, ("stack", STACK), Stack::parse, faults),
        ignore: patterns(weights, "ignore", "*.inv_freq", faults),
        interleaved: patterns(weights, "interleaved", "blk.{i}.attn_q.weight", faults),
        head: 0,
    };
    WeightsDesc { files, dtype: weights.word("dtype", DTYPES, WeightDtype::Bf16), names }
}

fn patterns(weights: &Section, key: &str, example: &str, faults: &Faults) -> Vec<Pattern> {
    let mut found = Vec::new();
    for item in strings(weights, key, "pattern", example, faults) {
        match Pattern::parse(item.get_ref()) {
            Ok(pattern) => found.push(pattern),
            Err(fault) => {
                let help = format!("write for example `{key} = [\"{example}\"]`");
                faults.add(item.span(), format!("`{key}`: {fault}"), "not a pattern", &help);
            }
        }
    }
    found
}

/// A list of at least one string, where the key is there.
fn strings<'a>(
    weights: &Section<'a, '_>,
    key: &str,
    what: &str,
    example: &str,
    faults: &Faults,
) -> Vec<Spanned<&'a str>> {
    let Some(value) = weights.get(key) else { return Vec::new() };
    let help = format!("write `{key} = [\"{example}\"]`");
    let items = value.get_ref().as_array();
    if items.is_none_or(|items| items.is_empty()) {
        let message = format!("`{key}` must be a list of {what}s");
        faults.add(value.span(), message, "not such a list", &help);
    }
    let mut found = Vec::new();
    for item in items.into_iter().flatten() {
        match item.get_ref().as_str() {
            Some("") => faults.add(item.span(), format!("a {what} of `{key}` is empty"), "empty", &help),
            Some(text) => found.push(Spanned::new(item.span(), text)),
            None => {
                faults.add(item.span(), format!("a {what} of `{key}` is a string"), "not a string", &help)
            }
        }
    }
    found
}

/// A table from patterns of names in the files to names of the model.
fn read_names<T>(
    weights: &Section,
    (key, example): (&str, &str),
    parse: fn(&str, &str) -> Result<T, String>,
    faults: &Faults,
) -> Vec<T> {
    let help = format!("write for example `{key} = {{ {example} }}`");
    let Some(value) = weights.get(key) else { return Vec::new() };
    let Some(table) = value.get_ref().as_table() else {
        let message = format!("`{key}` must be a table from names in the files to names of the model");
        faults.add(value.span(), message, "not a table", &help);
        return Vec::new();
    };
    let mut found = Vec::new();
    for (from, to) in table {
        match to.get_ref() {
            DeValue::String(text) => match parse(from.get_ref(), text) {
                Ok(one) => found.push(one),
                Err(fault) => faults.add(to.span(), format!("`{key}`: {fault}"), "in this line", &help),
            },
            DeValue::Table(_) => {
                let message = "a name with points is written in quotes";
                faults.add(from.span(), message, "this is a table in a table", &help);
            }
            _ => faults.add(to.span(), format!("a name of `{key}` is a string"), "not a string", &help),
        }
    }
    found
}
