//! Damaged files, impossible requests, unwritable places: one clear error each, exit codes by whose fault,
//! and nothing lost.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::hyc_binary;
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::artefact::VERSION;
use hyc_runtime::{ErrorKind, LoadOptions, Model, Session, SessionOptions, Verify};
use hyc_tests::{compile, root};

fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name).join("model.toml")
}

fn artefact(folder: &Path) -> PathBuf {
    let out = folder.join("model.hyc");
    compile(&golden("dense"), &out, CpuTarget::host().level, |_| {});
    out
}

fn load_error(path: &Path) -> (ErrorKind, String) {
    // SAFETY: made here, and nobody changes it.
    match unsafe { Model::load(path, &LoadOptions::default()) } {
        Ok(_) => panic!("{} loads", path.display()),
        Err(error) => (error.kind, error.message),
    }
}

fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).output().expect("runs")
}

fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = hyc(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "hyc {args:?}: {text}");
    assert!(!text.contains("panicked"), "hyc {args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "hyc {args:?} does not say {word:?}: {text}");
    }
}

#[test]
fn a_truncated_artefact_is_an_error_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = artefact(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
    for end in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(matches!(load_error(&path).0, ErrorKind::BadArtefact | ErrorKind::BadInput), "cut at {end}");
    }
}

/// Where nobody looks: behind tensors, so that the next one is aligned.
fn pads(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (header, tensors) = safetensors::SafeTensors::read_metadata(file).unwrap();
    let pads = tensors.tensors().into_iter().filter(|(name, _)| name.starts_with(hyc_plan::artefact::PAD));
    pads.map(|(_, info)| 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1).collect()
}

#[test]
fn a_flipped_bit_is_an_error_before_there_is_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let path = artefact(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let pads = pads(&whole);
    let open = |verify: Verify| {
        // SAFETY: made here, and nobody changes it while the model lives.
        let model = unsafe { Model::load(&path, &LoadOptions { verify, ..LoadOptions::default() }) }?;
        let options = SessionOptions { max_tokens: Some(1), threads: Some(1), ..SessionOptions::default() };
        Session::new(model, &options).map(drop)
    };
    let mut state = 5u64;
    for i in 0..300usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The first bytes are the header's length; then all over the file, and its pads and its end.
        let any = (state >> 20) as usize;
        let at = match i {
            0..64 => i / 8,
            64..96 => whole.len() - 1 - any % 1000,
            96..110 => pads[any % pads.len()].start,
            _ => any % whole.len(),
        };
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (state >> 61);
        std::fs::write(&path, &bytes).unwrap();
        let what = format!("bit {} of byte {at}", state >> 61);
        assert_eq!(open(Verify::Full).unwrap_err().kind, ErrorKind::BadArtefact, "{what}");
        match open(Verify::OnRead) {
            Err(error) => assert_eq!(error.kind, ErrorKind::BadArtefact, "{what}: {error}"),
            Ok(()) => assert!(pads.iter().any(|pad| pad.contains(&at)), "{what}"),
        }
    }
}

#[test]
fn other_files_and_versions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = artefact(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let words = format!("\"hyc.version\":\"{VERSION}\"");
    let at = whole.windows(words.len()).position(|w| w == words.as_bytes()).unwrap() + words.len() - 2;
    let mut bytes = whole.clone();
    bytes[at] = b'7';
    std::fs::write(&path, &bytes).unwrap();
    assert!(load_error(&path).1.contains(&format!("format version 7; this build reads {VERSION}")));
    std::fs::write(&path, b"plain text, and some more of it").unwrap();
    assert!(load_error(&path).1.contains("no hyc artefact"));
    let weights = root().join("tests/golden/dense/model.safetensors");
    assert!(load_error(&weights).1.contains("no hyc artefact"));
    assert_eq!(load_error(&folder.path().join("absent.hyc")).0, ErrorKind::BadInput);
}

#[test]
fn equal_input_gives_equal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let first = std::fs::read(artefact(folder.path())).unwrap();
    let second = std::fs::read(artefact(folder.path())).unwrap();
    assert!(first == second);
}

#[test]
fn requests_beyond_the_model_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: made here, and nobody changes it.
    let model = Arc::new(unsafe { Model::load(artefact(folder.path()), &LoadOptions::default()) }.unwrap());
    let options = SessionOptions {
        max_tokens: Some(40),
        max_sequences: Some(2),
        threads: Some(1),
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), &options).unwrap();
    let id = session.add_sequence().unwrap();
    let too_long = vec![1; 300];
    assert!(session.feed(id, &too_long).unwrap_err().message.contains("compiled for 211"));
    assert!(session.feed(id, &[97]).unwrap_err().message.contains("vocabulary of 97"));
    assert!(session.feed(id, &[1; 100]).unwrap_err().message.contains("pages"));
    assert_eq!(session.len(id).unwrap(), 0);
    session.feed(id, &[1; 40]).unwrap();
    assert_eq!(session.step().unwrap().logits.len(), 1);
    session.add_sequence().unwrap();
    assert!(session.add_sequence().unwrap_err().message.contains("in use"));
    let many = SessionOptions { max_sequences: Some(9), ..SessionOptions::default() };
    assert!(Session::new(model, &many).err().unwrap().message.contains("9 sequences"));
}

