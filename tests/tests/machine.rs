//! A machine that has little to give: threads, addresses.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::hyc_binary;
use hyc_tests::root;

/// The tiny model with this context.
fn tiny(folder: &Path, max_context: u64) -> PathBuf {
    let source = root().join("examples/tiny-hysparse");
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(source.join("model.toml")).unwrap();
    let text = text.replace("max_context = 4608", &format!("max_context = {max_context}"));
    assert!(text.contains(&format!("max_context = {max_context}")));
    std::fs::write(folder.join("model.toml"), text).unwrap();
    let out = folder.join("tiny.hyc");
    let output = Command::new(hyc_binary())
        .arg("compile")
        .arg(folder.join("model.toml"))
        .arg("-q")
        .arg("-o")
        .arg(&out)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// `hyc ARGS` under `ulimit LIMIT`; as nobody, where a limit does not bind root.
fn limited(limit: &str, as_nobody: bool, args: &str) -> Output {
    let script = format!("ulimit {limit} && exec {} {args}", hyc_binary().display());
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let mut command = if as_nobody && root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "bash"]);
        command
    } else {
        Command::new("bash")
    };
    command.arg("-c").arg(script).output().expect("bash")
}

#[test]
fn without_threads_it_runs_on_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path(), 4608);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&model, std::fs::Permissions::from_mode(0o644)).unwrap();
    let args = format!("run {} -q --prompt 'The kernel' -n 3 --seed 1 --threads 4", model.display());
    let whole = limited("-c 0", true, &args);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    for processes in 1..=4 {
        let output = limited(&format!("-u {processes}"), true, &args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !error.contains("panicked"), "{processes} processes: {error}");
        assert!(output.stdout == whole.stdout, "{processes} processes");
    }
}

#[test]
fn a_run_reserves_what_it_needs_and_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path(), 1 << 20);
    let run = |more: &str| {
        let args =
            format!("run {} -q --prompt 'The kernel' -n 3 --seed 1 --threads 1 {more}", model.display());
        limited("-v 1500000", false, &args)
    };
    let output = run("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run("--ctx 1000000");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
    for words in ["MiB are free in its address space", "--ctx"] {
        assert!(error.contains(words), "{error}");
    }
    let output = run("--ctx 2000000");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
