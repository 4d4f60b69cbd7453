//! `quantise-kv`: a step's keys and values reach a cache of codes with scales by way of a small ring.
//!
//! ```text
//!                                                      %L0.fresh = cache() {owner = 0} : cache<.. x bf16, .., ring(1, 6), map fresh.L0>
//! %q, %kv = qkv_append(%h, .., %L0.cache)          =>  %q, %L0.fresh_kv = qkv_append(%h, .., %L0.fresh)
//!                                                      %kv = quantise_kv(%L0.cache, %L0.fresh_kv)
//! %o = attention(%q, %kv)                              (unchanged)
//! ```
//!
//! What appends keeps all that was fused into it, and knows no scale: that of a vector is known once all of it is computed. The
//! ring holds one step's rows, and nothing reads a row of it in a later step. Caches of f32 and bf16 stay as they are.

use hyc_ir::{CacheType, Graph, Op, OpData, OpId, Type, ValueId, op};
use hyc_plan::{CachePolicy, KvCodec};

use crate::error::PassError;
use crate::rewrite::{appended, cache_roots};

const PASS: &str = "quantise-kv";

/// Gives every append to a cache of codes with scales a ring of its own. Returns the rewrites made. Errors: an append to what
/// is no `cache()`'s version.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let roots = cache_roots(graph);
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<OpId>>() {
        let data = graph.op(id);
        let (Some(cache), false) = (appended(data), matches!(data.op, Op::QuantiseKv(_))) else { continue };
        let Type::Cache(ty) = graph.ty(cache).clone() else { continue };
        if !ty.codec.scaled() {
            continue;
        }
        let state = roots.get(&cache).and_then(|root| graph.def_op(*root)).map(|(_, data)| data.op);
        let Some(Op::Cache(op::Cache { owner, ring: Some(codec) })) = state else {
            return Err(PassError::at(PASS, graph, id, "it appends to a cache that is not its layer's own"));
        };
        split(graph, id, cache, &fresh(graph, ty, owner, codec));
        changes += 1;
    }
    Ok(changes)
}

/// A ring for one step's rows.
fn fresh(graph: &Graph, cache: CacheType, owner: u64, codec: KvCodec) -> (u64, CacheType) {
    let policy = CachePolicy::ring(1, graph.header.chunk, cache.page);
    (owner, CacheType { codec, policy, map: format!("fresh.L{owner}"), ..cache })
}

/// Lets `append` go to the ring, and codes be made of it behind that.
fn split(graph: &mut Graph, append: OpId, cache: ValueId, (owner, ring): &(u64, CacheType)) {
    let OpData { op, operands, results, layer, chain, line } = graph.op(append).clone();
    let mut made = |name: &str| {
        let hint = layer.map_or(name.to_string(), |layer| format!("L{layer}.{name}"));
        graph.new_value(&hint, Type::Cache(ring.clone()))
    };
    let (state, rows) = (made("fresh"), made("fresh_kv"));
    let instead = |of: ValueId, by: ValueId, list: &[ValueId]| -> Vec<ValueId> {
        list.iter().map(|value| if *value == of { by } else { *value }).collect()
    };
    // The version that it makes is the only result that is a cache.
    let Some(version) = results.iter().copied().find(|value| matches!(graph.ty(*value), Type::Cache(_)))
    else {
        return;
    };
    let with = |op, operands, results| OpData { op, operands, results, layer, chain, line };
    let next = graph.next(append);
    graph.remove(append);
    let begin = Op::Cache(op::Cache { owner: *owner, ring: None });
    graph.insert(next, with(begin, vec![], vec![state]));
    graph.insert(next, with(op, instead(cache, state, &operands), instead(version, rows, &results)));
    let quantise = Op::QuantiseKv(op::QuantiseKv {});
    graph.insert(next, with(quantise, vec![cache, rows], vec![version]));
}
