//! A GPU's plans, which the interpreter runs: no kernel is generated, so that this needs neither LLVM nor a card.

use std::path::Path;
use std::sync::Arc;

use hyc::frontend::{build_graph, parse_model};
use hyc::interp::Interpreter;
use hyc_kernels::{Activations, Generator, Nvidia};
use hyc_plan::ops::{ExpertsUp, QkvAppend};
use hyc_plan::{
    Backend, CacheSpec, Codec, Format, Gpu, KernelSpec, Kind, KvOrder, Layout, ListShape, NvidiaArch, Plan,
    RowRange, Slicer, StepOp, Variant, bind,
};
use hyc_runtime::{Kernels, Model, Session, SessionOptions};

use crate::with_made_up_weights;

/// A GPU's back end, but for this.
#[derive(Debug, Clone, Copy, Default)]
pub struct Card {
    /// Whether rows lie in tiles where its own do.
    pub tiles: bool,
    /// Whether pages are listed, for tiles of so many rows.
    pub lists: Option<u64>,
    /// Whether products read rows of fp8 where its own can.
    pub fp8: bool,
    /// Whether there are slices, for passes of up to so many rows.
    pub slices: Option<u64>,
}

impl Card {
    /// The plan of a description.
    pub fn plan(self, model: &str) -> Plan {
        let activations = if self.fp8 { Activations::Fp8 } else { Activations::Bf16 };
        let gpu = Gpu::of(NvidiaArch::Sm90a);
        let inner = Nvidia { activations, ..Nvidia::new(gpu, Generator::of_anything()) };
        let backend = &Changed { inner, card: self };
        let desc =
            parse_model(Path::new("model.toml"), model).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let mut graph = build_graph(&desc);
        graph.header.target = backend.target().kind();
        hyc_passes::run(graph, backend, &mut |_| true).expect("is planned").plan
    }
}

/// A plan without code and weights as a model, whose weights are made up.
pub fn model(plan: &Plan) -> Arc<Model> {
    let mut code = bind::lay_out_ptx(plan, "");
    bind::seal(plan, &mut code);
    with_made_up_weights(plan, &code)
}

/// A session of one sequence of a plan, by one thread.
pub fn session(plan: &Plan, kernels: Box<dyn Kernels>) -> Session {
    let options = SessionOptions { threads: Some(1), max_sequences: Some(1), ..SessionOptions::default() };
    Session::with_kernels(model(plan), kernels, &options).expect("starts")
}

/// So many tokens of 64.
pub fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 31 + 7) % 64).collect()
}

/// The interpreter's logits of every one of so many tokens, and the last one's hidden state.
pub fn interpreted(plan: &Plan, count: u32) -> (Vec<f32>, Vec<f32>) {
    let mut session = session(plan, Box::new(Interpreter));
    session.set_all_logits(true);
    let id = session.add_sequence().expect("adds");
    session.feed(id, &tokens(count)).expect("feeds");
    let mut logits = Vec::new();
    while session.pending(id).expect("is there") > 0 {
        for (_, row) in session.step().expect("steps").logits {
            logits.extend(row.expect("numbers"));
        }
    }
    (logits, session.output(id, "hidden").expect("is kept"))
}

struct Changed {
    inner: Nvidia,
    card: Card,
}

impl Backend for Changed {
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
        self.card.tiles && self.inner.tiles_rows(op, weights)
    }

    fn fp8_rows(&self, op: &StepOp, weights: &[Format]) -> Option<u64> {
        self.inner.fp8_rows(op, weights)
    }

    fn projects_gates(&self, op: &QkvAppend, weights: &[Layout]) -> bool {
        self.inner.projects_gates(op, weights)
    }

    fn shares_experts(&self, op: &ExpertsUp, weights: &[Layout]) -> bool {
        self.inner.shares_experts(op, weights)
    }

    fn page_lists(&self, op: &StepOp, caches: &[CacheSpec]) -> Option<ListShape> {
        let lists = self.inner.page_lists(op, caches)?;
        // The first of two chunks has them; the second, of 54 rows, does not.
        self.card.lists.map(|tile| ListShape { tile, least: lists.least.min(55) })
    }

    fn slicer(&self) -> Option<Slicer> {
        let rows = RowRange::new(1, self.card.slices?);
        self.inner.slicer().map(|slicer| Slicer { rows, ..slicer })
    }

    fn samples(&self) -> bool {
        false
    }

    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String> {
        self.inner.candidates(spec)
    }
}
