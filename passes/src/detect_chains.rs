//! `detect-chains`: which full layer selects for which sparse layers.
//!
//! ```text
//! %L0.sel = topk(%L0.group_max) ...             %L0.sel = topk(%L0.group_max) ... chain 0
//! %L1.sel = chain_selection() layer 1      =>
//! %L1.kv  = chain_cache() layer 1
//! %L1.s   = sparse_attention(.., %L1.sel)       %L1.s = sparse_attention(.., %L0.sel) ... chain 0
//! ```
//!
//! The front end leaves `chain_selection` and `chain_cache` open, layer by layer; here they become the
//! selection and the appended cache of the nearest oracle before. A sparse layer without one is an error.
//! An oracle that nobody listens to (a chain of length zero, such as the last layer) stops selecting.
//! Selections that are named outright are left alone, and nothing is fused or aliased here.

use hyc_ir::{Graph, Op, OpId, ValueId};

use crate::error::PassError;

const PASS: &str = "detect-chains";

/// The selection nearest before the op in hand, and what it was made from.
#[derive(Clone, Copy)]
struct Oracle {
    selection: ValueId,
    cache: ValueId,
    attention: OpId,
}

/// Resolves every chain. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut oracle: Option<Oracle> = None;
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        let data = graph.op(id);
        match data.op {
            Op::TopK { .. } => oracle = trace(graph, id).or(oracle),
            Op::OracleAttention { .. } => {
                oracle = Some(Oracle { selection: data.results[1], cache: data.operands[1], attention: id });
            }
            Op::ChainSelection {} | Op::ChainCache {} => {
                let Some(oracle) = oracle else {
                    let message = "this sparse layer has no oracle: no full layer stands before it";
                    return Err(PassError::at(PASS, graph, id, message).help(
                        "make layer 0 full: sparse layers reuse the selection of a full layer before them",
                    ));
                };
                let wanted = if data.op == (Op::ChainSelection {}) { oracle.selection } else { oracle.cache };
                let placeholder = data.results[0];
                graph.replace_uses(placeholder, wanted);
                graph.remove(id);
                changes += 1;
            }
            _ => {}
        }
    }
    changes += drop_unheard(graph);
    number_chains(graph);
    Ok(changes)
}

/// The attention and cache behind a top-k.
fn trace(graph: &Graph, topk: OpId) -> Option<Oracle> {
    let (_, group_max) = graph.def_op(*graph.op(topk).operands.first()?)?;
    let (_, block_max) = graph.def_op(*group_max.operands.first()?)?;
    let (attention, data) = graph.def_op(*block_max.operands.first()?)?;
    let cache = *data.operands.get(1)?;
    Some(Oracle { selection: graph.op(topk).results[0], cache, attention })
}

/// Takes the selection away from oracles that nobody listens to.
fn drop_unheard(graph: &mut Graph) -> usize {
    let mut changes = 0;
    for id in graph.ops().rev().collect::<Vec<_>>() {
        let data = graph.op(id);
        let unused = |value: ValueId| graph.uses(value).is_empty();
        match data.op {
            Op::TopK { .. } | Op::GroupMax { .. } | Op::BlockMax { .. } if unused(data.results[0]) => {
                graph.remove(id);
                changes += 1;
            }
            Op::Attention { heads, sink, scores: true } if unused(data.results[1]) => {
                let op = Op::Attention { heads, sink, scores: false };
                keep_first_result(graph, id, op);
                changes += 1;
            }
            Op::OracleAttention { heads, sink, .. } if unused(data.results[1]) => {
                keep_first_result(graph, id, Op::Attention { heads, sink, scores: false });
                changes += 1;
            }
            _ => {}
        }
    }
    changes
}

fn keep_first_result(graph: &mut Graph, id: OpId, op: Op) {
    let mut data = graph.op(id).clone();
    let place = graph.position(id);
    graph.remove(id);
    data.op = op;
    data.results.truncate(1);
    graph.insert(place, data);
}

/// Numbers the oracles with listeners, and marks their ops and their listeners' attentions.
fn number_chains(graph: &mut Graph) {
    let mut chain = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        let (selection, attention) = match graph.op(id).op {
            Op::TopK { .. } => (graph.op(id).results[0], trace(graph, id).map_or(id, |o| o.attention)),
            Op::OracleAttention { .. } => (graph.op(id).results[1], id),
            _ => continue,
        };
        graph.set_chain(id, Some(chain));
        graph.set_chain(attention, Some(chain));
        for (reader, _) in graph.uses(selection) {
            graph.set_chain(reader, Some(chain));
        }
        chain += 1;
    }
}
