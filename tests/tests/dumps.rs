//! What `hyc compile` shows of its passes: printed, in a folder, in part; and every dump as input.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use common::hyc_binary;
use hyc_tests::root;

const FILES: [&str; 13] = [
    "00-input.hyir",
    "01-detect-chains.hyir",
    "02-plan-kv.hyir",
    "03-fuse-topk.hyir",
    "04-fuse-branches.hyir",
    "05-fuse-epilogues.hyir",
    "06-quantise-kv.hyir",
    "07-tile-rows.hyir",
    "08-fp8-rows.hyir",
    "09-list-pages.hyir",
    "10-plan-memory.txt",
    "11-select-kernels.txt",
    "12-plan.txt",
];

fn hyc(at: &Path, args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).current_dir(at).output().expect("runs")
}

fn printed(at: &Path, args: &[&str]) -> String {
    let output = hyc(at, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn refused(at: &Path, args: &[&str], code: i32, words: &[&str]) {
    let output = hyc(at, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    words.iter().for_each(|words| assert!(said.contains(words), "{args:?}: no {words:?} in {said}"));
    assert!(said.len() < 60_000 && !said.contains('\x1b'), "{args:?}: {said}");
}

/// A folder with the tiny model's description and weights.
fn folder() -> (tempfile::TempDir, String) {
    let model = root().join("examples/tiny-hysparse/model.toml");
    (tempfile::tempdir().unwrap(), model.to_str().unwrap().to_string())
}

fn files(at: &Path) -> BTreeMap<String, String> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    };
    std::fs::read_dir(at).unwrap().map(entry).collect()
}

/// One file a pass, equal for equal input, replaced by the next run; each graph leads to the same plan.
#[test]
fn a_folder_has_a_file_a_pass() {
    let (folder, model) = folder();
    let at = folder.path();
    printed(at, &["compile", "--plan-only", "--dump-dir", "dumps/", &model]);
    let first = files(&at.join("dumps"));
    assert_eq!(first.keys().map(String::as_str).collect::<Vec<_>>(), FILES);
    let plan = printed(at, &["compile", "--emit", "plan", "--dump-dir", "dumps", &model]);
    assert_eq!(files(&at.join("dumps")), first);
    for name in FILES.iter().filter(|name| name.ends_with(".hyir")) {
        assert!(!first[*name].contains("weight()"), "{name}");
        assert_eq!(printed(at, &["compile", "--emit", "plan", &format!("dumps/{name}")]), plan, "{name}");
    }
    // With an artefact, too, and with other content in the place of the old one.
    printed(
        at,
        &["compile", "-q", "--no-weights", "--weights-in-ir", "--dump-dir", "dumps", "-o", "m.hyc", &model],
    );
    assert!(at.join("m.hyc").exists());
    let second = files(&at.join("dumps"));
    assert!(second["00-input.hyir"].contains("= weight() layer 8 :"));
    assert_eq!(second["12-plan.txt"], first["12-plan.txt"]);
    // Nothing is written where nothing comes of it.
    refused(at, &["compile", "--plan-only", "--target", "sm_1", "--dump-dir", "none", &model], 4, &["sm_1"]);
    assert!(!at.join("none").exists());
}

#[test]
fn a_folder_of_others_is_left_alone() {
    let (folder, model) = folder();
    let at = folder.path();
    let dump = |to: &str, words: &[&str]| {
        refused(at, &["compile", "--plan-only", "--dump-dir", to, &model], 2, words);
    };
    std::fs::write(at.join("file"), "mine").unwrap();
    dump("file", &["is a file, and no folder", "new or an empty folder"]);
    dump(".", &["holds file, which no earlier run has written"]);
    std::fs::create_dir(at.join("mine")).unwrap();
    std::fs::write(at.join("mine/a\u{1b}[2Jb"), "mine").unwrap();
    dump("mine", &["holds a\\u{1b}[2Jb"]);
    std::fs::create_dir_all(at.join("odd/12-plan.txt")).unwrap();
    dump("odd", &["12-plan.txt is a folder"]);
    std::os::unix::fs::symlink("nowhere", at.join("link")).unwrap();
    dump("link", &["symbolic link to a file that does not exist"]);
    refused(at, &["compile", "--plan-only", "--dump-dir", "no/such", &model], 3, &["there is no folder no"]);
    assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "mine");

    // What is read stays, under whatever name; what is written is no file of the folder.
    printed(at, &["compile", "--plan-only", "--dump-dir", "dumps", &model]);
    let input = "dumps/03-fuse-topk.hyir";
    let kept = std::fs::read(at.join(input)).unwrap();
    let words = ["is the dump dumps/03-fuse-topk.hyir, which is read"];
    refused(at, &["compile", "--plan-only", "--dump-dir", "dumps", input], 2, &words);
    assert_eq!(std::fs::read(at.join(input)).unwrap(), kept);
    let both = ["compile", "--emit", "plan", "-o", "dumps/12-plan.txt", "--dump-dir", "dumps", &model];
    refused(at, &both, 2, &["is a file of `--dump-dir`, and what `-o` names"]);
}

