//! Projections, QK-norm, RoPE and append in one op.
//!
//! ```text
//! %q = linear(%h, @wq)   %qr = rope(%q)
//! %k = linear(%h, @wk)   %kr = rope(%k)       =>  %qr, %kv = qkv_append(%h, @wq, @wk, @wv, %cache) {own_kv = true}
//! %v = linear(%h, @wv)   %kv = append(%cache, %kr, %v)
//! ```
//! A layer without keys of its own: `%qr = qkv_append(%h, @wq)`. Left alone where an inner value has another
//! user, the three read different inputs, q and k differ in RoPE or QK-norm, the heads are not the cache's, or
//! a norm is over the whole row.

use hyc_ir::{Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::RopeSpec;

use crate::rewrite::{fuse, sole_producer};

/// `rope(rmsnorm?(linear(h, w)))`.
struct Projection {
    ops: Vec<OpId>,
    input: ValueId,
    weight: ValueId,
    norm: Option<(f64, ValueId)>,
    heads: u64,
    rope: RopeSpec,
    result: ValueId,
}

/// Fuses projections: first those that append, then queries alone. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> usize {
    let mut changes = 0;
    let appends: Vec<OpId> =
        graph.ops().filter(|id| graph.op(*id).op == (Op::Append(op::Append {}))).collect();
    for id in appends {
        changes += usize::from(fuse_own(graph, id).unwrap_or(false));
    }
    let ropes = graph.ops().filter(|id| matches!(graph.op(*id).op, Op::Rope(_)));
    let ropes: Vec<OpId> = ropes.filter(|id| feeds_attention(graph, *id)).collect();
    for id in ropes {
        changes += usize::from(fuse_query(graph, id).unwrap_or(false));
    }
    changes
}

fn projection(graph: &Graph, rope: OpId) -> Option<Projection> {
    let data = graph.op(rope);
    let Op::Rope(op::Rope { heads, theta, dims, scaling }) = data.op else { return None };
    let mut ops = vec![rope];
    let (mut id, mut producer) = sole_producer(graph, data.operands[0])?;
    let mut norm = None;
    if let Op::RmsNorm(op::RmsNorm { eps }) = producer.op {
        norm = Some((eps, producer.operands[1]));
        ops.push(id);
        (id, producer) = sole_producer(graph, producer.operands[0])?;
    }
    let Op::Linear(op::Linear {}) = producer.op else { return None };
    ops.push(id);
    Some(Projection {
        ops,
        input: producer.operands[0],
        weight: producer.operands[1],
        norm,
        heads,
        rope: RopeSpec { theta, dims, scaling },
        result: data.results[0],
    })
}

fn feeds_attention(graph: &Graph, rope: OpId) -> bool {
    let uses = graph.uses(graph.op(rope).results[0]);
    let reads_q = |(user, operand): &(OpId, usize)| {
        graph.op(*user).op.roles().takes.get(*operand).is_some_and(|role| role.name == "q")
    };
    !uses.is_empty() && uses.iter().all(reads_q)
}

/// The query projection of the layer that appends, found through the input that it shares with k: of
/// several the first.
fn query_of(graph: &Graph, append: OpId, key: &Projection) -> Option<Projection> {
    let layer = graph.op(append).layer;
    let products = graph.uses(key.input).into_iter().filter(|(_, operand)| *operand == 0);
    products
        .filter_map(|(product, _)| rope_of(graph, product))
        .filter(|id| graph.op(*id).layer == layer && feeds_attention(graph, *id))
        .filter_map(|id| Some((id, projection(graph, id)?)))
        .filter(|(_, q)| {
            let eps = |p: &Projection| p.norm.map(|(eps, _)| eps);
            q.input == key.input && q.rope == key.rope && eps(q) == eps(key)
        })
        .min_by_key(|(id, _)| graph.place(*id))
        .map(|(_, query)| query)
}

/// The RoPE of a product's result, through its norm where it has one.
fn rope_of(graph: &Graph, product: OpId) -> Option<OpId> {
    let mut id = product;
    for _ in 0..2 {
        (id, _) = graph.sole_use(*graph.op(id).results.first()?)?;
        if let Op::Rope(_) = graph.op(id).op {
            return Some(id);
        }
    }
    None
}

/// Whether the projection is `heads` heads of `dim`, and its norm, where there is one, over a head.
fn fits(graph: &Graph, projection: &Projection, dim: u64) -> bool {
    let over_head =
        |weight: &ValueId| matches!(graph.ty(*weight), Type::Weight { dims, .. } if dims[..] == [dim]);
    graph.ty(projection.result).width() == projection.heads.checked_mul(dim)
        && projection.norm.iter().all(|(_, weight)| over_head(weight))
}

fn fuse_own(graph: &mut Graph, append: OpId) -> Option<bool> {
    let [cache, k, v] = graph.op(append).operands[..] else { return None };
    let Type::Cache(ty) = graph.ty(cache) else { return None };
    let (rope, _) = sole_producer(graph, k)?;
    let key = projection(graph, rope)?;
    let (value, data) = sole_producer(graph, v)?;
    if data.op != (Op::Linear(op::Linear {})) || data.operands[0] != key.input {
        return None;
    }
    let wv = data.operands[1];
    let query = query_of(graph, append, &key)?;
    if key.heads != ty.kv_heads || !fits(graph, &key, ty.qk_dim) || !fits(graph, &query, ty.qk_dim) {
        return None;
    }
    let mut operands = vec![query.input, query.weight, key.weight, wv];
    operands.extend(query.norm.iter().chain(&key.norm).map(|(_, weight)| *weight));
    operands.push(cache);
    let op = fused(&query, ty.kv_heads, true);
    let results = vec![query.result, graph.op(append).results[0]];
    let old: Vec<OpId> = query.ops.into_iter().chain(key.ops).chain([value, append]).collect();
    Some(fuse(graph, &old, op, operands, results))
}

/// A query whose layer has no keys of its own: the cache that it meets says the KV heads.
fn fuse_query(graph: &mut Graph, rope: OpId) -> Option<bool> {
    let query = projection(graph, rope)?;
    let (user, _) = *graph.uses(query.result).first()?;
    let Type::Cache(ty) = graph.ty(*graph.op(user).operands.get(1)?) else { return None };
    if !fits(graph, &query, ty.qk_dim) {
        return None;
    }
    let mut operands = vec![query.input, query.weight];
    operands.extend(query.norm.map(|(_, weight)| weight));
    let op = fused(&query, ty.kv_heads, false);
    Some(fuse(graph, &query.ops, op, operands, vec![query.result]))
}

fn fused(query: &Projection, kv_heads: u64, own_kv: bool) -> Op {
    let (heads, RopeSpec { theta, dims, scaling }) = (query.heads, query.rope);
    let qk_norm = query.norm.map(|(eps, _)| eps);
    Op::QkvAppend(op::QkvAppend {
        heads,
        kv_heads,
        norm: None,
        qk_norm,
        theta,
        dims,
        scaling,
        own_kv,
        gates: None,
        fp8_rows: None,
    })
}
