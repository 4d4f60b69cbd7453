//! A GPU's plan whose rows lie in bf16 tiles, by the interpreter beside the same plan in f32 rows: logits and hidden states differ
//! by rounding alone. And one whose sparse layers walk along page lists, beside the same that read the selection. No kernel is generated, so that this needs neither LLVM nor a card.

use std::path::Path;
use std::sync::Arc;

use hyc::frontend::{build_graph, parse_model};
use hyc::interp::Interpreter;
use hyc::output::{Kept, Target};
use hyc::source::Weights;
use hyc::write::{self, Artefact};
use hyc_kernels::{Generator, Nvidia};
use hyc_plan::ops::QkvAppend;
use hyc_plan::{
    Backend, CacheSpec, Codec, Elem, Gpu, KernelSpec, Kind, KvOrder, Layout, ListShape, NvidiaArch, Plan,
    Slicer, StepOp, Variant, bind,
};
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions};
use hyc_tests::relative_error;

/// All experts are active and all blocks are kept: rounding changes no choice.
const MODEL: &str = r#"
[model]
name = "tiles"
layers = 4
hidden = 128
heads = 4
kv_heads = 2
head_dim = 64
vocab = 64
rope = { theta = 640000.0 }

[attention]
pattern = "1:1"
block = 64
top_k = 256
window = 128

[moe]
experts = 6
active = 6
expert_ffn = 64
shared_ffn = 64

[weights]
dtype = "bf16"

[target]
kind = "cpu"
max_context = 512
max_batch = 2
chunk = 96
max_outputs = 96
"#;

/// The back end of a GPU, which lays out rows in tiles where this is so, and lists pages for tiles of so many rows.
struct Card {
    inner: Nvidia,
    tiles: bool,
    lists: Option<u64>,
}

impl Backend for Card {
    fn target(&self) -> hyc_plan::Target {
        self.inner.target()
    }

    fn layout(&self, kind: &Kind, codec: Codec) -> Option<Layout> {
        self.inner.layout(kind, codec)
    }

    fn kv_order(&self, cache: &CacheSpec) -> KvOrder {
        self.inner.kv_order(cache)
    }

    fn tiles_rows(&self, op: &StepOp, weights: &[Layout]) -> bool {
        self.tiles && self.inner.tiles_rows(op, weights)
    }

    fn projects_gates(&self, op: &QkvAppend, weights: &[Layout]) -> bool {
        self.inner.projects_gates(op, weights)
    }

    fn page_lists(&self, op: &StepOp, caches: &[CacheSpec]) -> Option<ListShape> {
        let lists = self.inner.page_lists(op, caches)?;
        // The first of two chunks has them; the second, of 54 rows, does not.
        self.lists.map(|tile| ListShape { tile, least: lists.least.min(55) })
    }

    fn slicer(&self) -> Option<Slicer> {
        None
    }

    fn samples(&self) -> bool {
        false
    }

    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String> {
        self.inner.candidates(spec)
    }
}

fn plan(model: &str, tiles: bool, lists: Option<u64>) -> Plan {
    let gpu = Gpu::of(NvidiaArch::Sm90a);
    let card = Card { inner: Nvidia::new(gpu, Generator::of_anything()), tiles, lists };
    let desc = parse_model(Path::new("model.toml"), model).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let mut graph = build_graph(&desc);
    graph.header.target = card.target().kind();
    hyc_passes::run(graph, &card, &mut |_| true).expect("is planned").plan
}

/// Logits of every row, and the last token's hidden state.
fn run(plan: &Plan) -> (Vec<f32>, Vec<f32>) {
    let mut code = bind::lay_out_ptx(plan, "");
    bind::seal(plan, &mut code);
    let artefact = Artefact {
        plan,
        code: &code,
        cubin: None,
        graph: "",
        asm: "",
        text: None,
        sampling: None,
        eval: None,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("m.hyc");
    let target = Target::new(&out, &Kept::default()).expect("can be written");
    write::artefact(&target, &artefact, &Weights::Absent, &mut |_| Ok(())).expect("writes the artefact");
    let load = LoadOptions { random_weights: Some(9), ..LoadOptions::default() };
    // SAFETY: made here, and nobody changes it.
    let model = Arc::new(unsafe { Model::load(&out, &load) }.expect("loads"));
    let options = SessionOptions { threads: Some(1), max_sequences: Some(1), ..SessionOptions::default() };
    let mut session = Session::with_kernels(model, Box::new(Interpreter), &options).expect("starts");
    session.set_all_logits(true);
    let id = session.add_sequence().expect("adds");
    let tokens: Vec<u32> = (0..150).map(|i| (i * i * 31 + 7) % 64).collect();
    session.feed(id, &tokens).expect("feeds");
    let mut logits = Vec::new();
    while session.pending(id).expect("is there") > 0 {
        for (_, row) in session.step().expect("steps").logits {
            logits.extend(row.expect("numbers"));
        }
    }
    (logits, session.output(id, "hidden").expect("is kept"))
}

#[test]
fn rows_in_tiles_hold_what_f32_rows_hold() {
    let (tiled, rows) = (plan(MODEL, true, None), plan(MODEL, false, None));
    let in_tiles = |plan: &Plan| plan.buffers.iter().filter(|b| b.elem == Elem::Bf16).count();
    assert_eq!(in_tiles(&rows), 0);
    // A norm a layer, which several products read, what attention, experts and SwiGLU give; a layer's gates.
    assert_eq!(in_tiles(&tiled), 4 * 4 + 2);
    let ((logits, hidden), (want_logits, want_hidden)) = (run(&tiled), run(&rows));
    assert_eq!((logits.len(), hidden.len()), (150 * 64, 128));
    for (what, got, want) in [("logits", logits, want_logits), ("hidden", hidden, want_hidden)] {
        let error = relative_error(&got, &want);
        println!("{what}: {error:.1e}");
        assert!(error > 0.0 && error < 1.8e-2, "{what} differ by {error:.1e}");
    }
}

#[test]
fn page_lists_name_what_was_selected() {
    // One block of two and a half.
    let model = MODEL.replace("top_k = 256", "top_k = 64");
    let want = run(&plan(&model, false, None));
    for tile in [1, 7, 48, 96] {
        let plan = plan(&model, false, Some(tile));
        assert_eq!(plan.steps.iter().filter(|step| step.op.name() == "page_lists").count(), 1);
        let got = run(&plan);
        for (what, got, want) in [("logits", &got.0, &want.0), ("hidden", &got.1, &want.1)] {
            let error = relative_error(got, want);
            println!("tiles of {tile}, {what}: {error:.1e}");
            assert!(error < 1e-6, "tiles of {tile}: {what} differ by {error:.1e}");
        }
    }
}
