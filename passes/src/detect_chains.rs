//! `detect-chains`: which full layer selects for which sparse layers.
//!
//! ```text
//! %L0.sel = topk(%L0.group_max) layer 0         %L0.sel = topk(%L0.group_max) layer 0 chain 0
//! %L1.sel = chain_selection() layer 1      =>
//! %L1.c   = chain_cache() layer 1
//! %L1.kv  = kv_share(%L1.c)                     %L1.kv = kv_share(%L0.kv)
//! %L1.s   = sparse_attention(.., %L1.sel)       %L1.s = sparse_attention(.., %L0.sel) layer 1 chain 0
//! ```
//!
//! The front end leaves `chain_selection` and `chain_cache` open, layer by layer; here they become the
//! selection and the appended cache of the nearest oracle before. A sparse layer without one is an error.
//! An oracle that nobody listens to (a chain of length zero, such as the last layer) stops selecting.
//! Selections that are named outright are left alone, and nothing is fused or aliased here.

use hyc_ir::{Graph, Op, OpId, ValueId, op};

use crate::error::PassError;

const PASS: &str = "detect-chains";

/// The selection nearest before the op in hand, and what it was made from.
#[derive(Clone, Copy)]
struct Oracle {
    selection: ValueId,
    cache: ValueId,
}

/// Resolves every chain. Returns the rewrites made. Errors: a sparse layer without an oracle before it, or
/// with one whose selection or cache is not of the declared type.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut oracle: Option<Oracle> = None;
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        let data = graph.op(id);
        let selects = match data.op {
            Op::TopK(_) | Op::OracleAttention(_) => true,
            Op::ChainSelection(op::ChainSelection {}) | Op::ChainCache(op::ChainCache {}) => {
                resolve(graph, id, oracle)?;
                changes += 1;
                false
            }
            _ => false,
        };
        if selects {
            oracle = trace(graph, id);
        }
    }
    changes += drop_unheard(graph);
    number_chains(graph);
    Ok(changes)
}

/// Puts the oracle's selection or cache in the place of an open reference.
fn resolve(graph: &mut Graph, id: OpId, oracle: Option<Oracle>) -> Result<(), PassError> {
    let Some(oracle) = oracle else {
        let message = "this sparse layer has no oracle: no full layer that selects stands before it";
        return Err(PassError::at(PASS, graph, id, message)
            .help("make layer 0 full: sparse layers reuse the selection of a full layer before them"));
    };
    let data = graph.op(id);
    let open = data.results[0];
    let meant =
        if data.op == (Op::ChainSelection(op::ChainSelection {})) { oracle.selection } else { oracle.cache };
    if graph.ty(open) != graph.ty(meant) {
        let (name, is, said) = (graph.name(meant), graph.ty(meant), graph.ty(open));
        let message = format!("its oracle's %{name} is a {is}, declared is a {said}");
        return Err(PassError::at(PASS, graph, id, message).help("declare the oracle's type"));
    }
    graph.replace_uses(open, meant);
    graph.remove(id);
    Ok(())
}

/// The ops that make a selection: an oracle alone, or a top-k and what stands before it up to the attention,
/// which comes last.
fn makers(graph: &Graph, selects: OpId) -> Vec<OpId> {
    let mut ops = vec![selects];
    while let Op::TopK(_) | Op::GroupMax(_) | Op::BlockMax(_) = graph.op(ops[ops.len() - 1]).op {
        let scores = graph.op(ops[ops.len() - 1]).operands.first();
        match scores.and_then(|value| graph.def(*value)) {
            Some(producer) => ops.push(producer),
            None => break,
        }
    }
    ops
}

/// The selection that an op makes, and the cache behind it.
fn trace(graph: &Graph, selects: OpId) -> Option<Oracle> {
    let attention = graph.op(*makers(graph, selects).last()?);
    let (Op::Attention(_) | Op::OracleAttention(_)) = attention.op else { return None };
    Some(Oracle { selection: *graph.op(selects).results.last()?, cache: *attention.operands.get(1)? })
}

/// Takes the selection away from oracles that nobody listens to.
fn drop_unheard(graph: &mut Graph) -> usize {
    let mut changes = 0;
    for id in graph.ops().rev().collect::<Vec<_>>() {
        let data = graph.op(id);
        let unused = |value: ValueId| graph.users(value).next().is_none();
        match data.op {
            Op::TopK(_) | Op::GroupMax(_) | Op::BlockMax(_) if unused(data.results[0]) => {
                graph.remove(id);
                changes += 1;
            }
            Op::Attention(op::Attention { heads, sink, scores: true })
            | Op::OracleAttention(op::OracleAttention { heads, sink, .. })
                if unused(data.results[1]) =>
            {
                let mut plain = data.clone();
                plain.op = Op::Attention(op::Attention { heads, sink, scores: false });
                plain.results.truncate(1);
                let next = graph.next(id);
                graph.remove(id);
                graph.insert(next, plain);
                changes += 1;
            }
            _ => {}
        }
    }
    changes
}

/// Numbers the oracles with listeners, and marks the ops that make their selections and those that read them.
fn number_chains(graph: &mut Graph) {
    let ops: Vec<OpId> = graph.ops().collect();
    ops.iter().for_each(|id| graph.set_chain(*id, None));
    let mut chain = 0;
    for id in ops {
        let selection = match (&graph.op(id).op, &graph.op(id).results[..]) {
            (Op::TopK(_), [selection]) | (Op::OracleAttention(_), [_, selection]) => *selection,
            _ => continue,
        };
        let readers = graph.uses(selection).into_iter().map(|(reader, _)| reader);
        for member in makers(graph, id).into_iter().chain(readers) {
            graph.set_chain(member, Some(chain));
        }
        chain += 1;
    }
}
