//! Selection provenance, and the order of reads and appends of a cache.
//!
//! Long context hides these faults from short evaluations: a model that reads another layer's blocks, or
//! last step's, still speaks fluently. So they are checked after every pass, by construction and not by eye.

use std::collections::HashMap;

use super::{Report, rules};
use crate::graph::{Graph, OpId, ValueId};
use crate::op::Op;
use crate::types::{CacheType, SelectionType, Type};

/// The `cache()` state behind each version, through appends. Producers stand before their readers.
fn roots(graph: &Graph) -> HashMap<ValueId, ValueId> {
    let mut roots = HashMap::new();
    for id in graph.ops() {
        let data = graph.op(id);
        let root = match data.op {
            Op::Cache { .. } => data.results.first().copied(),
            _ if is_append(&data.op) => {
                appended(&data.op, &data.operands).and_then(|v| roots.get(&v).copied())
            }
            _ => None,
        };
        if let (Some(root), Some(version)) = (root, data.results.last()) {
            roots.insert(*version, root);
        }
    }
    roots
}

/// The version that an append continues.
fn appended(op: &Op, operands: &[ValueId]) -> Option<ValueId> {
    match op {
        Op::Append {} => operands.first().copied(),
        _ => operands.last().copied(),
    }
}

/// The first append to each version.
fn first_appends(graph: &Graph) -> HashMap<ValueId, OpId> {
    let mut appends = HashMap::new();
    for id in graph.ops().filter(|id| is_append(&graph.op(*id).op)) {
        let data = graph.op(id);
        if let Some(version) = appended(&data.op, &data.operands) {
            appends.entry(version).or_insert(id);
        }
    }
    appends
}

fn is_append(op: &Op) -> bool {
    matches!(op, Op::Append {} | Op::QkvAppend { own_kv: true, .. })
}

/// Rules `cache-version`, `ring-window` and `alias-before-append`.
pub fn caches(report: &mut Report<'_>) {
    let graph = report.graph;
    let appends = first_appends(graph);
    for id in graph.ops() {
        let data = graph.op(id);
        for (operand, value) in data.operands.iter().enumerate() {
            let Type::Cache(ty) = graph.ty(*value) else { continue };
            let append = appends.get(value).copied();
            let name = graph.name(*value);
            if is_append(&data.op) {
                if append != Some(id) {
                    report.add(
                        id,
                        "cache-version",
                        format!("%{name} has been appended to before: continue its newest version"),
                    );
                }
                continue;
            }
            if !rules::ring_reader(&data.op, operand, ty.policy) {
                report.add(
                    id,
                    "ring-window",
                    format!("%{name} is a {}: this op needs more of the context", graph.ty(*value)),
                );
            }
            let bare = graph.def_op(*value).is_some_and(|(_, def)| matches!(def.op, Op::Cache { .. }));
            if let (true, Some(append)) = (bare, append) {
                let owner = graph.op(append).layer.map_or("its owner".to_string(), |l| format!("layer {l}"));
                report.add(
                    id,
                    "alias-before-append",
                    format!("%{name} is read as it was before {owner} appends to it"),
                );
            }
        }
    }
}

/// The rules named `selection-*` that need types.
pub fn selections(report: &mut Report<'_>) {
    let graph = report.graph;
    let roots = roots(graph);
    for id in graph.ops() {
        let data = graph.op(id);
        if !matches!(data.op, Op::SparseAttention { .. } | Op::HybridAttention { .. }) {
            continue;
        }
        let (Type::Cache(cache), Type::Selection(selection)) =
            (graph.ty(data.operands[1]), graph.ty(data.operands[2]))
        else {
            continue;
        };
        agreement(report, id, cache, selection);
        origin(report, &roots, id);
    }
}

fn agreement(report: &mut Report<'_>, id: OpId, cache: &CacheType, selection: &SelectionType) {
    if selection.map != cache.map {
        let message = format!("blocks of page map `{}` are looked up in `{}`", selection.map, cache.map);
        report.add(id, "selection-map", message);
    }
    if selection.shape.block != cache.page {
        let message =
            format!("blocks of {} tokens are looked up in pages of {}", selection.shape.block, cache.page);
        report.add(id, "selection-block", message);
    }
    if selection.shape.kv_heads != cache.kv_heads {
        let message = format!("{} lists a token for {} KV heads", selection.shape.kv_heads, cache.kv_heads);
        report.add(id, "selection-heads", message);
    }
}

/// Where the selection comes from, and whether it was made over the cache that is read.
fn origin(report: &mut Report<'_>, roots: &HashMap<ValueId, ValueId>, id: OpId) {
    let graph = report.graph;
    let [_, cache, selection, ..] = graph.op(id).operands[..] else { return };
    let Some((_, producer)) = graph.def_op(selection) else { return };
    let name = graph.name(selection);
    let oracle_cache = match producer.op {
        Op::PriorSelection {} => {
            report.add(id, "selection-step", format!("%{name} was selected in an earlier step"));
            return;
        }
        Op::OracleAttention { .. } => Some(producer.operands[1]),
        Op::TopK { .. } => behind_topk(graph, producer.operands[0]),
        // Open until detect-chains has run.
        _ => return,
    };
    let shared = match graph.def_op(cache) {
        Some((_, data)) if data.op == (Op::KvShare {}) => data.operands[0],
        Some((_, data)) if data.op == (Op::ChainCache {}) => return,
        _ => cache,
    };
    let own = || {
        let (_, owner) = graph.def_op(*roots.get(&cache)?)?;
        match owner.op {
            Op::Cache { owner } => Some(Some(owner) == graph.op(id).layer.map(u64::from)),
            _ => None,
        }
    };
    if oracle_cache != Some(shared) && own() != Some(true) {
        let message = format!(
            "%{name} was selected over %{}, and %{} is read",
            oracle_cache.map_or("another cache", |v| graph.name(v)),
            graph.name(shared)
        );
        report.add(id, "selection-cache", message);
    }
}

/// The cache of the attention whose probabilities end in this top-k.
fn behind_topk(graph: &Graph, group_max: ValueId) -> Option<ValueId> {
    let (_, group) = graph.def_op(group_max)?;
    let (_, block) = graph.def_op(*group.operands.first()?)?;
    let (_, attention) = graph.def_op(*block.operands.first()?)?;
    attention.operands.get(1).copied()
}
