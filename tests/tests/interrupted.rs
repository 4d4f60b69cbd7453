//! Ctrl-C, kill and full disks in each phase: an exit code and a sentence, and no half file.

mod common;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::hyc_binary;
use hyc_runtime::{ErrorKind, LoadOptions, Model};
use hyc_tests::root;

/// A model whose packing takes a good second even on a fast machine: 0.4 GB.
const LARGE: &str = r#"
[model]
name = "large"
layers = 4
hidden = 2048
heads = 16
kv_heads = 4
head_dim = 128
ffn = 8192
vocab = 64
rope = { theta = 10000.0 }
[attention]
pattern = "1:3"
block = 64
top_k = 128
window = 128
[target]
max_context = 4096
"#;

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(name).arg(child.id().to_string()).status().expect("kill");
    assert!(status.success());
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(hyc_binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("starts")
}

fn end(child: Child) -> (Output, String) {
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    (output, text)
}

/// Bytes that the process has written to files or pipes.
fn written(child: &Child) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Starts packing the large model and waits until it has written some of it.
fn packing(folder: &Path) -> Child {
    let (model, out) = (folder.join("large.toml"), folder.join("large.hyc"));
    std::fs::write(&model, LARGE).unwrap();
    let mut child =
        start(&["compile", "--random-weights", "1", model.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while written(&child) < 8 << 20 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it never packed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn only_the_model(folder: &Path) {
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["large.toml"]);
}

#[test]
fn ctrl_c_while_packing_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let child = packing(folder.path());
    signal(&child, "-INT");
    let (output, text) = end(child);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("cancelled while packing the weights; nothing was written"), "{text}");
    only_the_model(folder.path());
}

/// Waits until the process catches Ctrl-C.
fn catches(child: &Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0) & 2 != 0
    };
    while !caught() {
        assert!(Instant::now() < deadline, "it does not catch Ctrl-C");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Before packing: in the passes, between kernels, before a form is written.
#[test]
fn ctrl_c_before_packing_ends_a_compile() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let golden = std::fs::read_to_string(root().join("tests/golden/dense/model.toml")).unwrap();
    std::fs::write(at.join("long.toml"), golden.replace("layers = 6", "layers = 1024")).unwrap();
    std::fs::write(at.join("out"), "old").unwrap();
    let (model, out) = (at.join("long.toml"), at.join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    for args in [
        &["compile", "--emit", "plan", model, "-o", out][..],
        &["compile", "--print-ir-after-all", model, "-o", out],
        &["compile", "--emit", "asm", model, "-o", out],
        &["compile", "--plan-only", model],
        &["compile", "--no-weights", model, "-o", out],
    ] {
        let child = start(args);
        catches(&child);
        signal(&child, "-INT");
        let (output, text) = end(child);
        assert_eq!(output.status.code(), Some(130), "hyc {args:?}: {text}");
        assert!(text.contains("cancelled while") && output.stdout.is_empty(), "hyc {args:?}: {text}");
        assert_eq!(std::fs::read(at.join("out")).unwrap(), b"old", "hyc {args:?}");
    }
}

/// A pipe without a reader is waited for, and Ctrl-C ends the wait; a slow reader gets everything.
#[test]
fn a_pipe_may_have_no_reader_yet() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let model = root().join("tests/golden/dense/model.toml");
    let model = model.to_str().unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let waits = || start(&["compile", "--emit", "asm", model, "-o", &at("pipe")]);
    let child = waits();
    catches(&child);
    std::thread::sleep(Duration::from_millis(1500));
    signal(&child, "-INT");
    let (output, text) = end(child);
    assert!(output.status.code() == Some(130) && text.contains("cancelled while"), "{text}");

    let (output, _) = end(start(&["compile", "--emit", "asm", model]));
    let whole = output.stdout;
    assert!(whole.len() > 1 << 17, "more than a pipe holds");
    let child = waits();
    let mut reader = std::fs::File::open(at("pipe")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    let (output, text) = end(child);
    assert!(output.status.success() && seen == whole, "{text}");

    // One that stops reading is as good as none.
    let child = waits();
    let reader = std::fs::File::open(at("pipe")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    signal(&child, "-INT");
    let (output, text) = end(child);
    assert!(output.status.code() == Some(130) && text.contains("cancelled while writing to"), "{text}");
    drop(reader);
}

#[test]
fn a_killed_compile_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let child = packing(folder.path());
    signal(&child, "-KILL");
    assert_eq!(end(child).0.status.signal(), Some(9));
    only_the_model(folder.path());
}

fn tiny(folder: &Path) -> String {
    let out = folder.join("tiny.hyc").to_str().unwrap().to_string();
    let model = root().join("examples/tiny-hysparse/model.toml");
    let (output, text) = end(start(&["compile", "--quiet", model.to_str().unwrap(), "-o", &out]));
    assert!(output.status.success(), "{text}");
    out
}

#[test]
fn ctrl_c_while_decoding_ends_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let mut child = start(&["run", &model, "--prompt", "The kernel", "-n", "4000", "--temperature", "1"]);
    // The prompt comes after the prefill, with the first new text behind it.
    let mut some = [0; 40];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    signal(&child, "-INT");
    let (output, text) = end(child);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("cancelled"), "{text}");
    // The line is ended, and what ran is told.
    assert!(output.stdout.ends_with(b"\n") && text.contains("new at "), "{text}");
}

