//! What a plan's KV caches take, beside full attention in every layer and beside hybrid SWA.

use std::collections::BTreeSet;

use hyc_plan::{Cache, CachePolicy, Plan, StepOp, ops};

/// Bytes of the KV caches of one sequence, for three ways to run the same layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvTable {
    /// Most tokens of a sequence, of this plan.
    pub max_context: u64,
    /// This plan; then full attention in every layer; then hybrid SWA of the same pattern (full layers grow,
    /// the others keep this plan's window; no window, no bytes).
    pub rows: [KvRow; 3],
}

/// One way to run the layers. Bytes are as they are allocated, but for those of a token and of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct KvRow {
    /// Name.
    pub name: &'static str,
    /// Growing caches.
    pub growing: u64,
    /// Bytes per token of the growing caches, keys and values with their scales, without padding.
    pub token_bytes: u64,
    /// Bytes of the windows' tokens of one sequence, as the papers count.
    pub window_bytes: u64,
    /// Bytes of the rings of one sequence: whole pages, a step's rows beside the window, padding.
    pub ring_bytes: u64,
    /// Bytes of one sequence at the plan's `max_context`.
    pub at_max: u64,
    /// Bytes of one sequence at each of [`CONTEXTS`].
    pub at: [u64; 3],
    /// This row's bytes at 1M tokens over the plan's.
    pub ratio: f64,
}

/// The contexts of [`KvRow::at`], in tokens: 32k, 128k and 1M.
pub const CONTEXTS: [u64; 3] = [32 << 10, 128 << 10, 1 << 20];

/// Some caches of one sequence.
#[derive(Debug, Clone, Copy, Default)]
struct Caches {
    /// How many grow.
    growing: u64,
    /// Bytes per token of those, without padding.
    token_bytes: u64,
    /// Bytes of one page of each of those, with padding.
    page_bytes: u64,
    window_bytes: u64,
    ring_bytes: u64,
}

impl Caches {
    fn of(caches: &[Cache]) -> Caches {
        let mut sum = Caches::default();
        for cache in caches {
            match cache.policy {
                CachePolicy::Growing => {
                    sum.growing += 1;
                    sum.token_bytes = sum.token_bytes.saturating_add(cache.token_bytes());
                    sum.page_bytes = sum.page_bytes.saturating_add(cache.page_bytes());
                }
                CachePolicy::Ring { window, pages } => sum = sum.with_rings(1, window, pages, cache),
            }
        }
        sum
    }

    /// `layers` growing caches like `cache`.
    fn like(cache: &Cache, layers: u64) -> Caches {
        Caches {
            growing: layers,
            token_bytes: cache.token_bytes().saturating_mul(layers),
            page_bytes: cache.page_bytes().saturating_mul(layers),
            ..Caches::default()
        }
    }

    /// These, and rings for `layers` windows with the widths of `cache`.
    fn with_rings(mut self, layers: u64, window: u64, pages: u64, cache: &Cache) -> Caches {
        let add = |sum: u64, each: u64, bytes: u64| {
            sum.saturating_add(each.saturating_mul(bytes).saturating_mul(layers))
        };
        self.window_bytes = add(self.window_bytes, window, cache.token_bytes());
        self.ring_bytes = add(self.ring_bytes, pages, cache.page_bytes());
        self
    }

    fn row(self, name: &'static str, plan: &Plan) -> KvRow {
        let page = plan.model.page.max(1);
        let at = |context: u64| {
            self.page_bytes.saturating_mul(context.div_ceil(page)).saturating_add(self.ring_bytes)
        };
        KvRow {
            name,
            growing: self.growing,
            token_bytes: self.token_bytes,
            window_bytes: self.window_bytes,
            ring_bytes: self.ring_bytes,
            at_max: at(plan.model.max_context),
            at: CONTEXTS.map(at),
            ratio: 1.0,
        }
    }
}

/// The KV table of a plan. The other two rows assume this plan's heads, widths and codec in every
/// layer.
pub fn kv_table(plan: &Plan) -> KvTable {
    let own = Caches::of(&plan.caches);
    let is_growing = |cache: &&Cache| cache.policy == CachePolicy::Growing;
    let (mut full, mut swa) = (Caches::default(), Caches::default());
    if let Some(cache) = plan.caches.iter().find(is_growing).or(plan.caches.first()) {
        let layers = u64::from(plan.model.layers);
        let (sparse, window) = sparse_layers(plan);
        full = Caches::like(cache, layers);
        swa = Caches::like(cache, layers.saturating_sub(sparse));
        if window > 0 {
            let policy = CachePolicy::ring(window, plan.model.chunk, plan.model.page);
            // The plan's own windows may store something else than its growing caches.
            let cache = plan.caches.iter().find(|own| own.policy == policy).unwrap_or(cache);
            if let CachePolicy::Ring { window, pages } = policy {
                swa = swa.with_rings(sparse, window, pages, cache);
            }
        }
    }
    let rows = [("this model", own), ("full attention", full), ("hybrid SWA", swa)];
    let rows = rows.map(|(name, caches)| caches.row(name, plan));
    let base = rows[0].at[2].max(1) as f64;
    let rows = rows.map(|row| KvRow { ratio: row.at[2] as f64 / base, ..row });
    KvTable { max_context: plan.model.max_context, rows }
}

/// How many layers are not full attention, and their widest window (0 where none has one).
fn sparse_layers(plan: &Plan) -> (u64, u64) {
    let mut layers = BTreeSet::new();
    let mut widest = 0;
    for step in &plan.steps {
        let window = match step.op {
            StepOp::HybridAttention(ops::HybridAttention { window, .. })
            | StepOp::WindowAttention(ops::WindowAttention { window, .. }) => window,
            StepOp::SparseAttention(_) => 0,
            _ => continue,
        };
        layers.extend(step.layer);
        widest = widest.max(window);
    }
    (layers.len() as u64, widest)
}
