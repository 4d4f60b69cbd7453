//! `fuse-branches`: both softmaxes, sinks and gates of a sparse layer in one op.
//!
//! ```text
//! %s = sparse_attention(%q, %kv, %sel, @ss) {sink = true}
//! %w = window_attention(%q, %own, @sw) {window = 128, sink = true}
//! %a = gate(%s, %gs) {mode = elementwise}          =>  %o = hybrid_attention(%q, %kv, %sel, @ss, %own, @sw, %gs, %gw)
//! %b = gate(%w, %gw) {mode = elementwise}
//! %o = add(%a, %b)
//! ```
//!
//! The same without gates. Left alone where a branch has another user, the branches read different queries,
//! one lacks its sink, the gates differ in width, or there is one branch alone.

use hyc_ir::plan::GateMode;
use hyc_ir::{Graph, Op, OpId, ValueId};

use crate::error::PassError;
use crate::rewrite::{fuse, sole_producer};

/// One side of the sum: an attention and, where it has one, its gate.
struct Branch {
    ops: Vec<OpId>,
    attention: OpId,
    gate: Option<(GateMode, ValueId)>,
}

/// Fuses every pair of branches that can be. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for add in graph.ops().collect::<Vec<_>>() {
        if graph.op(add).op == (Op::Add {}) && fuse_sum(graph, add) {
            changes += 1;
        }
    }
    Ok(changes)
}

fn branch(graph: &Graph, value: ValueId) -> Option<Branch> {
    let (id, data) = sole_producer(graph, value)?;
    match data.op {
        Op::Gate { mode, .. } => {
            let (attention, _) = sole_producer(graph, data.operands[0])?;
            Some(Branch { ops: vec![attention, id], attention, gate: Some((mode, data.operands[1])) })
        }
        _ => Some(Branch { ops: vec![id], attention: id, gate: None }),
    }
}

fn fuse_sum(graph: &mut Graph, add: OpId) -> bool {
    let data = graph.op(add);
    let (Some(a), Some(b)) = (branch(graph, data.operands[0]), branch(graph, data.operands[1])) else {
        return false;
    };
    let is_sparse =
        |branch: &Branch| matches!(graph.op(branch.attention).op, Op::SparseAttention { sink: true, .. });
    let (sparse, window) = if is_sparse(&a) { (a, b) } else { (b, a) };
    if !is_sparse(&sparse) {
        return false;
    }
    let Op::WindowAttention { heads, window: width, sink: true } = graph.op(window.attention).op else {
        return false;
    };
    let gate = match (sparse.gate, window.gate) {
        (None, None) => GateMode::None,
        (Some((a, _)), Some((b, _))) if a == b => a,
        _ => return false,
    };
    let (s, w) = (&graph.op(sparse.attention).operands, &graph.op(window.attention).operands);
    if s[0] != w[0] {
        return false;
    }
    let mut operands = vec![s[0], s[1], s[2], s[3], w[1], w[2]];
    operands.extend(sparse.gate.iter().chain(&window.gate).map(|(_, logits)| *logits));
    let results = graph.op(add).results.clone();
    let old: Vec<OpId> = sparse.ops.into_iter().chain(window.ops).chain([add]).collect();
    fuse(graph, &old, Op::HybridAttention { heads, window: width, gate }, operands, results)
}
