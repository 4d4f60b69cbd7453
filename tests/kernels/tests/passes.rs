//! `tests/filetests/PASS/*.hyir`: text IR in, text out.
//!
//! A file is a graph dump with comments, so that any tool that reads dumps reads it; [`hyc_filetest`] says which.
//! `; refuse: op` makes a target that has no kernel for that step, `; variants: op` one that has two for it, `; activations:
//! fp8` a GPU whose products read rows of fp8. The folder's name is the pass: a rewriting pass prints
//! the graph, of which running it again must change nothing; `plan-memory`, `select-kernels` and `schedule` print what
//! they found, by the policy of the graph's target (tiles and sampling for a GPU); `pipeline` runs all passes, and again
//! from the dump after each of them; `candidates` prints which variant of each kernel computes which rows on either target,
//! a GPU's by its own back end, which needs LLVM. There `; measured: KERNEL VARIANT ROWS=NS ...` is what a table has of a
//! kernel of the GPU, and `; stale: ...` what it has of other code. `HYC_BLESS=1 cargo test -p
//! hyc-kernel-tests --test passes` writes what comes out into the files.

mod common;

use std::path::Path;

use common::{Policy, check_arena_use, describe_plan};
use hyc_filetest::{Fault, GRAPH, directive};
use hyc_ir::{Graph, text};
use hyc_kernels::Activations;
#[cfg(feature = "llvm")]
use hyc_kernels::{
    Nvidia, gpu_generator,
    table::{self, Entry, Table},
};
use hyc_passes::{Compiled, Decided, PassError};
#[cfg(feature = "llvm")]
use hyc_plan::{Chosen, Gpu, KernelSpec, NvidiaArch, Plan, TargetKind, Timing, variant::why};

fn parse(source: &str) -> Graph {
    text::parse(source).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

/// What products of a GPU read in the file's cases.
fn activations(source: &str) -> Activations {
    match directive(source, ";", "activations") {
        None => Activations::Bf16,
        Some((_, _, "fp8")) => Activations::Fp8,
        Some((line, _, other)) => panic!("line {line}: no activations in {other}"),
    }
}

/// The policy that the file asks for.
fn policy(source: &str, graph: &Graph) -> Policy {
    let refuse = directive(source, ";", "refuse").map(|(_, _, op)| op.to_string());
    Policy { refuse, ..Policy::reading(graph.header.target, activations(source)) }
}

fn run_all(
    graph: Graph,
    policy: &Policy,
    after: &mut dyn FnMut(&str, String),
) -> Result<Compiled, PassError> {
    hyc_passes::run(graph, policy, &mut |report| {
        after(report.name, report.graph.to_string());
        true
    })
}

/// What the pass makes of the file.
fn output(pass: &str, source: &str) -> Result<String, PassError> {
    let graph = parse(source);
    let policy = policy(source, &graph);
    match pass {
        // A graph that no kernel takes has places, too.
        "plan-memory" => {
            hyc_passes::plan_memory(&graph).map(|arena| Decided::Memory(&arena).text(&graph, None))
        }
        "select-kernels" => {
            decided(pass, graph, policy, directive(source, ";", "variants").map(|(_, _, op)| op))
        }
        "schedule" => run_all(graph, &policy, &mut |_, _| {}).map(|c| describe_plan(&c.plan)),
        "pipeline" => pipeline(graph, &policy),
        _ => rewrite(pass, graph, &policy),
    }
}

fn rewrite(pass: &str, mut graph: Graph, policy: &Policy) -> Result<String, PassError> {
    hyc_passes::run_named(pass, &mut graph, policy)?;
    let out = graph.to_string();
    let mut again = parse(&out);
    assert_eq!(again, graph, "the dump reads back as another graph");
    assert_eq!(hyc_passes::run_named(pass, &mut again, policy)?, 0, "a second run finds rewrites");
    assert_eq!(again.to_string(), out, "a second run changes something");
    Ok(out)
}

/// What the pass decided, as dumps say it.
fn decided(pass: &str, graph: Graph, mut policy: Policy, several: Option<&str>) -> Result<String, PassError> {
    // Where variants are made up, they are not asked of a back end.
    policy.takes_all = several.is_some();
    policy.several = several.map(str::to_string);
    let mut text = String::new();
    hyc_passes::run(graph, &policy, &mut |report| {
        let decided = report.decided.filter(|_| report.name == pass);
        text.extend(decided.map(|decided| decided.text(report.graph, None)));
        true
    })?;
    Ok(text)
}

/// The last graph and the Plan; a dump after any pass must lead to the same.
fn pipeline(graph: Graph, policy: &Policy) -> Result<String, PassError> {
    let mut dumps = Vec::new();
    let compiled = run_all(graph, policy, &mut |name, dump| dumps.push((name.to_string(), dump)))?;
    check_arena_use(&compiled.plan);
    for (name, dump) in dumps {
        let again = run_all(parse(&dump), policy, &mut |_, _| {}).expect("a dump is accepted");
        assert_eq!(again.graph, compiled.graph, "another graph from the dump after {name}");
        assert_eq!(again.plan, compiled.plan, "another plan from the dump after {name}");
    }
    Ok(format!("{}\n{}", compiled.graph, describe_plan(&compiled.plan)))
}

/// Which variant of each kernel computes which rows, and why.
#[cfg(feature = "llvm")]
fn chosen(plan: &Plan) -> String {
    let mut out = String::new();
    for kernel in &plan.kernels {
        out.push_str(&format!("{} by {}\n", kernel.name, format!("{:?}", kernel.rows).to_lowercase()));
        for chosen in &kernel.chosen {
            let Chosen { variant, rows } = chosen;
            out.push_str(&format!("  {rows} {variant}: {}\n", why(&kernel.variants, chosen)));
        }
    }
    out
}

/// The entries that a file's directives of this name stand for; `code` is that of a variant.
#[cfg(feature = "llvm")]
fn entries(source: &str, name: &str, plan: &Plan, code: &dyn Fn(&KernelSpec, &str) -> String) -> Vec<Entry> {
    let mark = format!("; {name}: ");
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (kernel, variant) = (words.next().unwrap(), words.next().unwrap());
        let index = plan.kernels.iter().position(|k| k.name == kernel).expect("a kernel of the plan");
        let spec = plan.spec(plan.steps.iter().find(|step| step.kernel.index() == index).unwrap());
        let time = |word: &str| {
            let (rows, ns) = word.split_once('=').unwrap();
            Timing { rows: rows.parse().unwrap(), ns: ns.parse().unwrap() }
        };
        Entry {
            card: NvidiaArch::Sm90a.card().to_string(),
            kernel: kernel.to_string(),
            spec: table::key(&spec),
            variant: variant.to_string(),
            code: code(&spec, variant),
            context: 512,
            times: words.map(time).collect(),
        }
    };
    source.lines().filter_map(|line| line.strip_prefix(&mark)).map(entry).collect()
}

