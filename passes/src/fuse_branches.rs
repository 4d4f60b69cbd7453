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
//! one lacks its sink, the gates differ in width, the caches differ in shape, or there is one branch alone.

use hyc_ir::{Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::GateMode;

use crate::error::PassError;
use crate::rewrite::{fuse, sole_producer};

/// One side of the sum: an attention and, where it has one, its gate.
struct Branch {
    ops: Vec<OpId>,
    attention: OpId,
    /// Heads, mode and logits.
    gate: Option<(u64, GateMode, ValueId)>,
}

/// Fuses every pair of branches that can be. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for add in graph.ops().collect::<Vec<_>>() {
        if graph.op(add).op == (Op::Add(op::Add {})) {
            changes += usize::from(fuse_sum(graph, add).unwrap_or(false));
        }
    }
    Ok(changes)
}

fn branch(graph: &Graph, value: ValueId) -> Option<Branch> {
    let (id, data) = sole_producer(graph, value)?;
    let Op::Gate(op::Gate { heads, mode }) = data.op else {
        return Some(Branch { ops: vec![id], attention: id, gate: None });
    };
    let (attention, _) = sole_producer(graph, data.operands[0])?;
    Some(Branch { ops: vec![attention, id], attention, gate: Some((heads, mode, data.operands[1])) })
}

fn fuse_sum(graph: &mut Graph, add: OpId) -> Option<bool> {
    let [a, b] = graph.op(add).operands[..] else { return None };
    let (a, b) = (branch(graph, a)?, branch(graph, b)?);
    let is_sparse = |branch: &Branch| matches!(graph.op(branch.attention).op, Op::SparseAttention(_));
    let (sparse, local) = if is_sparse(&a) { (a, b) } else { (b, a) };
    let (s, l) = (graph.op(sparse.attention), graph.op(local.attention));
    let Op::SparseAttention(op::SparseAttention { heads, sink: true, lists: false }) = s.op else {
        return None;
    };
    let Op::WindowAttention(op::WindowAttention { heads: local_heads, window, sink: true }) = l.op else {
        return None;
    };
    let gate = match (&sparse.gate, &local.gate) {
        (None, None) => GateMode::None,
        (Some((n, mode, _)), Some((m, other, _))) if (n, m, other) == (&heads, &heads, mode) => *mode,
        _ => return None,
    };
    if heads != local_heads || s.operands[0] != l.operands[0] || !alike(graph, s.operands[1], l.operands[1]) {
        return None;
    }
    let mut operands = s.operands.clone();
    operands.extend(&l.operands[1..]);
    operands.extend(sparse.gate.iter().chain(&local.gate).map(|(_, _, logits)| *logits));
    let results = graph.op(add).results.clone();
    let old: Vec<OpId> = sparse.ops.into_iter().chain(local.ops).chain([add]).collect();
    Some(fuse(
        graph,
        &old,
        Op::HybridAttention(op::HybridAttention { heads, window, gate, lists: false }),
        operands,
        results,
    ))
}

/// Whether two caches agree in heads and widths.
fn alike(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    match (graph.ty(a), graph.ty(b)) {
        (Type::Cache(a), Type::Cache(b)) => {
            (a.kv_heads, a.qk_dim, a.v_dim) == (b.kv_heads, b.qk_dim, b.v_dim)
        }
        _ => false,
    }
}
