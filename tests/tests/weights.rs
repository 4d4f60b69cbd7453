//! Weight files: what they may be, what is said of everything else, names, and elements that do not fit.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::hyc_binary;
use hyc_tests::root;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A copy of tests/golden/dense whose weights are changed.
struct Case {
    folder: tempfile::TempDir,
}

/// Name, element type, shape, bytes.
type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

fn tensors(name: &str) -> Vec<Tensor> {
    let bytes = std::fs::read(root().join("tests/golden").join(name).join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let mut list: Vec<Tensor> = all
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::BF16);
            (name, "BF16", view.shape().to_vec(), view.data().to_vec())
        })
        .collect();
    list.sort();
    list
}

/// A safetensors file, written by hand.
fn file(tensors: &[Tensor], metadata: Option<Value>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.extend(metadata.map(|value| ("__metadata__".to_string(), value)));
    let mut at = 0;
    for (name, dtype, shape, bytes) in tensors {
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes.len()] });
        header.insert(name.clone(), entry);
        at += bytes.len();
    }
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| &tensor.3).copied().collect();
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

impl Case {
    fn new(golden: &str) -> Case {
        let case = Case { folder: tempfile::tempdir().unwrap() };
        let model = root().join("tests/golden").join(golden).join("model.toml");
        std::fs::copy(model, case.at("model.toml")).unwrap();
        case
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.at(name), bytes).unwrap();
    }

    /// Changes the description.
    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.at("model.toml")).unwrap();
        assert!(text.contains(from));
        std::fs::write(self.at("model.toml"), text.replace(from, to)).unwrap();
    }

    /// Runs `hyc` in the folder: exit code, standard output, standard error.
    fn hyc(&self, args: &[&str]) -> (i32, String, String) {
        let out = Command::new(hyc_binary()).args(args).current_dir(&self.folder).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert!(!stderr.contains("panicked"), "hyc {args:?}: {stderr}");
        (out.status.code().unwrap_or(-1), stdout, stderr)
    }

    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let (found, _, stderr) = self.hyc(args);
        assert_eq!(found, code, "hyc {args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "hyc {args:?} does not say {word:?}: {stderr}");
        }
    }

    fn passes(&self, args: &[&str]) -> String {
        let (found, stdout, stderr) = self.hyc(args);
        assert_eq!(found, 0, "hyc {args:?}: {stderr}");
        stdout
    }

    /// What is said of a weight file of this content.
    fn refused(&self, bytes: &[u8], words: &[&str]) {
        self.write("w.safetensors", bytes);
        self.fails(&["compile", "model.toml", "--weights", "w.safetensors", "-q", "-o", "m.hyc"], 3, words);
        assert!(!self.at("m.hyc").exists());
    }
}

#[test]
fn what_a_file_is_is_said() {
    let case = Case::new("dense");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14603232\n";
    case.refused(
        pointer.as_bytes(),
        &["w.safetensors is a Git LFS pointer", "14603232 bytes", "git lfs pull"],
    );
    case.refused(b"", &["w.safetensors is empty"]);
    case.refused(b"abc", &["text"]);
    case.refused(b"<!DOCTYPE html><html>", &["a web page", "/resolve/"]);
    case.refused(b"  <HTML>", &["a web page"]);
    case.refused(b"Entry not found", &["a server's answer"]);
    case.refused(b"PK\x03\x04\x14\0\0\0", &["PyTorch", "save_file"]);
    case.refused(b"\x80\x02\x8a\x0al\xfc\x9cF", &["pickle"]);
    case.refused(b"GGUF\x03\0\0\0\x01", &["ends before what it says it holds"]);
    case.refused(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &["gzip", "unpack"]);
    case.refused(b"{\"a\": 1}      ", &["no `weight_map`"]);
    case.refused(&[0xff; 40], &["no safetensors file", "100000000"]);
    case.fails(&["compile", "model.toml", "--weights", "."], 3, &["is a folder", "name the files in it"]);
    case.fails(&["compile", "model.toml", "--weights", "/dev/zero"], 3, &["is a device or a pipe"]);
}

