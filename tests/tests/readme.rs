//! README.md's commands do what it says, with the shipped model.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::hyc_binary;
use hyc_tests::root;

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

fn hyc(words: &[String], folder: &Path) -> Output {
    Command::new(hyc_binary()).args(words).current_dir(folder).output().expect("runs")
}

/// The words of a line up to its explanation, which stands apart; quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let line = line.trim().split("   ").next().unwrap_or_default();
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("a word").push(c),
        }
    }
    // `[--kernel NAME]` may be left out.
    if let Some(first) = words.iter().position(|word| word.starts_with('[')) {
        let last = words.iter().position(|word| word.ends_with(']')).expect("a bracket");
        words.drain(first..=last);
    }
    words.retain(|word| !word.is_empty());
    words.split_off(1)
}

/// One command for each of the alternatives `a|b|c`.
fn alternatives(words: Vec<String>) -> Vec<Vec<String>> {
    let Some(at) = words.iter().position(|word| word.contains('|')) else { return vec![words] };
    let one = |choice: &str| {
        let mut words = words.clone();
        words[at] = choice.to_string();
        words
    };
    words[at].split('|').map(one).collect()
}

#[test]
fn the_sample_is_what_is_printed() {
    let text = readme();
    let block = text.split("```").find(|block| block.contains("$ hyc compile")).expect("a sample");
    let mut lines = block.trim().lines();
    let command = words(lines.next().expect("a command").trim_start_matches("$ "));
    let output = hyc(&command, &root());
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success());
    let expected: Vec<&str> = lines.collect();
    assert!(expected.len() >= 4 && printed.contains(&expected.join("\n")), "{printed}");
}

#[test]
fn every_command_works_as_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = root().join("examples/tiny-hysparse/model.toml");
    let text = readme();
    let section = text.split("## ").find(|part| part.starts_with("The command")).expect("a section");
    let lines: Vec<&str> = section.lines().filter(|line| line.starts_with("    hyc ")).collect();
    assert!(lines.len() > 10, "{lines:?}");
    // The command under test may be built with other features than this test.
    let version = hyc(&["version", "-v"].map(String::from), folder.path());
    let has_gpu = String::from_utf8_lossy(&version.stdout).contains("sm_90a");
    for line in lines {
        for mut command in alternatives(words(line)) {
            // A conversation has a test of its own; a card is measured where there is one.
            if ["chat", "tune"].contains(&command[0].as_str()) {
                continue;
            }
            for word in &mut command {
                match word.as_str() {
                    "CHECKPOINT" => *word = root().join("tests/families/llama").display().to_string(),
                    "model.toml" => *word = model.display().to_string(),
                    "book.txt" => *word = root().join("LICENSE-MIT").display().to_string(),
                    "..." => *word = "The kernel".to_string(),
                    _ => {}
                }
            }
            if command[0] == "compile" && !command.iter().any(|word| word == "-o" || word == "--emit") {
                command.extend(["-o", "other.hyc"].map(String::from));
            }
            if command[0] == "run" {
                command.extend(["-n", "4"].map(String::from));
            }
            let output = hyc(&command, folder.path());
            let stderr = String::from_utf8_lossy(&output.stderr);
            // GPU code needs its feature, and an artefact has the code of one target.
            let expected = match command.iter().any(|word| word == "sm_90a") {
                true if !has_gpu => 4,
                _ if command == ["inspect", "model.hyc", "ptx"] => 3,
                _ => 0,
            };
            // ptxas is NVIDIA's.
            let needs_ptxas = command.iter().any(|word| word == "cubin" || word == "sass");
            let code = output.status.code();
            assert!(
                code == Some(expected) || (needs_ptxas && code == Some(4)),
                "hyc {command:?}: {code:?} {stderr}"
            );
        }
    }
}
