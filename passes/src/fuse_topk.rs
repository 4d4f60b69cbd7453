//! `fuse-topk`: attention and block selection in one op.
//!
//! ```text
//! %o, %p = attention(%q, %kv) {scores = true}
//! %b = block_max(%p) {block = 64}            =>   %o, %sel = oracle_attention(%q, %kv) {blocks = 16}
//! %g = group_max(%b) {kv_heads = 4}
//! %sel = topk(%g) {blocks = 16}
//! ```
//!
//! The probabilities, `tokens x heads x context`, must never be in memory: the fused op keeps one maximum a
//! head and block. Left alone where anybody else uses the probabilities or either maximum, or the blocks are not the cache's
//! pages; no target has a kernel for what is left.

use hyc_ir::{Graph, Op, OpId, Type, op};

use crate::error::PassError;
use crate::rewrite::{fuse, sole_producer};

/// Fuses every selection that can be. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        changes += usize::from(fuse_one(graph, id).unwrap_or(false));
    }
    Ok(changes)
}

fn fuse_one(graph: &mut Graph, topk: OpId) -> Option<bool> {
    let data = graph.op(topk);
    let Op::TopK(op::TopK { blocks }) = data.op else { return None };
    let selection = data.results[0];
    let (group, data) = sole_producer(graph, data.operands[0])?;
    let Op::GroupMax(_) = data.op else { return None };
    let (block, data) = sole_producer(graph, data.operands[0])?;
    let Op::BlockMax(_) = data.op else { return None };
    let (attention, data) = sole_producer(graph, data.operands[0])?;
    let Op::Attention(op::Attention { heads, sink, scores: true }) = data.op else { return None };
    let (operands, results) = (data.operands.clone(), vec![data.results[0], selection]);
    let (Type::Cache(cache), Type::Selection(selected)) = (graph.ty(operands[1]), graph.ty(selection)) else {
        return None;
    };
    let (shape, pages) = (selected.shape, (cache.kv_heads, cache.page, &cache.map));
    if (shape.kv_heads, shape.block, &selected.map) != pages {
        return None;
    }
    let op = Op::OracleAttention(op::OracleAttention { heads, sink, blocks });
    Some(fuse(graph, &[attention, block, group, topk], op, operands, results))
}