#[test]
fn headers_are_not_believed() {
    let case = Case::new("dense");
    let all = tensors("dense");
    let whole = file(&all, Some(json!({ "format": "pt" })));
    case.write("model.safetensors", &whole);
    case.passes(&["check", "--weights", "model.toml"]);
    case.refused(
        &file(&all, Some(json!({ "step": 4400 }))),
        &["`__metadata__` holds `step`, which is an integer and not a string", "strings alone"],
    );
    case.refused(&file(&all, Some(json!({ "a": "b", "c": [{}] }))), &["`c`, which is a list"]);
    case.refused(&file(&all, Some(json!(7))), &["`__metadata__` as a table of strings"]);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for end in [7, 9, header - 1, header, header + 1, whole.len() - 1] {
        let words = ["not a whole safetensors file", &format!("it has {end}"), "truncated"];
        case.refused(&whole[..end], &words);
    }
    case.refused(&[&whole[..], b"x"].concat(), &["1 too many"]);
    let entry = |offsets: &str| format!("{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{offsets}}}");
    let one = |text: String| with_header(&text, &[0; 16]);
    case.refused(
        &one(format!("{{\"a\":{},\"b\":{}}}", entry("[0,8]"), entry("[4,12]"))),
        &["`b`", "overlaps"],
    );
    case.refused(&one(format!("{{\"a\":{},\"b\":{}}}", entry("[0,8]"), entry("[9,17]"))), &["`b`", "unused"]);
    case.refused(&one(format!("{{\"a\":{}}}", entry("[8,0]"))), &["`a` begins at byte 8 and ends at 0"]);
    case.refused(&one(format!("{{\"a\":{}}}", entry("[0,16]"))), &["takes 8 bytes, it has 16"]);
    case.refused(&one(format!("{{\"a\":{0},\"a\":{0}}}", entry("[0,8]"))), &["`a` is there twice"]);
    case.refused(
        &one(format!("{{\"a\":{}}}", entry("[18446744073709551608,18446744073709551615]"))),
        &["`a`"],
    );
    let dims = "1,".repeat(3_000_000);
    let long = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{dims}2],\"data_offsets\":[0,8]}}}}");
    case.refused(&one(long), &["more than 8 dimensions"]);
    let vast = "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,16]}}";
    case.refused(&one(vast.to_string()), &["more than can be"]);
    case.refused(&one("{\"a\":".to_string()), &["not a safetensors header"]);
    let mut odd = all.clone();
    let norm = odd.iter().position(|(name, ..)| name == "model.norm.weight").unwrap();
    odd[norm].1 = "F8_E4M3";
    odd[norm].3.truncate(44);
    case.refused(&file(&odd, None), &["dtype of `model.norm.weight` is F8_E4M3, not F32, BF16 or F16"]);
    odd[norm].1 = "F12_NEW";
    case.refused(&file(&odd, None), &["dtype of `model.norm.weight` is F12_NEW"]);
    // An artefact has the same container.
    case.passes(&["compile", "model.toml", "-q", "-o", "a.hyc"]);
    case.refused(&std::fs::read(case.at("a.hyc")).unwrap(), &["is a compiled artefact"]);
}

#[test]
fn an_index_stands_for_its_files() {
    let case = Case::new("dense");
    let all = tensors("dense");
    let (one, two) = all.split_at(30);
    case.write("model.safetensors", &file(&all, None));
    case.passes(&["compile", "model.toml", "-q", "-o", "whole.hyc"]);
    std::fs::create_dir(case.at("parts")).unwrap();
    case.write("parts/1.safetensors", &file(one, None));
    case.write("parts/2.safetensors", &file(two, None));
    let map = |edit: &dyn Fn(&str) -> Option<&'static str>| -> Vec<u8> {
        let shard = |i: usize| if i < one.len() { "1.safetensors" } else { "2.safetensors" };
        let entries = all
            .iter()
            .enumerate()
            .map(|(i, (name, ..))| (name.clone(), Value::from(edit(name).unwrap_or(shard(i)))));
        let map: serde_json::Map<String, Value> = entries.collect();
        json!({ "metadata": { "total_size": 3 }, "weight_map": map }).to_string().into_bytes()
    };
    let index = "parts/model.safetensors.index.json";
    case.write(index, &map(&|_| None));
    case.edit("model.safetensors", index);
    case.passes(&["check", "--weights", "model.toml"]);
    case.passes(&["compile", "model.toml", "-q", "-o", "parts.hyc"]);
    assert_eq!(std::fs::read(case.at("whole.hyc")).unwrap(), std::fs::read(case.at("parts.hyc")).unwrap());
    let args = ["compile", "model.toml", "-q", "-o", "m.hyc"];
    // The same by `--weights`, and beside one of its own files.
    case.passes(&["compile", "model.toml", "--weights", index, "-q", "-o", "again.hyc"]);
    let twice = ["compile", "model.toml", "--weights", index, "--weights", "parts/../parts/1.safetensors"];
    case.fails(&twice, 3, &["is given twice"]);
    let moved = |name: &str| (name == "lm_head.weight").then_some("2.safetensors");
    case.write(index, &map(&moved));
    case.fails(&args, 3, &["`lm_head.weight` is in 1.safetensors, the index says 2.safetensors"]);
    for outside in ["../model.safetensors", "/etc/passwd", "", "."] {
        case.write(index, &map(&|name: &str| (name == "lm_head.weight").then_some(outside)));
        case.fails(&args, 3, &["which is no file beside it"]);
    }
    case.write(index, b"{\"weight_map\": {}}");
    case.fails(&args, 3, &["names no tensors"]);
    case.write(index, b"{\"weight_map\": {\"a\": 3}}");
    case.fails(&args, 3, &["is no index of weight files"]);
    case.write(index, &map(&|_| None));
    std::fs::remove_file(case.at("parts/2.safetensors")).unwrap();
    case.fails(&args, 3, &["of which one is not there: 2.safetensors"]);
}

