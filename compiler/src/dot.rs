//! A graph in Graphviz's language.

use std::collections::{BTreeMap, HashMap};

use hyc_ir::text::Layers;
use hyc_ir::{Graph, OpId, ValueId};

/// Ops as boxes, a cluster a layer; of these layers alone, what they read from outside as dashed boxes.
pub fn dot(graph: &Graph, layers: Option<&Layers>) -> String {
    let mut out = String::from("digraph hyc {\n  node [shape=box, fontname=monospace];\n");
    let ids: HashMap<OpId, usize> = graph.ops().enumerate().map(|(i, id)| (id, i)).collect();
    let shown = |id: &OpId| {
        layers.is_none_or(|layers| graph.op(*id).layer.is_some_and(|layer| layers.contains(layer)))
    };
    let mut by_layer: BTreeMap<Option<u32>, Vec<OpId>> = BTreeMap::new();
    for id in graph.ops().filter(shown) {
        by_layer.entry(graph.op(id).layer).or_default().push(id);
    }
    for (layer, ops) in &by_layer {
        if let Some(layer) = layer {
            out.push_str(&format!("  subgraph cluster_{layer} {{ label=\"layer {layer}\";\n"));
        }
        for id in ops {
            out.push_str(&format!("  n{} [label=\"{}\"];\n", ids[id], label(graph, *id)));
        }
        if layer.is_some() {
            out.push_str("  }\n");
        }
    }
    let mut outside: BTreeMap<usize, OpId> = BTreeMap::new();
    let mut edges = String::new();
    for id in graph.ops().filter(shown) {
        for operand in &graph.op(id).operands {
            for (def, _) in graph.defs(*operand) {
                if !shown(def) {
                    outside.insert(ids[def], *def);
                }
                edges.push_str(&edge(graph, (ids[def], ids[&id]), *operand));
            }
        }
    }
    for (i, id) in outside {
        let layer = graph.op(id).layer.map(|layer| format!("\\nlayer {layer}")).unwrap_or_default();
        out.push_str(&format!("  n{i} [label=\"{}{layer}\", style=dashed];\n", label(graph, id)));
    }
    out + &edges + "}\n"
}

fn label(graph: &Graph, id: OpId) -> String {
    let data = graph.op(id);
    let names: Vec<&str> = data.results.iter().map(|v| graph.name(*v)).collect();
    format!("{}\\n{}", data.op.name(), names.join(", "))
}

fn edge(graph: &Graph, (from, to): (usize, usize), value: ValueId) -> String {
    format!("  n{from} -> n{to} [label=\"{}\"];\n", graph.ty(value))
}
