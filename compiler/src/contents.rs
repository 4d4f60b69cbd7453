//! What an artefact is and holds, for `hyc inspect`.

use std::collections::BTreeSet;

use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_plan::artefact::VERSION;
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::{RANGES, Sampling, SamplingDefaults};
use hyc_plan::text_settings::TextSettings;
use hyc_plan::{Gpu, Layout, Plan, Target};
use hyc_runtime::Model;
use serde_json::{Value, json};

use crate::eval;
use crate::report::bytes;
use crate::summary::{self, Summary};
use crate::words::place;

/// For people.
pub fn text(model: &Model) -> String {
    let (plan, summary) = (model.plan(), Summary::of(model.plan(), &[]));
    let m = &plan.model;
    let mut out =
        format!("{}: {}, artefact version {VERSION}\n\n", place(model.path()), bytes(model.file_bytes()));
    let mut line = |name: &str, what: String| out.push_str(&format!("{name:14}{what}\n"));
    line(
        "model",
        format!("{}: {} layers of width {}, vocabulary of {}", m.name, m.layers, m.hidden, m.vocab),
    );
    line("target", target_text(&plan.target));
    line(
        "compiled for",
        format!(
            "max_context {} tokens, max_batch {} sequences, chunk {} tokens, max_outputs {} rows of logits",
            m.max_context, m.max_batch, m.chunk, m.max_outputs
        ),
    );
    let here = if model.has_weights() { "" } else { "; not in the file" };
    line("dtype", format!("matrices {}, KV caches {}", matrices(plan), caches(plan)));
    if let Some((steps, least)) = fp8_rows(plan) {
        line("products", format!("of {steps} steps read rows of fp8, from {least} tokens on"));
    }
    line("weights", format!("{} tensors, {}{here}", summary.weights.0, bytes(summary.weights.1)));
    line(
        "KV caches",
        format!("{} growing, {} ring; pages of {} tokens", summary.caches.0, summary.caches.1, m.page),
    );
    line("activations", format!("{} in one arena", bytes(summary.arena_bytes)));
    line("kernels", format!("{} for {} steps", summary.kernels.0, summary.kernels.1));
    if !plan.slices.is_empty() {
        let steps = plan.slices.iter().map(|slice| slice.parts.len()).sum::<usize>();
        let slices = format!("{} of {steps} steps, by {}", plan.slices.len(), plan.slice_kernels.len());
        line("slices", format!("{slices} kernels (`--slices`)"));
    }
    line("tokenizer", tokenizer_text(&tokenizer(model)));
    if let Some(settings) = model.text_settings() {
        line("text", settings_text(settings));
    }
    line("sampling", sampling_text(&model.sampling_defaults()));
    if let Some(gates) = model.eval_gates() {
        line("eval", gates_text(&gates));
    }
    out.push_str(&format!("\n{}\n{}", summary::chains_text(&summary), summary::kv_text(&summary.kv)));
    out
}

/// For machines.
pub fn json(model: &Model) -> Value {
    let (plan, summary) = (model.plan(), Summary::of(model.plan(), &[]));
    let m = &plan.model;
    let mut value = summary::json(&summary);
    if let Some(fields) = value.as_object_mut() {
        // What is about compiling is not in the file.
        for key in ["passes", "code_seconds", "seconds"] {
            fields.remove(key);
        }
    }
    let path = model.path().display().to_string();
    value["file"] = json!({ "path": path, "bytes": model.file_bytes(), "version": VERSION });
    value["target"] = target_json(&plan.target);
    value["hidden"] = m.hidden.into();
    value["vocab"] = m.vocab.into();
    value["max_context"] = m.max_context.into();
    value["max_batch"] = m.max_batch.into();
    value["chunk"] = m.chunk.into();
    value["max_outputs"] = m.max_outputs.into();
    value["page"] = m.page.into();
    value["dtype"] = json!({ "matrices": matrices(plan), "kv": caches(plan) });
    value["fp8_rows"] = json!(fp8_rows(plan).map(|(steps, least)| json!({ "steps": steps, "least": least })));
    value["weights"]["in_file"] = model.has_weights().into();
    value["tokenizer"] = tokenizer(model);
    value["text"] = json!(model.text_settings());
    value["sampling"] = json!(model.sampling_defaults());
    value["eval"] = json!(model.eval_gates());
    value
}

