//! What the passes share: finding producers and cache versions, and replacing several ops by one without
//! changing what any read of a cache sees.

use std::collections::HashMap;

use hyc_ir::roles::Takes;
use hyc_ir::{Graph, Op, OpData, OpId, Place, Type, ValueId};

/// The op that makes `value`, where nothing else uses the value.
pub fn sole_producer(graph: &Graph, value: ValueId) -> Option<(OpId, &OpData)> {
    graph.sole_use(value)?;
    graph.def_op(value)
}

/// The version that an op appends to.
pub fn appended(data: &OpData) -> Option<ValueId> {
    data.operands.get(data.op.roles().append()?).copied()
}

/// The state that each version of a cache comes from, through appends: a `cache()`, in a graph that is ready
/// to be scheduled. Producers stand before their readers, as the verifier has seen.
pub fn cache_roots(graph: &Graph) -> HashMap<ValueId, ValueId> {
    let mut roots = HashMap::new();
    for id in graph.ops() {
        let data = graph.op(id);
        for result in data.results.iter().filter(|v| matches!(graph.ty(**v), Type::Cache(_))) {
            let before = appended(data).and_then(|before| roots.get(&before).copied());
            roots.insert(*result, before.unwrap_or(*result));
        }
    }
    roots
}

/// The cache versions that an op reads; an append reads none.
pub fn cache_reads(graph: &Graph, id: OpId) -> Vec<ValueId> {
    let data = graph.op(id);
    let takes = data.op.roles().takes;
    let reads =
        data.operands.iter().zip(takes.iter()).filter(|(_, role)| matches!(role.kind, Takes::Cache(_)));
    reads.map(|(value, _)| *value).collect()
}

/// The ops that append to this version, in no order: a chain's layers may all read it.
pub fn appends(graph: &Graph, version: ValueId) -> impl Iterator<Item = OpId> + '_ {
    let users = graph.users(version).map(|(user, _)| user);
    users.filter(move |user| appended(graph.op(*user)) == Some(version))
}

/// Replaces `old` by one op that makes `results`. It stands where the last of them stood, or as much earlier
/// as its readers and the appends to its caches ask. Returns `false`, with nothing changed, where no place
/// is right.
pub fn fuse(graph: &mut Graph, old: &[OpId], op: Op, operands: Vec<ValueId>, results: Vec<ValueId>) -> bool {
    let Some(&first) = old.first() else { return false };
    let (layer, line) = (graph.op(first).layer, graph.op(first).line);
    let chain = old.iter().find_map(|id| graph.op(*id).chain);
    let data = OpData { op, operands, results, layer, chain, line };
    let Some(before) = place(graph, old, &data) else { return false };
    for id in old {
        graph.remove(*id);
    }
    graph.insert(before.op(), data);
    true
}

/// Before an op, or at the end.
#[derive(Clone, Copy)]
enum Before {
    Op(OpId),
    End,
}

impl Before {
    fn op(self) -> Option<OpId> {
        match self {
            Before::Op(id) => Some(id),
            Before::End => None,
        }
    }

    /// This place, or `user`'s where that is earlier.
    fn min(self, graph: &Graph, user: OpId) -> Before {
        match self {
            Before::Op(id) if graph.place(id) <= graph.place(user) => self,
            _ => Before::Op(user),
        }
    }
}

/// Where `data` may stand once `old` are gone.
fn place(graph: &Graph, old: &[OpId], data: &OpData) -> Option<Before> {
    let last = *old.iter().max_by_key(|id| graph.place(**id))?;
    let outside = |id: &OpId| !old.contains(id);
    // The new op stands behind the op at `from` and before the one at `to`, neither of which goes.
    let mut from: Option<Place> = None;
    let mut to = graph.next(last).map_or(Before::End, Before::Op);
    for result in &data.results {
        for (user, _) in graph.users(*result).filter(|(user, _)| outside(user)) {
            to = to.min(graph, user);
        }
    }
    let target = appended(data);
    for operand in &data.operands {
        from = from.max(Some(graph.place(graph.def(*operand)?)));
        if !matches!(graph.ty(*operand), Type::Cache(_)) {
            continue;
        }
        // Caches are updated in place: a version is read before the next append, as it was so far.
        let old = old.iter().filter(|id| graph.op(**id).operands.contains(operand));
        let was = old.map(|id| graph.place(*id)).min()?;
        for (user, _) in graph.users(*operand).filter(|(user, _)| outside(user)) {
            let at = graph.place(user);
            match (target == Some(*operand), appended(graph.op(user)) == Some(*operand)) {
                (true, false) if at < was => from = from.max(Some(at)),
                (false, true) if at > was => to = to.min(graph, user),
                _ => {}
            }
        }
    }
    match to {
        Before::Op(id) => (from < Some(graph.place(id))).then_some(to),
        Before::End => Some(to),
    }
}
