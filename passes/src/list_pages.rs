//! `list-pages`: what attention of many rows walks along is made once from a selection, for all layers that read it.
//!
//! ```text
//! %o, %sel = oracle_attention(%q, %kv)              %o, %sel = oracle_attention(%q, %kv)
//!                                                   %l = page_lists(%kv, %sel) : lists<.., tile 48, least 512, ..>
//! %a = hybrid_attention(%q1, %kv, %sel, ..)    =>   %a = hybrid_attention(%q1, %kv, %sel, .., %l) {lists = true}
//! %b = hybrid_attention(%q2, %kv, %sel, ..)         %b = hybrid_attention(%q2, %kv, %sel, .., %l) {lists = true}
//! ```
//! The back end says which attentions walk along lists, of how many rows each, and from how many rows of a step on; where a step
//! has never so many, nothing is listed. The selection stays an operand: steps of fewer rows read it.

use hyc_ir::verify::{SelectionRead, selection_reads};
use hyc_ir::{Graph, ListsType, Op, OpData, OpId, Type, ValueId, op};
use hyc_plan::{Backend, CacheSpec, ListShape};

use crate::error::PassError;
use crate::lower::lower;
use crate::rewrite::cache_reads;
use crate::select_kernels::cache_spec;

/// Lists pages. Returns how many readers changed.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> Result<usize, PassError> {
    let mut changes = 0;
    for read in selection_reads(graph) {
        let Some(has) = lists(&graph.op(read.reader).op) else { continue };
        let has = if has { graph.op(read.reader).operands.last().copied() } else { None };
        let wanted = wanted(graph, &read, backend);
        // A dump may have lists that this back end does not want.
        if has.and_then(|lists| shape(graph, lists)) != wanted {
            let lists = wanted.and_then(|wanted| listed(graph, &read, wanted));
            set(graph, read.reader, has.is_some(), lists);
            changes += 1;
        }
    }
    for id in graph.ops().collect::<Vec<OpId>>() {
        let data = graph.op(id);
        if data.op == Op::PageLists(op::PageLists {}) && graph.uses(data.results[0]).is_empty() {
            graph.remove(id);
        }
    }
    Ok(changes)
}

/// Whether an op reads lists beside its selection; `None`: it never does.
fn lists(op: &Op) -> Option<bool> {
    match op {
        Op::SparseAttention(op::SparseAttention { lists, .. })
        | Op::HybridAttention(op::HybridAttention { lists, .. }) => Some(*lists),
        _ => None,
    }
}

fn shape(graph: &Graph, lists: ValueId) -> Option<ListShape> {
    match graph.ty(lists) {
        Type::Lists(ty) => Some(ty.lists),
        Type::Tensor { .. } | Type::Weight { .. } | Type::Cache(_) | Type::Selection(_) => None,
    }
}

/// The lists that a reader shall have.
fn wanted(graph: &Graph, read: &SelectionRead, backend: &dyn Backend) -> Option<ListShape> {
    let Op::OracleAttention(_) = graph.op(read.maker).op else { return None };
    // What no step stands for is select-kernels' to refuse.
    let step = lower(graph, read.reader, backend).ok()??;
    let caches = cache_reads(graph, read.reader).into_iter().filter_map(|cache| match graph.ty(cache) {
        Type::Cache(ty) => Some(cache_spec(ty, backend)),
        Type::Tensor { .. } | Type::Weight { .. } | Type::Selection(_) | Type::Lists(_) => None,
    });
    let lists = backend.page_lists(&step.op, &caches.collect::<Vec<CacheSpec>>())?;
    (lists.least <= graph.header.chunk).then_some(lists)
}

/// The lists of the selection that is read, made behind it where there are none yet.
fn listed(graph: &mut Graph, read: &SelectionRead, lists: ListShape) -> Option<ValueId> {
    let Type::Selection(selection) = graph.ty(read.selection).clone() else { return None };
    let ty = Type::Lists(ListsType { selection, lists });
    let made = graph.users(read.selection).find_map(|(user, _)| {
        let data = graph.op(user);
        let same = data.op == Op::PageLists(op::PageLists {}) && *graph.ty(data.results[0]) == ty;
        same.then(|| data.results[0])
    });
    if made.is_some() {
        return made;
    }
    let (layer, chain, line) = {
        let maker = graph.op(read.maker);
        (maker.layer, maker.chain, maker.line)
    };
    let hint = format!("{}.lists", graph.name(read.selection));
    let value = graph.new_value(&hint, ty);
    let (op, operands) = (Op::PageLists(op::PageLists {}), vec![read.over, read.selection]);
    let behind = graph.next(read.maker);
    graph.insert(behind, OpData { op, operands, results: vec![value], layer, chain, line });
    Some(value)
}

/// Gives a reader these lists, which come last, in place of those that it may have.
fn set(graph: &mut Graph, reader: OpId, has: bool, given: Option<ValueId>) {
    let data = graph.op(reader);
    let mut operands = data.operands.clone();
    if has {
        operands.pop();
    }
    operands.extend(given);
    let lists = given.is_some();
    let op = match data.op {
        Op::SparseAttention(op) => Op::SparseAttention(op::SparseAttention { lists, ..op }),
        Op::HybridAttention(op) => Op::HybridAttention(op::HybridAttention { lists, ..op }),
        other => other,
    };
    graph.rewrite(reader, op, operands);
}
