//! What `-o` may name: no file that is read, under whatever name; permissions as everywhere; links followed.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::hyc_binary;
use hyc_tests::root;

/// A folder with a golden model, a tokenizer and what may lie beside it.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let golden = root().join("tests/golden/dense");
    for name in ["model.toml", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    folder
}

fn hyc(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(hyc_binary());
    command.args(args).current_dir(folder).stdin(Stdio::null());
    let Output { status, stderr, .. } = command.output().expect("runs");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!text.contains("panicked"), "hyc {args:?}: {text}");
    (status.code(), text)
}

fn compiles(folder: &Path, args: &[&str]) {
    let (code, text) = hyc(folder, &[&["compile", "-q"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {text}");
}

fn refused(folder: &Path, args: &[&str], code: i32, words: &str) {
    let before = contents(folder);
    let (found, text) = hyc(folder, &[&["compile"], args].concat());
    assert!(found == Some(code) && text.contains(words), "hyc compile {args:?}: {found:?} {text}");
    assert!(text.contains("help: "), "{text}");
    assert!(contents(folder) == before, "hyc compile {args:?} changed a file");
}

/// Every name and content.
fn contents(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).ok())).collect();
    all.sort();
    all
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn no_file_that_is_read_is_replaced() {
    let folder = model();
    let at = folder.path();
    std::fs::create_dir(at.join("sub")).unwrap();
    symlink("model.safetensors", at.join("link")).unwrap();
    symlink("../link", at.join("sub/link")).unwrap();
    symlink(at.canonicalize().unwrap(), at.join("sub/folder")).unwrap();
    std::fs::hard_link(at.join("model.safetensors"), at.join("hard")).unwrap();
    let absolute = at.join("model.safetensors");
    let names = [
        "model.safetensors",
        "./model.safetensors",
        "sub/../model.safetensors",
        "link",
        "sub/link",
        "hard",
        "sub/folder/model.safetensors",
        absolute.to_str().unwrap(),
        "model.toml",
    ];
    for name in names {
        let words = if name == "model.toml" { "is the description" } else { "is the weight file" };
        refused(at, &["model.toml", "-o", name], 2, words);
        // Also where this run does not read it.
        refused(at, &["model.toml", "--random-weights", "1", "-o", name], 2, words);
        refused(at, &["model.toml", "--no-weights", "-o", name], 2, words);
        for form in ["graph", "plan", "dot", "asm", "obj"] {
            refused(at, &["model.toml", "--emit", form, "-o", name], 2, words);
        }
        refused(at, &["model.toml", "--print-ir-after-all", "-o", name], 2, words);
        refused(at, &["model.toml", "--print-ir-after", "fuse-topk", "-o", name], 2, words);
    }
    let tokenizer = ["model.toml", "--tokenizer", "tokenizer.json", "-o"];
    refused(at, &[&tokenizer[..], &["tokenizer.json"]].concat(), 2, "is the tokenizer tokenizer.json");
    refused(at, &[&tokenizer[..], &["tokenizer_config.json"]].concat(), 2, "is beside the tokenizer");
    std::fs::copy(at.join("model.safetensors"), at.join("other.safetensors")).unwrap();
    let weights = ["model.toml", "--weights", "other.safetensors", "-o"];
    refused(at, &[&weights[..], &["other.safetensors"]].concat(), 2, "is the weight file other.safetensors");
    refused(at, &[&weights[..], &["model.safetensors"]].concat(), 2, "is the weight file");
    // An index reads its shards, those that are missing included.
    let index = r#"{ "weight_map": { "a": "other.safetensors", "b": "absent.safetensors" } }"#;
    std::fs::write(at.join("model.safetensors.index.json"), index).unwrap();
    let index = ["model.toml", "--weights", "model.safetensors.index.json", "--emit", "graph", "-o"];
    refused(at, &[&index[..], &["other.safetensors"]].concat(), 2, "is the weight file other.safetensors");
    refused(at, &[&index[..], &["model.safetensors.index.json"]].concat(), 2, "is the weight file");
    compiles(at, &["--emit", "graph", "model.toml", "-o", "dump.hyir"]);
    refused(at, &["dump.hyir", "--emit", "graph", "-o", "dump.hyir"], 2, "is the dump dump.hyir");
    // The name that a dump's artefact has by itself.
    std::fs::rename(at.join("dump.hyir"), at.join("dense.hyc")).unwrap();
    refused(at, &["dense.hyc", "--no-weights"], 2, "is the dump dense.hyc");
}

#[test]
fn the_umask_and_the_replaced_file_decide_about_permissions() {
    let folder = model();
    let at = folder.path();
    let with_umask = |mask: &str, name: &str| {
        let script = format!("umask {mask}; exec \"$0\" compile -q --no-weights model.toml -o {name}");
        let mut bash = Command::new("bash");
        assert!(bash.args(["-c", &script]).arg(hyc_binary()).current_dir(at).status().unwrap().success());
        mode(&at.join(name))
    };
    assert_eq!(with_umask("077", "a.hyc"), 0o600);
    assert_eq!(with_umask("002", "b.hyc"), 0o664);
    assert_eq!(with_umask("022", "c.hyc"), 0o644);
    for kept in [0o600, 0o640, 0o755] {
        std::fs::set_permissions(at.join("b.hyc"), Permissions::from_mode(kept)).unwrap();
        assert_eq!(with_umask("022", "b.hyc"), kept);
        compiles(at, &["--emit", "graph", "model.toml", "-o", "b.hyc"]);
        assert_eq!(mode(&at.join("b.hyc")), kept);
    }
}

#[test]
fn a_link_is_followed_and_stays() {
    let folder = model();
    let at = folder.path();
    std::fs::create_dir(at.join("far")).unwrap();
    std::fs::write(at.join("far/real.hyc"), "old").unwrap();
    symlink("far/real.hyc", at.join("first")).unwrap();
    symlink("first", at.join("second")).unwrap();
    compiles(at, &["--no-weights", "model.toml", "-o", "second"]);
    assert!(at.join("second").is_symlink() && at.join("first").is_symlink());
    assert!(
        !at.join("far/real.hyc").is_symlink() && std::fs::read(at.join("far/real.hyc")).unwrap().len() > 1000
    );
    assert_eq!(std::fs::read_dir(at.join("far")).unwrap().count(), 1);
    symlink("nowhere", at.join("dangling")).unwrap();
    symlink("loop", at.join("loop")).unwrap();
    for form in [&["--no-weights"][..], &["--emit", "graph"]] {
        let to = |name| [&["model.toml", "-o", name], form].concat();
        refused(at, &to("dangling"), 2, "is a symbolic link to a file that does not exist");
        let (code, text) = hyc(at, &[&["compile"], &to("loop")[..]].concat());
        assert!(code == Some(5) && text.contains("loop"), "{text}");
    }
    assert!(!at.join("nowhere").exists());
}

#[test]
fn places_that_take_no_file_are_told_before_any_work() {
    let folder = model();
    let at = folder.path();
    std::fs::create_dir(at.join("sub")).unwrap();
    std::fs::write(at.join("file"), "a file").unwrap();
    let long = "x".repeat(300);
    for form in [&["--no-weights"][..], &["--emit", "graph"]] {
        let to = |name| [&["model.toml", "-o", name], form].concat();
        for name in ["sub", "sub/", ".", "..", "sub/..", "absent/"] {
            refused(at, &to(name), 2, "is a folder");
        }
        refused(at, &to("absent/x.hyc"), 3, "there is no folder absent");
        refused(at, &to("file/x.hyc"), 3, "file is no folder");
        let (code, text) = hyc(at, &[&["compile"], &to(&long)[..]].concat());
        assert!(code == Some(5) && text.contains("too long"), "{text}");
    }
    let socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
    refused(at, &["model.toml", "--emit", "graph", "-o", "socket"], 2, "is no file");
    drop(socket);
    refused(at, &["model.toml", "-o", "/dev/null"], 2, "is no file");
    refused(at, &["model.toml", "-o", "-"], 2, "an artefact cannot go to standard output");
    refused(at, &["model.toml", "--plan-only", "-o", "x"], 2, "`--plan-only` writes no file");
    compiles(at, &["model.toml", "--no-weights", "-o", "./-"]);
    assert!(at.join("-").is_file());
    compiles(at, &["model.toml", "--emit", "graph", "-o", "-"]);
    compiles(at, &["model.toml", "--emit", "graph", "-o", "/dev/null"]);
}

/// Folders and files of another user; root may write everywhere.
#[test]
fn what_this_user_may_not_write_stays() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let folder = model();
    let at = folder.path();
    let (closed, read_only) = (at.join("closed"), at.join("read-only.hyc"));
    std::fs::create_dir(&closed).unwrap();
    std::fs::write(&read_only, "old").unwrap();
    std::fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    std::fs::set_permissions(&read_only, Permissions::from_mode(0o444)).unwrap();
    refused(at, &["model.toml", "-o", "closed/x.hyc"], 5, "Permission denied");
    refused(at, &["model.toml", "-o", "read-only.hyc"], 5, "Permission denied");
    std::fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
}

