//! What the passes share: finding producers and cache versions, and replacing several ops by one without
//! changing what any read of a cache sees.

use std::collections::HashMap;

use hyc_ir::{Graph, Op, OpData, OpId, Type, ValueId};

/// The op that makes `value`, where nothing else uses the value.
pub fn sole_producer(graph: &Graph, value: ValueId) -> Option<(OpId, &OpData)> {
    graph.sole_use(value)?;
    graph.def_op(value)
}

/// The version that an op appends to.
pub fn appended(data: &OpData) -> Option<ValueId> {
    match data.op {
        Op::Append {} => data.operands.first().copied(),
        Op::QkvAppend { own_kv: true, .. } => data.operands.last().copied(),
        _ => None,
    }
}

/// The state that a version of a cache comes from, through appends: a `cache()`, in a graph that is ready
/// to be scheduled.
pub fn cache_root(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let mut value = value;
    for _ in 0..=graph.len() {
        let (_, data) = graph.def_op(value)?;
        match appended(data) {
            Some(before) => value = before,
            None => return Some(value),
        }
    }
    None
}

/// The cache versions that an op reads; an append reads none.
pub fn cache_reads(graph: &Graph, id: OpId) -> Vec<ValueId> {
    let data = graph.op(id);
    if appended(data).is_some() {
        return Vec::new();
    }
    data.operands.iter().copied().filter(|v| matches!(graph.ty(*v), Type::Cache(_))).collect()
}

/// The ops that append to this version.
pub fn appends(graph: &Graph, version: ValueId) -> Vec<OpId> {
    let users = graph.uses(version).into_iter().map(|(user, _)| user);
    users.filter(|user| appended(graph.op(*user)) == Some(version)).collect()
}

/// Replaces `old` by one op that makes `results`. It stands where the last of them stood, or as much earlier
/// as its readers and the appends to its caches ask. Returns `false`, with nothing changed, where no place
/// is right.
pub fn fuse(graph: &mut Graph, old: &[OpId], op: Op, operands: Vec<ValueId>, results: Vec<ValueId>) -> bool {
    let Some(&first) = old.first() else { return false };
    let (layer, line) = (graph.op(first).layer, graph.op(first).line);
    let chain = old.iter().find_map(|id| graph.op(*id).chain);
    let data = OpData { op, operands, results, layer, chain, line };
    let Some(place) = place(graph, old, &data) else { return false };
    for id in old {
        graph.remove(*id);
    }
    graph.insert(place, data);
    true
}

/// Where `data` may stand once `old` are gone.
fn place(graph: &Graph, old: &[OpId], data: &OpData) -> Option<usize> {
    let places: HashMap<OpId, usize> = graph.ops().enumerate().map(|(place, id)| (id, place)).collect();
    let last = old.iter().map(|id| places[id]).max()?;
    let outside = |id: &OpId| !old.contains(id);
    // In places of the order as it is now, the new op stands before the op at `at`: `from <= at <= to`.
    let mut from = 0;
    let mut to = last + 1;
    for result in &data.results {
        for (user, _) in graph.uses(*result).iter().filter(|(user, _)| outside(user)) {
            to = to.min(places[user]);
        }
    }
    let target = appended(data);
    for operand in &data.operands {
        from = from.max(places[&graph.def(*operand)?] + 1);
        if !matches!(graph.ty(*operand), Type::Cache(_)) {
            continue;
        }
        // Caches are updated in place: a version is read before the next append, as it was so far.
        let mut users = graph.uses(*operand).into_iter().map(|(user, _)| user);
        let was = users.find(|user| old.contains(user)).map(|user| places[&user])?;
        for (user, _) in graph.uses(*operand).iter().filter(|(user, _)| outside(user)) {
            let at = places[user];
            match (target == Some(*operand), appended(graph.op(*user)) == Some(*operand)) {
                (true, false) if at < was => from = from.max(at + 1),
                (false, true) if at > was => to = to.min(at),
                _ => {}
            }
        }
    }
    (from <= to).then(|| to - old.iter().filter(|id| places[id] < to).count())
}