/// The plan for a GPU by its own back end, with the file's measurements.
#[cfg(feature = "llvm")]
fn measured(source: &str) -> Result<Plan, PassError> {
    let gpu = Gpu::of(NvidiaArch::Sm90a);
    let plan_by = |table: Table| {
        let mut graph = parse(source);
        graph.header.target = TargetKind::Nvidia(gpu.arch);
        let (table, activations) = (table.into(), activations(source));
        let backend = Nvidia { table, activations, ..Nvidia::new(gpu, gpu_generator()) };
        hyc_passes::run(graph, &backend, &mut |_| true).map(|compiled| compiled.plan)
    };
    let plan = plan_by(Table::default())?;
    let code = |spec: &KernelSpec, variant: &str| hyc_kernels::gpu::digest(spec, variant, &gpu).unwrap();
    let mut entries = entries(source, "measured", &plan, &code);
    entries.extend(self::entries(source, "stale", &plan, &|_, _| "0".repeat(64)));
    plan_by(Table { entries })
}

#[cfg(feature = "llvm")]
fn candidates(source: &str) -> Result<String, PassError> {
    let host = run_all(parse(source), &Policy::of(TargetKind::Host), &mut |_, _| {})?.plan;
    Ok(format!("cpu\n{}sm_90a\n{}", chosen(&host), chosen(&measured(source)?)))
}

#[cfg(feature = "llvm")]
#[test]
fn variants_are_chosen_as_their_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests/candidates");
    let count = hyc_filetest::run(&folder, GRAPH, |source| {
        candidates(source).map_err(|e| Fault { line: e.line, message: e.to_string() })
    });
    assert!(count >= 5, "only {count} files under {}", folder.display());
}

#[test]
fn passes_match_their_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests");
    let mut count = 0;
    for pass in hyc_passes::PASSES.iter().chain(&["pipeline"]) {
        count += hyc_filetest::run(&root.join(pass), GRAPH, |source| {
            output(pass, source).map_err(|e| Fault { line: e.line, message: e.to_string() })
        });
    }
    assert!(count >= 40, "only {count} files under {}", root.display());
}
