//! Programs in C99 and C++11: the examples, and one that does everything wrong, also under sanitizers.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{C99, CPP11, build, folder, run};
use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_runtime::{GenerateOptions, Model, Session, Tokenizer};
use tempfile::TempDir;

/// The tiny model, compiled once, to choose the likeliest token each time.
fn tiny() -> &'static Path {
    static TINY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tiny.hyc");
        let model = hyc_tests::root().join("examples/tiny-hysparse/model.toml");
        let level: Level = CpuTarget::host().level;
        hyc_tests::compile(&model, &path, level, |desc| desc.sampling = None);
        (folder, path)
    });
    path
}

fn example(name: &str) -> PathBuf {
    hyc_tests::root().join("examples/c").join(name)
}

/// What the Rust runtime makes of the same.
fn rust(prompt: &str, options: &GenerateOptions) -> String {
    // SAFETY: ours, and nobody writes to it.
    let model = unsafe { Model::load(tiny(), &Default::default()) }.unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = Session::new(model, &Default::default()).unwrap();
    session.generate(&tokenizer, &tokenizer.encode(prompt).unwrap(), options).unwrap().finish().unwrap().text
}

/// Runs an example in both languages.
fn both(name: &str, args: &[&str]) -> String {
    let out = tempfile::tempdir().unwrap();
    let programs = [(&C99[..], "c"), (&CPP11[..], "cpp")].map(|(compiler, end)| {
        let to = out.path().join(end);
        build(compiler, &[&example(&format!("{name}.c"))], &to);
        run(Command::new(to).arg(tiny()).args(args))
    });
    assert_eq!(programs[0], programs[1]);
    programs[0].clone()
}

#[test]
fn a_c_program_continues_a_prompt_as_rust_does() {
    assert_eq!(both("generate", &["The kernel"]), rust("The kernel", &Default::default()) + "\n");
}

#[test]
fn a_c_program_keeps_a_sequence() {
    let printed = both("chat", &["The kernel", " and the compiler"]);
    let options = GenerateOptions { max_new_tokens: 16, ..GenerateOptions::default() };
    let first = format!("The kernel{}\n", rust("The kernel", &options));
    assert!(printed.starts_with(&first), "{printed:?}");
    assert!(printed[first.len()..].starts_with(" and the compiler"), "{printed:?}");
}

#[test]
fn a_c_program_runs_a_batch() {
    let prompts = ["The kernel", "A compiler", "The cache"];
    let printed = both("batch", &prompts);
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    let stop = vec![".".to_string(), "\n".to_string()];
    let options = GenerateOptions { max_new_tokens: 24, stop, ..GenerateOptions::default() };
    for (index, (line, prompt)) in lines.iter().zip(prompts).enumerate() {
        let text = rust(prompt, &options);
        assert!(line.starts_with(&format!("{index} ")) && line.ends_with(&text), "{line:?}: {text:?}");
    }
    assert_eq!(lines.len(), 3);
}

/// NULL in every argument, handles that were freed or are of another kind, a session that is busy, a cancel from another
/// thread; the header twice in two units.
#[test]
fn what_is_wrong_is_a_status() {
    let out = tempfile::tempdir().unwrap();
    let sources = [folder().join("tests/abuse.c"), folder().join("tests/second.c")];
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    let sanitized = [&C99[..], &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]].concat();
    for (name, compiler) in [("c", C99.to_vec()), ("cpp", CPP11.to_vec()), ("sanitized", sanitized)] {
        let to = out.path().join(name);
        build(&compiler, &sources, &to);
        // Nothing is leaked by C; a thread pool's threads are still there when the process ends.
        let printed = run(Command::new(&to).arg(tiny()).env("ASAN_OPTIONS", "detect_leaks=0"));
        assert_eq!(printed, "all is told\n", "{name}");
    }
}
