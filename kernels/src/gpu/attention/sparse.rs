//! `SparseAttention`, `WindowAttention` and `HybridAttention` on tensor cores, each as its branches. Reference:
//! `reference::attention`.

use hyc_plan::{AttnShape, GateMode};

use super::branch::{Branch, Selected, Source};
use super::{shared_pages, sparse_cluster};
use crate::gpu::function::Kernel;

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
    sparse_cluster::launches(k, shape, branches);
    if shared_pages::takes(shape, branches) {
        shared_pages::launches(k, shape, branches);
    }
}
