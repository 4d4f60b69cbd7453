//! `SparseAttention`, `WindowAttention` and `HybridAttention` on the tensor cores of `warp_mma`: a block a (token, KV
//! head), its branches one after the other. Reference: `reference::attention`.

use hyc_plan::{AttnShape, Extent, GateMode};

use super::branch::{Branch, Selected, Source};
use super::limits::{WARPS4, WARPS8};
use super::rows::store_output;
use super::warp_mma::Reader;
use super::{shared_pages, sparse_cluster};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{SHARED_SLACK, WARP};
use crate::gpu::work_item::{WorkItem, group};

/// `WindowAttention`.
pub fn window(k: &mut Kernel<'_, '_>, shape: AttnShape, window: u64, sink: bool) {
    let source = Source::Window(window);
    launches(k, shape, &[Branch { cache: "cache", source, sink: sink.then_some("sink"), gate: None }]);
}

/// `SparseAttention`.
pub fn sparse(k: &mut Kernel<'_, '_>, shape: AttnShape, selected: Selected, sink: bool) {
    let source = Source::Listed(selected.0, selected.1);
    launches(k, shape, &[Branch { cache: "cache", source, sink: sink.then_some("sink"), gate: None }]);
}

/// `HybridAttention`: both branches, summed.
pub fn hybrid(k: &mut Kernel<'_, '_>, shape: AttnShape, selected: Selected, window: u64, mode: GateMode) {
    let gate = |name| (mode != GateMode::None).then_some((name, mode));
    let far = Branch {
        cache: "shared",
        source: Source::Listed(selected.0, selected.1),
        sink: Some("sink_select"),
        gate: gate("gate_select"),
    };
    let near = Branch {
        cache: "own",
        source: Source::Window(window),
        sink: Some("sink_window"),
        gate: gate("gate_window"),
    };
    launches(k, shape, &[far, near]);
}

fn launches(k: &mut Kernel<'_, '_>, shape: AttnShape, branches: &[Branch]) {
    let grid = [k.rows(shape.kv_heads, 1), Extent::fixed(1)];
    // Few rows are small blocks: more warps share the pages of each.
    query_launch(k, branches, shape, WARPS8, (8, grid));
    query_launch(k, branches, shape, WARPS4, (4, grid));
    if branches.iter().any(|branch| matches!(branch.source, Source::Listed(..))) {
        sparse_cluster::launch(k, shape, branches);
    }
    if shared_pages::takes(shape, branches) {
        shared_pages::launches(k, shape, branches);
    }
}

fn query_launch(
    k: &mut Kernel<'_, '_>,
    branches: &[Branch],
    shape: AttnShape,
    variant: &str,
    (warps, grid): (u64, [Extent; 2]),
) {
    let readers: Vec<Reader> = branches
        .iter()
        .map(|branch| Reader { shape, cache: k.cache(branch.cache), operand: branch.cache, warps })
        .collect();
    let Some(first) = readers.first() else { return };
    // What warps leave for each other: their states of every head.
    let shared = first.partials_bytes() + SHARED_SLACK;
    let (part, variants) = (part(variant), [variant]);
    let function = Function::new(&part, grid, warps * WARP).of(&variants).shared_bytes(shared).waits_itself();
    k.function(function, |e| {
        let item = WorkItem::new(e, e.block_x(), shape.kv_heads);
        // What the step's context alone says is looked up before the inputs are there.
        let windows: Vec<_> = branches
            .iter()
            .zip(&readers)
            .map(|(branch, r)| {
                let early = matches!(branch.source, Source::Window(_));
                early.then(|| branch.pages(e, r, item))
            })
            .collect();
        e.wait_for_inputs();
        let q = first.query(e, item);
        let memory = first.partials(e);
        // What the first branch gives, until the second one's thread of the same place adds to it.
        let kept = (branches.len() > 1).then(|| e.shared(group(shape) * shape.v_dim));
        for (i, ((branch, r), window)) in branches.iter().zip(&readers).zip(windows).enumerate() {
            let pages = window.unwrap_or_else(|| branch.pages(e, r, item));
            let state = r.run(e, item, &q, &pages, None);
            r.store_partial(e, &state, &memory);
            r.combine(e, item, &memory, branch.sink, &|e, h, element, y| {
                let y = branch.gated(e, shape, item, (h, element), y);
                let Some(kept) = kept else { return store_output(e, shape, item, (h, element), y) };
                let at = e.add(e.mul_const(h, shape.v_dim), element);
                match i {
                    0 => e.store(kept, at, y.into()),
                    _ => store_output(e, shape, item, (h, element), e.fadd(y, e.load(kept, at))),
                }
            });
        }
    });
}
