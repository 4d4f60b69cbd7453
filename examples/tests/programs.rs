//! The programs of this folder, built and run. The tiny model is compiled by the build script.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use hyc_runtime::{GenerateOptions, Model, Session, Tokenizer};

hyc_runtime::linked_model!(mod tiny);
hyc_runtime::linked_model!(mod dense);
hyc_runtime::linked_model!(mod twin);

/// Runs a program and gives what it printed.
fn run(program: &str, args: &[&str]) -> String {
    text(Command::new(program).args(args).output().expect("runs"))
}

fn text(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The tiny model compiled to choose the likeliest token each time, as its description does not.
fn greedy() -> &'static str {
    static GREEDY: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = GREEDY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.hyc");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-hysparse/model.toml");
        let level = hyc_kernels::cpu::CpuTarget::host().level;
        hyc_tests::compile(&model, &path, level, |desc| desc.sampling = None);
        let path = path.to_str().unwrap().to_string();
        (folder, path)
    });
    path
}

/// What `hyc run` would print: the artefact that the build wrote, loaded as a file.
fn from_file(artefact: &str, prompt: &str, tokens: usize) -> (Vec<u32>, String) {
    // SAFETY: the build's, and nobody writes to it.
    let model = unsafe { Model::load(artefact, &Default::default()) }.unwrap();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = Session::new(model, &Default::default()).unwrap();
    let options = GenerateOptions { max_new_tokens: tokens, seed: Some(7), ..GenerateOptions::default() };
    let prompt = tokenizer.encode(prompt).unwrap();
    let done = session.generate(&tokenizer, &prompt, &options).unwrap().finish().unwrap();
    (done.tokens, done.text)
}

#[test]
fn a_first_program_continues_a_prompt() {
    let printed = run(env!("CARGO_BIN_EXE_one-shot"), &[greedy(), "The kernel"]);
    assert_eq!(printed.trim_end(), from_file(greedy(), "The kernel", 256).1.trim_end());
}

/// An error is printed with its help, by a `main` that returns it.
#[test]
fn what_is_wrong_is_printed_with_its_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_one-shot")).arg("no-such-file").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("Error: cannot read no-such-file"), "{stderr}");
    assert!(stderr.contains("\n  help: check the path"), "{stderr}");
}

/// The second turn computes its own tokens and the last answer's last one; what is taken back is said anew.
#[test]
fn a_chat_keeps_its_sequence() {
    let chat = env!("CARGO_BIN_EXE_chat");
    let printed = run(chat, &[greedy(), "The kernel", " and the compiler"]);
    let news: Vec<usize> = printed
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once(" new")?.0.parse().ok())
        .collect();
    assert_eq!(news.len(), 2, "{printed}");
    assert!(news[1] <= 6, "the second turn computed {} tokens", news[1]);
    let again = run(chat, &[greedy(), "The kernel", " and so", "/undo", " and the compiler"]);
    let last = |text: &str| text.rsplit_once("new tokens]").map(|(_, last)| last.to_string());
    assert_eq!(last(&printed), last(&again));
}

#[test]
fn of_a_batch_two_stop_and_one_is_cancelled() {
    let prompts = ["The kernel", "A compiler", "The cache"];
    let printed = run(env!("CARGO_BIN_EXE_batch"), &[&[greedy()], &prompts[..]].concat());
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    for (line, prompt) in lines.iter().zip(&prompts[..2]) {
        let alone = from_file(greedy(), prompt, 24).1;
        let alone = alone.split(['.', '\n']).next().unwrap_or_default().trim_end();
        assert!(line.ends_with(alone), "{line}: alone {alone:?}");
    }
    assert!(lines[2].starts_with("2 cancelled after "), "{printed}");
}

#[test]
fn threads_share_a_model() {
    let prompts = ["The kernel", "A compiler", "The cache", "A page"];
    let printed = run(env!("CARGO_BIN_EXE_pool"), &[&[greedy()], &prompts[..]].concat());
    for (index, (line, prompt)) in printed.lines().zip(prompts).enumerate() {
        assert_eq!(line, format!("{index} {}", from_file(greedy(), prompt, 8).1.replace('\n', " ")));
    }
    assert_eq!(printed.lines().count(), prompts.len());
}

#[test]
fn a_linked_model_gives_what_its_file_gives() {
    let printed = run(env!("CARGO_BIN_EXE_linked"), &["The kernel"]);
    let (tokens, text) = from_file(tiny::ARTEFACT, "The kernel", 16);
    assert_eq!(printed, format!("{text}\n{tokens:?}\n"));
}

