//! The table beside the reader, the graph, the examples and docs/model-toml.md.

use hyc_ir::op;
use std::path::{Path, PathBuf};

use super::super::desc::*;
use super::super::explain::{explain, overview};
use super::super::{ModelDesc, parse_model};
use super::MAX_SIZE;
use super::*;

const DENSE: &str = "[model]\nname = \"m\"\nlayers = 5\nhidden = 24\nheads = 4\nkv_heads = 2\nhead_dim = 8\n\
                     ffn = 40\nvocab = 99\nrope = { theta = 10000.0 }\n\n\
                     [attention]\npattern = \"1:3\"\nblock = 8\ntop_k = 64\nwindow = 12\n\n[sampling]\n";
const MOE_PART: &str = "\n[moe]\nexperts = 6\nactive = 2\nexpert_ffn = 16\n";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Three whole descriptions, as text.
pub fn bases() -> [String; 3] {
    [
        DENSE.to_string(),
        DENSE.replace("ffn = 40\n", "") + MOE_PART,
        DENSE.replace("pattern = \"1:3\"", "full = [0, 2, 4]"),
    ]
}

/// The description with this line in that section, in place of the key's own.
pub fn with(base: &str, section: &str, key: &str, value: Option<&str>) -> String {
    let mut table: toml::Table = base.parse().unwrap();
    let inner = table.entry(section).or_insert(toml::Table::new().into()).as_table_mut().unwrap();
    inner.remove(key);
    let mut text = toml::to_string(&table).unwrap();
    if let Some(value) = value {
        let head = format!("[{section}]\n");
        text = text.replace(&head, &format!("{head}{key} = {value}\n"));
    }
    text
}

pub fn parse(text: &str) -> Result<ModelDesc, Vec<String>> {
    parse_model(Path::new("model.toml"), text)
        .map_err(|faults| faults.list.iter().map(|d| format!("{} {:?}", d.message, d.help)).collect())
}

fn all_keys() -> impl Iterator<Item = (&'static SectionKeys, &'static Key)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (*section, key)))
}

/// No key stands in the table that the reader never looks at: a value of a wrong type is a fault.
#[test]
fn every_key_is_read() {
    for (section, key) in all_keys() {
        let wrong = match key.ty {
            Type::Integer(_) | Type::Between(..) | Type::Multiple(..) | Type::Positive | Type::Flag => {
                "\"word\""
            }
            Type::Table(_)
            | Type::Renames
            | Type::Splits
            | Type::Scales
            | Type::Formats
            | Type::Within(_)
            | Type::Seed => "\"word\"",
            Type::Token | Type::Tokens => "true",
            Type::Text | Type::Name | Type::Word(_) | Type::Files | Type::Patterns | Type::Layers => "7",
            Type::Positives => "7",
            Type::Switch => "7",
        };
        let found = bases().iter().any(|base| {
            let faults = parse(&with(base, section.name, key.name, Some(wrong))).err().unwrap_or_default();
            faults.iter().any(|fault| fault.contains(&format!("`{}` must be", key.name)))
        });
        assert!(found, "[{}] {} = {wrong} is taken", section.name, key.name);
    }
}

/// A number below what the table says is refused, and so is a word that it does not have; the others are known.
#[test]
fn types_are_those_of_the_reader() {
    for (section, key) in all_keys() {
        let faults = |value: &str| -> String {
            let parse = |base: &String| {
                parse(&with(base, section.name, key.name, Some(value))).err().unwrap_or_default()
            };
            bases().iter().flat_map(parse).collect::<Vec<String>>().join("\n")
        };
        match key.ty {
            Type::Integer(least) => {
                let below = faults(&(least - 1).to_string());
                let says = ["must be between", "a window of 0"];
                assert!(says.iter().any(|words| below.contains(words)), "{}: {below}", key.name);
                assert!(faults(&(MAX_SIZE + 1).to_string()).contains("must be"), "{}", key.name);
            }
            Type::Between(least, most) => {
                for wrong in [least - 1, most + 1] {
                    assert!(faults(&wrong.to_string()).contains("must be between"), "{}", key.name);
                }
            }
            Type::Multiple(of, most) => {
                for wrong in [of / 2, of + 1, most + of] {
                    assert!(faults(&wrong.to_string()).contains("must be a multiple"), "{}", key.name);
                }
            }
            Type::Within(range) => {
                for wrong in [range.least - 1.0, range.most * 2.0] {
                    let found = faults(&wrong.to_string());
                    assert!(found.contains(&range.wanted()), "{} = {wrong}: {found}", key.name);
                }
                assert!(!range.whole || faults("1.5").contains(&range.wanted()), "{}", key.name);
            }
            Type::Seed => assert!(faults("-1").contains("from 0 to"), "{}", key.name),
            // An f32 has neither of the last two.
            Type::Positive => ["0.0", "-1.0", "inf", "nan", "1e300", "1e-300"].iter().for_each(|x| {
                assert!(faults(x).contains("above 0 and finite as an f32"), "{} = {x}", key.name);
            }),
            Type::Positives => ["[]", "[1, 0]", "[\"a\"]"].iter().for_each(|list| {
                assert!(faults(list).contains("must be a list of numbers above 0"), "{} = {list}", key.name);
            }),
            Type::Name => assert!(faults("\"a/b\"").contains("becomes a file name")),
            // Of the targets, those that this build carries are offered.
            Type::Word(_) if key.name == "kind" && section.name == "target" => {
                let own = faults("\"nonsense\"");
                assert!(own.contains("write \\\"cpu\\\""), "{own}");
                assert_eq!(own.contains("sm_90a"), cfg!(feature = "llvm"), "{own}");
            }
            Type::Word(words) => {
                let list: Vec<String> = words.iter().map(|word| format!("\\\"{word}\\\"")).collect();
                let own = faults("\"nonsense\"");
                assert!(own.contains(&format!("write one of {}", list.join(", "))), "{}: {own}", key.name);
            }
            _ => {}
        }
    }
}

