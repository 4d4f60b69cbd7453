//! What `compile` says at the end: layers and chains, KV bytes, arena, weights, kernels, time per pass.

use std::path::PathBuf;

use hyc_passes::{CONTEXTS, KvRow, KvTable, kv_table};
use hyc_plan::{CachePolicy, Plan};
use serde_json::json;

use crate::driver::PassTime;
use crate::report::{bytes, seconds, table};
use crate::words::place;

/// The facts of one compile.
pub struct Summary {
    /// Model name.
    pub name: String,
    /// Layers.
    pub layers: u32,
    /// (oracle, its sparse layers, whether they read its cache).
    pub chains: Vec<(u32, Vec<u32>, bool)>,
    /// KV table.
    pub kv: KvTable,
    /// (growing, ring) caches.
    pub caches: (usize, usize),
    /// Bytes of activations.
    pub arena_bytes: u64,
    /// Weights and their bytes.
    pub weights: (usize, u64),
    /// Kernels and steps.
    pub kernels: (usize, usize),
    /// Time per pass: name, rewrites, seconds.
    pub passes: Vec<(&'static str, usize, f64)>,
    /// Code generation.
    pub code_seconds: Option<f64>,
    /// All of it.
    pub seconds: f64,
    /// The artefact and its bytes.
    pub file: Option<(PathBuf, u64)>,
}

impl Summary {
    /// The summary of a plan.
    pub fn of(plan: &Plan, passes: &[PassTime]) -> Summary {
        let growing = plan.caches.iter().filter(|c| c.policy == CachePolicy::Growing).count();
        Summary {
            name: plan.model.name.clone(),
            layers: plan.model.layers,
            chains: plan.chains.iter().map(|c| (c.oracle, c.sparse.clone(), c.shared_kv)).collect(),
            kv: kv_table(plan),
            caches: (growing, plan.caches.len() - growing),
            arena_bytes: plan.arena_bytes,
            weights: (plan.weights.len(), plan.weight_bytes()),
            kernels: (plan.kernels.len(), plan.steps.len()),
            passes: passes.iter().map(|p| (p.name, p.changes, p.seconds)).collect(),
            code_seconds: None,
            seconds: 0.0,
            file: None,
        }
    }
}

/// For people.
pub fn text(s: &Summary) -> String {
    let mut out = format!("{}: {} layers\n{}", s.name, s.layers, chains_text(s));
    out.push('\n');
    out.push_str(&kv_text(&s.kv));
    let rows = vec![
        vec!["weights".into(), bytes(s.weights.1), format!("{} tensors", s.weights.0)],
        vec!["activations".into(), bytes(s.arena_bytes), "one arena".into()],
        vec!["caches".into(), String::new(), format!("{} growing, {} ring", s.caches.0, s.caches.1)],
        vec!["kernels".into(), s.kernels.0.to_string(), format!("for {} steps", s.kernels.1)],
    ];
    out.push('\n');
    out.push_str(&table(&["", "", ""], &rows).trim_start_matches(['\n', ' ']).replace("\n\n", "\n"));
    out.push('\n');
    let mut rows: Vec<Vec<String>> = s
        .passes
        .iter()
        .map(|(name, changes, t)| vec![name.to_string(), changes.to_string(), seconds(*t)])
        .collect();
    rows.extend(s.code_seconds.map(|t| vec!["code generation".into(), s.kernels.0.to_string(), seconds(t)]));
    rows.push(vec!["total".into(), String::new(), seconds(s.seconds)]);
    out.push_str(&table(&["pass", "changes", "time"], &rows));
    if let Some((path, size)) = &s.file {
        out.push_str(&format!("\nwrote {} ({})\n", place(path), bytes(*size)));
    }
    out
}

/// A line per chain.
pub fn chains_text(s: &Summary) -> String {
    let mut out = String::new();
    for (oracle, sparse, shared) in &s.chains {
        let kv = if *shared { "its KV cache" } else { "KV of their own" };
        out.push_str(&format!("  chain: layer {oracle} selects for {}, which read {kv}\n", ranges(sparse)));
    }
    out
}

/// The KV table for people: bytes of one sequence as they are allocated.
pub fn kv_text(kv: &KvTable) -> String {
    let longest = format!("at {}", kv.max_context);
    // A model that is compiled for one of the contexts has that column once.
    let own = !CONTEXTS.contains(&kv.max_context);
    let mut header = vec!["KV cache", "growing", "per token", "windows"];
    header.extend(own.then_some(longest.as_str()));
    header.extend(["at 32k", "at 128k", "at 1M", "of this at 1M"]);
    let row = |r: &KvRow| {
        let mut cells =
            vec![r.name.to_string(), r.growing.to_string(), bytes(r.token_bytes), bytes(r.ring_bytes)];
        cells.extend(own.then(|| bytes(r.at_max)));
        cells.extend(r.at.map(bytes));
        cells.push(format!("{:.1}x", r.ratio));
        cells
    };
    table(&header, &kv.rows.iter().map(row).collect::<Vec<_>>())
}

/// For machines.
pub fn json(s: &Summary) -> serde_json::Value {
    // A path need not be UTF-8, which JSON is: what is not shows as U+FFFD.
    let path = |path: &std::path::Path| path.display().to_string();
    let file = s.file.as_ref().map(|(at, size)| json!({ "path": path(at), "bytes": size }));
    json!({
        "name": s.name,
        "layers": s.layers,
        "chains": s.chains.iter().map(|(oracle, sparse, shared)| {
            json!({ "oracle": oracle, "sparse": sparse, "shared_kv": shared })
        }).collect::<Vec<_>>(),
        "kv": kv_json(&s.kv),
        "caches": { "growing": s.caches.0, "ring": s.caches.1 },
        "arena_bytes": s.arena_bytes,
        "weights": { "tensors": s.weights.0, "bytes": s.weights.1 },
        "kernels": s.kernels.0,
        "steps": s.kernels.1,
        "passes": s.passes.iter().map(|(name, changes, t)| {
            json!({ "name": name, "changes": changes, "seconds": t })
        }).collect::<Vec<_>>(),
        "code_seconds": s.code_seconds,
        "seconds": s.seconds,
        "file": file,
    })
}

/// The KV table for machines.
pub fn kv_json(kv: &KvTable) -> serde_json::Value {
    let rows = kv.rows.iter().map(|r| {
        json!({
            "name": r.name, "growing_caches": r.growing, "token_bytes": r.token_bytes,
            "window_bytes": r.window_bytes, "ring_bytes": r.ring_bytes, "max_context": kv.max_context,
            "bytes_max_context": r.at_max, "bytes_32k": r.at[0], "bytes_128k": r.at[1], "bytes_1m": r.at[2],
            "ratio_1m": r.ratio,
        })
    });
    rows.collect()
}

/// `1-3, 7`.
fn ranges(layers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for layer in layers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *layer => *end = *layer,
            _ => parts.push((*layer, *layer)),
        }
    }
    let list: Vec<String> =
        parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    if list.is_empty() { "no layer".to_string() } else { format!("layers {}", list.join(", ")) }
}
