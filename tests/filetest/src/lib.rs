//! Tests that are files: text in, expected text out. `HYC_BLESS=1 cargo test ...` writes what comes out.
//!
//! A file is its own input, with comments of its own kind (`;` in graphs, `//` in PTX):
//!
//! ```text
//! ; What the case is about.
//! graph "t" { .. }
//! %x = embed(table=@w) : ..
//! %y = some_op(x=%x) : ..      ; error: words      it must fail here, and say these words
//! ; check:                                         what comes out, each line behind `; `
//! ; %x = embed(table=@w) : ..
//! ```
//!
//! `; error: words` on a line of its own is a fault of no line. What follows another `; NAME: ` is the test's own
//! ([`directive`]). Where what comes out is no comment of its input, it has a file of its own ([`expect`]).

#![allow(clippy::print_stdout)] // A test's output is captured.

use std::path::{Path, PathBuf};

/// Why an input is refused, and at which of its lines, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, where it is one line's.
    pub line: Option<u32>,
    /// What is said.
    pub message: String,
}

/// How a kind of file is written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The files' ending.
    pub extension: &'static str,
    /// What begins a comment.
    pub comment: &'static str,
    /// What each line that is to come out stands behind.
    pub prefix: &'static str,
}

/// Graphs, and whatever comes of them.
pub const GRAPH: Style = Style { extension: "hyir", comment: ";", prefix: "; " };
/// PTX, whose input is comments.
pub const PTX: Style = Style { extension: "ptx", comment: "//", prefix: "" };

/// The files of a folder with this ending, in order. Panics where there is none.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no *.{extension} in {}", folder.display());
    paths
}

/// The words of a `; NAME: words` comment: its line, from 1, whether it stands alone there, and they.
pub fn directive<'t>(source: &'t str, comment: &str, name: &str) -> Option<(u32, bool, &'t str)> {
    let mark = format!("{comment} {name}: ");
    source.lines().zip(1..).find_map(|(line, number)| {
        let at = line.find(&mark)?;
        Some((number, at == 0, line[at + mark.len()..].trim()))
    })
}

/// Checks each file of a folder by what `output` makes of its input; panics with a list of those that differ. Gives
/// their number.
pub fn run(folder: &Path, style: Style, output: impl Fn(&str) -> Result<String, Fault>) -> usize {
    let paths = files(folder, style.extension);
    let one = |path: &PathBuf| {
        // Shown where `output` itself panics.
        println!("{}", path.display());
        check(path, style, &output).err().map(|why| format!("{}: {why}", path.display()))
    };
    let wrong: Vec<String> = paths.iter().filter_map(one).collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
    paths.len()
}

/// `Err` says how the file differs from what comes out.
fn check(path: &Path, style: Style, output: impl Fn(&str) -> Result<String, Fault>) -> Result<(), String> {
    let file = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let Style { comment, prefix, .. } = style;
    let mark = format!("{comment} check:\n");
    let source = file.split(&mark).next().unwrap_or_default();
    let found = output(source);
    if let Some((line, alone, words)) = directive(source, comment, "error") {
        let wanted = (!alone).then_some(line);
        return match found {
            Ok(_) => Err(format!("succeeds; wanted `{words}`")),
            Err(Fault { line, message }) if line != wanted => {
                Err(format!("fails at line {line:?}, not {wanted:?}: {message}"))
            }
            Err(Fault { message, .. }) if !message.contains(words) => {
                Err(format!("says `{message}`, not `{words}`"))
            }
            Err(_) => Ok(()),
        };
    }
    let found = found.map_err(|fault| format!("fails: {}", fault.message))?;
    let commented = |line: &str| match prefix {
        "" => format!("{line}\n"),
        prefix => format!("{prefix}{line}").trim_end().to_string() + "\n",
    };
    let wanted = format!("{source}{mark}{}", found.lines().map(commented).collect::<String>());
    same(path, &file, &wanted)
}

/// Compares a file with what comes out, or writes that into it. Panics where they differ, and says how to bless.
pub fn expect(path: &Path, found: &str) {
    if let Err(why) = differs(path, found) {
        panic!("{}: {why}\n{found}", path.display());
    }
}

/// The same, to be told of several at once.
pub fn differs(path: &Path, found: &str) -> Result<(), String> {
    let file = std::fs::read_to_string(path).unwrap_or_default();
    same(path, &file, found)
}

fn same(path: &Path, file: &str, wanted: &str) -> Result<(), String> {
    if file == wanted {
        return Ok(());
    }
    if std::env::var_os("HYC_BLESS").is_some() {
        let write = || -> std::io::Result<()> {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, wanted)
        };
        return write().map_err(|e| format!("cannot be written: {e}"));
    }
    Err(difference(file, wanted))
}

const HINT: &str = " (HYC_BLESS=1 writes it anew)";

/// The first line that differs.
fn difference(then: &str, now: &str) -> String {
    let (mut old, mut new) = (then.lines(), now.lines());
    let told = |line: Option<&str>| line.map_or_else(|| "missing".to_string(), |line| format!("{line:?}"));
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return format!("line {number} is {} now, not {}{HINT}", told(b), told(a)),
        }
    }
    format!("the ends of lines differ{HINT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "; About it.\nfirst\nsecond ; error: no such\n";

    #[test]
    fn directives_are_found_where_they_stand() {
        assert_eq!(directive(SOURCE, ";", "error"), Some((3, false, "no such")));
        assert_eq!(directive("; refuse: add\n", ";", "refuse"), Some((1, true, "add")));
        assert_eq!(directive(SOURCE, "//", "error"), None);
    }

    #[test]
    fn the_first_line_that_differs_is_told() {
        for (then, now, says) in [
            ("a\nb\n", "a\nc\n", "line 2 is \"c\" now, not \"b\""),
            ("a\n", "a\nc\n", "line 2 is \"c\" now, not missing"),
            ("a\nb\n", "a\n", "line 2 is missing now, not \"b\""),
            ("a", "a\n", "ends of lines"),
        ] {
            assert!(difference(then, now).contains(says), "{}", difference(then, now));
        }
    }

    #[test]
    fn files_pass_by_their_check_block_or_their_error() {
        let folder = std::env::temp_dir().join(format!("hyc-filetest-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("case.txt");
        let of = |text: &str, output: &dyn Fn(&str) -> Result<String, Fault>| {
            std::fs::write(&path, text).unwrap();
            check(&path, GRAPH, output)
        };
        let loud = |source: &str| Ok(source.to_uppercase());
        let fails = |line| move |_: &str| Err(Fault { line, message: "there is no such op".to_string() });
        if std::env::var_os("HYC_BLESS").is_none() {
            assert_eq!(of("a\n; check:\n; A\n", &loud), Ok(()));
            assert!(of("a\n; check:\n; B\n", &loud).unwrap_err().contains("line 3 is \"; A\" now"));
            assert!(of("a\n", &loud).unwrap_err().contains("line 2 is \"; check:\" now, not missing"));
            assert!(of("a\n; check:\n; A\n", &fails(None)).unwrap_err().contains("fails: there is no"));
        }
        assert_eq!(of(SOURCE, &fails(Some(3))), Ok(()));
        assert!(of(SOURCE, &fails(Some(2))).unwrap_err().contains("at line Some(2)"));
        assert!(of(SOURCE, &loud).unwrap_err().contains("succeeds"));
        assert!(of("; error: other\n", &fails(None)).unwrap_err().contains("says `there"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
