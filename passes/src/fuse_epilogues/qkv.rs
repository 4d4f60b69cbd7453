//! Projections, QK-norm, RoPE and append in one op.
//!
//! ```text
//! %q = linear(%h, @wq)   %qr = rope(%q)
//! %k = linear(%h, @wk)   %kr = rope(%k)       =>  %qr, %kv = qkv_append(%h, @wq, @wk, @wv, %cache) {own_kv = true}
//! %v = linear(%h, @wv)   %kv = append(%cache, %kr, %v)
//! ```
//! A layer without keys of its own: `%qr = qkv_append(%h, @wq)`. Left alone where an inner value has another
//! user, the three read different inputs, or q and k differ in RoPE or QK-norm.

use hyc_ir::{Graph, Op, OpId, Type, ValueId};

use crate::rewrite::{fuse, sole_producer};

/// `rope(rmsnorm?(linear(h, w)))`.
struct Projection {
    ops: Vec<OpId>,
    input: ValueId,
    weight: ValueId,
    norm: Option<(f64, ValueId)>,
    heads: u64,
    rope: (f64, u64),
    result: ValueId,
}

pub fn run(graph: &mut Graph) -> usize {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        if graph.ops().any(|live| live == id) && graph.op(id).op == (Op::Append {}) && fuse_own(graph, id) {
            changes += 1;
        }
    }
    for id in graph.ops().collect::<Vec<_>>() {
        if matches!(graph.op(id).op, Op::Rope { .. }) && feeds_attention(graph, id) && fuse_query(graph, id) {
            changes += 1;
        }
    }
    changes
}

fn projection(graph: &Graph, rope: OpId) -> Option<Projection> {
    let data = graph.op(rope);
    let Op::Rope { heads, theta, dims } = data.op else { return None };
    let mut ops = vec![rope];
    let (mut id, mut producer) = sole_producer(graph, data.operands[0])?;
    let mut norm = None;
    if let Op::RmsNorm { eps } = producer.op {
        norm = Some((eps, producer.operands[1]));
        ops.push(id);
        (id, producer) = sole_producer(graph, producer.operands[0])?;
    }
    let Op::Linear {} = producer.op else { return None };
    ops.push(id);
    Some(Projection {
        ops,
        input: producer.operands[0],
        weight: producer.operands[1],
        norm,
        heads,
        rope: (theta, dims),
        result: data.results[0],
    })
}

fn feeds_attention(graph: &Graph, rope: OpId) -> bool {
    let uses = graph.uses(graph.op(rope).results[0]);
    let reads_q = |id: OpId| {
        matches!(
            graph.op(id).op,
            Op::Attention { .. }
                | Op::OracleAttention { .. }
                | Op::WindowAttention { .. }
                | Op::SparseAttention { .. }
                | Op::HybridAttention { .. }
        )
    };
    !uses.is_empty() && uses.iter().all(|(user, operand)| *operand == 0 && reads_q(*user))
}

/// The query projection of the layer that appends, found through the input that it shares with k.
fn query_of(graph: &Graph, append: OpId, key: &Projection) -> Option<Projection> {
    let layer = graph.op(append).layer;
    graph
        .ops()
        .filter(|id| graph.op(*id).layer == layer && matches!(graph.op(*id).op, Op::Rope { .. }))
        .filter(|id| feeds_attention(graph, *id))
        .filter_map(|id| projection(graph, id))
        .find(|q| {
            let eps = |p: &Projection| p.norm.map(|(eps, _)| eps);
            q.input == key.input && q.rope == key.rope && eps(q) == eps(key)
        })
}

fn fuse_own(graph: &mut Graph, append: OpId) -> bool {
    let [cache, k, v] = graph.op(append).operands[..] else { return false };
    let Some(key) = sole_producer(graph, k).and_then(|(rope, _)| projection(graph, rope)) else {
        return false;
    };
    let Some((value, data)) = sole_producer(graph, v) else { return false };
    if data.op != (Op::Linear {}) || data.operands[0] != key.input {
        return false;
    }
    let wv = data.operands[1];
    let Some(query) = query_of(graph, append, &key) else { return false };
    let op = Op::QkvAppend {
        heads: query.heads,
        kv_heads: key.heads,
        norm: None,
        qk_norm: query.norm.map(|(eps, _)| eps),
        theta: query.rope.0,
        dims: query.rope.1,
        own_kv: true,
    };
    let mut operands = vec![query.input, query.weight, key.weight, wv];
    operands.extend(query.norm.iter().chain(&key.norm).map(|(_, weight)| *weight));
    operands.push(cache);
    let results = vec![query.result, graph.op(append).results[0]];
    let old: Vec<OpId> = query.ops.into_iter().chain(key.ops).chain([value, append]).collect();
    fuse(graph, &old, op, operands, results)
}

/// A query whose layer has no keys of its own: the cache it is used with says the KV heads.
fn fuse_query(graph: &mut Graph, rope: OpId) -> bool {
    let Some(query) = projection(graph, rope) else { return false };
    let Some((user, _)) = graph.uses(query.result).first().copied() else { return false };
    let Some(Type::Cache(cache)) = graph.op(user).operands.get(1).map(|v| graph.ty(*v)) else { return false };
    let op = Op::QkvAppend {
        heads: query.heads,
        kv_heads: cache.kv_heads,
        norm: None,
        qk_norm: query.norm.map(|(eps, _)| eps),
        theta: query.rope.0,
        dims: query.rope.1,
        own_kv: false,
    };
    let mut operands = vec![query.input, query.weight];
    operands.extend(query.norm.map(|(_, weight)| weight));
    fuse(graph, &query.ops, op, operands, vec![query.result])
}
