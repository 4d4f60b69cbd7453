//! What a dump says of caches beyond their types: who else reads one, and whose it is where it is read.

use std::collections::{BTreeMap, HashMap};

use super::layers::Layers;
use crate::graph::{Graph, OpId, ValueId};
use crate::op::{self, Op};
use crate::roles::{Gives, Takes, Version};

/// A comment for each op that owns a cache which other layers read, and for each that reads another layer's.
pub fn aliases(graph: &Graph) -> HashMap<OpId, String> {
    let mut states: HashMap<ValueId, (OpId, u32)> = HashMap::new();
    let mut foreign: BTreeMap<OpId, Vec<u32>> = BTreeMap::new();
    let mut notes = HashMap::new();
    for id in graph.ops() {
        let (data, roles) = (graph.op(id), graph.op(id).op.roles());
        for (value, role) in data.operands.iter().zip(roles.takes.iter()) {
            let Some(&(state, owner)) = states.get(value) else { continue };
            let copies = matches!(data.op, Op::KvShare(_));
            if let (Takes::Cache(_), Some(layer), false) = (role.kind, data.layer, copies)
                && layer != owner
            {
                foreign.entry(state).or_default().push(layer);
                notes.insert(id, format!("%{} is the cache of layer {owner}", graph.name(*value)));
            }
        }
        for (value, role) in data.results.iter().zip(roles.gives.iter()) {
            let state = match (role.kind, data.op) {
                (Gives::Cache(Version::State), Op::Cache(op::Cache { owner, .. })) => {
                    u32::try_from(owner).ok().map(|owner| (id, owner))
                }
                (Gives::Cache(Version::After(name)), _) => {
                    let at = roles.takes.position(name);
                    let before = at.and_then(|at| data.operands.get(at));
                    before.and_then(|before| states.get(before).copied())
                }
                _ => None,
            };
            states.extend(state.map(|state| (*value, state)));
        }
    }
    let read = |(id, layers)| Some((id, format!("read by {} too", Layers::of(layers)?.named())));
    notes.extend(foreign.into_iter().filter_map(read));
    notes
}
