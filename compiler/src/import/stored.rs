//! `--dtype stored`: lines of `[weights.formats]` by which the matrices of a GGUF file stay as they are in it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use hyc_plan::Codec;

use crate::error::Result;
use crate::frontend::{self, build_graph};
use crate::source::{Expected, WeightSource, generalised};
use crate::words::listed;

/// As `dtype` of the options.
pub const WORD: &str = "stored";

/// Matrices of a layer that one kernel of a GPU reads, which must be of one format.
const TOGETHER: [&[&str]; 2] = [
    &["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
    &["mlp.gate_proj.weight", "mlp.up_proj.weight"],
];
/// Rows of this are looked up, which no target does in groups.
const TABLE: &str = "model.embed_tokens.weight";

/// A matrix, and the codec that it can stay in.
type Kept = BTreeMap<String, Option<Codec>>;

/// The section for a description, whose other matrices are of `dtype`, of the file at `path`. Notes what becomes of them.
/// Errors: those of the description and of the file.
pub fn formats(text: &str, path: &Path, dtype: &str, notes: &mut Vec<String>) -> Result<String> {
    let desc = frontend::parse_model(Path::new("model.toml"), text)?;
    let source = WeightSource::open(&[PathBuf::from(path)])?.renamed(&desc.weights.names)?;
    let mut all = Expected::of_graph(&build_graph(&desc));
    all.retain(|weight| weight.shape.len() > 1);
    let codec = |name: &str| {
        let codec = source.stored(name)?.codec()?;
        (name != TABLE && codec.group().is_some()).then_some(codec)
    };
    let mut kept: Kept = all.iter().map(|weight| (weight.name.clone(), codec(&weight.name))).collect();
    let apart = one_format(&mut kept, desc.layers.len());
    if !apart.is_empty() {
        notes.push(format!(
            "q, k and v, or gate and up, of layers {} are of several types, and become {dtype}: a GPU takes them in one format",
            listed(&apart, ", ")
        ));
    }
    notes.push(told(&kept, &source, dtype));
    Ok(section(&kept, dtype))
}

/// Lets go of what must be of one format and is not. Its layers.
fn one_format(kept: &mut Kept, layers: usize) -> Vec<String> {
    let mut apart = Vec::new();
    for layer in 0..layers {
        for together in TOGETHER {
            let names: Vec<String> =
                together.iter().map(|tail| format!("model.layers.{layer}.{tail}")).collect();
            let mut codecs: Vec<Option<Codec>> =
                names.iter().filter_map(|name| kept.get(name).copied()).collect();
            codecs.dedup();
            if codecs.len() > 1 {
                kept.iter_mut().filter(|(name, _)| names.contains(name)).for_each(|(_, codec)| *codec = None);
                apart.push(layer.to_string());
            }
        }
    }
    apart.dedup();
    apart
}

/// What becomes of the matrices, in a line.
fn told(kept: &Kept, source: &WeightSource, dtype: &str) -> String {
    let mut codecs: Vec<String> = kept.values().flatten().map(ToString::to_string).collect();
    let count = codecs.len();
    codecs.sort();
    codecs.dedup();
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for name in kept.iter().filter(|(_, codec)| codec.is_none()).map(|(name, _)| name) {
        *others.entry(source.stored(name).map_or("", |stored| stored.name())).or_default() += 1;
    }
    let others: Vec<String> = others.iter().map(|(kind, count)| format!("{count} of {kind}")).collect();
    let rest = match others.is_empty() {
        true => String::new(),
        false => format!("; the others become {dtype}: {}", others.join(", ")),
    };
    match count {
        0 => format!("none of {} matrices is one of Q4_0, Q4_1 and Q8_0 that can stay{rest}", kept.len()),
        _ => {
            format!("{count} of {} matrices stay in their blocks, as {}{rest}", kept.len(), codecs.join(", "))
        }
    }
}

/// `[weights.formats]`: for matrices of one name in all layers a line of what most of them are, behind the others'.
fn section(kept: &Kept, dtype: &str) -> String {
    let mut kinds: BTreeMap<String, Vec<(&str, Option<Codec>)>> = BTreeMap::new();
    for (name, codec) in kept {
        kinds.entry(generalised(name)).or_default().push((name, *codec));
    }
    let mut out = String::new();
    let mut line = |name: &str, codec: Option<Codec>| {
        let format = codec.map_or_else(|| dtype.to_string(), |codec| codec.to_string());
        let _ = writeln!(out, "\"{name}\" = \"{format}\"");
    };
    for (kind, matrices) in &kinds {
        let times = |codec: Option<Codec>| matrices.iter().filter(|(_, own)| *own == codec).count();
        // Of as many the first one.
        let most = matrices.iter().rev().max_by_key(|(_, codec)| times(*codec)).and_then(|(_, codec)| *codec);
        for (name, codec) in matrices.iter().filter(|(_, codec)| *codec != most) {
            line(name, *codec);
        }
        if most.is_some() {
            line(kind, most);
        }
    }
    if out.is_empty() { out } else { format!("\n[weights.formats]\n{out}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(list: &[(&str, &str)]) -> Kept {
        list.iter().map(|(name, codec)| (name.to_string(), codec.parse().ok())).collect()
    }

    #[test]
    fn a_line_for_what_most_layers_have() {
        let mut all = kept(&[
            ("lm_head.weight", "int8(32)"),
            ("model.embed_tokens.weight", "-"),
            ("model.layers.0.mlp.down_proj.weight", "int8(32)"),
            ("model.layers.1.mlp.down_proj.weight", "int4(32)"),
            ("model.layers.2.mlp.down_proj.weight", "int4(32)"),
            ("model.layers.3.mlp.down_proj.weight", "-"),
            ("model.layers.0.mlp.gate_proj.weight", "int4(32)"),
            ("model.layers.0.mlp.up_proj.weight", "int4z(32)"),
            ("model.layers.1.mlp.gate_proj.weight", "int4(32)"),
            ("model.layers.1.mlp.up_proj.weight", "int4(32)"),
        ]);
        assert_eq!(one_format(&mut all, 4), ["0"]);
        assert_eq!(
            section(&all, "bf16"),
            "
[weights.formats]
\"lm_head.weight\" = \"int8(32)\"
\"model.layers.0.mlp.down_proj.weight\" = \"int8(32)\"
\"model.layers.3.mlp.down_proj.weight\" = \"bf16\"
\"model.layers.{i}.mlp.down_proj.weight\" = \"int4(32)\"
\"model.layers.1.mlp.gate_proj.weight\" = \"int4(32)\"
\"model.layers.1.mlp.up_proj.weight\" = \"int4(32)\"
"
        );
        assert_eq!(section(&kept(&[("lm_head.weight", "-")]), "bf16"), "");
    }
}
