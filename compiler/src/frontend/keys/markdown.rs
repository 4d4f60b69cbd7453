//! `docs/model-toml.md`.

use std::fmt::Write;

use super::{Key, SECTIONS, SectionKeys, Type};

const HEAD: &str = "\
# model.toml

Every section and key of a model description. This page is made from the table that the reader itself goes by
(`compiler/src/frontend/keys`); `HYC_BLESS=1 cargo test -p hyc --lib keys` writes it anew. `hyc explain KEY` says the
same of one key, `hyc schema` prints a JSON schema for editors, and `hyc check model.toml` finds every fault of a
description at once. `examples/models` has descriptions to start from.

The weight files hold one tensor for each that is listed here, of F32, F16 or BF16, whatever it becomes in the artefact.
`{i}` is a layer, counted from 0. Shapes are those of the files: a product's matrix is `[outputs, inputs]`.
";

/// The page.
pub fn markdown() -> String {
    let mut out = HEAD.to_string();
    for section in SECTIONS {
        let need = if section.required { "required" } else { "may be left out" };
        let _ = write!(out, "\n## [{}]\n\n{} The section {}.\n", section.name, section.meaning, verb(need));
        table(&mut out, section);
        for key in section.keys {
            if let Type::Table(inner) = key.ty {
                let _ = write!(out, "\n### {}.{}\n", section.name, key.name);
                table(&mut out, inner);
            }
        }
        formulas(&mut out, section);
        tensors(&mut out, section);
    }
    out
}

fn verb(need: &str) -> String {
    if need == "required" { format!("is {need}") } else { need.to_string() }
}

fn table(out: &mut String, section: &SectionKeys) {
    out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        let (value, default) = (key.ty.words(), key.default.words());
        let _ = writeln!(out, "| `{}` | {value} | {default} | {} |", key.name, key.meaning);
    }
}

fn formulas(out: &mut String, section: &SectionKeys) {
    let keys = section.keys.iter().filter_map(|key| Some((key, key.formula.as_ref()?)));
    for (i, (key, formula)) in keys.enumerate() {
        if i == 0 {
            out.push_str("\nFormulas:\n");
        }
        let lines: Vec<&str> = formula.text.split(";  ").collect();
        let text = lines.join("\n");
        let _ = write!(out, "\n`{}`: {}\n\n```\n{text}\n```\n", key.name, formula.source);
    }
}

fn tensors(out: &mut String, section: &SectionKeys) {
    let all = |key: &'static Key| key.tensors.iter().map(move |tensor| (key, tensor));
    for (i, (key, tensor)) in section.keys.iter().flat_map(all).enumerate() {
        if i == 0 {
            out.push_str(
                "\nTensors:\n\n| key | tensor | shape | in the artefact | where |\n|---|---|---|---|---|\n",
            );
        }
        let (dims, dtype) = (tensor.dims(), tensor.dtype.words());
        let _ = writeln!(out, "| `{}` | `{}` | {dims} | {dtype} | {} |", key.name, tensor.name, tensor.place);
    }
}