/// Writing a default out changes nothing; what is required is missed.
#[test]
fn defaults_are_those_of_the_reader() {
    for (section, key) in all_keys() {
        let mut told = 0;
        for base in &bases() {
            let without = parse(&with(base, section.name, key.name, None));
            match key.default {
                Default::Value(value) => {
                    let Ok(with) = parse(&with(base, section.name, key.name, Some(value))) else { continue };
                    assert_eq!(Ok(with), without, "[{}] {} = {value}", section.name, key.name);
                    told += 1;
                }
                Default::Required | Default::Needed(_) => {
                    let faults = without.err().unwrap_or_default();
                    // `pattern` and `full` stand for each other.
                    let missed = if key.name == "full" { "pattern" } else { key.name };
                    let fault = format!("needs `{missed}`");
                    told += usize::from(faults.iter().any(|found| found.contains(&fault)));
                }
                Default::Otherwise(_) => told += 1,
            }
        }
        assert!(told > 0, "nothing shows the default of [{}] {}", section.name, key.name);
    }
}

#[test]
fn examples_are_of_their_type() {
    for (section, key) in all_keys() {
        for base in bases() {
            let text = with(&base, section.name, key.name, Some(key.example));
            let faults = parse(&text).err().unwrap_or_default().join("\n");
            assert!(!faults.contains(&format!("`{}` must be", key.name)), "{text}\n{faults}");
            assert!(!faults.contains("not valid TOML") && !faults.contains("unknown"), "{text}\n{faults}");
        }
    }
}

/// The tensors that the table says a model has, with their shapes and whether they are matrices.
fn documented(desc: &ModelDesc) -> Vec<(String, Vec<u64>, bool)> {
    let mut list = Vec::new();
    for (_, key) in all_keys() {
        for tensor in key.tensors {
            let shape =
                |layer| -> Vec<u64> { tensor.shape.iter().map(|dim| value(desc, layer, dim)).collect() };
            let matrix = tensor.dtype == Dtype::Matrix;
            if !tensor.name.contains("{i}") {
                let any = &desc.layers[0];
                if (tensor.present)(desc, any) {
                    list.push((tensor.name.to_string(), shape(any), matrix));
                }
                continue;
            }
            for (i, layer) in desc.layers.iter().enumerate() {
                if (tensor.present)(desc, layer) {
                    list.push((tensor.name.replace("{i}", &i.to_string()), shape(layer), matrix));
                }
            }
        }
    }
    list.sort();
    list
}

/// `heads * v_head_dim` of a layer.
fn value(desc: &ModelDesc, layer: &LayerDesc, dim: &str) -> u64 {
    let moe = |get: fn((usize, usize, usize)) -> usize| match layer.ffn {
        Ffn::Moe { experts, expert_ffn, shared_ffn, .. } => get((experts, expert_ffn, shared_ffn)),
        Ffn::Dense { .. } => 0,
    };
    let factor = |name: &str| match name {
        "hidden" => desc.hidden,
        "heads" => layer.attention.heads,
        "kv_heads" => layer.attention.kv_heads,
        "qk_head_dim" => layer.attention.qk_dim,
        "v_head_dim" => layer.attention.v_dim,
        "vocab" => desc.vocab,
        "ffn" => match layer.ffn {
            Ffn::Dense { ffn } => ffn,
            Ffn::Moe { .. } => 0,
        },
        "experts" => moe(|m| m.0),
        "expert_ffn" => moe(|m| m.1),
        "shared_ffn" => moe(|m| m.2),
        _ => panic!("{name} is no size"),
    };
    dim.split('*').map(|name| factor(name.trim()) as u64).product()
}

