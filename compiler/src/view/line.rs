//! An op in one line, without its weights: what a person reads of a graph.

use hyc_ir::{Graph, OpId, Type, ValueId};
use hyc_plan::CachePolicy;

/// `%L1.attn = hybrid_attention(q=%L1.q_rot, ..) {window = 128} chain 0`; of caches and selections the type too.
pub fn line(graph: &Graph, id: OpId) -> String {
    told(graph, id, &|value| format!("%{}", graph.name(value)))
}

/// The same with the names of values told by `name`.
pub fn told(graph: &Graph, id: OpId, name: &dyn Fn(ValueId) -> String) -> String {
    let data = graph.op(id);
    let results: Vec<String> = data.results.iter().map(|value| name(*value)).collect();
    let mut out = String::new();
    if !results.is_empty() {
        out.push_str(&format!("{} = ", results.join(", ")));
    }
    let takes = data.op.roles().takes;
    let operands: Vec<String> = data
        .operands
        .iter()
        .enumerate()
        .filter(|(_, value)| !is_weight(graph, **value))
        .map(|(at, value)| match takes.get(at) {
            Some(role) => format!("{}={}", role.name, name(*value)),
            None => name(*value),
        })
        .collect();
    out.push_str(&format!("{}({})", data.op.name(), operands.join(", ")));
    let attrs = attributes(graph, id);
    if !attrs.is_empty() {
        out.push_str(&format!(" {{{attrs}}}"));
    }
    if let Some(chain) = data.chain {
        out.push_str(&format!(" chain {chain}"));
    }
    for value in &data.results {
        match graph.ty(*value) {
            Type::Cache(cache) => match cache.policy {
                CachePolicy::Growing => out.push_str(" : growing"),
                CachePolicy::Ring { window, pages } => out.push_str(&format!(" : ring({window}, {pages})")),
            },
            Type::Selection(selection) => {
                let shape = selection.shape;
                out.push_str(&format!(" : {} x {} blocks of {}", shape.kv_heads, shape.blocks, shape.block));
            }
            Type::Lists(ty) => {
                out.push_str(&format!(" : tiles of {}, from {} rows on", ty.lists.tile, ty.lists.least));
            }
            Type::Tensor { .. } | Type::Weight { .. } => {}
        }
    }
    out
}

/// The attributes, as the text form has them.
pub fn attributes(graph: &Graph, id: OpId) -> String {
    let list: Vec<String> =
        graph.op(id).op.attrs().iter().map(|(key, attr)| format!("{key} = {attr}")).collect();
    list.join(", ")
}

/// Whether a value is a weight.
pub fn is_weight(graph: &Graph, value: ValueId) -> bool {
    matches!(graph.ty(value), Type::Weight { .. })
}

/// Whether an op only names a weight.
pub fn names_weight(graph: &Graph, id: OpId) -> bool {
    matches!(graph.op(id).op, hyc_ir::Op::Weight(_))
}
