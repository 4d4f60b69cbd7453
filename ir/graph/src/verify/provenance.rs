//! Selection provenance, and the order of reads and appends of a cache, by what each op says of its operands
//! ([`crate::roles`]).
//!
//! Long context hides these faults from short evaluations: a model that reads another layer's blocks, or
//! last step's, still speaks fluently. So they are checked after every pass, by construction and not by eye.

use std::collections::HashMap;

use super::Report;
use super::rule::{
    ALIAS_BEFORE_APPEND, CACHE_VERSION, RING_WINDOW, SELECTION_BLOCK, SELECTION_CACHE, SELECTION_HEADS,
    SELECTION_LISTS, SELECTION_MAP, SELECTION_PRODUCER, SELECTION_STEP,
};
use crate::graph::{OpId, ValueId};
use crate::op::{self, Op};
use crate::roles::{Gives, Over, Takes, Version};
use crate::types::{CacheType, SelectionType, Type};
use hyc_plan::{CachePolicy, Reach};

impl Report<'_> {
    /// The operand of that name.
    fn operand(&self, id: OpId, name: &str) -> Option<ValueId> {
        let data = self.graph.op(id);
        let at = self.roles(id).takes.position(name)?;
        data.operands.get(at).copied()
    }

    /// Who makes a value, and what that says it is.
    fn made(&self, value: ValueId) -> Option<(OpId, Gives)> {
        let (op, at) = *self.graph.defs(value).first()?;
        Some((op, self.roles(op).gives.get(at)?.kind))
    }

    /// The version that an append continues.
    fn appended(&self, id: OpId) -> Option<ValueId> {
        let at = self.roles(id).append()?;
        self.graph.op(id).operands.get(at).copied()
    }

    /// The `cache()` state behind each version, through appends. Producers stand before their readers.
    fn roots(&self) -> HashMap<ValueId, ValueId> {
        let mut roots = HashMap::new();
        for id in self.graph.ops() {
            for (version, role) in self.graph.op(id).results.iter().zip(self.roles(id).gives.iter()) {
                let root = match role.kind {
                    Gives::Cache(Version::State) => Some(*version),
                    Gives::Cache(Version::After(name)) => {
                        self.operand(id, name).and_then(|before| roots.get(&before).copied())
                    }
                    Gives::Cache(Version::CopyOf(_) | Version::Open)
                    | Gives::Tensor
                    | Gives::Experts
                    | Gives::Weight
                    | Gives::Scores(_)
                    | Gives::Selection(_)
                    | Gives::PageLists(_) => None,
                };
                roots.extend(root.map(|root| (*version, root)));
            }
        }
        roots
    }
}

/// Rules `cache-version`, `ring-window` and `alias-before-append`.
pub fn caches(report: &mut Report<'_>) {
    let graph = report.graph;
    let mut appends: HashMap<ValueId, OpId> = HashMap::new();
    for id in graph.ops() {
        if let Some(version) = report.appended(id) {
            appends.entry(version).or_insert(id);
        }
    }
    for id in graph.ops() {
        let roles = report.roles(id);
        for (value, role) in graph.op(id).operands.iter().zip(roles.takes.iter()) {
            let Type::Cache(ty) = graph.ty(*value) else { continue };
            let (append, name) = (appends.get(value).copied(), graph.name(*value));
            let reach = match role.kind {
                Takes::Append => {
                    if append != Some(id) {
                        let message =
                            format!("%{name} has been appended to before: continue its newest version");
                        report.add(id, CACHE_VERSION, message);
                    }
                    continue;
                }
                Takes::Cache(reach) => reach,
                // The types are checked.
                Takes::Tensor
                | Takes::Experts
                | Takes::Weight
                | Takes::Scores
                | Takes::Selection { .. }
                | Takes::PageLists { .. } => continue,
            };
            if let CachePolicy::Ring { window: kept, .. } = ty.policy
                && !(reach == Reach::Own || matches!(reach, Reach::Window(window) if window <= kept))
            {
                let message = format!("%{name} is a {}: this op needs more of the context", graph.ty(*value));
                report.add(id, RING_WINDOW, message);
            }
            let bare = matches!(report.made(*value), Some((_, Gives::Cache(Version::State))));
            if let (true, Some(append)) = (bare, append) {
                let owner = graph.op(append).layer.map_or("its owner".to_string(), |l| format!("layer {l}"));
                let message = format!("%{name} is read as it was before {owner} appends to it");
                report.add(id, ALIAS_BEFORE_APPEND, message);
            }
        }
    }
}

/// The rules named `selection-*` that need types.
pub fn selections(report: &mut Report<'_>) {
    let graph = report.graph;
    let roots = report.roots();
    for id in graph.ops() {
        let roles = report.roles(id);
        for (value, role) in graph.op(id).operands.iter().zip(roles.takes.iter()) {
            if let Takes::PageLists { of } = role.kind {
                listed(report, id, (*value, of));
            }
            let Takes::Selection { over } = role.kind else { continue };
            let Some(cache) = report.operand(id, over) else {
                report.add(id, SELECTION_CACHE, "a selection is read over no cache of the op".to_string());
                continue;
            };
            if let (Type::Cache(ty), Type::Selection(selection)) = (graph.ty(cache), graph.ty(*value)) {
                agreement(report, id, ty, selection);
                origin(report, &roots, id, (cache, *value));
            }
        }
    }
}