/// Those passes that changed the graph, and no others; a graph that stands there already is not repeated.
#[test]
fn passes_are_printed_where_they_do_something() {
    let (folder, model) = folder();
    let at = folder.path();
    let sections = |args: &[&str]| {
        let text = printed(at, &[&["compile"], args].concat());
        let after = text.lines().filter_map(|line| line.strip_prefix("; after "));
        let names: Vec<String> = after.map(|line| line.split(':').next().unwrap().to_string()).collect();
        (names, text.matches("\ngraph \"").count() + usize::from(text.starts_with("graph \"")))
    };
    let rewrites = ["detect-chains", "plan-kv", "fuse-topk", "fuse-branches", "fuse-epilogues"];
    let (names, graphs) = sections(&["--print-ir-after-change", &model]);
    assert_eq!((names.as_slice(), graphs), (rewrites.map(String::from).as_slice(), 5));
    let (names, graphs) = sections(&["--print-ir-after-all", &model]);
    assert_eq!((names.len(), graphs), (12, 9));
    let (names, graphs) = sections(&["--print-ir-after=schedule", &model]);
    assert_eq!((names.as_slice(), graphs), (["schedule".to_string()].as_slice(), 1));
    let (names, graphs) = sections(&["--print-ir-after=schedule", "--print-ir-after=fuse-topk", &model]);
    assert_eq!((names.len(), graphs), (2, 2));
    // A model whose layers are all full has no branches to fuse.
    let full = root().join("examples/models/full-7b.toml");
    let (names, _) = sections(&["--print-ir-after-change", full.to_str().unwrap()]);
    assert!(!names.contains(&"fuse-branches".to_string()), "{names:?}");
    let (names, _) = sections(&["--print-ir-after-all", full.to_str().unwrap()]);
    assert_eq!(names.len(), 12);
}

/// What all passes printed is one input, in which the last graph counts.
#[test]
fn a_dump_of_several_passes_is_accepted() {
    let (folder, model) = folder();
    let at = folder.path();
    let plan = printed(at, &["compile", "--emit", "plan", &model]);
    for args in [
        ["--print-ir-after-all", "-q"],
        ["--print-ir-after-all", "--weights-in-ir"],
        ["--print-ir-after-change", "-q"],
        ["--emit", "graph"],
    ] {
        printed(at, &[&["compile", &model, "-o", "d.hyir"], &args[..]].concat());
        assert_eq!(printed(at, &["compile", "--emit", "plan", "d.hyir"]), plan, "{args:?}");
    }
    let text = std::fs::read_to_string(at.join("d.hyir")).unwrap();
    std::fs::write(at.join("two.hyir"), format!("graph \"broken\" {{\n{text}")).unwrap();
    assert_eq!(printed(at, &["compile", "--emit", "plan", "two.hyir"]), plan);
}