/// A log that standard output is appended to is appended to, by whatever name, and never replaced.
#[test]
fn what_this_process_has_open_is_not_replaced() {
    let folder = model();
    let at = folder.path();
    compiles(at, &["--emit", "graph", "model.toml", "-o", "graph"]);
    let graph = std::fs::read_to_string(at.join("graph")).unwrap();
    let bash = |script: &str| {
        std::fs::write(at.join("log"), "old\n").unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec \"$0\" compile {script}")]).arg(hyc_binary()).current_dir(at);
        let output = bash.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, std::fs::read_to_string(at.join("log")).unwrap())
    };
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "log", "./log"] {
        let (code, text, log) = bash(&format!("--emit graph model.toml -o {name} >>log"));
        assert_eq!((code, log), (Some(0), format!("old\n{graph}")), "{name}: {text}");
        let (code, text, log) = bash(&format!("--no-weights model.toml -o {name} >>log"));
        assert!(code == Some(2) && text.contains("is what standard output goes to"), "{name}: {text}");
        assert_eq!(log, "old\n", "{name}");
    }
    for (script, words) in [
        ("--emit graph model.toml -o /dev/fd/7 7>>log", "is open as file descriptor 7"),
        ("--no-weights model.toml -o log 7>>log", "is open as file descriptor 7"),
        ("--no-weights model.toml -o /dev/fd/0 <log", "is what standard input comes from"),
    ] {
        let (code, text, log) = bash(script);
        assert!(code == Some(2) && text.contains(words) && log == "old\n", "{script}: {text} {log}");
    }
    let (code, _, log) = bash("--emit graph model.toml -o /dev/stderr 2>>log");
    assert!(code == Some(2) && log.starts_with("old\nerror: ") && log.contains("standard error"), "{log}");
}