/// A copy of a golden model whose weight file `edit` changes.
fn damaged_weights(
    folder: &Path,
    edit: impl Fn(&str) -> Option<(String, Vec<usize>)>,
    fill: Option<u16>,
) -> PathBuf {
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;
    let source = golden("dense");
    std::fs::copy(&source, folder.join("model.toml")).unwrap();
    let bytes = std::fs::read(source.with_file_name("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in tensors.tensors() {
        let Some((name, shape)) =
            edit(&name).map(|(n, s)| (n, if s.is_empty() { view.shape().to_vec() } else { s }))
        else {
            continue;
        };
        let mut content = view.data()[..2 * shape.iter().product::<usize>()].to_vec();
        if let (Some(fill), true) = (fill, name.contains("layers.2.mlp.up")) {
            content[10..12].copy_from_slice(&fill.to_le_bytes());
        }
        data.push((name, shape, content));
    }
    let views = data
        .iter()
        .map(|(n, s, d)| (n.clone(), TensorView::new(safetensors::Dtype::BF16, s.clone(), d).unwrap()));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    folder.join("model.toml")
}

#[test]
fn weights_that_do_not_fit_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.hyc");
    let same = |name: &str| Some((name.to_string(), vec![]));
    let check = |model: &Path, words: &[&str]| {
        fails(&["compile", model.to_str().unwrap(), "-o", out.to_str().unwrap()], 3, words);
        assert!(!out.exists(), "a failed compile left a file");
    };
    let missing = damaged_weights(
        folder.path(),
        |n| if n.contains("layers.1.self_attn.q") { None } else { same(n) },
        None,
    );
    check(&missing, &["missing: `model.layers.1.self_attn.q_proj.weight` [120, 44]"]);
    let extra = |n: &str| if n == "lm_head.weight" { Some(("head.weight".into(), vec![])) } else { same(n) };
    let extra = damaged_weights(folder.path(), extra, None);
    check(&extra, &["missing: `lm_head.weight`", "not used by the model: `head.weight`"]);
    let shape = |n: &str| if n == "model.norm.weight" { Some((n.into(), vec![43])) } else { same(n) };
    let shape = damaged_weights(folder.path(), shape, None);
    check(&shape, &["wrong shape: `model.norm.weight` is [43], the model needs [44]"]);
    let nan = damaged_weights(folder.path(), same, Some(0x7fc0));
    check(&nan, &["`model.layers.2.mlp.up_proj.weight`", "holds NaN at row 0, column 5"]);
    let model = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    check(&nan, &["not a whole safetensors file"]);
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let model = golden("dense");
    let model = model.to_str().unwrap();
    fails(&["compile", &at("absent.toml")], 3, &["cannot read", "check the path"]);
    fails(&["compile", model, "--target", "sm_90a"], 4, &["no target `sm_90a`", "it carries: cpu"]);
    fails(&["compile", model, "--print-ir-after", "fuse-topkk"], 2, &["no pass is named", "fuse-topk"]);
    fails(&["compile", model, "-o", "/proc/nothing/x.hyc"], 3, &["/proc/nothing/x.hyc"]);
    fails(&["compile", model, "-o", folder.path().to_str().unwrap()], 2, &["is a folder"]);
    std::fs::write(at("dump.hyir"), "graph \"t\" {\n  layers = 1\n}\n").unwrap();
    fails(&["compile", &at("dump.hyir")], 3, &["the header needs"]);
    std::fs::write(at("binary.toml"), [0xff, 0xfe, 0]).unwrap();
    fails(&["check", &at("binary.toml")], 3, &["is not text"]);
    fails(&["run", model, "--prompt", "x"], 3, &["no hyc artefact"]);
    assert!(hyc(&["compile", model, "-o", &at("m.hyc"), "--quiet"]).status.success());
    fails(&["run", &at("m.hyc"), "--prompt", "x"], 3, &["has no tokenizer"]);
    let tiny = root().join("examples/tiny-hysparse");
    let tokenizer = tiny.join("tokenizer.json");
    let tokenizer = tokenizer.to_str().unwrap();
    let words = ["tokenizer.json: the tokenizer has 4096 entries, the model's vocabulary 97"];
    fails(&["compile", model, "--tokenizer", tokenizer, "-o", &at("x.hyc")], 3, &words);
    fails(&["compile", model, "--tokenizer", model, "-o", &at("x.hyc")], 3, &["the tokenizer does not load"]);
    let tiny = tiny.join("model.toml");
    assert!(hyc(&["compile", tiny.to_str().unwrap(), "-o", &at("tiny.hyc"), "--quiet"]).status.success());
    std::fs::write(at("long.txt"), "the kernel and the compiler ".repeat(1500)).unwrap();
    let words = ["tokens do not fit: the model was compiled for 4608", "max_context"];
    fails(&["run", &at("tiny.hyc"), "--prompt-file", &at("long.txt")], 3, &words);
    fails(&["run", &at("tiny.hyc"), "--prompt", ""], 3, &["empty"]);
    fails(&["bench", &at("m.hyc"), "--context", "0"], 2, &["a context of 0 cannot be measured", "1 to 211"]);
    fails(&["run", &at("m.hyc"), "--prompt", "x", "--top-p", "7"], 2, &["--top-p 7 is out of range"]);
}