/// Two of one shape: their symbols do not meet. Each gives what its file gives.
#[test]
fn two_models_live_in_one_program() {
    let printed = run(env!("CARGO_BIN_EXE_two-models"), &[]);
    let tokens: [Vec<u32>; 2] = serde_json::from_str(&printed).expect("two lists");
    for (tokens, artefact) in tokens.iter().zip([dense::ARTEFACT, twin::ARTEFACT]) {
        // SAFETY: the build's, and nobody writes to it.
        let model = unsafe { Model::load(artefact, &Default::default()) }.unwrap();
        let mut session = Session::new(model, &Default::default()).unwrap();
        let id = session.add_sequence().unwrap();
        session.feed(id, &[1, 2, 3]).unwrap();
        for expected in tokens {
            let (_, token) = session.step_sampled().unwrap().sampled.remove(0);
            assert_eq!(token.as_ref(), Ok(expected));
            session.feed(id, &[*expected]).unwrap();
        }
    }
}

#[test]
fn foreign_and_missing_weights_are_told() {
    let load = |path: &str| {
        // SAFETY: nobody writes to these files.
        let result = unsafe { tiny::load_with_weights(path, &Default::default()) };
        result.err().expect("refused").to_string()
    };
    let foreign = load(dense::ARTEFACT);
    assert!(foreign.contains("are another model's, or of another build of it"), "{foreign}");
    assert!(load("no-such-file").starts_with("cannot read no-such-file"));
    let none = tiny::load(&Default::default()).err().expect("has none").to_string();
    assert!(none.contains("linked into this program without its weights"), "{none}");
    assert!(none.contains("help: load it with `load_with_weights`"), "{none}");
}

#[test]
fn code_of_another_build_is_told() {
    let mixed = hyc_runtime::Linked { code: tiny::linked().code, ..dense::linked() };
    // SAFETY: not so: that it is refused is what is tested.
    let error = unsafe { Model::linked(mixed, &Default::default()) }.err().expect("refused").to_string();
    assert!(error.contains("is damaged: kernel"), "{error}");
}

#[test]
fn what_is_known_of_a_model_is_in_its_module() {
    let model = dense::load(&Default::default()).unwrap();
    let info = &model.plan().model;
    assert_eq!(
        (info.vocab, info.max_context, info.max_batch),
        (dense::VOCAB, dense::MAX_CONTEXT, dense::MAX_BATCH)
    );
    assert_eq!(dense::NAME, info.name);
    assert_eq!(dense::SHA256.len(), 64);
    assert!(Path::new(dense::ARTEFACT).is_file());
}

/// Asks the system to refuse memory that becomes executable, from here on and after `exec` (PR_SET_MDWE). `false`: it
/// cannot.
#[cfg(target_arch = "x86_64")]
fn refuse_executable_memory() -> bool {
    const PRCTL: u64 = 157;
    const PR_SET_MDWE: u64 = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: u64 = 1;
    let result: i64;
    // SAFETY: prctl with numbers alone touches no memory of this process.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") PRCTL => result,
            in("rdi") PR_SET_MDWE,
            in("rsi") PR_MDWE_REFUSE_EXEC_GAIN,
            in("rdx") 0,
            in("r10") 0,
            in("r8") 0,
            out("rcx") _,
            out("r11") _,
        );
    }
    result == 0
}

/// Under a system that lets no memory become executable, a linked model runs, and a file runs from its own mapping.
#[test]
#[cfg(target_arch = "x86_64")]
fn no_memory_is_made_executable() {
    use std::os::unix::process::CommandExt;
    let under = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args);
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| match refuse_executable_memory() {
                true => Ok(()),
                false => Err(std::io::ErrorKind::Unsupported.into()),
            })
        };
        command.output()
    };
    let linked = match under(env!("CARGO_BIN_EXE_linked"), &["The kernel"]) {
        Err(error) => return eprintln!("skipped: this kernel has no PR_SET_MDWE ({error})"),
        Ok(output) => text(output),
    };
    assert_eq!(linked, run(env!("CARGO_BIN_EXE_linked"), &["The kernel"]));
    let file = under(env!("CARGO_BIN_EXE_one-shot"), &[greedy(), "The kernel"]).expect("runs");
    assert_eq!(text(file), run(env!("CARGO_BIN_EXE_one-shot"), &[greedy(), "The kernel"]));
}