/// How texts begin and end, and whether there is a chat template.
fn settings_text(settings: &TextSettings) -> String {
    let bos = settings.bos.map_or("no bos".to_string(), |id| format!("bos {id}"));
    let eos: Vec<String> = settings.eos.iter().map(ToString::to_string).collect();
    let eos = if eos.is_empty() { "no eos".to_string() } else { format!("eos {}", eos.join(", ")) };
    let template = if settings.chat_template.is_some() { "a chat template" } else { "no chat template" };
    format!("{bos}, {eos}, {template}")
}

/// The settings that differ from what changes nothing.
fn sampling_text(defaults: &SamplingDefaults) -> String {
    let (set, plain) = (defaults.sampling.values(), Sampling::default().values());
    let changed = RANGES.iter().zip(set).zip(plain).filter(|((_, value), plain)| value != plain);
    let mut list: Vec<String> = changed.map(|((range, value), _)| format!("{} {value}", range.key)).collect();
    list.extend(defaults.seed.map(|seed| format!("seed {seed}")));
    if list.is_empty() { "greedy".to_string() } else { list.join(", ") }
}

/// What must hold on a text, and in windows of how many tokens.
fn gates_text(gates: &EvalGates) -> String {
    let mut list: Vec<String> = eval::gates(gates).iter().map(ToString::to_string).collect();
    list.extend(gates.context.map(|context| format!("windows of {context} tokens")));
    if list.is_empty() { "nothing must hold".to_string() } else { list.join(", ") }
}

/// The level of a CPU's code, as `hyc compile --cpu` names it.
fn level(features: &[String]) -> Option<&'static str> {
    let levels = [(Level::V3, "v3"), (Level::Baseline, "baseline")];
    levels.iter().find(|(level, _)| CpuTarget { level: *level }.features() == features).map(|(_, name)| *name)
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Host { arch, features } => {
            let level = level(features).map(|level| format!(", level {level}")).unwrap_or_default();
            format!("{}: {arch}{level} ({})", target.kind(), features.join(", "))
        }
        Target::Nvidia(Gpu { multiprocessors, .. }) => {
            format!("{}, {multiprocessors} multiprocessors", target.kind())
        }
    }
}

fn target_json(target: &Target) -> Value {
    match target {
        Target::Host { arch, features } => json!({
            "kind": target.kind().name(), "arch": arch, "features": features, "level": level(features),
        }),
        Target::Nvidia(Gpu { multiprocessors, .. }) => json!({
            "kind": target.kind().name(), "multiprocessors": multiprocessors,
        }),
    }
}

fn names(elems: BTreeSet<String>) -> String {
    elems.into_iter().collect::<Vec<_>>().join(" and ")
}

/// Element types of the matrices; vectors are always f32.
fn matrices(plan: &Plan) -> String {
    let matrices = plan.weights.iter().filter(|w| !matches!(w.format.layout, Layout::Vector { .. }));
    names(matrices.map(|w| w.format.codec.to_string()).collect())
}

/// How many steps multiply rows of fp8, and from how many tokens on; `None`: none.
fn fp8_rows(plan: &Plan) -> Option<(usize, u64)> {
    let fp8 = || plan.steps.iter().filter_map(|step| step.op.fp8_rows());
    Some((fp8().count(), fp8().min()?))
}

fn caches(plan: &Plan) -> String {
    names(plan.caches.iter().map(|cache| cache.codec.to_string()).collect())
}

/// What kind of tokenizer it is, and how large; null where there is none.
fn tokenizer(model: &Model) -> Value {
    let Some(bytes) = model.tokenizer_json() else { return Value::Null };
    let parsed: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let inner = &parsed["model"];
    let entries = inner["vocab"].as_object().map(|v| v.len()).or(inner["vocab"].as_array().map(Vec::len));
    let added = parsed["added_tokens"].as_array().into_iter().flatten();
    // Most added tokens stand among the entries too.
    let apart = added.filter(|token| {
        let known = token["content"].as_str().is_some_and(|text| inner["vocab"].get(text).is_some());
        !known && inner["vocab"].is_object()
    });
    json!({ "kind": inner["type"], "entries": entries.map(|n| n + apart.count()), "bytes": bytes.len() })
}

fn tokenizer_text(tokenizer: &Value) -> String {
    if tokenizer.is_null() {
        return "none: it takes tokens alone".to_string();
    }
    let kind = tokenizer["kind"].as_str().unwrap_or("of no known kind");
    match tokenizer["entries"].as_u64() {
        Some(entries) => format!("{kind}, {entries} entries"),
        None => kind.to_string(),
    }
}