/// Numbers beyond all measure are refused when the arguments are read.
#[test]
fn numbers_have_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let path = artefact(folder.path());
    let model = path.to_str().unwrap();
    for args in [
        ["bench", model, "--steps", "18446744073709551615"],
        ["bench", model, "--steps", "1000000000000"],
        ["bench", model, "--steps", "10001"],
        ["bench", model, "--steps", "0"],
        ["bench", model, "--repeat", "1001"],
        ["bench", model, "--threads", "0"],
        ["bench", model, "--threads", "1025"],
        ["bench", model, "--peak-tflops", "1e300"],
        ["bench", model, "--peak-tflops", "-1"],
        ["bench", model, "--peak-tflops", "nan"],
        ["run", model, "--threads", "18446744073709551615"],
        ["run", model, "--top-k", "16777217"],
        ["chat", model, "--threads", "65537"],
        ["diff", model, "--tokens", "18446744073709551615"],
        ["diff", model, "--tolerance", "inf"],
    ] {
        fails(&args, 2, &[args[2]]);
    }
    let whole = "18446744073709551615";
    let list = ["bench", model, "--context", whole, "--batch", whole, "--prefill", whole, "--steps", "1"];
    assert!(hyc(&list).status.success());
}

/// A flag that would do nothing is an error, not silence.
#[test]
fn flags_without_effect_are_refused() {
    let model = golden("dense");
    let model = model.to_str().unwrap();
    let print = "--print-ir-after=fuse-topk";
    for (args, words) in [
        (&["--emit", "plan", print][..], "cannot be used with"),
        (&["--emit", "plan", "--print-ir-after-all"], "cannot be used with"),
        (&["--plan-only", "--cubin"], "cannot be used with"),
        (&["--emit", "graph", "--cubin"], "cannot be used with"),
        (&["--cubin", print], "cannot be used with"),
        (&["--random-weights", "1", "--weights", "/nope"], "cannot be used with"),
        (&["--no-weights", "--weights", "/nope"], "cannot be used with"),
        (&["--plan-only", "--ptxas", "/nope"], "nothing is assembled"),
        (&["--plan-only", "--rename", "a=b"], "are for dumps"),
        (&["--emit", "graph", "--ignore", "y"], "are for dumps"),
    ] {
        fails(&[&["compile", model], args].concat(), 2, &[words]);
    }
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("d.hyir");
    let dump = dump.to_str().unwrap();
    assert!(hyc(&["compile", "--emit", "graph", model, "-o", dump]).status.success());
    fails(&["compile", dump, "--plan-only", "--rename", "zz", "--ignore", "y"], 2, &["write FROM=TO"]);
}

/// Every dump goes back in and gives the plan that the model gives.
#[test]
fn dumps_are_accepted_in_place_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("moe");
    let model = model.to_str().unwrap();
    let plan = hyc(&["compile", "--emit", "plan", model]).stdout;
    assert!(!plan.is_empty());
    for pass in hyc_passes::PASSES.iter().filter(|pass| hyc_passes::rewrites(pass) || **pass == "schedule") {
        let dump = folder.path().join("dump.hyir");
        let dump = dump.to_str().unwrap();
        assert!(hyc(&["compile", "--print-ir-after", pass, model, "-o", dump]).status.success());
        assert!(hyc(&["compile", "--emit", "plan", dump]).stdout == plan, "after {pass}");
    }
}

/// An object is linked by a C compiler, and its two symbols are what the program sees.
#[test]
fn an_object_is_linked_into_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let (object, main, program) =
        (folder.path().join("m.o"), folder.path().join("main.c"), folder.path().join("program"));
    let model = golden("moe");
    let model = model.to_str().unwrap();
    let emit = ["compile", "--emit", "obj", "--symbol", "moe", model, "-o", object.to_str().unwrap()];
    assert!(hyc(&emit).status.success());
    // A safetensors header begins at the ninth byte of an artefact.
    let text = "extern const char moe_hyc_artefact[], moe_hyc_code[];\n\
                int main(void) { return moe_hyc_artefact[8] != '{' || (unsigned long)moe_hyc_code % 64; }\n";
    std::fs::write(&main, text).unwrap();
    let linked = Command::new("cc").arg(&main).arg(&object).arg("-o").arg(&program).status().expect("cc");
    assert!(linked.success());
    assert!(Command::new(&program).status().unwrap().success());
    fails(
        &["compile", "--emit", "obj", "--symbol", "a-b", model],
        2,
        &["no symbol can be named after `a-b`"],
    );
    fails(&["compile", "--emit", "plan", "--symbol", "a", model], 2, &["no object is made"]);
    fails(&["compile", "--emit", "graph", "--embed-weights", model], 2, &["no object is made"]);
}
