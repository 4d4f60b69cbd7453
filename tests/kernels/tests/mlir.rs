//! The `hysparse` dialect, and PTX of what goes through MLIR: text in, text out.
//!
//! * `tests/filetests/mlir/*.hyir`: a graph dump; behind `; check:` the graph in the dialect.
//! * `tests/filetests/ptx/*.ptx`: a row-wise step behind `// step: ` as the Plan's JSON, and for an embedding its
//!   table behind `// table: `; behind `// check:` its PTX.
//!
//! `HYC_BLESS=1 cargo test -p hyc-kernel-tests --features llvm --test mlir` writes what comes out into the files.

#![allow(clippy::print_stdout)] // A test's output is captured.
#![cfg(feature = "llvm")]

use std::path::{Path, PathBuf};
use std::process::Command;

use hyc_filetest::{GRAPH, PTX};
use hyc_ir::{Graph, Op, text, verify};
use hyc_kernels::gpu::Request;
use hyc_kernels::{Nvidia, gpu, gpu_generator, mlir};
use hyc_passes::{Compiled, PassError, PassReport};
use hyc_plan::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../filetests")
}

fn files(folder: &str) -> Vec<PathBuf> {
    hyc_filetest::files(&root().join(folder), "hyir")
}

#[test]
fn graphs_in_the_dialect() {
    hyc_filetest::run(&root().join("mlir"), GRAPH, |source| {
        let graph = text::parse(source).unwrap_or_else(|errors| panic!("{}", errors[0]));
        verify::verify(&graph).unwrap_or_else(|errors| panic!("{}", errors[0]));
        let text = mlir::graph_text(&graph).unwrap();
        mlir::check_graph_text(&text).unwrap_or_else(|e| panic!("the text does not read back: {e}"));
        Ok(text)
    });
}

/// The valid graphs of all filetests, as they are and after every pass.
fn graphs() -> Vec<(String, Graph)> {
    let mut graphs = Vec::new();
    for folder in hyc_passes::PASSES.iter().chain(&["pipeline", "mlir"]) {
        for path in files(folder) {
            let Ok(graph) = text::parse(&std::fs::read_to_string(&path).unwrap()) else { continue };
            if verify::verify(&graph).is_err() {
                continue;
            }
            graphs.push((path.display().to_string(), graph.clone()));
            // Some files are about a pass that fails.
            let _ = compile(graph, &mut |report| {
                graphs.push((format!("{} after {}", path.display(), report.name), report.graph.clone()));
                true
            });
        }
    }
    graphs
}

const CARD: Gpu = Gpu::of(NvidiaArch::Sm90a);