/// Page lists are read beside the very selection that they are made of.
fn listed(report: &mut Report<'_>, id: OpId, (lists, of): (ValueId, &str)) {
    let source = match report.made(lists) {
        Some((maker, Gives::PageLists(from))) => report.operand(maker, from),
        _ => None,
    };
    let selection = report.operand(id, of);
    if source.is_none() || source != selection {
        let name = |value: Option<ValueId>| value.map_or("nothing", |value| report.graph.name(value));
        let message = format!(
            "%{} lists the pages of %{}, and %{} is read",
            report.graph.name(lists),
            name(source),
            name(selection)
        );
        report.add(id, SELECTION_LISTS, message);
    }
}

fn agreement(report: &mut Report<'_>, id: OpId, cache: &CacheType, selection: &SelectionType) {
    if selection.map != cache.map {
        let message = format!("blocks of page map `{}` are looked up in `{}`", selection.map, cache.map);
        report.add(id, SELECTION_MAP, message);
    }
    if selection.shape.block != cache.page {
        let message =
            format!("blocks of {} tokens are looked up in pages of {}", selection.shape.block, cache.page);
        report.add(id, SELECTION_BLOCK, message);
    }
    if selection.shape.kv_heads != cache.kv_heads {
        let message = format!("{} lists a token for {} KV heads", selection.shape.kv_heads, cache.kv_heads);
        report.add(id, SELECTION_HEADS, message);
    }
}

/// A read of a selection, and what the selection goes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectionRead {
    /// The op that reads it.
    pub reader: OpId,
    /// The selection.
    pub selection: ValueId,
    /// The version of a cache whose blocks the reader looks up.
    pub cache: ValueId,
    /// The op that selects.
    pub maker: OpId,
    /// The version of a cache that the blocks were ranked over.
    pub over: ValueId,
}

/// The reads whose selections are known, in the order of their readers.
pub fn reads(report: &Report<'_>) -> Vec<SelectionRead> {
    let mut reads = Vec::new();
    for reader in report.graph.ops() {
        let takes = report.roles(reader).takes;
        for (selection, role) in report.graph.op(reader).operands.iter().zip(takes.iter()) {
            let Takes::Selection { over } = role.kind else { continue };
            let made = report.made(*selection);
            let (Some(cache), Some((maker, Gives::Selection(by)))) = (report.operand(reader, over), made)
            else {
                continue;
            };
            if let Source::Cache(over) = source(report, maker, by) {
                reads.push(SelectionRead { reader, selection: *selection, cache, maker, over });
            }
        }
    }
    reads
}

/// What a selection was ranked over.
enum Source {
    /// This version.
    Cache(ValueId),
    EarlierStep,
    Open,
    /// Its maker does not say, or says something else.
    Nothing,
}

/// Where the selection comes from, and whether it was made over the cache that is read.
fn origin(
    report: &mut Report<'_>,
    roots: &HashMap<ValueId, ValueId>,
    id: OpId,
    (cache, selection): (ValueId, ValueId),
) {
    let graph = report.graph;
    let name = graph.name(selection);
    let source = match report.made(selection) {
        Some((maker, Gives::Selection(over))) => source(report, maker, over),
        _ => Source::Nothing,
    };
    let over = match source {
        Source::EarlierStep => {
            let message = format!("%{name} was selected in an earlier step");
            return report.add(id, SELECTION_STEP, message);
        }
        Source::Nothing => {
            return report.add(id, SELECTION_PRODUCER, format!("nothing selects %{name} over a cache"));
        }
        Source::Open => return,
        Source::Cache(over) => over,
    };
    let shared = match report.made(cache) {
        Some((copy, Gives::Cache(Version::CopyOf(of)))) => report.operand(copy, of).unwrap_or(cache),
        Some((_, Gives::Cache(Version::Open))) => return,
        _ => cache,
    };
    let own = || {
        let (_, owner) = graph.def_op(*roots.get(&cache)?)?;
        match owner.op {
            Op::Cache(op::Cache { owner, .. }) => Some(Some(owner) == graph.op(id).layer.map(u64::from)),
            _ => None,
        }
    };
    if over != shared && own() != Some(true) {
        let message =
            format!("%{name} was selected over %{}, and %{} is read", graph.name(over), graph.name(shared));
        report.add(id, SELECTION_CACHE, message);
    }
}

/// The cache behind a selection that `maker` ranks by scores, and behind their scores.
fn source(report: &Report<'_>, mut maker: OpId, mut over: Over) -> Source {
    // An op's operands stand before it, so that this ends.
    loop {
        let name = match over {
            Over::EarlierStep => return Source::EarlierStep,
            Over::Open => return Source::Open,
            Over::Cache(name) => return report.operand(maker, name).map_or(Source::Nothing, Source::Cache),
            Over::Scores(name) => name,
        };
        match report.operand(maker, name).and_then(|scores| report.made(scores)) {
            Some((before, Gives::Scores(next))) => (maker, over) = (before, next),
            _ => return Source::Nothing,
        }
    }
}