#[test]
fn ctrl_c_while_prefilling_prints_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let prompt = folder.path().join("prompt.txt");
    std::fs::write(&prompt, "The kernel and the compiler. ".repeat(380)).unwrap();
    // The processor time of a short prefill, many times over, before the signal.
    let child = start(&["run", &model, "--threads", "1", "--prompt-file", prompt.to_str().unwrap()]);
    let stat = format!("/proc/{}/task", child.id());
    let deadline = Instant::now() + Duration::from_secs(60);
    let busy = || -> u64 {
        let tasks = std::fs::read_dir(&stat).into_iter().flatten().flatten();
        let ticks = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("stat")).ok()?;
            text.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse::<u64>().ok()
        });
        ticks.sum()
    };
    while busy() < 40 {
        assert!(Instant::now() < deadline, "it is not busy");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-INT");
    let (output, text) = end(child);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("cancelled") && output.stdout.is_empty(), "{text}");
}

#[test]
fn loading_can_be_cancelled_and_says_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let mut seen = Vec::new();
    let mut observe = |done, total| {
        seen.push((done, total));
        true
    };
    // SAFETY: made here, and nobody changes it.
    unsafe { Model::load_observed(&model, &LoadOptions::default(), &mut observe) }.unwrap();
    assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total));
    // SAFETY: as above.
    let stopped = unsafe { Model::load_observed(&model, &LoadOptions::default(), &mut |_, _| false) };
    assert_eq!(stopped.err().map(|e| e.kind), Some(ErrorKind::Cancelled));
}

#[test]
fn a_disk_that_fills_up_is_told_and_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("large.toml");
    std::fs::write(&model, LARGE).unwrap();
    // A limit on file sizes stands for the disk's end: the write fails in the middle.
    let script = "trap '' XFSZ; ulimit -f 20000; exec \"$0\" compile -q --random-weights 1 \"$1\" -o \"$2\"";
    let out = folder.path().join("large.hyc");
    let output = Command::new("bash").args(["-c", script]).arg(hyc_binary()).arg(&model).arg(&out).output();
    let output = output.expect("bash");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("cannot write") && text.contains("large.hyc"), "{text}");
    only_the_model(folder.path());

    // A full device, by name and as standard output.
    let model = model.to_str().unwrap();
    let (output, text) = end(start(&["compile", "--emit", "graph", model, "-o", "/dev/full"]));
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("/dev/full") && text.contains("No space left") && text.contains("free some space"));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output =
        Command::new(hyc_binary()).args(["compile", "--emit", "graph", model]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
    // Devices are written to, never replaced.
    let (output, _) = end(start(&["compile", "--emit", "graph", model, "-o", "/dev/null"]));
    assert!(output.status.success() && !Path::new("/dev/null").is_file());
    let (output, text) = end(start(&["compile", "--random-weights", "1", model, "-o", "/dev/null"]));
    assert_eq!(output.status.code(), Some(2), "{text}");
}
