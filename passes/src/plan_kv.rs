//! `plan-kv`: who owns a cache, who reads it, and how much of a sequence it keeps.
//!
//! ```text
//! %L1.shared = kv_share(%L0.kv)                                (gone)
//! %L1.s = sparse_attention(%q, %L1.shared, %sel)          =>   %L1.s = sparse_attention(%q, %L0.kv, %sel)
//! %L1.kv : cache<.., growing, map pages>                       %L1.kv : cache<.., ring(128, 7), map ring.L1>
//! %L1.w = window_attention(%q, %L1.kv) {window = 128}          (unchanged)
//! ```
//!
//! A `kv_share` is an alias where its owner appends nothing more before the copy is last read; otherwise it
//! stays, and no target has a kernel for it. A cache that window attentions alone read needs no more than
//! the window and one step's rows: it becomes a ring. A cache that nobody reads is dropped with its append.
//! Nothing here merges the caches of different owners.

use std::collections::BTreeSet;

use hyc_ir::plan::CachePolicy;
use hyc_ir::{Graph, Op, OpId, Type, ValueId};

use crate::error::PassError;
use crate::rewrite::{cache_reads, cache_root};

/// Aliases and sizes the caches. Returns the rewrites made.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        if graph.op(id).op == (Op::KvShare {}) && alias(graph, id) {
            changes += 1;
        }
    }
    for id in graph.ops().collect::<Vec<_>>() {
        if let Op::Cache { owner } = graph.op(id).op {
            changes += usize::from(shrink(graph, graph.op(id).results[0], owner)?);
        }
    }
    Ok(changes)
}

/// Reads the shared cache itself, where the version stays the newest until the copy's last read.
fn alias(graph: &mut Graph, id: OpId) -> bool {
    let (source, copy) = (graph.op(id).operands[0], graph.op(id).results[0]);
    let last_read = graph.uses(copy).iter().map(|(user, _)| graph.position(*user)).max().unwrap_or(0);
    let overwritten = graph
        .uses(source)
        .iter()
        .any(|(user, _)| is_append(&graph.op(*user).op) && graph.position(*user) < last_read);
    if overwritten {
        return false;
    }
    graph.replace_uses(copy, source);
    graph.remove(id);
    true
}

fn is_append(op: &Op) -> bool {
    matches!(op, Op::Append {} | Op::QkvAppend { .. })
}

/// Turns a growing cache that window attentions alone read into a ring.
fn shrink(graph: &mut Graph, root: ValueId, owner: u64) -> Result<bool, PassError> {
    let versions: Vec<ValueId> = graph
        .values()
        .filter(|v| matches!(graph.ty(*v), Type::Cache(_)) && graph.def(*v).is_some())
        .filter(|v| cache_root(graph, *v) == Some(root))
        .collect();
    let mut windows = BTreeSet::new();
    for id in graph.ops() {
        let reads = cache_reads(graph, id);
        if !reads.iter().any(|v| versions.contains(v)) {
            continue;
        }
        match graph.op(id).op {
            Op::WindowAttention { window, .. } => windows.insert(window),
            // The window operand of a fused layer alone lets the cache be a ring.
            Op::HybridAttention { window, .. } if !versions.contains(&graph.op(id).operands[1]) => {
                windows.insert(window)
            }
            _ => return Ok(false),
        };
    }
    let Some(window) = windows.last().copied() else { return Ok(false) };
    let chunk = graph.header.chunk;
    let mut changed = false;
    for version in versions {
        let Type::Cache(mut ty) = graph.ty(version).clone() else { continue };
        if ty.policy != CachePolicy::Growing || ty.page == 0 {
            continue;
        }
        let span = window.checked_add(chunk).ok_or_else(|| {
            PassError::new("plan-kv", format!("a window of {window} and a chunk of {chunk} tokens overflow"))
        })?;
        ty.policy = CachePolicy::Ring { window, pages: span.div_ceil(ty.page) + 1 };
        ty.map = format!("ring.L{owner}");
        graph.set_ty(version, Type::Cache(ty));
        changed = true;
    }
    Ok(changed)
}
