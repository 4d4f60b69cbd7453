//! What `hyc inspect MODEL selections` says: who selects, for whom, which blocks of which cache.

use hyc_ir::text::Layers;
use hyc_ir::{Graph, Type};
use hyc_plan::{Kind, Operand, Plan, Role, SelectShape, Step, StepOp};
use serde_json::{Value, json};

use crate::report::{bytes, table};

/// A selection of a plan.
struct Selection<'p> {
    name: &'p str,
    shape: SelectShape,
    /// Bytes in the arena.
    bytes: u64,
    /// The step that selects, with its number.
    producer: (usize, &'p Step),
    /// The steps that read it.
    consumers: Vec<(usize, &'p Step)>,
    /// The cache that it was ranked over.
    cache: &'p str,
    page_map: Option<String>,
}

/// The operands that are selections: buffer, role and step.
fn operands(plan: &Plan) -> impl Iterator<Item = (usize, Role, (usize, &Step))> {
    plan.steps.iter().enumerate().flat_map(|(number, step)| {
        let all = step.operands.iter().zip(step.op.roles());
        all.filter_map(move |(operand, role)| match (operand, role.kind) {
            (Operand::Buffer(id), Kind::Selection { .. }) => Some((id.index(), role, (number, step))),
            _ => None,
        })
    })
}

fn selections<'p>(plan: &'p Plan, graph: &Graph) -> Vec<Selection<'p>> {
    let mut list: Vec<(usize, Selection<'p>)> = Vec::new();
    for (buffer, role, producer) in operands(plan).filter(|(_, role, _)| role.writes()) {
        let (entry, Kind::Selection { shape, over }) = (&plan.buffers[buffer], role.kind) else { continue };
        let step: &'p Step = producer.1;
        let ranked = step.op.roles().iter().position(|role| role.name == over);
        let cache = match ranked.and_then(|at| step.operands.get(at)) {
            Some(Operand::Cache(id)) => plan.caches[id.index()].name.as_str(),
            _ => continue,
        };
        let page_map = match graph.value(&entry.name).map(|value| graph.ty(value)) {
            Some(Type::Selection(selection)) => Some(selection.map.clone()),
            _ => None,
        };
        let bytes = entry.bytes();
        let name = entry.name.as_str();
        list.push((
            buffer,
            Selection { name, shape, bytes, producer, consumers: Vec::new(), cache, page_map },
        ));
    }
    let at: std::collections::HashMap<usize, usize> =
        list.iter().enumerate().map(|(at, (buffer, _))| (*buffer, at)).collect();
    // Page lists are a form of the selection, for its readers.
    let reads = |(_, role, (_, step)): &(usize, Role, (usize, &Step))| {
        !role.writes() && !matches!(step.op, StepOp::PageLists(_))
    };
    for (buffer, _, reader) in operands(plan).filter(reads) {
        if let Some(at) = at.get(&buffer) {
            list[*at].1.consumers.push(reader);
        }
    }
    list.into_iter().map(|(_, selection)| selection).collect()
}

/// For people.
pub fn text(plan: &Plan, graph: &Graph) -> String {
    let all = selections(plan, graph);
    if all.is_empty() {
        return "no layer of this model selects\n".to_string();
    }
    let row = |s: &Selection<'_>| {
        let readers = Layers::of(s.consumers.iter().filter_map(|(_, step)| step.layer));
        vec![
            format!("%{}", s.name),
            s.producer.1.name.clone(),
            readers.map_or("none".to_string(), |layers| layers.to_string()),
            s.shape.block.to_string(),
            s.shape.blocks.to_string(),
            s.shape.kv_heads.to_string(),
            s.page_map.clone().unwrap_or_else(|| "-".to_string()),
            s.cache.to_string(),
            bytes(s.bytes),
        ]
    };
    let header =
        ["selection", "made by", "read by layers", "block", "kept", "KV heads", "page map", "cache", "bytes"];
    let note = "block: tokens of a block; kept: blocks for each token and KV head; bytes: in the arena, of a whole step\n";
    table(&header, &all.iter().map(row).collect::<Vec<_>>()) + note
}

/// For programs.
pub fn json(plan: &Plan, graph: &Graph) -> Value {
    let step =
        |(number, step): &(usize, &Step)| json!({ "step": number, "name": step.name, "layer": step.layer });
    let one = |s: &Selection<'_>| {
        json!({
            "name": s.name, "producer": step(&s.producer), "consumers": s.consumers.iter().map(step).collect::<Vec<_>>(),
            "block": s.shape.block, "blocks": s.shape.blocks, "kv_heads": s.shape.kv_heads, "page_map": s.page_map,
            "cache": s.cache, "bytes": s.bytes,
        })
    };
    json!({ "selections": selections(plan, graph).iter().map(one).collect::<Vec<_>>() })
}
