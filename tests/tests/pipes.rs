//! Readers that have gone, full disks, outputs that are closed: never a panic. A reader of standard output that has
//! gone ends the command quietly, a full one is an error, and standard error never changes how a command ends.

mod common;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use common::hyc_binary;
use hyc_tests::root;

/// The writing end of a pipe that nobody reads.
fn gone() -> OwnedFd {
    std::io::pipe().expect("a pipe").1.into()
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("/dev/full")
}

/// Exit code, standard output and standard error of a command in `folder`.
fn run(
    folder: &Path,
    args: &[&str],
    out: Option<Stdio>,
    err: Option<Stdio>,
) -> (Option<i32>, String, String) {
    let mut command = Command::new(hyc_binary());
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.stdout(out.unwrap_or_else(Stdio::piped)).stderr(err.unwrap_or_else(Stdio::piped));
    let output = command.spawn().expect("starts").wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "hyc {args:?}: {err}");
    (output.status.code(), out, err)
}

/// A command that prints to standard output.
fn check_printing(folder: &Path, args: &[&str]) {
    let (code, out, err) = run(folder, args, None, None);
    assert!(code == Some(0) && !out.is_empty(), "hyc {args:?}: {err}");
    let (code, _, err) = run(folder, args, Some(gone().into()), None);
    assert!(code == Some(0) && !err.contains("error"), "hyc {args:?}, reader gone: {code:?} {err}");
    let (code, _, err) = run(folder, args, Some(full().into()), None);
    assert_eq!(code, Some(5), "hyc {args:?}, full: {err}");
    assert!(err.contains("cannot write to standard output: No space left"), "hyc {args:?}: {err}");
    check_ending(folder, args, 0);
}

/// Standard error that cannot be written, and standard output beside it, leave the exit code as it is.
fn check_ending(folder: &Path, args: &[&str], code: i32) {
    for stderr in [gone().into(), full().into()] {
        let (found, ..) = run(folder, args, None, Some(stderr));
        assert_eq!(found, Some(code), "hyc {args:?}, no standard error");
    }
    for closed in [">&-", "2>&-", ">&- 2>&- <&-"] {
        let script = format!("exec \"$0\" \"$@\" {closed}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).arg(hyc_binary()).args(args).current_dir(folder).stdin(Stdio::null());
        let output = bash.output().expect("bash");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && !err.contains("panicked"),
            "hyc {args:?} {closed}: {err}"
        );
    }
}

#[test]
fn help_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["-h"], &["--version"], &["help", "run"], &["completions", "bash"]] {
        check_printing(folder.path(), args);
    }
    for args in [&[][..], &["runn"], &["compile", "--no-such"], &["run"]] {
        check_ending(folder.path(), args, 2);
    }
}

#[test]
fn descriptions_and_plans() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/golden/dense/model.toml");
    let model = model.to_str().unwrap();
    let printing: &[&[&str]] = &[
        &["check", model],
        &["check", "--json", model],
        &["compile", "--plan-only", model],
        &["compile", "--plan-only", "--json", model],
        &["compile", "--emit", "graph", model],
        &["compile", "--emit", "obj", model, "-o", "-"],
        &["compile", "--print-ir-after", "fuse-topk", model],
        &["compile", model, "-o", "summary.hyc"],
    ];
    for args in printing {
        check_printing(folder.path(), args);
    }
    assert!(folder.path().join("summary.hyc").exists());
    let bad = root().join("tests/configs/invalid");
    let bad = std::fs::read_dir(bad).unwrap().next().unwrap().unwrap().path();
    check_ending(folder.path(), &["check", bad.to_str().unwrap()], 3);
    let (code, _, err) = run(folder.path(), &["check", "--json", "absent.toml"], Some(gone().into()), None);
    assert!(code == Some(3) && err.contains("absent.toml"), "the fault counts, not the pipe: {err}");
    let (code, ..) = run(folder.path(), &["check", "--json", "absent.toml"], Some(full().into()), None);
    assert_eq!(code, Some(3));
}

#[test]
fn artefacts() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("examples/tiny-hysparse/model.toml");
    let model = model.to_str().unwrap();
    assert_eq!(run(folder.path(), &["compile", "-q", model, "-o", "m.hyc"], None, None).0, Some(0));
    let run_args = ["run", "m.hyc", "--threads", "1", "--prompt", "The", "-n", "2"];
    check_printing(folder.path(), &run_args);
    check_printing(folder.path(), &[&run_args[..], &["--json"]].concat());
    for part in ["summary", "graph", "plan", "kv", "memory", "asm"] {
        check_printing(folder.path(), &["inspect", "m.hyc", part]);
    }
    check_printing(folder.path(), &["inspect", "m.hyc", "--json"]);
    check_ending(folder.path(), &["inspect", "m.hyc", "ptx"], 3);
    check_printing(folder.path(), &["diff", "m.hyc", "--tokens", "2"]);
}

/// What is broken counts, whoever reads of it.
#[test]
fn a_doctor_that_nobody_hears() {
    for out in [None, Some(Stdio::from(gone())), Some(full().into())] {
        let mut command = Command::new(hyc_binary());
        command.arg("doctor").env("TMPDIR", "/nowhere").stdin(Stdio::null()).stderr(Stdio::piped());
        let output = command.stdout(out.unwrap_or_else(Stdio::piped)).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(4) && err.contains("temporary"), "{err}");
    }
}

/// Another program may have made the pipe non-blocking; a slow reader still gets everything.
#[test]
fn a_slow_reader_of_a_non_blocking_pipe_gets_all() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/golden/dense/model.toml");
    let args = ["compile", "--emit", "asm", model.to_str().unwrap()];
    let whole = run(folder.path(), &args, None, None).1;
    assert!(whole.len() > 1 << 17, "more than a pipe holds");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut command = Command::new(hyc_binary());
    let mut child = command.args(args).stdout(writer).stderr(Stdio::piped()).spawn().expect("starts");
    drop(command); // And with it our writing end.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert!(child.wait().unwrap().success() && seen == whole);
}
