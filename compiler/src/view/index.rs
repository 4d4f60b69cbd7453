//! What the search finds, as data for the script: `[text, id]` of layers, values, weights and kernels, and what bytes of
//! caches are counted by.

use serde_json::{Value, json};

use super::facts::{Facts, card_id};
use super::html::{slug, value_id};
use super::line::is_weight;

/// The data.
pub fn json(facts: &Facts<'_>) -> Value {
    let graph = facts.graph;
    let mut entries: Vec<Value> = Vec::new();
    for layer in 0..facts.plan.model.layers {
        entries.push(json!([format!("L{layer} {} layer", facts.role(layer).name()), format!("L{layer}")]));
    }
    for id in graph.ops().filter(|id| facts.has_card(*id)) {
        let data = graph.op(id);
        for value in &data.results {
            let name = graph.name(*value);
            entries.push(json!([format!("{name} {}", data.op.name()), value_id(name)]));
        }
        for value in data.operands.iter().filter(|value| is_weight(graph, **value)) {
            entries.push(json!([format!("@{}", graph.name(*value)), card_id(graph, id)]));
        }
    }
    let kernels = facts.plan.kernels.iter();
    entries.extend(kernels.map(|kernel| json!([&kernel.name, format!("k.{}", slug(&kernel.name))])));
    json!({ "page": facts.plan.model.page.max(1), "entries": entries })
}