/// One element of a matrix, as f32, in place of a tensor's.
fn with_element(all: &[Tensor], name: &str, at: usize, x: f32) -> Vec<Tensor> {
    let mut all = all.to_vec();
    let (_, dtype, _, bytes) = all.iter_mut().find(|tensor| tensor.0 == name).expect(name);
    let wide = bytes.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]);
    (*dtype, *bytes) = ("F32", wide.collect());
    bytes[4 * at..4 * at + 4].copy_from_slice(&x.to_le_bytes());
    all
}

#[test]
fn an_element_that_its_type_makes_infinite_is_named() {
    let case = Case::new("dense");
    let up = "model.layers.4.mlp.up_proj.weight";
    let all = tensors("dense");
    case.write("model.safetensors", &file(&with_element(&all, up, 44 + 7, 3.3999e38), None));
    // Finite where matrices are f32.
    case.passes(&["check", "--weights", "model.toml"]);
    case.edit("\"f32\"", "\"bf16\"");
    let words = ["model.safetensors", up, "3.3999e38", "row 1, column 7", "bf16", "dtype = \"f32\""];
    case.fails(&["check", "--weights", "model.toml"], 3, &words);
    case.fails(&["compile", "model.toml", "-q", "-o", "m.hyc"], 3, &words);
    assert!(!case.at("m.hyc").exists());
    // The largest that fits, and what rounds to it.
    for fits in [3.389_531_4e38f32, 3.39e38, -3.389_531_4e38, f32::MIN_POSITIVE / 2.0] {
        case.write("model.safetensors", &file(&with_element(&all, up, 0, fits), None));
        case.passes(&["check", "--weights", "model.toml"]);
    }
    // A norm's weight is f32 in any case.
    case.write("model.safetensors", &file(&with_element(&all, "model.norm.weight", 3, -3.3999e38), None));
    case.passes(&["check", "--weights", "model.toml"]);
    case.write("model.safetensors", &file(&with_element(&all, "model.norm.weight", 3, f32::NAN), None));
    case.fails(&["check", "--weights", "model.toml"], 3, &["model.norm.weight", "holds NaN at element 3"]);
    let case = Case::new("moe");
    let gate = "model.layers.1.mlp.experts.gate_proj.weight";
    let all = tensors("moe");
    let (_, _, shape, _) = all.iter().find(|tensor| tensor.0 == gate).expect("experts");
    let at = (2 * shape[1] + 5) * shape[2] + 3;
    case.write("model.safetensors", &file(&with_element(&all, gate, at, f32::INFINITY), None));
    case.fails(&["check", "--weights", "model.toml"], 3, &["holds inf at matrix 2, row 5, column 3"]);
}

