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
//! head and block. Left alone where anybody else uses the probabilities or either maximum.

use hyc_ir::{Graph, Op};

use crate::error::PassError;
use crate::rewrite::{fuse, sole_producer};

/// Fuses every selection that can be. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for topk in graph.ops().collect::<Vec<_>>() {
        let data = graph.op(topk);
        let Op::TopK { blocks } = data.op else { continue };
        let selection = data.results[0];
        let Some((group, group_data)) = sole_producer(graph, data.operands[0]) else { continue };
        let Op::GroupMax { .. } = group_data.op else { continue };
        let Some((block, block_data)) = sole_producer(graph, group_data.operands[0]) else { continue };
        let Op::BlockMax { .. } = block_data.op else { continue };
        let Some((attention, data)) = sole_producer(graph, block_data.operands[0]) else { continue };
        let Op::Attention { heads, sink, scores: true } = data.op else { continue };
        let (operands, results) = (data.operands.clone(), vec![data.results[0], selection]);
        let op = Op::OracleAttention { heads, sink, blocks };
        changes += usize::from(fuse(graph, &[attention, block, group, topk], op, operands, results));
    }
    Ok(changes)
}
