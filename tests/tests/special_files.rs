//! Inputs that are no files, or too large: refused at once, with one error. A pipe that nobody writes to is not
//! waited for.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::hyc_binary;
use hyc_tests::root;

/// Exit code and standard error of a command that must end soon.
fn hyc(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(hyc_binary());
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("hyc {args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused(folder: &Path, args: &[&str], words: &[&str]) {
    let (code, text) = hyc(folder, args);
    assert_eq!(code, Some(3), "hyc {args:?}: {text}");
    assert_eq!(text.matches("error").count(), 1, "hyc {args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "hyc {args:?} does not say {word:?}: {text}");
    }
}

#[test]
fn special_files_are_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = root().join("tests/golden/dense/model.toml");
    let model = model.to_str().unwrap();
    let tiny = root().join("examples/tiny-hysparse/model.toml");
    let (code, text) = hyc(at, &["compile", "-q", tiny.to_str().unwrap(), "-o", "m.hyc"]);
    assert_eq!(code, Some(0), "{text}");
    std::fs::create_dir(at.join("folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    std::os::unix::fs::symlink("pipe", at.join("link")).unwrap();
    let special = [
        ("pipe", "a pipe"),
        ("link", "a pipe"),
        ("/dev/zero", "a device"),
        ("/dev/full", "a device"),
        ("folder", "a folder"),
        ("socket", "a socket"),
    ];
    for (name, what) in special {
        let words = [name, what];
        refused(at, &["check", name], &words);
        refused(at, &["compile", name], &words);
        refused(at, &["compile", model, "--weights", name, "-o", "x.hyc"], &[name]);
        refused(at, &["compile", model, "--tokenizer", name, "-o", "x.hyc"], &words);
        refused(at, &["run", "m.hyc", "--prompt-file", name], &words);
        for command in
            [&["run", name, "--prompt", "x"][..], &["inspect", name], &["bench", name], &["diff", name]]
        {
            refused(at, command, &words);
        }
        // And where a description names them.
        let toml = std::fs::read_to_string(model).unwrap();
        let changed = toml.replace("\"model.safetensors\"", &format!("\"{name}\""));
        assert!(changed != toml);
        std::fs::write(at.join("named.toml"), changed).unwrap();
        refused(at, &["compile", "named.toml", "-o", "x.hyc"], &[name]);
        refused(at, &["check", "--weights", "named.toml"], &[name]);
    }
    assert!(!at.join("x.hyc").exists());
}

/// Sparse files, which take no room here.
#[test]
fn huge_files_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["huge.toml", "huge.json"] {
        std::fs::File::create(at.join(name)).unwrap().set_len(8 << 30).unwrap();
    }
    let model = root().join("tests/golden/dense/model.toml");
    let model = model.to_str().unwrap();
    refused(at, &["check", "huge.toml"], &["has more than 64 MiB"]);
    refused(at, &["compile", "huge.toml"], &["has more than 64 MiB"]);
    let words = ["huge.json", "has 8589934592 bytes"];
    refused(at, &["compile", model, "--tokenizer", "huge.json", "-o", "x.hyc"], &words);
}
