//! The projections of a layer's elementwise gates join those of its q, k and v, where the back end's kernels take them.
//!
//! ```text
//! %q, %kv = qkv_append(%h, @wq, @wk, @wv, %cache)
//! %gs = linear(%h, @ws)                             =>  %q, %gs, %gw, %kv = qkv_append(%h, @wq, @wk, @wv, @ws, @ww, %cache)
//! %gw = linear(%h, @ww)                                     {gates = 2}
//! %o = hybrid_attention(.., %gs, %gw) ..                %o = hybrid_attention(.., %gs, %gw) ..
//! ```
//! They read the same rows, so that one launch streams the weights of all. The attention, or `gate`, applies the sigmoid.

use hyc_ir::{Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::ops::{self, GATES};
use hyc_plan::{AttnShape, Backend, Codec, Layout, StepOp};

use crate::lower::lower;
use crate::rewrite::fuse;

/// Fuses gates. Returns the rewrites made.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> usize {
    let mut changes = 0;
    let projections = graph.ops().filter(|id| matches!(graph.op(*id).op, Op::QkvAppend(_)));
    for id in projections.collect::<Vec<_>>() {
        let Op::QkvAppend(op @ op::QkvAppend { gates: None, .. }) = graph.op(id).op else { continue };
        let found = gates_of(graph, id, op.heads);
        let Some(width) = found.first().and_then(|gate| graph.ty(graph.op(*gate).results[0]).width()) else {
            continue;
        };
        if takes(graph, id, (found.len() as u64, width), backend) {
            changes += usize::from(join(graph, id, op, &found));
        }
    }
    changes
}

/// The products of the same rows that only a gate's operand reads: logits of each element, all as wide as the first, of
/// weights that are stored as those of the queries.
fn gates_of(graph: &Graph, id: OpId, heads: u64) -> Vec<OpId> {
    let data = graph.op(id);
    let (h, layer) = (data.operands[0], data.layer);
    let Some(wq) = data.op.roles().takes.position("wq").map(|at| data.operands[at]) else {
        return Vec::new();
    };
    let width = |product: OpId| graph.ty(graph.op(product).results[0]).width();
    let is_gate = |product: &OpId| {
        let of = graph.op(*product);
        let reads = graph.sole_use(of.results[0]);
        of.op == Op::Linear(op::Linear {})
            && of.operands[0] == h
            && of.layer == layer
            && codec(graph, of.operands[1]) == codec(graph, wq)
            && reads.is_some_and(|(user, operand)| gate_width(graph, user, operand, heads) == width(*product))
    };
    let mut found: Vec<OpId> = graph.users(h).map(|(user, _)| user).filter(is_gate).collect();
    found.sort_by_key(|id| graph.place(*id));
    let first = found.first().and_then(|id| width(*id));
    found.retain(|id| width(*id) == first);
    found.truncate(GATES.len());
    found
}

fn codec(graph: &Graph, weight: ValueId) -> Option<Codec> {
    match graph.ty(weight) {
        Type::Weight { codec, .. } => Some(*codec),
        _ => None,
    }
}

/// Elements of a row of what operand `operand` of `user` gates one by one; `None`: it gates nothing, or whole heads.
fn gate_width(graph: &Graph, user: OpId, operand: usize, heads: u64) -> Option<u64> {
    let data = graph.op(user);
    let name = data.op.roles().takes.get(operand)?.name;
    let width = name.starts_with("gate").then(|| graph.ty(*data.results.first()?).width())??;
    (width != heads).then_some(width)
}

/// Whether the back end's kernels project so many gates of this width beside these.
fn takes(graph: &Graph, id: OpId, (gates, width): (u64, u64), backend: &dyn Backend) -> bool {
    // What no step stands for is select-kernels' to refuse.
    let Ok(Some(step)) = lower(graph, id, backend) else { return false };
    let StepOp::QkvAppend(op) = step.op else { return false };
    // Without keys and values of its own a layer's gates alone say how wide its values are.
    let v_dim = if op.own_kv { op.shape.v_dim } else { width / op.shape.heads };
    if op.shape.heads.checked_mul(v_dim) != Some(width) {
        return false;
    }
    let layouts: Vec<Layout> = step.layouts.iter().map(|(_, layout)| *layout).collect();
    let shape = AttnShape { v_dim, ..op.shape };
    backend.projects_gates(&ops::QkvAppend { gates, shape, ..op }, &layouts)
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
