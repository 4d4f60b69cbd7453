//! GGUF files: what ggml's package writes is read as it reads it, and files that are damaged or lie are errors.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::hyc_binary;
use hyc_runtime::{Model, Session, SessionOptions, TextStream, Tokenizer};
use hyc_tests::gguf::one_tensor;
use hyc_tests::parity::{run, tokens};
use hyc_tests::{Golden, compiled_model, relative_error, root};

fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).output().expect("hyc runs")
}

/// The description of the file of a type, or of an architecture, which is imported.
fn imported(kind: &str, folder: &Path) -> PathBuf {
    let name = if OTHERS.contains(&kind) { format!("{kind}.gguf") } else { format!("llama.{kind}.gguf") };
    let file = root().join("tests/gguf").join(name);
    let description = folder.join("model.toml");
    let (from, to) = (file.to_str().unwrap(), description.to_str().unwrap());
    let output = hyc(&["import", from, "-o", to, "--dtype", "f32"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    description
}

fn load(description: &Path) -> Arc<Model> {
    compiled_model(description, &description.with_extension("hyc"))
}

fn logits(description: &Path, tokens: &[u32]) -> Vec<f32> {
    let mut session = Session::new(load(description), &SessionOptions::default()).unwrap();
    run(&mut session, tokens).unwrap().logits
}

/// The logits of the values that each type's blocks stand for, as transformers computes them.
#[test]
fn every_type_gives_the_logits_of_its_values() {
    let golden = Golden::open(&root().join("tests/gguf/golden.safetensors"));
    for kind in ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"] {
        let folder = tempfile::tempdir().unwrap();
        let ours = logits(&imported(kind, folder.path()), &tokens(&golden));
        let (_, theirs) = golden.f32(&format!("logits.{kind}")).unwrap();
        let error = relative_error(&ours, &theirs);
        println!("{kind:5} {error:.2e}");
        assert!(error < 1.6e-6, "{kind}: logits differ by {error:.2e}");
    }
}

/// Other architectures than llama's, whose files are written in blocks.
const OTHERS: [&str; 2] = ["qwen2", "phi3"];

#[test]
fn every_architecture_gives_the_logits_of_its_values() {
    let golden = Golden::open(&root().join("tests/gguf/golden.safetensors"));
    for name in OTHERS {
        let folder = tempfile::tempdir().unwrap();
        let description = imported(name, folder.path());
        let text = std::fs::read_to_string(&description).unwrap();
        let lines: &[&str] = match name {
            "qwen2" => {
                &["qkv_bias = true", "tie_embeddings = true", "\"blk.{i}.attn_k.bias\" = \"model.layers.{i}."]
            }
            _ => &[
                "rope = { theta = 5000.0, dims = 12, scaling = \"factors\", attention_factor = 1.1547005, factors = [1.0, 1.25, ",
                "window = 13",
                "max_context = 64",
                "ignore = [\"rope_factors_short.weight\", \"rope_factors_long.weight\"]",
                "\"blk.{i}.ffn_up.weight\" = [[\"model.layers.{i}.mlp.gate_proj.weight\", 64], [\"model.",
                "[\"model.layers.{i}.self_attn.k_proj.weight\", 16], [\"model.layers.{i}.self_attn.v_proj.weight\", 16]]",
            ],
        };
        lines.iter().for_each(|line| assert!(text.contains(line), "{line}: {text}"));
        let ours = logits(&description, &tokens(&golden));
        let (_, theirs) = golden.f32(&format!("logits.{name}")).unwrap();
        let error = relative_error(&ours, &theirs);
        println!("{name:5} {error:.2e}");
        assert!(error < 1.6e-6, "{name}: logits differ by {error:.2e}");
    }
}

/// What a file of Phi-3 says of windows and lengths counts, and is not made up.
#[test]
fn windows_and_lists_of_factors_are_those_of_the_file() {
    let whole = std::fs::read(root().join("tests/gguf/phi3.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let find = |text: &str| whole.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    let said = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        std::fs::write(&path, bytes).unwrap();
        let output = hyc(&["import", path.to_str().unwrap(), "-o", "-", "--no-tokenizer"]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let after = |key: &str| find(key) + key.len() + 4;
    let (code, text, err) = said(after("phi3.attention.sliding_window"), &[0]);
    assert!(code == Some(0) && text.contains("kind = \"full\""), "{text}{err}");
    let (code, text, err) = said(after("phi3.rope.dimension_count"), &[11]);
    assert!(
        code == Some(3) && text.is_empty() && err.contains("11 elements of 16 cannot turn in pairs"),
        "{err}"
    );
    let (code, _, err) = said(after("phi3.rope.scaling.original_context_length"), &[0]);
    assert!(code == Some(3) && err.contains("original_max_position_embeddings` = 0"), "{err}");
    let (code, _, err) = said(find("rope_factors_long.weight") + 13, b"lonk");
    assert!(code == Some(3) && err.contains("has no `rope_factors_long.weight`, and the other"), "{err}");
}

/// Frequencies that the file scales by a list are those of transformers' scaling of Llama 3.1.
#[test]
fn a_list_of_factors_scales_the_frequencies() {
    let golden = Golden::open(&root().join("tests/gguf/golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let description = imported("factors", folder.path());
    let text = std::fs::read_to_string(&description).unwrap();
    assert!(
        text.contains("scaling = \"factors\"") && text.contains("ignore = [\"rope_freqs.weight\"]"),
        "{text}"
    );
    let ours = logits(&description, &tokens(&golden));
    let (_, theirs) = golden.f32("logits.factors").unwrap();
    let error = relative_error(&ours, &theirs);
    assert!(error < 1.6e-6, "logits differ by {error:.2e}");
    let (_, plain) = golden.f32("logits.F32").unwrap();
    assert!(relative_error(&ours, &plain) > 1e-2);
}

/// Heads whose pairs stand side by side are other ones.
#[test]
fn pairs_are_put_in_halves() {
    let golden = Golden::open(&root().join("tests/gguf/golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(imported("F32", folder.path())).unwrap();
    let (kept, other): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| !line.starts_with("interleaved"));
    assert_eq!(other, ["interleaved = [\"blk.{i}.attn_q.weight\", \"blk.{i}.attn_k.weight\"]"]);
    let description = folder.path().join("halves.toml");
    std::fs::write(&description, kept.join("\n")).unwrap();
    let ours = logits(&description, &tokens(&golden));
    let (_, theirs) = golden.f32("logits.F32").unwrap();
    assert!(relative_error(&ours, &theirs) > 1e-2);
    let wrong = text.replace("blk.{i}.attn_k.weight\"]", "blk.{i}.attn_kk.weight\"]");
    std::fs::write(&description, wrong).unwrap();
    let artefact = folder.path().join("wrong.hyc");
    let output = hyc(&["compile", description.to_str().unwrap(), "-o", artefact.to_str().unwrap()]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("`interleaved`: no tensor is called `blk.{i}.attn_kk.weight`"), "{err}");
}

/// The vocabulary becomes a tokenizer that cuts as its `pre` says: digits by themselves.
#[test]
fn a_vocabulary_becomes_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&imported("Q4_0", folder.path()));
    let tokenizer = Tokenizer::of(&model).unwrap();
    let id = |text: &str| tokenizer.encode(text).unwrap();
    let (a, zero, space, the) = (3, 29, 39, 42);
    assert_eq!(id("a the the00"), [a, the + 1, the + 1, zero, zero]);
    assert_eq!(id("the 0"), [the, space, zero]);
    assert_eq!(tokenizer.decode(&id("the cab. 0")).unwrap(), "the cab. 0");
    assert_eq!(tokenizer.settings().eos, [2]);
    let template = std::fs::read_to_string(folder.path().join("model.chat_template.jinja")).unwrap();
    assert!(template.starts_with("{% for m in messages %}<s>"), "{template}");
    let output = hyc(&["import", root().join("tests/gguf/llama.Q4_0.gguf").to_str().unwrap(), "-o", "-"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("must stand beside the description"), "{err}");
}

/// Pieces with scores become pairs in their order: SentencePiece itself cuts these texts so.
#[test]
fn pieces_are_put_together_by_their_scores() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&imported("pieces", folder.path()));
    let tokenizer = Tokenizer::of(&model).unwrap();
    let cut = std::fs::read(root().join("tests/gguf/pieces.json")).unwrap();
    let cut: Vec<serde_json::Value> = serde_json::from_slice(&cut).unwrap();
    assert!(cut.len() >= 9);
    for one in &cut {
        let text = one["text"].as_str().unwrap();
        let ids: Vec<u32> =
            one["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode_bare(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), one["back"].as_str().unwrap(), "{text:?}");
        // As the file says, or says nothing of it: a prompt begins with its first token.
        assert_eq!(tokenizer.encode(text).unwrap(), [&[1][..], &ids].concat());
        let mut stream = TextStream::new(&tokenizer, &[], &[], false).unwrap();
        let mut streamed: String = ids.iter().map(|id| stream.push(*id).unwrap().0).collect();
        streamed.push_str(&stream.finish().unwrap().0);
        assert_eq!(streamed, one["back"].as_str().unwrap(), "{text:?}");
    }
    // A user's token is found before text is cut, and a text begins anew behind it, as llama.cpp has it.
    let bare = |text: &str| tokenizer.encode_bare(text).unwrap();
    assert_eq!(bare("a<|user|>the mat"), [&bare("a")[..], &[3], &bare("the mat")].concat());
    assert_eq!(bare("</s>"), [2]);
    // Rows behind the pieces have no tokens.
    let info = &model.plan().model;
    assert_eq!((info.vocab, info.named, tokenizer.entries()), (384, Some(376), 376));
}

/// A vocabulary of pieces that is damaged is one error.
#[test]
fn pieces_that_are_none_are_refused() {
    let whole = std::fs::read(root().join("tests/gguf/llama.pieces.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (path, description) = (folder.path().join("model.gguf"), folder.path().join("model.toml"));
    let refused = |find: &[u8], skip: usize, with: &[u8], says: &str| {
        let mut bytes = whole.clone();
        let at = whole.windows(find.len()).position(|part| part == find).unwrap() + find.len() + skip;
        bytes[at..at + with.len()].copy_from_slice(with);
        std::fs::write(&path, bytes).unwrap();
        let output = hyc(&["import", path.to_str().unwrap(), "-o", description.to_str().unwrap()]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && err.contains(says), "{says}: {err}");
        assert!(err.contains("--no-tokenizer") && !description.exists(), "{err}");
    };
    let scores = b"tokenizer.ggml.scores";
    refused(b"tokenizer.ggml.score", 0, b"z", "has 0 scores for 376 tokens");
    // Behind the kind of value, the kind of its values, their count, and 262 scores.
    refused(scores, 4 + 4 + 8 + 4 * 262, &f32::NAN.to_le_bytes(), "has the score Float(NaN) of token 262");
    refused(b"tokenizer.ggml.token", 0, b"z", "has no list of tokens");
    refused(b"<0x01>", 8, b"<0x01>", "has two tokens, 5 and 6, that are `<0x01>`");
    let mut unlike = *b"llama";
    unlike[4] = b'o';
    refused(b"tokenizer.ggml.model", 4 + 8, &unlike, "is of the kind `llamo`");
}

/// Blocks of random bits are the numbers that ggml's package says.
#[test]
fn blocks_stand_for_what_ggml_says() {
    use hyc::source::{Block, TensorSource, WeightSource};
    let golden = std::fs::read(root().join("tests/gguf/blocks.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q4_K", 12),
        ("Q5_K", 13),
        ("Q6_K", 14),
        ("Q2_K", 10),
        ("Q3_K", 11),
    ] {
        let bytes = golden.tensor(&format!("{name}.bytes")).unwrap().data().to_vec();
        let values = golden.tensor(&format!("{name}.values")).unwrap();
        let want: Vec<f32> =
            values.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let path = folder.path().join(name);
        std::fs::write(&path, one_tensor(kind, [1, want.len() as u64], &bytes)).unwrap();
        let source = WeightSource::open(&[path]).unwrap();
        let (mut block, mut found) = (Block::default(), Vec::new());
        source.block("t", want.len() as u64, 0, 1, &mut block).unwrap();
        block.to_f32(&mut found);
        assert_eq!(found, want, "{name}");
    }
}

fn said(path: &Path) -> (Option<i32>, String) {
    let output = hyc(&["import", path.to_str().unwrap(), "-o", "-", "--no-tokenizer"]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Cut anywhere, or with any count made huge, a file is one error, and nothing is allocated for what it says.
#[test]
fn a_file_that_is_cut_or_lies_is_an_error() {
    let whole = std::fs::read(root().join("tests/gguf/llama.Q4_0.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let refused = |bytes: &[u8], says: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        let (code, err) = said(&path);
        let one_line = err.starts_with("error: ") && err.matches("error: ").count() == 1;
        assert!(code == Some(3) && one_line && err.contains("help: "), "{code:?} {err}");
        assert!(says.is_empty() || says.iter().any(|says| err.contains(says)), "{says:?}: {err}");
    };
    for cut in (4..1500).step_by(97).chain([whole.len() / 2, whole.len() - 1]) {
        refused(&whole[..cut], &["ends before what it says it holds"]);
    }
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    refused(&patched(4, &[9]), &["its version is 9"]);
    refused(&patched(8, &[255; 8]), &["it would hold 18446744073709551615 tensors"]);
    refused(&patched(16, &[255; 8]), &["it would hold"]);
    // The first key's length, and its value's.
    refused(&patched(24, &[255; 8]), &["a string would have 18446744073709551615 bytes"]);
    refused(&patched(24, &[0, 0, 0, 1, 0, 0, 0, 0]), &["ends before"]);
    let find = |text: &str| whole.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    let table = find("token_embd.weight") + "token_embd.weight".len();
    refused(&patched(table, &[200]), &["has 200 dimensions"]);
    refused(&patched(table + 4, &[255; 8]), &["is not possible"]);
    refused(&patched(table + 4, &[33, 0, 0, 0]), &["is not possible"]);
    for (kind, name) in [(16, "IQ2_XXS"), (23, "IQ4_XS"), (29, "IQ1_M"), (35, "TQ2_0")] {
        refused(&patched(table + 20, &[kind, 0, 0, 0]), &[&format!("is of type {name}")]);
    }
    refused(&patched(table + 20, &[99, 0, 0, 0]), &["is of type number 99"]);
    refused(&patched(table + 24, &[1]), &["is not possible"]);
    refused(&patched(find("llama"), b"gemma"), &["of the architecture gemma cannot be imported"]);
    refused(
        &patched(find("llama.block_count") + 6, b"block_kount"),
        &["`llama.block_kount` = 2", "num_hidden_layers"],
    );
    let turning = find("rope.dimension_count") + "rope.dimension_count".len() + 4;
    refused(&patched(turning, &[4]), &["`llama.rope.dimension_count` = 4"]);
    refused(b"not at all", &["is no GGUF file"]);
}
