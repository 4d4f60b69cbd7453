//! tests/filetests/verify: text IR with the rule that each marked line breaks.

use std::path::{Path, PathBuf};

use hyc_ir::text::Style;
use hyc_ir::{text, verify};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/filetests/verify");
    let files = hyc_filetest::files(&folder, "hyir");
    assert!(files.len() > 10);
    files
}

/// The rules that `; error:` comments name, by line; a rule on an `ssa-`-typed value may bring `type` with it.
fn expected(source: &str) -> Vec<(u32, String)> {
    let marked =
        source.lines().zip(1..).filter_map(|(line, number)| Some((number, line.split_once("; error: ")?.1)));
    marked.map(|(number, rule)| (number, rule.trim().to_string())).collect()
}

#[test]
fn marked_lines_break_their_rules_and_no_others_do() {
    for path in files() {
        let source = std::fs::read_to_string(&path).unwrap();
        let graph = text::parse(&source).unwrap_or_else(|e| panic!("{}: {}", path.display(), e[0]));
        let want = expected(&source);
        let found: Vec<(u32, String)> = match verify::verify(&graph) {
            Ok(()) => vec![],
            Err(violations) => violations.iter().map(|v| (v.line.unwrap_or(0), v.rule.to_string())).collect(),
        };
        for one in &want {
            assert!(
                found.contains(one),
                "{}: line {} must break {}: {found:?}",
                path.display(),
                one.0,
                one.1
            );
        }
        let stray = found.iter().find(|(line, _)| !want.iter().any(|(at, _)| at == line));
        assert!(stray.is_none(), "{}: {stray:?} is not expected", path.display());
        assert_eq!(want.is_empty(), found.is_empty(), "{}", path.display());
    }
}

#[test]
fn text_goes_round() {
    for path in files() {
        let source = std::fs::read_to_string(&path).unwrap();
        let graph = text::parse(&source).unwrap();
        let printed = text::print(&graph);
        let again = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {}", path.display(), e[0]));
        assert_eq!(printed, text::print(&again), "{}", path.display());
        assert!(graph == again, "{}", path.display());
    }
}

/// Damaged text gives errors, or a graph that the verifier judges: never a panic.
#[test]
fn damaged_text_does_not_panic() {
    let sources: Vec<String> = files().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut state = 11u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    };
    let pieces = [
        "0",
        "18446744073709551615",
        "%",
        "@x",
        "(",
        ")",
        "{",
        "}",
        "<",
        ">",
        ",",
        ":",
        "=",
        "/",
        "x",
        "é",
        "\"",
        "\n",
        "NaN",
        "e9",
    ];
    let mut valid = 0;
    for _ in 0..20_000 {
        let mut text: Vec<char> = sources[next(sources.len())].chars().collect();
        for _ in 0..1 + next(3) {
            let at = next(text.len());
            let end = (at + next(4)).min(text.len());
            text.splice(at..end, pieces[next(pieces.len())].chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(graph) = text::parse(&text) {
            let short = text::print_as(&graph, &Style::default());
            let again = text::parse(&short).unwrap_or_else(|errors| panic!("{}\n{text}\n{short}", errors[0]));
            assert_eq!(text::print_as(&again, &Style::default()), short, "{text}");
            valid += usize::from(verify::verify(&graph).is_ok());
        }
    }
    assert!(valid > 0, "some damage is harmless");
}

#[test]
fn operands_have_names_which_need_not_be_said() {
    let head = "graph \"t\" {\n  layers = 1, hidden = 4, vocab = 4, max_context = 8, max_batch = 1, chunk = 4, \
                max_outputs = 1, target = cpu\n}\n";
    let line = |operands: &str| format!("{head}%y = add({operands}) : tensor<tokens x 4 x f32>\n");
    let printed = text::print(&text::parse(&line("%x, b=%x")).unwrap());
    assert!(printed.contains("%y = add(a=%x, b=%x) :"), "{printed}");
    // More than the op has are the verifier's to say.
    assert!(text::print(&text::parse(&line("%x, %x, %x")).unwrap()).contains("add(a=%x, b=%x, %x)"));
    for (operands, column, says) in [
        ("b=%x, %x", 10, "operand 0 of `add` is not `b`"),
        ("%x, %x, c=%x", 18, "operand 2 of `add` is not `c`"),
        ("a %x", 12, "`=` belongs here"),
        ("a=", 12, "a value belongs here"),
        ("a=b", 12, "a value belongs here"),
    ] {
        let error = text::parse(&line(operands)).unwrap_err().remove(0);
        assert!(
            error.line == 4 && error.column == column && error.message.contains(says),
            "{operands}: {error}"
        );
    }
}

/// As many ops as may be are taken, whatever stands behind them; one more is refused where it stands.
#[test]
fn the_most_ops_are_taken() {
    let header = "graph \"m\" { layers = 1, hidden = 8, vocab = 8, max_context = 8, max_batch = 1, chunk = 8, \
                  max_outputs = 1, target = cpu }\n";
    let most = format!("{header}{}\n; the end\n", "output(%x)\n".repeat(text::MAX_OPS));
    assert_eq!(text::parse(&most).map(|graph| graph.ops().count()), Ok(text::MAX_OPS));
    let errors = text::parse(&format!("{most}output(%x)\n")).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].message.contains("more than 100000 ops") && errors[0].line == text::MAX_OPS + 4);
}