#[test]
fn layers_are_shown_alone() {
    let (folder, model) = folder();
    let at = folder.path();
    let graph = printed(at, &["compile", "--emit", "graph", "--layers", "5", &model]);
    let ops: Vec<&str> = graph.lines().filter(|line| line.starts_with('%')).collect();
    assert!(ops.len() > 5 && ops.iter().all(|line| line.contains(" layer 5 ")), "{graph}");
    for words in
        ["; input %L4.kv : cache<", "made by qkv_append of layer 4", "; %L4.kv is the cache of layer 4"]
    {
        assert!(graph.contains(words), "no {words:?} in {graph}");
    }
    let dot = printed(at, &["compile", "--emit", "dot", "--layers", "5", &model]);
    assert!(dot.contains("cluster_5") && !dot.contains("cluster_4") && dot.contains("style=dashed"), "{dot}");
    let boxes: Vec<&str> =
        dot.lines().filter(|line| line.contains(" [label=") && !line.contains("->")).collect();
    let named = |word: &str| boxes.iter().any(|line| line.trim_start().starts_with(&format!("{word} ")));
    for edge in dot.lines().filter(|line| line.contains("->")) {
        let words: Vec<&str> = edge.split_whitespace().collect();
        assert!(named(words[0]) && named(words[2]), "{edge}");
    }
    printed(at, &["compile", "--plan-only", "--dump-dir", "part", "--layers", "4-5", &model]);
    let part = files(&at.join("part"));
    assert!(part["10-plan-memory.txt"].contains("%L4.") && !part["10-plan-memory.txt"].contains("%L8."));
    assert!(part["12-plan.txt"].contains("layer 5, steps") && !part["12-plan.txt"].contains("layers 2"));

    refused(
        at,
        &["compile", "--plan-only", "part/05-fuse-epilogues.hyir"],
        3,
        &[
            "part/05-fuse-epilogues.hyir:1:23",
            "this is a part of a graph, its layers 4-5",
            "without `--layers`",
        ],
    );
    for (layers, words) in [
        ("9", "there is no layer 9: the model's are 0 to 8"),
        ("0-4294967295", "there is no layer 4294967295"),
        ("4-", "`` is no layer's number"),
        ("a\u{1b}", "`a\\u{1b}` is no layer's number"),
        ("5-4", "5 stands before 4"),
    ] {
        let help = "write layers as 5, 12-13 or 0-2,7";
        refused(at, &["compile", "--emit", "graph", "--layers", layers, &model], 2, &[words, help]);
    }
    for args in [["--layers", "4"], ["--emit", "plan"], ["--weights-in-ir", "-q"], ["--emit", "dot"]] {
        let flag = if args[0] == "--emit" { ["--weights-in-ir"].as_slice() } else { &[] };
        let args = [&["compile", "--plan-only"], &args[..], flag, &[&model]].concat();
        refused(at, &args, 2, &["has no meaning here: no graph is shown"]);
    }
}

/// All of them, bounded, where they stand, with the nearest name; whatever stands in the text.
#[test]
fn faults_of_a_dump_have_carets() {
    let (folder, model) = folder();
    let at = folder.path();
    let graph = printed(at, &["compile", "--emit", "graph", &model]);
    let broken = |change: &dyn Fn(&str) -> String, words: &[&str]| {
        std::fs::write(at.join("g.hyir"), change(&graph)).unwrap();
        refused(at, &["compile", "--plan-only", "g.hyir"], 3, words);
        refused(at, &["check", "g.hyir"], 3, words);
    };
    broken(
        &|graph| {
            graph.replacen("= embed(", "= embd(", 1).replacen(
                "oracle_attention(q=%L4",
                "oracle_atention(q=%L4",
                1,
            )
        },
        &["did you mean `embed`?", "did you mean `oracle_attention`?", "^^^^^^^^^^^^^^^\n", "--> g.hyir:"],
    );
    broken(&|graph| graph.replace("tensor<", "tenser<"), &["did you mean `tensor`?"]);
    broken(&|graph| graph.replacen("sel=%L0.sel", "sel=%L4.sel", 1), &["breaks selection-dominance", "^^^^"]);
    broken(
        &|graph| graph.replacen("x=%x, ", "x=%\u{1b}[2J, ", 1),
        &["this character starts no word", "--> g.hyir:"],
    );
    broken(
        &|graph| graph.replacen("\"tiny-hysparse\"", "\"\u{7}\"", 1),
        &["the name becomes a file's", "g.hyir:1:7"],
    );
    broken(&|graph| format!("{graph}{}", "x\n".repeat(5000)), &["`(` belongs here"]);
    broken(
        &|graph| format!("{graph}{}", "%y = add(%z, %z) : tensor<tokens x 4 x f32>\n".repeat(5000)),
        &["and 4901 more"],
    );
    // A pass gives up at a line of it.
    broken_by_a_pass(at, &graph);
}

fn broken_by_a_pass(at: &Path, graph: &str) {
    let ring = graph.replace("ring(64, 11)", "ring(64, 1)");
    std::fs::write(at.join("g.hyir"), ring).unwrap();
    let words =
        ["plan-kv: layer 1", "are too few", "plan-kv gives up here", "--> g.hyir:", "= help: say ring("];
    refused(at, &["compile", "--plan-only", "g.hyir"], 3, &words);
}
