//! `tests/filetests/PASS/*.hyir`: text IR in, text out.
//!
//! A file is a graph dump with comments, so that any tool that reads dumps reads it:
//!
//! ```text
//! ; What the case is about.
//! graph "t" { .. }
//! %x = embed(@w) : ..
//! %y = some_op(%x) : ..        ; error: words      this pass must fail here, and say these words
//! ; check:                                         what comes out, each line behind `; `
//! ; %x = embed(@w) : ..
//! ```
//!
//! `; error: words` on a line of its own is a fault of the whole graph. `; refuse: op` makes a target that
//! has no kernel for that step. The folder's name is the pass: a rewriting pass prints the graph, of which
//! running it again must change nothing; `plan-memory`, `select-kernels` and `schedule` print what they found;
//! `pipeline` runs all passes, and again from the dump after each of them. `HYC_BLESS=1 cargo test -p
//! hyc-passes --test filetests` writes what comes out into the files.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::path::{Path, PathBuf};

use common::{check_arena_use, describe_plan};
use hyc_ir::plan::KernelSpec;
use hyc_ir::{Graph, text};
use hyc_passes::{Compiled, PassError, PipelineOptions};

const MARK: &str = "; check:\n";

/// The words of a `; NAME: words` comment, with the line, from 1, and whether it stands alone there.
fn directive<'t>(source: &'t str, name: &str) -> Option<(u32, bool, &'t str)> {
    let mark = format!("; {name}: ");
    source.lines().zip(1..).find_map(|(line, number)| {
        let at = line.find(&mark)?;
        Some((number, at == 0, line[at + mark.len()..].trim()))
    })
}

fn parse(source: &str) -> Graph {
    text::parse(source).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

fn run_all(
    graph: Graph,
    refuse: Option<&str>,
    after: &mut dyn FnMut(&str, String),
) -> Result<Compiled, PassError> {
    let supports = |spec: &KernelSpec| match refuse {
        Some(op) if op == spec.op.name() => Err(format!("`{op}` is not built")),
        _ => Ok(()),
    };
    let options = PipelineOptions {
        supports: &supports,
        tiles: false,
        sampling: false,
        arch: "test".to_string(),
        features: vec![],
    };
    hyc_passes::run(graph, &options, &mut |report| {
        after(report.name, report.graph.to_string());
        true
    })
}

/// What the pass makes of the file.
fn output(pass: &str, source: &str) -> Result<String, PassError> {
    let graph = parse(source);
    let refuse = directive(source, "refuse").map(|(_, _, op)| op);
    match pass {
        "plan-memory" => memory(&graph),
        "select-kernels" => run_all(graph, refuse, &mut |_, _| {}).map(|c| kernels(&c)),
        "schedule" => run_all(graph, refuse, &mut |_, _| {}).map(|c| describe_plan(&c.plan)),
        "pipeline" => pipeline(graph),
        _ => rewrite(pass, graph),
    }
}

fn rewrite(pass: &str, mut graph: Graph) -> Result<String, PassError> {
    hyc_passes::run_named(pass, &mut graph)?;
    let out = graph.to_string();
    let mut again = parse(&out);
    assert_eq!(again, graph, "the dump reads back as another graph");
    assert_eq!(hyc_passes::run_named(pass, &mut again)?, 0, "a second run finds rewrites");
    assert_eq!(again.to_string(), out, "a second run changes something");
    Ok(out)
}

fn memory(graph: &Graph) -> Result<String, PassError> {
    let arena = hyc_passes::plan_memory(graph)?;
    let mut out = format!("arena {} bytes, peak {}\n", arena.bytes, arena.peak);
    for p in &arena.placements {
        let (name, end) = (graph.name(p.value), p.offset + p.bytes);
        out.push_str(&format!("{:>6}..{end:<6} live {:>2}..{:<2} %{name}\n", p.offset, p.live.0, p.live.1));
    }
    Ok(out)
}

fn kernels(compiled: &Compiled) -> String {
    let name = |step: &hyc_ir::plan::Step| compiled.plan.kernels[step.kernel.index()].name.clone();
    compiled.plan.steps.iter().map(|step| format!("{} -> {}\n", step.name, name(step))).collect()
}

/// The last graph and the Plan; a dump after any pass must lead to the same.
fn pipeline(graph: Graph) -> Result<String, PassError> {
    let mut dumps = Vec::new();
    let compiled = run_all(graph, None, &mut |name, dump| dumps.push((name.to_string(), dump)))?;
    check_arena_use(&compiled.plan);
    for (name, dump) in dumps {
        let again = run_all(parse(&dump), None, &mut |_, _| {}).expect("a dump is accepted");
        assert_eq!(again.graph, compiled.graph, "another graph from the dump after {name}");
        assert_eq!(again.plan, compiled.plan, "another plan from the dump after {name}");
    }
    Ok(format!("{}\n{}", compiled.graph, describe_plan(&compiled.plan)))
}

/// `Err` says how the file differs from what comes out.
fn check(pass: &str, path: &Path, bless: bool) -> Result<(), String> {
    let file = std::fs::read_to_string(path).expect("a readable file");
    let source = file.split(MARK).next().unwrap_or_default();
    let found = output(pass, source);
    if let Some((line, alone, words)) = directive(source, "error") {
        let wanted = (!alone).then_some(line);
        return match found {
            Ok(_) => Err(format!("succeeds; wanted `{words}`")),
            Err(e) if e.line != wanted => Err(format!("fails at line {:?}, not {wanted:?}: {e}", e.line)),
            Err(e) if !e.to_string().contains(words) => Err(format!("says `{e}`, not `{words}`")),
            Err(_) => Ok(()),
        };
    }
    let found = found.map_err(|e| format!("fails: {e}"))?;
    let commented: String =
        found.lines().map(|line| format!("; {line}").trim_end().to_string() + "\n").collect();
    let wanted = format!("{source}{MARK}{commented}");
    if bless {
        std::fs::write(path, wanted).expect("a writable file");
        return Ok(());
    }
    let differs = wanted.lines().zip(file.lines()).position(|(a, b)| a != b);
    match differs {
        Some(at) => {
            let (now, then) = (wanted.lines().nth(at), file.lines().nth(at));
            Err(format!("line {} is {now:?} now, not {then:?}", at + 1))
        }
        None if wanted != file => Err("the check block is missing, or longer or shorter now".to_string()),
        None => Ok(()),
    }
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn passes_match_their_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests");
    let bless = std::env::var_os("HYC_BLESS").is_some();
    let (mut count, mut failures) = (0, Vec::new());
    for pass in hyc_passes::PASSES.iter().chain(&["pipeline"]) {
        for path in sorted(&root.join(pass)) {
            count += 1;
            println!("{}", path.display()); // Shown where an assertion in the pass or in this file fails.
            if let Err(why) = check(pass, &path, bless) {
                failures.push(format!("{}: {why}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(count >= 40, "only {count} files under {}", root.display());
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}