/// The passes, by the policy of the GPU's back end.
fn compile(
    mut graph: Graph,
    observer: &mut dyn FnMut(&PassReport<'_>) -> bool,
) -> Result<Compiled, PassError> {
    graph.header.target = TargetKind::Nvidia(CARD.arch);
    hyc_passes::run(graph, &Nvidia::new(CARD, gpu_generator()), observer)
}

#[test]
fn the_dialect_takes_every_valid_graph() {
    let mut unseen: Vec<&str> = Op::NAMES.to_vec();
    for (name, graph) in graphs() {
        mlir::graph_text(&graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        unseen.retain(|op| graph.ops().all(|id| graph.op(id).op.name() != *op));
    }
    // Valid in no graph that is verified; see the op.
    unseen.retain(|op| *op != "prior_selection");
    assert!(unseen.is_empty(), "no graph has {unseen:?}");
}

/// Module, and words of its error.
const BROKEN: &[(&str, &str)] = &[
    // An operand too few.
    (r#""hysparse.add"(%x) : (tensor<?x8xf32>) -> tensor<?x8xf32>"#, "operand"),
    // Unequal shapes.
    (r#""hysparse.add"(%x, %x) : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x4xf32>"#, "tensor<?x8xf32>"),
    // A missing attribute.
    (r#""hysparse.block_max"(%x) : (tensor<?x8xf32>) -> tensor<?x8xf32>"#, "block"),
    // A cache of integers.
    (r#""hysparse.chain_cache"() : () -> !hysparse.cache<1, 8, 8, i32, 64, #hysparse.growing, "a">"#, "i32"),
    // A parameter too few.
    (r#""hysparse.chain_selection"() : () -> !hysparse.selection<1, 8, 64>"#, "4 type arguments"),
    // A selection over another page map than the cache that is read.
    (
        r#"%c = "hysparse.chain_cache"() : () -> !hysparse.cache<1, 8, 8, f32, 64, #hysparse.growing, "a">
           %s = "hysparse.chain_selection"() : () -> !hysparse.selection<1, 4, 64, "b">
           %y = "hysparse.sparse_attention"(%x, %c, %s) {heads = 1} : (tensor<?x8xf32>,
             !hysparse.cache<1, 8, 8, f32, 64, #hysparse.growing, "a">, !hysparse.selection<1, 4, 64, "b">)
             -> tensor<?x8xf32>"#,
        "\"a\"",
    ),
    ("\"hysparse.no_such_op\"() : () -> ()", "no_such_op"),
];

#[test]
fn the_dialect_refuses_broken_modules() {
    for (body, words) in BROKEN {
        let text = format!("func.func @f(%x: tensor<?x8xf32>) {{\n{body}\nreturn\n}}");
        let error = mlir::check_graph_text(&text).expect_err(body).to_string();
        assert!(error.contains(words), "{body}\nsays `{error}`, not `{words}`");
    }
}

fn directive<'t>(source: &'t str, name: &str) -> Option<&'t str> {
    source.lines().find_map(|line| line.strip_prefix(&format!("// {name}: ")))
}

/// The step of a file, with operands of the widths that the op wants.
fn step(source: &str) -> KernelSpec {
    let op: StepOp = serde_json::from_str(directive(source, "step").unwrap()).unwrap();
    let tensor = |width| OperandSpec::Tensor { elem: Elem::F32, width, stride: round_up(width, 16) };
    let operands = match op {
        StepOp::Embed(ops::Embed { hidden, .. }) => {
            let table = directive(source, "table").unwrap();
            let (codec, layout) = table.split_once(' ').unwrap();
            let format =
                Format { codec: codec.parse().unwrap(), layout: serde_json::from_str(layout).unwrap() };
            vec![OperandSpec::Weight(format), tensor(hidden)]
        }
        StepOp::RmsNorm(ops::RmsNorm { groups, width, .. }) => {
            let norm =
                OperandSpec::Weight(Format { codec: Codec::F32, layout: Layout::Vector { len: width } });
            vec![tensor(groups * width), norm, tensor(groups * width)]
        }
        StepOp::Add(ops::Add { width }) | StepOp::SiluMul(ops::SiluMul { width }) => vec![tensor(width); 3],
        StepOp::Gate(ops::Gate { heads, v_dim, mode }) => {
            let gate = if mode == GateMode::Head { heads } else { heads * v_dim };
            vec![tensor(heads * v_dim), tensor(gate), tensor(heads * v_dim)]
        }
        StepOp::Rope(ops::Rope { heads, dim, .. }) => vec![tensor(heads * dim); 2],
        StepOp::GatherRows(ops::GatherRows { width }) => vec![tensor(width); 2],
        _ => panic!("{} is no row-wise op", op.name()),
    };
    KernelSpec { op, operands, rows: Rows::Tokens, max_rows: 64, max_context: 1024 }
}

#[test]
fn ptx_of_row_wise_kernels() {
    hyc_filetest::run(&root().join("ptx"), PTX, |source| {
        let spec = step(source);
        let name = spec.op.name().to_string();
        mlir::kernel_text(&name, &spec).expect("a kernel in MLIR").unwrap();
        let request = Request { name: &name, spec: &spec, variants: vec![], clocked: false };
        Ok(gpu::compile(&[request], &CARD).unwrap().text)
    });
}

fn ptxas() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/opt/nvptx/nvidia/cu13/bin".into());
    folders.into_iter().map(|folder| folder.join("ptxas")).find(|path| path.exists())
}

/// Of the row-wise files and of every plan that the pipeline's files become.
#[test]
fn ptx_assembles() {
    let Some(ptxas) = ptxas() else {
        println!("skipped: no ptxas here (the Python package nvidia-cuda-nvcc has one)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let assemble = |name: &Path, ptx: &str| {
        let file = folder.path().join("kernels.ptx");
        std::fs::write(&file, ptx).unwrap();
        let out = folder.path().join("kernels.cubin");
        let result = Command::new(&ptxas).arg("-arch=sm_90a").arg(&file).arg("-o").arg(out).output().unwrap();
        let said = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "{}: {said}", name.display());
    };
    for path in hyc_filetest::files(&root().join("ptx"), "ptx") {
        let source = std::fs::read_to_string(&path).unwrap();
        assemble(&path, &source);
    }
    for path in files("pipeline") {
        let graph = text::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let plan = compile(graph, &mut |_| true).unwrap().plan;
        let spec = |i: usize| {
            let step = plan.steps.iter().find(|step| step.kernel.index() == i).unwrap();
            plan.spec(step)
        };
        let specs: Vec<_> = (0..plan.kernels.len()).map(spec).collect();
        let kernels = plan.kernels.iter().zip(&specs);
        let requests: Vec<Request<'_>> = kernels
            .map(|(kernel, spec)| {
                let variants = kernel.variants.iter().map(|variant| variant.name.as_str()).collect();
                Request { name: &kernel.name, spec, variants, clocked: false }
            })
            .collect();
        assemble(&path, &gpu::compile(&requests, &CARD).unwrap().text);
    }
}
