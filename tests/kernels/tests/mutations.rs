//! Damaged dumps: whatever a hand does to a graph, the passes answer with a Plan that uses its arena rightly
//! or with an error, and never panic (sums and products are checked for overflow in this build).

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::path::Path;

use common::{Policy, check_arena_use};
use hyc_ir::{Graph, text};
use hyc_passes::PassError;
use hyc_plan::{NvidiaArch, TargetKind};
use proptest::prelude::*;
use proptest::sample::Index;

/// What is done to a dump's lines.
#[derive(Debug, Clone)]
enum Damage {
    Remove(Index),
    Repeat(Index, Index),
    Swap(Index, Index),
    /// The n-th number of a line becomes another.
    Number(Index, Index, u64),
    /// The n-th `%name` of a line becomes the m-th of another.
    Name(Index, Index, Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let numbers = prop::sample::select(vec![
        0,
        1,
        2,
        3,
        7,
        8,
        64,
        1 << 20,
        (1 << 24) - 1,
        i32::MAX as u64,
        1 << 32,
        1 << 40,
        u64::MAX,
    ]);
    prop_oneof![
        1 => at().prop_map(Damage::Remove),
        1 => (at(), at()).prop_map(|(a, b)| Damage::Repeat(a, b)),
        2 => (at(), at()).prop_map(|(a, b)| Damage::Swap(a, b)),
        4 => (at(), at(), numbers).prop_map(|(a, b, n)| Damage::Number(a, b, n)),
        4 => (at(), at(), at(), at()).prop_map(|(a, b, c, d)| Damage::Name(a, b, c, d)),
    ]
}

/// Byte ranges of a line's words that start like `first` and go on with name characters.
fn words(line: &str, first: impl Fn(char) -> bool) -> Vec<(usize, usize)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut found = Vec::new();
    let mut before = ' ';
    for (start, c) in line.char_indices() {
        if first(c) && !is_name(before) {
            let rest = &line[start + 1..];
            let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push((start, start + 1 + len));
        }
        before = c;
    }
    found
}

fn apply(lines: &mut Vec<String>, damage: &Damage) {
    if lines.is_empty() {
        return;
    }
    let n = lines.len();
    match damage {
        Damage::Remove(at) => drop(lines.remove(at.index(n))),
        Damage::Repeat(from, to) => lines.insert(to.index(n), lines[from.index(n)].clone()),
        Damage::Swap(a, b) => lines.swap(a.index(n), b.index(n)),
        Damage::Number(at, nth, number) => {
            let line = &mut lines[at.index(n)];
            let found = words(line, |c| c.is_ascii_digit());
            if !found.is_empty() {
                let (start, end) = found[nth.index(found.len())];
                line.replace_range(start..end, &number.to_string());
            }
        }
        Damage::Name(at, nth, from, mth) => {
            let (other, is_value) = (lines[from.index(n)].clone(), |c| matches!(c, '%' | '@'));
            let line = &mut lines[at.index(n)];
            let (old, new) = (words(line, is_value), words(&other, is_value));
            if !old.is_empty() && !new.is_empty() {
                let ((start, end), (a, b)) = (old[nth.index(old.len())], new[mth.index(new.len())]);
                line.replace_range(start..end, &other[a..b]);
            }
        }
    }
}

/// Every dump of tests/filetests/pipeline: the front end's, and what the passes made of it.
fn dumps() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests/pipeline");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let unfused: Vec<String> = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let fused: Vec<String> = unfused
        .iter()
        .map(|text| {
            let mut graph = text::parse(text).unwrap();
            let policy = Policy::of(graph.header.target);
            for pass in hyc_passes::PASSES.iter().filter(|pass| hyc_passes::rewrites(pass)) {
                hyc_passes::run_named(pass, &mut graph, &policy).unwrap();
            }
            graph.to_string()
        })
        .collect();
    unfused.into_iter().chain(fused).collect()
}

const GPU: TargetKind = TargetKind::Nvidia(NvidiaArch::Sm90a);

/// A Plan by the policy of a target's back end, its arena checked.
fn plan(graph: &Graph, kind: TargetKind) -> Result<(), PassError> {
    let policy = Policy { takes_all: true, ..Policy::of(kind) };
    let mut graph = graph.clone();
    graph.header.target = kind;
    let compiled = hyc_passes::run(graph, &policy, &mut |_| true)?;
    check_arena_use(&compiled.plan);
    hyc_passes::kv_table(&compiled.plan);
    Ok(())
}

fn is_of_two_layouts(error: &PassError) -> bool {
    error.message.contains("is wanted in two layouts")
}

/// Whether a Plan came out, by either policy: of both or of neither. A weight that two products share is the one
/// exception, since a back end may want it in one layout where the other wants two.
fn compile(source: &str) -> bool {
    let Ok(graph) = text::parse(source) else { return false };
    match (plan(&graph, TargetKind::Host), plan(&graph, GPU)) {
        (Ok(()), Ok(())) => true,
        (Err(_), Err(_)) => false,
        (Ok(()), Err(error)) | (Err(error), Ok(())) => {
            assert!(is_of_two_layouts(&error), "one of the back ends alone refuses: {error}\n{source}");
            false
        }
    }
}

/// On a CPU a query's matrix lies in panels of a head each, and any other in panels of all its rows; tiles are the same.
#[test]
fn a_weight_that_two_products_share_has_one_layout_or_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests/pipeline");
    let own = std::fs::read_to_string(folder.join("own-sm_90a.hyir")).unwrap();
    let (o, q) = ("@model.layers.0.self_attn.o_proj.weight", "@model.layers.0.self_attn.q_proj.weight");
    let lines = own.lines().filter(|line| !line.starts_with(';') && !line.starts_with(o));
    let shared: Vec<String> = lines.map(|line| line.replace(o, q)).collect();
    let graph = text::parse(&shared.join("\n")).unwrap();
    assert!(is_of_two_layouts(&plan(&graph, TargetKind::Host).unwrap_err()));
    assert_eq!(plan(&graph, GPU), Ok(()));
}

#[test]
fn damaged_dumps_are_errors_or_plans() {
    let dumps = dumps();
    let (mut plans, mut errors) = (0, 0);
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let case = (any::<Index>(), prop::collection::vec(damage(), 1..3));
    let counts = std::cell::RefCell::new((&mut plans, &mut errors));
    runner
        .run(&case, |(which, damages)| {
            let dump = &dumps[which.index(dumps.len())];
            let kept = dump.lines().filter(|line| !line.starts_with(';'));
            let mut lines: Vec<String> = kept.map(str::to_string).collect();
            damages.iter().for_each(|damage| apply(&mut lines, damage));
            let mut counts = counts.borrow_mut();
            match compile(&lines.join("\n")) {
                true => *counts.0 += 1,
                false => *counts.1 += 1,
            }
            Ok(())
        })
        .unwrap();
    println!("{plans} plans, {errors} errors");
    assert!(plans >= 20 && errors >= 20, "{plans} plans, {errors} errors: the damage tests nothing");
}
