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
//! the widest window and one step's rows: it becomes a ring, of f32 or bf16 where it had scales. A cache that nobody reads is dropped with its
//! appends, and with the projections that only they used. Nothing here merges the caches of different owners.

use std::collections::HashMap;

use hyc_ir::{CacheType, Graph, Op, OpId, Type, ValueId, op};
use hyc_plan::CachePolicy;

use crate::error::PassError;
use crate::limits;
use crate::rewrite::{appended, appends, cache_roots};

const PASS: &str = "plan-kv";

/// Aliases, drops and sizes the caches. Returns the rewrites made. Errors: a page of more bytes than can be
/// addressed, a ring too short for a step.
pub fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in graph.ops().collect::<Vec<_>>() {
        if graph.op(id).op == (Op::KvShare(op::KvShare {})) && alias(graph, id) {
            changes += 1;
        }
    }
    let mut versions = versions(graph);
    for id in graph.ops().filter(|id| is_cache(graph, *id)).collect::<Vec<_>>() {
        let versions = versions.remove(&graph.op(id).results[0]).unwrap_or_default();
        if unread(graph, &versions) {
            drop_cache(graph, id, &versions);
            changes += 1;
        } else {
            changes += usize::from(shrink(graph, id, &versions));
        }
    }
    for id in graph.ops().filter(|id| is_cache(graph, *id)) {
        check_sizes(graph, id)?;
    }
    Ok(changes)
}

fn is_cache(graph: &Graph, id: OpId) -> bool {
    matches!(graph.op(id).op, Op::Cache(_))
}

/// Reads the shared cache itself, where the version stays the newest until the copy's last read.
fn alias(graph: &mut Graph, id: OpId) -> bool {
    let (source, copy) = (graph.op(id).operands[0], graph.op(id).results[0]);
    let last_read = graph.users(copy).map(|(user, _)| graph.place(user)).max();
    if appends(graph, source).any(|append| Some(graph.place(append)) < last_read) {
        return false;
    }
    graph.replace_uses(copy, source);
    graph.remove(id);
    true
}

/// All versions of each cache, the state itself first.
fn versions(graph: &Graph) -> HashMap<ValueId, Vec<ValueId>> {
    let roots = cache_roots(graph);
    let mut versions: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
    for value in graph.values() {
        if let Some(root) = roots.get(&value) {
            versions.entry(*root).or_default().push(value);
        }
    }
    versions
}

fn readers(graph: &Graph, version: ValueId) -> impl Iterator<Item = (OpId, usize)> + '_ {
    graph.users(version).filter(move |(user, _)| appended(graph.op(*user)) != Some(version))
}

/// Whether nobody reads any version, and every append is an op that can go.
fn unread(graph: &Graph, versions: &[ValueId]) -> bool {
    versions.iter().all(|version| {
        let plain = |id: OpId| graph.op(id).op == (Op::Append(op::Append {}));
        readers(graph, *version).next().is_none() && appends(graph, *version).all(plain)
    })
}

/// Removes the cache, its appends, and whatever nothing else uses of what led to them.
fn drop_cache(graph: &mut Graph, cache: OpId, versions: &[ValueId]) {
    let mut dead: Vec<OpId> = versions.iter().flat_map(|version| appends(graph, *version)).collect();
    dead.push(cache);
    while let Some(id) = dead.pop() {
        let operands = graph.op(id).operands.clone();
        graph.remove(id);
        for value in operands {
            let Some((producer, data)) = graph.def_op(value) else { continue };
            let pure = matches!(
                data.op,
                Op::Linear(op::Linear {}) | Op::Rope(_) | Op::RmsNorm(_) | Op::Weight(op::Weight {})
            );
            if pure && graph.users(value).next().is_none() && !dead.contains(&producer) {
                dead.push(producer);
            }
        }
    }
}

/// Turns a growing cache that window attentions alone read into a ring.
fn shrink(graph: &mut Graph, cache: OpId, versions: &[ValueId]) -> bool {
    let Op::Cache(op::Cache { owner, ring }) = graph.op(cache).op else { return false };
    let mut widest = 0;
    for (id, operand) in versions.iter().flat_map(|version| readers(graph, *version)) {
        match graph.op(id).op {
            Op::WindowAttention(op::WindowAttention { window, .. }) => widest = widest.max(window),
            // The window's operand of a fused layer; the selected blocks need the whole context.
            Op::HybridAttention(op::HybridAttention { window, .. }) if operand == 4 => {
                widest = widest.max(window)
            }
            _ => return false,
        }
    }
    let Type::Cache(ty) = graph.ty(versions[0]).clone() else { return false };
    // No reader at all: a cache that its owner's fused projection must append to.
    if widest == 0 || ty.policy != CachePolicy::Growing {
        return false;
    }
    let policy = CachePolicy::ring(widest, graph.header.chunk, ty.page);
    let codec = ring.unwrap_or(ty.codec);
    let ty = CacheType { policy, codec, map: format!("ring.L{owner}"), ..ty };
    for version in versions {
        graph.set_ty(*version, Type::Cache(ty.clone()));
    }
    graph.rewrite(cache, Op::Cache(op::Cache { owner, ring: None }), vec![]);
    true
}

/// A page must be addressable, and a ring hold the window before a step's first row and all its rows.
fn check_sizes(graph: &Graph, id: OpId) -> Result<(), PassError> {
    let cache = graph.op(id).results[0];
    let Type::Cache(ty) = graph.ty(cache) else { return Ok(()) };
    let printed = graph.ty(cache);
    // v_dim padded to V_ALIGN is at most 8 more; the scales of a key and a value are 8 bytes.
    let more = if ty.codec.scaled() { 16 } else { 8 };
    let row = ty.qk_dim.saturating_add(ty.v_dim).saturating_add(more);
    let bytes = ty.codec.bytes();
    if limits::bytes(&[ty.kv_heads, ty.page, row, bytes]).is_none() {
        return Err(PassError::at(PASS, graph, id, format!("a page of {printed} takes more than 1 PiB")));
    }
    let CachePolicy::Ring { window, pages } = ty.policy else { return Ok(()) };
    // window - 1 tokens before the first of chunk rows, starting anywhere in a page.
    let chunk = graph.header.chunk;
    let enough = window.saturating_add(chunk).saturating_sub(2).div_ceil(ty.page) + 1;
    if pages < enough {
        let message =
            format!("{pages} pages are too few for a window of {window} and steps of {chunk} tokens");
        return Err(PassError::at(PASS, graph, id, message)
            .help(format!("say ring({window}, {enough}), or growing: plan-kv finds the pages")));
    }
    if limits::bytes(&[ty.kv_heads, ty.page, row, bytes, pages]).is_none() {
        return Err(PassError::at(PASS, graph, id, format!("{printed} takes more than 1 PiB per sequence")));
    }
    Ok(())
}
