//! A shared expert joins those that are chosen, where the back end's kernels take it: two launches fewer, and its weights are
//! on their way while the choice is not known yet.
//!
//! ```text
//! %s = fused_linear(%h, @sg, @su) {epilogue = swiglu}
//! %y = fused_linear(%s, @sd, %x) {epilogue = residual}   =>  %m = experts_up(%h, %i, @g, @u, @sg, @su) {shared = true}
//! %m = experts_up(%h, %i, @g, @u)                            %o = experts_down(%m, %i, %w, @d, @sd, %x) {.., shared = true}
//! %o = experts_down(%m, %i, %w, @d, %y) {residual = true}
//! ```
//! Left alone where it is not as wide as the others, or stored otherwise.

use hyc_ir::{Dim, Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::{Backend, Epilogue, Layout, StepOp, ops};

use crate::lower::lower;
use crate::rewrite::{fuse, sole_producer};

/// Fuses shared experts. Returns the rewrites made.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> usize {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        let Some(found) = Found::at(graph, id) else { continue };
        if found.fits(graph) && found.taken(graph, backend) {
            changes += usize::from(found.join(graph));
        }
    }
    changes
}

/// Experts with a shared one before them.
struct Found {
    up: OpId,
    down: OpId,
    shared_up: OpId,
    shared_down: OpId,
}

impl Found {
    fn at(graph: &Graph, down: OpId) -> Option<Found> {
        let data = graph.op(down);
        let Op::ExpertsDown(op::ExpertsDown { residual: true, shared: false }) = data.op else { return None };
        let (up, of_up) = sole_producer(graph, data.operands[0])?;
        let (shared_down, of_shared) = sole_producer(graph, *data.operands.last()?)?;
        let (shared_up, first) = sole_producer(graph, of_shared.operands[0])?;
        let fused = |epilogue| Op::FusedLinear(op::FusedLinear { norm: None, epilogue, fp8_rows: None });
        let right = of_up.op == Op::ExpertsUp(op::ExpertsUp { shared: false })
            && of_shared.op == fused(Epilogue::Residual)
            && first.op == fused(Epilogue::SwiGlu)
            && first.operands[0] == of_up.operands[0];
        right.then_some(Found { up, down, shared_up, shared_down })
    }

    /// The weights of the chosen and of the shared expert, which stand for each other.
    fn pairs(&self, graph: &Graph) -> [(ValueId, ValueId); 3] {
        let of = |id: OpId, at: usize| graph.op(id).operands[at];
        [
            (of(self.up, 2), of(self.shared_up, 1)),
            (of(self.up, 3), of(self.shared_up, 2)),
            (of(self.down, 3), of(self.shared_down, 1)),
        ]
    }

    /// Whether the shared expert is one like the others.
    fn fits(&self, graph: &Graph) -> bool {
        self.pairs(graph).iter().all(|(chosen, shared)| match (graph.ty(*chosen), graph.ty(*shared)) {
            (Type::Weight { codec, dims }, Type::Weight { codec: other, dims: own }) => {
                codec == other && dims.get(1..) == Some(own)
            }
            _ => false,
        })
    }

    /// Whether the back end's kernels compute both at once.
    fn taken(&self, graph: &Graph, backend: &dyn Backend) -> bool {
        // What no step stands for is select-kernels' to refuse.
        let step = |id| lower(graph, id, backend).ok().flatten();
        let Some(up) = step(self.up) else { return false };
        let StepOp::ExpertsUp(op) = up.op else { return false };
        let others = [self.down, self.shared_up, self.shared_down].map(step);
        if others.iter().any(Option::is_none) {
            return false;
        }
        let others = others.iter().flatten().flat_map(|step| &step.layouts);
        let layouts: Vec<Layout> = up.layouts.iter().chain(others).map(|(_, layout)| *layout).collect();
        backend.shares_experts(&ops::ExpertsUp { shared: true, ..op }, &layouts)
    }

    fn join(&self, graph: &mut Graph) -> bool {
        let (up, down) = (graph.op(self.up).clone(), graph.op(self.down).clone());
        let (shared_up, shared_down) = (graph.op(self.shared_up).clone(), graph.op(self.shared_down).clone());
        let Type::Tensor { elem, dims } = graph.ty(up.results[0]).clone() else { return false };
        let [rows, Dim::Const(width)] = dims[..] else { return false };
        let Some(ffn) = graph.ty(shared_up.results[0]).width() else { return false };
        let mut operands = down.operands[..4].to_vec();
        operands.extend(&shared_down.operands[1..]);
        let op = Op::ExpertsDown(op::ExpertsDown { residual: true, shared: true });
        if !fuse(graph, &[self.shared_down, self.down], op, operands, down.results) {
            return false;
        }
        let mut operands = up.operands;
        operands.extend(&shared_up.operands[1..]);
        let op = Op::ExpertsUp(op::ExpertsUp { shared: true });
        let results = up.results.clone();
        // Nothing stands between them that reads what either makes: the product behind the first has just gone.
        let joined = fuse(graph, &[self.shared_up, self.up], op, operands, results);
        graph.set_ty(up.results[0], Type::Tensor { elem, dims: vec![rows, Dim::Const(width + ffn)] });
        joined
    }
}
