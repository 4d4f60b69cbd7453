//! docs/ir.md, and the programs in it.

use std::collections::BTreeSet;
use std::path::Path;

use hyc_ir::types::TYPES;
use hyc_ir::verify::{RULES, verify};
use hyc_ir::{Op, reference, text};

#[test]
fn the_page_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ir.md");
    hyc_filetest::expect(&path, &reference::markdown());
}

/// It keeps every rule, and is printed as it stands there.
#[test]
fn the_example_is_a_dump() {
    let graph = text::parse(reference::EXAMPLE).unwrap();
    assert_eq!(verify(&graph), Ok(()));
    let printed = text::print_as(&graph, &text::Style { notes: true, ..text::Style::default() });
    assert_eq!(reference::EXAMPLE.split_once('\n').unwrap().1, printed);
}

fn broken(program: &str) -> BTreeSet<&'static str> {
    let graph = text::parse(program).unwrap_or_else(|errors| panic!("{}\n{program}", errors[0]));
    verify(&graph).err().unwrap_or_default().iter().map(|violation| violation.rule).collect()
}

/// Each program breaks its rule and no other, and without any of its lines it breaks another one or none.
#[test]
fn the_programs_break_their_rules() {
    for rule in RULES {
        let Some(program) = rule.broken else {
            // `verify/tests.rs` breaks it by descriptions that are wrong.
            assert_eq!(rule.name, "roles");
            continue;
        };
        let own = BTreeSet::from([rule.name]);
        assert_eq!(broken(program), own, "{program}");
        let lines: Vec<&str> = program.lines().collect();
        for at in 1..lines.len() {
            let shorter = [&lines[..at], &lines[at + 1..]].concat().join("\n");
            assert!(broken(&shorter) != own, "{}: it needs no line {}:\n{program}", rule.name, at + 1);
        }
    }
}

#[test]
fn every_op_and_type_has_words() {
    assert_eq!(Op::NAMES, Op::WORDS.iter().map(|words| words.name).collect::<Vec<_>>());
    for words in Op::WORDS {
        assert!(words.meaning.iter().any(|line| line.trim().len() > 5), "{}", words.name);
        assert_eq!(words.formula.lines.is_empty(), words.formula.source.is_empty(), "{}", words.name);
        // What computes something says how; the others make no tensor.
        let computes = reference::markdown()
            .split("\n### ")
            .find(|part| part.starts_with(&format!("{}\n", words.name)))
            .is_some_and(|part| part.contains("| `out` |") || part.contains("| `h` |"));
        assert!(!computes || !words.formula.lines.is_empty(), "{}", words.name);
    }
    let header = RULES.iter().find(|rule| rule.name == "output").and_then(|rule| rule.broken).unwrap();
    for words in TYPES {
        let graph =
            text::parse(&format!("{header}%x = cache() {{owner = 0}} : {}\n", words.example)).unwrap();
        let ty = graph.ty(graph.value("x").unwrap());
        assert_eq!((ty.words(), ty.to_string().as_str()), (words, words.example));
        assert!(words.example.starts_with(words.name) && words.syntax.starts_with(words.name));
    }
}
