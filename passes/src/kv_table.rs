//! What a plan's KV caches take, beside full attention in every layer and beside hybrid SWA.

use std::collections::BTreeSet;

use hyc_ir::plan::{Cache, CachePolicy, Plan, StepOp};

/// Bytes of the KV caches of one sequence, for three ways to run the same layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvTable {
    /// This plan; then full attention in every layer; then hybrid SWA of the same pattern (full layers grow,
    /// the others keep this plan's window; no window, no bytes).
    pub rows: [KvRow; 3],
}

/// One way to run the layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvRow {
    /// Name.
    pub name: &'static str,
    /// Growing caches.
    pub growing: u64,
    /// Bytes a token of the growing caches, keys and values without padding.
    pub token_bytes: u64,
    /// Bytes of the rings of one sequence: the windows' tokens, as the papers count.
    pub ring_bytes: u64,
    /// Bytes of the rings of one sequence as they are allocated: whole pages, a step's rows beside the window,
    /// padding.
    pub ring_allocated_bytes: u64,
    /// Bytes of one sequence at each of [`CONTEXTS`], with `ring_bytes`.
    pub at: [u64; 3],
    /// This row's bytes at 1M tokens over the plan's.
    pub ratio: f64,
}

/// The contexts of [`KvRow::at`], in tokens: 32k, 128k and 1M.
pub const CONTEXTS: [u64; 3] = [32 << 10, 128 << 10, 1 << 20];

/// Bytes of some rings of one sequence: (their windows', as allocated).
type Rings = (u64, u64);

fn row(name: &'static str, growing: u64, token_bytes: u64, rings: Rings) -> KvRow {
    KvRow {
        name,
        growing,
        token_bytes,
        ring_bytes: rings.0,
        ring_allocated_bytes: rings.1,
        at: CONTEXTS.map(|context| token_bytes.saturating_mul(context).saturating_add(rings.0)),
        ratio: 1.0,
    }
}

/// The KV table of a plan. The other two rows assume this plan's heads, widths and element type in every
/// layer.
pub fn kv_table(plan: &Plan) -> KvTable {
    let is_growing = |cache: &&Cache| cache.policy == CachePolicy::Growing;
    let growing: Vec<&Cache> = plan.caches.iter().filter(is_growing).collect();
    let (mut window_bytes, mut allocated): Rings = (0, 0);
    for cache in &plan.caches {
        if let CachePolicy::Ring { window, pages } = cache.policy {
            window_bytes = window_bytes.saturating_add(window.saturating_mul(cache.token_bytes()));
            allocated = allocated.saturating_add(pages.saturating_mul(cache.page_bytes()));
        }
    }
    let growing_bytes = growing.iter().fold(0u64, |sum, cache| sum.saturating_add(cache.token_bytes()));
    let own = row("this model", growing.len() as u64, growing_bytes, (window_bytes, allocated));

    let Some(model) = growing.first().copied().or(plan.caches.first()) else {
        let none = |name| row(name, 0, 0, (0, 0));
        return KvTable { rows: [own, none("full attention"), none("hybrid SWA")] };
    };
    let (layers, token) = (u64::from(plan.model.layers), model.token_bytes());
    let full = row("full attention", layers, token.saturating_mul(layers), (0, 0));

    let (sparse, window) = sparse_layers(plan);
    let full_layers = layers.saturating_sub(sparse);
    let pages = window.saturating_add(plan.model.chunk).div_ceil(model.page.max(1)) + 1;
    let rings = match window {
        0 => (0, 0),
        _ => (
            sparse.saturating_mul(window).saturating_mul(token),
            sparse.saturating_mul(pages).saturating_mul(model.page_bytes()),
        ),
    };
    let swa = row("hybrid SWA", full_layers, token.saturating_mul(full_layers), rings);
    let base = own.at[2].max(1) as f64;
    KvTable { rows: [own, full, swa].map(|row| KvRow { ratio: row.at[2] as f64 / base, ..row }) }
}

/// How many layers are not full attention, and their widest window (0 where none has one).
fn sparse_layers(plan: &Plan) -> (u64, u64) {
    let mut layers = BTreeSet::new();
    let mut widest = 0;
    for step in &plan.steps {
        let window = match step.op {
            StepOp::HybridAttention { window, .. } | StepOp::WindowAttention { window, .. } => window,
            StepOp::SparseAttention { .. } => 0,
            _ => continue,
        };
        layers.extend(step.layer);
        widest = widest.max(window);
    }
    (layers.len() as u64, widest)
}