fn wanted(desc: &ModelDesc) -> Vec<(String, Vec<u64>, bool)> {
    use hyc_ir::{Op, Type};
    use hyc_plan::Codec;
    // Matrices are bf16 and the rest f32, so that the graph's element types tell them apart.
    let mut desc = desc.clone();
    desc.weights.dtype = WeightDtype::Bf16;
    desc.weights.formats = crate::frontend::Formats::default();
    let graph = crate::frontend::build_graph(&desc);
    let mut list: Vec<_> = graph
        .ops()
        .filter(|id| graph.op(*id).op == Op::Weight(op::Weight {}))
        .map(|id| {
            let value = graph.op(id).results[0];
            let Type::Weight { codec, dims } = graph.ty(value) else { panic!("a weight") };
            (graph.name(value).to_string(), dims.clone(), *codec == Codec::Bf16)
        })
        .collect();
    list.sort();
    list
}

/// Every tensor that a model wants is documented, and every one that is documented is wanted.
#[test]
fn tensors_are_those_of_the_graph() {
    let mut texts: Vec<String> = descriptions().iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    texts.extend(bases());
    let mut seen = 0;
    for base in bases() {
        for gate in ["elementwise", "head", "none"] {
            for (kv, window) in
                [("shared", true), ("own", true), ("own", false), ("shared-both", true), ("shared", false)]
            {
                for on in ["true", "false"] {
                    let mut text = with(&base, "attention", "gate", Some(&format!("\"{gate}\"")));
                    text = with(&text, "attention", "sparse_kv", Some(&format!("\"{kv}\"")));
                    if !window {
                        text = with(&text, "attention", "window", None);
                        text = with(&text, "attention", "window_branch", Some("false"));
                    }
                    let gates = if gate == "none" { "false" } else { on };
                    text = with(&text, "attention", "full_gate", Some(gates));
                    text = with(&text, "attention", "full_sink", Some(on));
                    text = with(&text, "model", "qk_norm", Some(on));
                    text = with(&text, "model", "qkv_bias", Some(on));
                    text = with(&text, "model", "tie_embeddings", Some(on));
                    text = with(&text, "model", "qk_head_dim", Some("12"));
                    text = with(&text, "attention", "sparse_heads", Some("6"));
                    if kv == "own" {
                        text = with(&text, "attention", "sparse_qk_head_dim", Some("16"));
                        text = with(&text, "attention", "sparse_v_head_dim", Some("4"));
                        text = with(&text, "attention", "sparse_rope", Some("{ theta = 7.0 }"));
                    }
                    if text.contains("[moe]") {
                        text = with(&text, "moe", "shared_ffn", Some(if on == "true" { "12" } else { "0" }));
                        if on == "true" {
                            text = with(&text, "moe", "router", Some("\"sigmoid\""));
                            text = with(&text, "moe", "router_bias", Some("true"));
                            text = with(&text, "moe", "dense", Some("[0, 2]"));
                            text = with(&text, "model", "ffn", Some("40"));
                        }
                    }
                    texts.push(text);
                }
            }
        }
    }
    for text in texts {
        let desc = parse(&text).unwrap_or_else(|faults| panic!("{text}\n{}", faults.join("\n")));
        assert_eq!(documented(&desc), wanted(&desc), "{text}");
        seen += 1;
    }
    assert!(seen > 60);
}

/// Every model.toml of the repository.
pub fn descriptions() -> Vec<PathBuf> {
    let mut list = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["examples", "tests/configs/valid", "tests/golden", "tests/gpu"].map(|f| root().join(f)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(e) if e == "toml" && !path.ends_with("Cargo.toml") => list.push(path),
                _ => {}
            }
        }
    }
    list.sort();
    assert!(list.len() > 20);
    list
}

#[test]
fn the_page_is_up_to_date() {
    hyc_filetest::expect(&root().join("docs/model-toml.md"), &markdown());
}

#[test]
fn topics_are_explained() {
    for (section, key) in all_keys() {
        let text = explain(&format!("{}.{}", section.name, key.name)).unwrap();
        assert!(text.starts_with(&format!("{}.{}: ", section.name, key.name)), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        assert!(overview().contains(key.name) && explain(section.name).unwrap().contains(key.name));
    }
    assert!(explain("model.rope.theta").unwrap().starts_with("rope.theta"));
    assert!(explain("window").unwrap().starts_with("attention.window"));
    assert!(explain("[moe]").is_some());
    for topic in ["", ".", "model.", "model.none", "model.rope.x", "model.name.x", "kind", "é.é"] {
        assert!(explain(topic).is_none(), "{topic}");
    }
}
