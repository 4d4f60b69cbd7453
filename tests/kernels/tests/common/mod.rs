//! What the tests of the passes share: a Plan as text, and a check of how its steps use the arena.
#![allow(dead_code)] // Each test file uses its own part.

use std::fmt::Write;

use hyc_kernels::{Activations, Generator, Nvidia, gpu_generator};
use hyc_plan::ops::{ExpertsUp, QkvAppend};
use hyc_plan::{
    Backend, Buffer, CachePolicy, CacheSpec, Code, Codec, Format, Gpu, KernelSpec, Kind, KvOrder, Layout,
    ListShape, Operand, Plan, RowRange, Slicer, StepOp, Target, TargetKind, Variant,
};

/// The policy of a target's back end, which has no kernel for `refuse`.
pub struct Policy {
    pub inner: Box<dyn Backend>,
    pub refuse: Option<String>,
    /// It has kernels for everything else.
    pub takes_all: bool,
    /// The op that it has two variants of: one for up to 8 rows, one for more.
    pub several: Option<String>,
}

impl Policy {
    pub fn of(kind: TargetKind) -> Policy {
        Policy::reading(kind, Activations::Bf16)
    }

    /// That of a target, a GPU's products reading these.
    pub fn reading(kind: TargetKind, activations: Activations) -> Policy {
        let inner: Box<dyn Backend> = match kind {
            TargetKind::Host => Box::new(hyc_kernels::cpu::CpuTarget { level: hyc_kernels::cpu::Level::V3 }),
            TargetKind::Nvidia(arch) => {
                Box::new(Nvidia { activations, ..Nvidia::new(Gpu::of(arch), generator()) })
            }
        };
        Policy { inner, refuse: None, takes_all: false, several: None }
    }
}

/// The GPU's own answers need LLVM.
fn generator() -> Generator {
    if cfg!(feature = "llvm") { gpu_generator() } else { Generator::of_anything() }
}

impl Backend for Policy {
    fn target(&self) -> Target {
        self.inner.target()
    }

    fn layout(&self, kind: &Kind, codec: Codec) -> Option<Layout> {
        self.inner.layout(kind, codec)
    }

    fn kv_order(&self, cache: &CacheSpec) -> KvOrder {
        self.inner.kv_order(cache)
    }

    fn tiles_rows(&self, op: &StepOp, weights: &[Layout]) -> bool {
        self.inner.tiles_rows(op, weights)
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
        self.inner.page_lists(op, caches)
    }

    fn slicer(&self) -> Option<Slicer> {
        None
    }

    fn samples(&self) -> bool {
        self.inner.samples()
    }

    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String> {
        match &self.refuse {
            Some(op) if op == spec.op.name() => Err(format!("`{op}` is not built")),
            _ if self.several.as_deref() == Some(spec.op.name()) => {
                let one = |name: &str, least: u64, most: u64| Variant {
                    usual: RowRange::new(least, most).up_to(spec.max_rows),
                    ..Variant::only(name, spec, 1)
                };
                Ok(vec![one("few", 1, 8), one("many", 9, u64::MAX)])
            }
            _ if self.takes_all => Ok(vec![Variant::only("any", spec, 1)]),
            _ => self.inner.candidates(spec),
        }
    }
}

/// A Plan as text: one line an entry.
pub fn describe_plan(plan: &Plan) -> String {
    let mut out = format!("arena {} bytes, page {} tokens\n", plan.arena_bytes, plan.model.page);
    for chain in &plan.chains {
        let kv = if chain.shared_kv { "shared" } else { "own" };
        writeln!(out, "chain: oracle {}, sparse {:?}, {kv} kv", chain.oracle, chain.sparse).unwrap();
    }
    for (i, cache) in plan.caches.iter().enumerate() {
        let kept = match cache.policy {
            CachePolicy::Growing => "growing".to_string(),
            CachePolicy::Ring { window, pages } => format!("ring({window}, {pages})"),
        };
        writeln!(out, "c{i} {}: owner {}, readers {:?}, {kept}", cache.name, cache.owner, cache.readers)
            .unwrap();
    }
    for (i, weight) in plan.weights.iter().enumerate() {
        writeln!(out, "w{i} {} {:?} {:?}", weight.name, weight.shape, weight.format.layout).unwrap();
    }
    for (i, b) in plan.buffers.iter().enumerate() {
        let selection =
            b.selection.map_or(String::new(), |s| format!(" selection {}x{}", s.kv_heads, s.blocks));
        writeln!(out, "b{i} {}: {}x{} {} at {}{selection}", b.name, b.max_rows, b.width, b.elem, b.offset)
            .unwrap();
    }
    for step in &plan.steps {
        let roles = step.op.roles();
        let operand = |(operand, role): (&Operand, &hyc_plan::Role)| {
            let place = match operand {
                Operand::Buffer(id) => id.to_string(),
                Operand::Weight(id) => id.to_string(),
                Operand::Cache(id) => id.to_string(),
            };
            format!("{}{}{place}", role.name, if role.writes() { " => " } else { " " })
        };
        let operands: Vec<String> = step.operands.iter().zip(&roles).map(operand).collect();
        let kernel = &plan.kernels[step.kernel.index()].name;
        let grid = match &plan.kernels[step.kernel.index()].code {
            Code::Host { grid, .. } => format!(" grid {:?} {}", grid.dim, grid.per),
            Code::Nvidia { .. } => String::new(),
        };
        writeln!(out, "{} ({}){grid} by {kernel}", step.name, operands.join(", ")).unwrap();
    }
    writeln!(out, "logits {}", plan.logits).unwrap();
    out
}

fn range(buffer: &Buffer) -> (u64, u64) {
    (buffer.offset, buffer.offset + buffer.bytes())
}

/// Runs a plan's steps on an arena that remembers, byte range by byte range, whose value lies there: every
/// read finds its own value whole, and no step writes over what it reads or over another of its results.
pub fn check_arena_use(plan: &Plan) {
    let mut written: Vec<bool> = vec![false; plan.buffers.len()];
    for step in &plan.steps {
        let roles = step.op.roles();
        assert_eq!(roles.len(), step.operands.len(), "{}", step.name);
        let buffers = |write: bool| {
            let of_role = step.operands.iter().zip(&roles).filter(move |(_, role)| role.writes() == write);
            of_role.filter_map(|(operand, _)| match operand {
                Operand::Buffer(id) => Some(id.index()),
                _ => None,
            })
        };
        for read in buffers(false) {
            assert!(
                written[read],
                "{} reads {} after it was overwritten",
                step.name, plan.buffers[read].name
            );
        }
        for write in buffers(true) {
            let (start, end) = range(&plan.buffers[write]);
            assert!(end <= plan.arena_bytes, "{} ends behind the arena", plan.buffers[write].name);
            for other in buffers(false).chain(buffers(true).filter(|other| *other != write)) {
                let (from, to) = range(&plan.buffers[other]);
                assert!(to <= start || end <= from, "{}: operands share bytes", step.name);
            }
            for (other, live) in written.iter_mut().enumerate() {
                let (from, to) = range(&plan.buffers[other]);
                *live &= to <= start || end <= from;
            }
            written[write] = true;
        }
    }
    assert!(written[plan.logits.index()], "the logits are overwritten");
}
