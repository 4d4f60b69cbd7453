//! The projections of a layer's elementwise gates join those of its q, k and v, where the back end's kernels take them.
//!
//! ```text
//! %q, %kv = qkv_append(%h, @wq, @wk, @wv, %cache)
//! %gs = linear(%h, @ws)                             =>  %q, %gs, %gw, %kv = qkv_append(%h, @wq, @wk, @wv, @ws, @ww, %cache)
//! %gw = linear(%h, @ww)                                     {gates = 2}
//! %o = hybrid_attention(.., %gs, %gw) ..                %o = hybrid_attention(.., %gs, %gw) ..
//! ```
//! They read the same rows, so that one launch streams the weights of all. The attention, or `gate`, applies the sigmoid.

use hyc_ir::{Graph, Op, OpId, op};
use hyc_plan::ops::GATES;
use hyc_plan::{Backend, Layout, StepOp};

use crate::lower::lower;
use crate::rewrite::fuse;

/// Fuses gates. Returns the rewrites made.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> usize {
    let mut changes = 0;
    let projections = graph.ops().filter(|id| matches!(graph.op(*id).op, Op::QkvAppend(_)));
    for id in projections.collect::<Vec<_>>() {
        let Op::QkvAppend(op @ op::QkvAppend { gates: None, .. }) = graph.op(id).op else { continue };
        let found = gates_of(graph, id, op.heads);
        if !found.is_empty() && takes(graph, id, found.len() as u64, backend) {
            changes += usize::from(join(graph, id, op, &found));
        }
    }
    changes
}

/// The products of the same rows that only a gate's operand reads, each as wide as the layer's heads of values.
fn gates_of(graph: &Graph, id: OpId, heads: u64) -> Vec<OpId> {
    let data = graph.op(id);
    let (h, layer) = (data.operands[0], data.layer);
    let is_gate = |product: &OpId| {
        let of = graph.op(*product);
        let reads = graph.sole_use(of.results[0]);
        of.op == Op::Linear(op::Linear {})
            && of.operands[0] == h
            && of.layer == layer
            && reads.is_some_and(|(user, operand)| {
                gate_width(graph, user, operand, heads) == graph.ty(of.results[0]).width()
            })
    };
    let mut found: Vec<OpId> = graph.users(h).map(|(user, _)| user).filter(is_gate).collect();
    found.sort_by_key(|id| graph.place(*id));
    found.truncate(GATES.len());
    found
}

/// Elements of a row of what operand `operand` of `user` gates one by one; `None`: it gates nothing, or whole heads.
fn gate_width(graph: &Graph, user: OpId, operand: usize, heads: u64) -> Option<u64> {
    let data = graph.op(user);
    let name = data.op.roles().takes.get(operand)?.name;
    let width = name.starts_with("gate").then(|| graph.ty(*data.results.first()?).width())??;
    (width != heads).then_some(width)
}

/// Whether the back end's kernels project so many gates beside these.
fn takes(graph: &Graph, id: OpId, gates: u64, backend: &dyn Backend) -> bool {
    // What no step stands for is select-kernels' to refuse.
    let Ok(Some(step)) = lower(graph, id, backend) else { return false };
    let StepOp::QkvAppend(op) = step.op else { return false };
    let layouts: Vec<Layout> = step.layouts.iter().map(|(_, layout)| *layout).collect();
    backend.projects_gates(&hyc_plan::ops::QkvAppend { gates, ..op }, &layouts)
}

fn join(graph: &mut Graph, id: OpId, op: op::QkvAppend, found: &[OpId]) -> bool {
    let (mut operands, mut results) = (graph.op(id).operands.clone(), graph.op(id).results.clone());
    let cache = if op.own_kv { operands.pop() } else { None };
    operands.extend(found.iter().map(|gate| graph.op(*gate).operands[1]));
    operands.extend(cache);
    let logits: Vec<_> = found.iter().map(|gate| graph.op(*gate).results[0]).collect();
    results.splice(1..1, logits);
    let op = Op::QkvAppend(op::QkvAppend { gates: Some(found.len() as u64), ..op });
    let old: Vec<OpId> = std::iter::once(id).chain(found.iter().copied()).collect();
    fuse(graph, &old, op, operands, results)
}
