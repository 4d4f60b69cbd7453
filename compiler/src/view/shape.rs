//! Layers of one shape, folded into one template: same ops with the same attributes on values of the same types, each
//! taking its operands from the same places.

use std::collections::{BTreeMap, HashMap};

use hyc_ir::{Graph, Op, OpId, Type, ValueId};

use super::line::{is_weight, names_weight, told};

/// What a layer does in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Full attention that selects for others.
    Oracle,
    /// Full attention alone.
    Full,
    /// Reads another layer's selection.
    Sparse,
    /// Attention to a window alone.
    Window,
    /// No attention.
    Plain,
}

impl Role {
    /// Its name, which is its colour's class too.
    pub fn name(self) -> &'static str {
        match self {
            Role::Oracle => "oracle",
            Role::Full => "full",
            Role::Sparse => "sparse",
            Role::Window => "window",
            Role::Plain => "plain",
        }
    }

    /// What stands for it where there is no room for its name.
    pub fn letter(self) -> &'static str {
        match self {
            Role::Oracle => "O",
            Role::Full => "F",
            Role::Sparse => "S",
            Role::Window => "W",
            Role::Plain => "\u{b7}",
        }
    }
}

/// Layers that are alike; without a layer, what stands outside of them.
pub struct Template {
    /// What the layers do.
    pub role: Role,
    /// The layers, ascending; none for ops outside of layers.
    pub layers: Vec<u32>,
    /// The ops of the first of them in execution order, those that only name weights left out.
    pub ops: Vec<OpId>,
}

impl Template {
    /// What a heading says: `sparse layer`.
    pub fn title(&self) -> String {
        match (self.layers.is_empty(), self.role) {
            (true, _) => "outside the layers".to_string(),
            (_, Role::Plain) => "layer without attention".to_string(),
            (_, role) => format!("{} layer", role.name()),
        }
    }
}

/// The templates by their first layers; what stands outside comes last.
pub fn templates(graph: &Graph) -> Vec<Template> {
    let mut layers: BTreeMap<u32, Vec<OpId>> = BTreeMap::new();
    let mut outside = Vec::new();
    for id in graph.ops().filter(|id| !names_weight(graph, *id)) {
        match graph.op(id).layer {
            Some(layer) => layers.entry(layer).or_default().push(id),
            None => outside.push(id),
        }
    }
    let mut found: Vec<Template> = Vec::new();
    let mut by_shape: HashMap<String, usize> = HashMap::new();
    for (layer, ops) in layers {
        let shape: String = ops.iter().map(|id| shape(graph, layer, *id)).collect();
        let at = *by_shape.entry(shape).or_insert_with(|| {
            found.push(Template { role: role(graph, &ops), layers: Vec::new(), ops });
            found.len() - 1
        });
        found[at].layers.push(layer);
    }
    if !outside.is_empty() {
        found.push(Template { role: Role::Plain, layers: Vec::new(), ops: outside });
    }
    found
}

/// What a layer does, by its attention.
pub fn role(graph: &Graph, ops: &[OpId]) -> Role {
    let of = |id: &OpId| match graph.op(*id).op {
        Op::OracleAttention(_) | Op::TopK(_) => Some(Role::Oracle),
        Op::HybridAttention(_) | Op::SparseAttention(_) => Some(Role::Sparse),
        Op::Attention(_) => Some(Role::Full),
        Op::WindowAttention(_) => Some(Role::Window),
        _ => None,
    };
    let found: Vec<Role> = ops.iter().filter_map(of).collect();
    let first = [Role::Oracle, Role::Sparse, Role::Full, Role::Window].into_iter();
    first.into_iter().find(|role| found.contains(role)).unwrap_or(Role::Plain)
}

/// An op of a layer in words that are the same in a layer that is alike.
fn shape(graph: &Graph, layer: u32, id: OpId) -> String {
    let own = format!("L{layer}.");
    let types: Vec<String> = graph.op(id).operands.iter().map(|value| ty(graph, *value)).collect();
    let results: Vec<String> = graph.op(id).results.iter().map(|value| ty(graph, *value)).collect();
    let name = |value: ValueId| match graph.name(value).strip_prefix(&own) {
        Some(name) => name.to_string(),
        None => format!("another layer's {}", ty(graph, value)),
    };
    // The chain's number and the owner's are the layer's, not the shape's.
    let line = told(graph, id, &name).replace(&format!("owner = {layer}}}"), "owner}");
    let line = match graph.op(id).chain {
        Some(chain) => line.replace(&format!(" chain {chain}"), " chain"),
        None => line,
    };
    format!("{line} {types:?} {results:?}\n")
}

/// A type without the names of page maps, which say the layer.
fn ty(graph: &Graph, value: ValueId) -> String {
    let printed = graph.ty(value).to_string();
    match graph.ty(value) {
        _ if is_weight(graph, value) => printed,
        Type::Cache(cache) => printed.replace(&cache.map, "its own"),
        _ => printed,
    }
}
