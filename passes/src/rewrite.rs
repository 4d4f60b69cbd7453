//! What the fusing passes share: finding a producer, and replacing several ops by one.

use hyc_ir::{Graph, Op, OpData, OpId, Type, ValueId};

/// The op that makes `value`, where nothing else uses the value.
pub fn sole_producer(graph: &Graph, value: ValueId) -> Option<(OpId, &OpData)> {
    graph.sole_use(value)?;
    graph.def_op(value)
}

/// The `cache()` state that a version of a cache comes from, through appends.
pub fn cache_root(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let mut value = value;
    for _ in 0..=graph.len() {
        let (_, data) = graph.def_op(value)?;
        match data.op {
            Op::Append {} => value = *data.operands.first()?,
            Op::QkvAppend { .. } => value = *data.operands.last()?,
            _ => return Some(value),
        }
    }
    None
}

/// The cache operands of an op that reads caches.
pub fn cache_reads(graph: &Graph, id: OpId) -> Vec<ValueId> {
    let data = graph.op(id);
    if matches!(data.op, Op::Append {} | Op::QkvAppend { .. }) {
        return Vec::new();
    }
    data.operands.iter().copied().filter(|v| matches!(graph.ty(*v), Type::Cache(_))).collect()
}

/// Replaces `old` by one op that makes `results`, at the place of the last of them. Returns `false`, with
/// nothing changed, where some result is used before that place.
pub fn fuse(graph: &mut Graph, old: &[OpId], op: Op, operands: Vec<ValueId>, results: Vec<ValueId>) -> bool {
    let Some(place) = old.iter().map(|id| graph.position(*id)).max() else { return false };
    let early = |result: &ValueId| {
        graph.uses(*result).iter().any(|(user, _)| !old.contains(user) && graph.position(*user) < place)
    };
    if results.iter().any(early) {
        return false;
    }
    let last = graph.op(old[0]);
    let (layer, line) = (last.layer, last.line);
    let chain = old.iter().find_map(|id| graph.op(*id).chain);
    for id in old {
        graph.remove(*id);
    }
    let data = OpData { op, operands, results, layer, chain, line };
    graph.insert(place + 1 - old.len(), data);
    true
}