#[test]
fn names_of_the_files_become_the_models() {
    let case = Case::new("dense");
    let mut all = tensors("dense");
    case.write("model.safetensors", &file(&all, None));
    case.passes(&["compile", "model.toml", "-q", "-o", "plain.hyc"]);
    for tensor in &mut all {
        tensor.0 = tensor.0.replace("model.layers.", "h.").replace("self_attn.", "attn.");
    }
    for layer in 0..6 {
        all.push((format!("h.{layer}.attn.rope.inv_freq"), "F32", vec![2], vec![0; 8]));
    }
    case.write("model.safetensors", &file(&all, None));
    let args = ["compile", "model.toml", "-q", "-o", "m.hyc"];
    case.fails(&args, 3, &["missing:", "rename = { \"h.{i}.", "--tensors"]);
    let keys = |more: &str| {
        format!(
            "files = [\"model.safetensors\"]\nrename = {{ \"h.{{i}}.attn.*\" = \"model.layers.{{i}}.self_attn.*\", \
             \"h.{{i}}.mlp.*\" = \"model.layers.{{i}}.mlp.*\", \"h.{{i}}.input_layernorm.weight\" = \
             \"model.layers.{{i}}.input_layernorm.weight\", \"h.{{i}}.post_attention_layernorm.weight\" = \
             \"model.layers.{{i}}.post_attention_layernorm.weight\" }}\n{more}"
        )
    };
    case.edit("files = [\"model.safetensors\"]\n", &keys(""));
    let words = ["not used by the model", "`ignore = [\"h.{i}.attn.rope.inv_freq\"]`"];
    case.fails(&args, 3, &words);
    case.edit(&keys(""), &keys("ignore = [\"*.inv_freq\"]\n"));
    case.passes(&["check", "--weights", "model.toml"]);
    case.passes(&args);
    assert_eq!(std::fs::read(case.at("plain.hyc")).unwrap(), std::fs::read(case.at("m.hyc")).unwrap());
    // A dump has no keys; the command has.
    case.passes(&["compile", "model.toml", "--emit", "graph", "-o", "g.hyir"]);
    let dump = ["compile", "g.hyir", "--weights", "model.safetensors", "-q", "-o", "d.hyc"];
    let renames = [
        "h.{i}.attn.*=model.layers.{i}.self_attn.*",
        "h.{i}.mlp.*=model.layers.{i}.mlp.*",
        "h.{i}.*put_layernorm.weight=model.layers.{i}.*put_layernorm.weight",
        "h.{i}.post*=model.layers.{i}.post*",
    ];
    let mut given = dump.to_vec();
    renames.iter().for_each(|rename| given.extend(["--rename", rename]));
    given.extend(["--ignore", "*.inv_freq"]);
    case.passes(&given);
    case.fails(&[&args[..], &["--ignore", "x"]].concat(), 2, &["under [weights]"]);
    case.fails(&[&dump[..], &["--rename", "x"]].concat(), 2, &["write FROM=TO"]);
    // What would leave open which tensor is meant, or would do nothing.
    case.edit("\"*.inv_freq\"", "\"*.inv_freq\", \"h.{i}.mlp.up_proj.weight\"");
    case.fails(&args, 3, &["`model.layers.0.mlp.up_proj.weight` is needed, and left out by"]);
    case.edit("\"h.{i}.mlp.up_proj.weight\"", "\"*.bias\"");
    case.fails(&args, 3, &["`ignore`: no tensor is called `*.bias`"]);
}

#[test]
fn check_does_what_its_flags_say() {
    let case = Case::new("dense");
    case.write("model.safetensors", &file(&tensors("dense"), None));
    let list = case.passes(&["check", "--tensors", "model.toml"]);
    for word in ["model.layers.5.mlp.down_proj.weight", "[44, 56]", "lm_head.weight", "f32"] {
        assert!(list.contains(word), "{list}");
    }
    let json: Value =
        serde_json::from_str(&case.passes(&["check", "--tensors", "--json", "model.toml"])).unwrap();
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(tensors("dense").len()));
    case.passes(&["compile", "--emit", "graph", "model.toml", "-o", "g.hyir"]);
    case.fails(&["check", "--weights", "g.hyir"], 2, &["is a dump", "names no weight files"]);
    assert!(case.passes(&["check", "--tensors", "g.hyir"]).contains("lm_head.weight"));
    case.edit("[target]", "[tokenizer]\nfile = \"nope.json\"\n\n[target]");
    case.passes(&["check", "model.toml"]);
    case.fails(&["check", "--weights", "model.toml"], 3, &["cannot read the tokenizer", "nope.json"]);
    case.write("nope.json", b"{}");
    case.fails(&["check", "--weights", "model.toml"], 3, &["nope.json: the tokenizer does not load"]);
    let large = root().join("examples/tiny-hysparse/tokenizer.json");
    std::fs::copy(large, case.at("nope.json")).unwrap();
    case.fails(&["check", "--weights", "model.toml"], 3, &["4096 entries, the model's vocabulary 97"]);
    case.edit("files = [\"model.safetensors\"]\n", "");
    case.fails(&["check", "--weights", "model.toml"], 3, &["names no weight files", "under [weights]"]);
    let (code, out, _) = case.hyc(&["check", "--weights", "--json", "model.toml"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"]), (3, &json!(false)));
}
