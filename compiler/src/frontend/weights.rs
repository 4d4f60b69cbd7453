//! `[weights]`: the files, and how their names become the model's.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::desc::{WeightDtype, WeightsDesc};
use super::quantise::{Formats, MatrixFormat, TABLE};
use super::reader::{Faults, Section, as_number};
use crate::source::{Names, Pattern, Rename, Split, Stack};

/// The words of `dtype`.
const DTYPES: &[(&str, WeightDtype)] = &[("bf16", WeightDtype::Bf16), ("f32", WeightDtype::F32)];

const RENAME: &str = "\"from.{i}.weight\" = \"to.{i}.weight\"";
const SPLIT: &str = "\"qkv.{i}.weight\" = [[\"q.{i}.weight\", 64], [\"kv.{i}.weight\", 32]]";
const SCALE: &str = "\"layers.{i}.v_proj.weight\" = 0.707";
const FORMAT: &str = "\"lm_head.weight\" = \"bf16\"";
const STACK: &str = "\"experts.{e}.up.weight\" = \"experts.up.weight\"";

/// Reads the section; files lie relative to `folder`.
pub fn read(folder: &Path, weights: &Section, faults: &Faults) -> WeightsDesc {
    let files = strings(weights, "files", "path", "model.safetensors", faults);
    let files: Vec<PathBuf> = files.into_iter().map(|file| folder.join(file.get_ref())).collect();
    let names = Names {
        rename: read_names(weights, ("rename", RENAME), renamed(Rename::parse), faults),
        stack: read_names(weights, ("stack", STACK), renamed(Stack::parse), faults),
        split: read_names(weights, ("split", SPLIT), split, faults),
        ignore: patterns(weights, "ignore", "*.inv_freq", faults),
        interleaved: patterns(weights, "interleaved", "blk.{i}.attn_q.weight", faults),
        head: 0,
        scale: read_names(weights, ("scale", SCALE), scaled, faults),
    };
    let dtype = weights.word("dtype", DTYPES, WeightDtype::Bf16);
    WeightsDesc { files, dtype, formats: formats(weights, faults), names }
}

/// Reads `quantise` and `formats`.
fn formats(weights: &Section, faults: &Faults) -> Formats {
    let all = weights.string("quantise", "int4").and_then(|word| match MatrixFormat::parse(&word.value) {
        Ok(format) => Some(format),
        Err(fault) => {
            let help = "write for example `quantise = \"int4\"`, or leave it out";
            faults.add(word.span, format!("`quantise`: {fault}"), "not a format", help);
            None
        }
    });
    let of_table = Cell::new(false);
    let line = |name: &str, word: &DeValue<'_>| {
        let word = word.as_str()?;
        let both = MatrixFormat::parse(word).and_then(|format| Ok((Pattern::parse(name)?, format)));
        Some(both.and_then(|(pattern, format)| {
            let first = pattern.is_of(TABLE) && !of_table.replace(true);
            if first && format.shares() {
                return Err(format!(
                    "`{TABLE}`, whose rows are looked up, is f32 or bf16 on every target: no kernel reads it in {word}"
                ));
            }
            Ok((pattern, format))
        }))
    };
    Formats { all, some: read_names(weights, ("formats", FORMAT), line, faults) }
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

/// What a line of a table becomes. `None`: its value is something else than is wanted.
type Line<T> = Option<Result<T, String>>;

/// A name in the files, and one of the model.
fn renamed<T>(parse: impl Fn(&str, &str) -> Result<T, String>) -> impl Fn(&str, &DeValue<'_>) -> Line<T> {
    move |from, to| Some(parse(from, to.as_str()?))
}

/// A name in the files, and names of the model with their rows.
fn split(from: &str, to: &DeValue<'_>) -> Line<Split> {
    let part = |item: &Spanned<DeValue<'_>>| match item.get_ref().as_array()?.iter().collect::<Vec<_>>()[..] {
        [name, rows] => {
            let rows = rows.get_ref().as_integer()?;
            Some((
                name.get_ref().as_str()?.to_string(),
                u64::from_str_radix(rows.as_str(), rows.radix()).ok()?,
            ))
        }
        _ => None,
    };
    let parts: Vec<(String, u64)> = to.as_array()?.iter().map(part).collect::<Option<_>>()?;
    let parts: Vec<(&str, u64)> = parts.iter().map(|(to, rows)| (to.as_str(), *rows)).collect();
    Some(Split::parse(from, &parts))
}

/// A name in the files, and what its numbers are multiplied by.
fn scaled(from: &str, by: &DeValue<'_>) -> Line<(Pattern, f64)> {
    let by = as_number(by)?;
    if !hyc_plan::is_positive_f32(by) {
        return Some(Err(format!("{by} is no number above 0 and finite as an f32")));
    }
    Some(Pattern::parse(from).map(|pattern| (pattern, by)))
}

/// A table from patterns of names in the files to what they are of the model.
fn read_names<T>(
    weights: &Section,
    (key, example): (&str, &str),
    parse: impl Fn(&str, &DeValue<'_>) -> Line<T>,
    faults: &Faults,
) -> Vec<T> {
    let help = format!("write for example `{key} = {{ {example} }}`");
    let Some(value) = weights.get(key) else { return Vec::new() };
    if !value.get_ref().is_table() {
        let what = match key {
            "formats" => "from names of the model to formats",
            _ => "from names in the files to names of the model",
        };
        let message = format!("`{key}` must be a table {what}");
        faults.add(value.span(), message, "not a table", &help);
    }
    let mut found = Vec::new();
    for (from, to) in weights.table(key) {
        match parse(from.get_ref(), to.get_ref()) {
            Some(Ok(one)) => found.push(one),
            Some(Err(fault)) => faults.add(to.span(), format!("`{key}`: {fault}"), "in this line", &help),
            None if to.get_ref().is_table() => {
                let message = "a name with points is written in quotes";
                faults.add(from.span(), message, "this is a table in a table", &help);
            }
            None if key == "scale" => {
                let message = "what `scale` multiplies by is a number";
                faults.add(to.span(), message, "not a number", &help);
            }
            None if key == "formats" => {
                let message = "a format of `formats` is a string";
                faults.add(to.span(), message, "not a string", &help);
            }
            None if key == "split" => {
                let message = "`split` becomes a list of names, each with its rows";
                faults.add(to.span(), message, "not such a list", &help);
            }
            None => faults.add(to.span(), format!("a name of `{key}` is a string"), "not a string", &help),
        }
    }
    found
}
