//! What a plan's KV caches take, beside full attention in every layer and beside hybrid SWA.

use hyc_ir::plan::{Cache, CachePolicy, Plan};

/// Bytes of the KV caches of one sequence, for three ways to run the same layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvTable {
    /// This plan; then full attention in every layer; then hybrid SWA of the same pattern.
    pub rows: [KvRow; 3],
}

/// One way to run the layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvRow {
    /// Name.
    pub name: &'static str,
    /// Growing caches.
    pub growing: u64,
    /// Bytes a token of the growing caches.
    pub token_bytes: u64,
    /// Bytes of the rings: the windows' tokens, as the papers count.
    pub ring_bytes: u64,
    /// Bytes at 32k, 128k and 1M tokens of context.
    pub at: [u64; 3],
    /// This row's bytes at 1M over the plan's.
    pub ratio: f64,
}

/// The contexts of [`KvRow::at`], in tokens.
pub const CONTEXTS: [u64; 3] = [32 << 10, 128 << 10, 1 << 20];

/// The KV table of a plan.
pub fn kv_table(plan: &Plan) -> KvTable {
    let growing: Vec<&Cache> = plan.caches.iter().filter(|c| c.policy == CachePolicy::Growing).collect();
    let token =
        growing.first().or(plan.caches.iter().collect::<Vec<_>>().first()).map_or(0, |c| c.token_bytes());
    let rings = |caches: &mut dyn Iterator<Item = &Cache>| -> u64 {
        caches
            .map(|cache| match cache.policy {
                CachePolicy::Ring { window, .. } => window * cache.token_bytes(),
                CachePolicy::Growing => 0,
            })
            .sum()
    };
    let layers = u64::from(plan.model.layers);
    let sparse: std::collections::BTreeSet<u32> = sparse_layers(plan);
    let window = plan.steps.iter().find_map(|step| match step.op {
        hyc_ir::plan::StepOp::HybridAttention { window, .. } => Some(window),
        hyc_ir::plan::StepOp::WindowAttention { window, .. } => Some(window),
        _ => None,
    });
    let full_layers = layers - sparse.len() as u64;
    let row = |name, growing: u64, token_bytes: u64, ring_bytes: u64| KvRow {
        name,
        growing,
        token_bytes,
        ring_bytes,
        at: CONTEXTS.map(|context| token_bytes.saturating_mul(context).saturating_add(ring_bytes)),
        ratio: 1.0,
    };
    let own = row(
        "this model",
        growing.len() as u64,
        growing.iter().map(|c| c.token_bytes()).sum(),
        rings(&mut plan.caches.iter()),
    );
    let full = row("full attention", layers, layers * token, 0);
    let swa = row(
        "hybrid SWA",
        full_layers,
        full_layers * token,
        sparse.len() as u64 * window.unwrap_or(0).saturating_mul(token),
    );
    let base = own.at[2].max(1) as f64;
    KvTable { rows: [own, full, swa].map(|row| KvRow { ratio: row.at[2] as f64 / base, ..row }) }
}

fn sparse_layers(plan: &Plan) -> std::collections::BTreeSet<u32> {
    use hyc_ir::plan::StepOp::{HybridAttention, SparseAttention, WindowAttention};
    let sparse = |op| matches!(op, HybridAttention { .. } | SparseAttention { .. } | WindowAttention { .. });
    plan.steps.iter().filter(|step| sparse(step.op)).filter_map(|step| step.layer).collect()
}
