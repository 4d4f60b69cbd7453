//! Two models side by side: what they are and take, layers of a shape, kernels; differences first.

use std::collections::BTreeMap;

use hyc_ir::{Graph, OpId, Type, ValueId};
use hyc_passes::{CONTEXTS, kv_table};
use hyc_plan::Plan;

use super::diff::{Row, rows};
use super::facts::{Facts, numbered, thousands, tokens};
use super::html::Html;
use super::line::{is_weight, told};
use super::shape::{Role, Template};
use crate::cost;
use crate::report::bytes;

/// The section.
pub fn section(h: &mut Html, one: &Facts<'_>, other: &Facts<'_>) {
    h.el("section", &[("id", &"compare"), ("aria-labelledby", &"h-compare")], |h| {
        h.leaf("h2", &[("id", &"h-compare")], format!("Beside {}", other.plan.model.name));
        table(h, one, other);
        layers(h, one, other);
        kernels(h, one.plan, other.plan);
    });
}

/// Figures of a model by their names, in one order for both.
fn figures(facts: &Facts<'_>) -> Vec<(String, String)> {
    let (plan, m) = (facts.plan, &facts.plan.model);
    let kv = kv_table(plan);
    let own = &kv.rows[0];
    let role = |role: Role| -> usize {
        facts.templates.iter().filter(|t| t.role == role).map(|t| t.layers.len()).sum()
    };
    let mut list: Vec<(String, String)> = vec![
        ("target".into(), plan.target.kind().name().into()),
        ("layers".into(), m.layers.to_string()),
        ("width".into(), thousands(m.hidden)),
        ("vocabulary".into(), thousands(m.vocab)),
        ("tokens of a sequence".into(), thousands(m.max_context)),
        ("tokens of a step".into(), thousands(m.chunk)),
        ("sequences of a step".into(), thousands(m.max_batch)),
    ];
    list.extend(
        [Role::Oracle, Role::Sparse, Role::Window, Role::Full]
            .map(|r| (format!("{} layers", r.name()), role(r).to_string())),
    );
    let growing = own.growing;
    list.push(("caches that grow".into(), growing.to_string()));
    list.push(("rings".into(), (plan.caches.len() as u64).saturating_sub(growing).to_string()));
    list.push(("KV bytes a token".into(), bytes(own.token_bytes)));
    list.extend(
        CONTEXTS
            .iter()
            .zip(own.at)
            .map(|(context, at)| (format!("KV bytes at {}", tokens(*context)), bytes(at))),
    );
    let weights = plan.weight_bytes();
    list.push(("weights".into(), bytes(weights)));
    list.push(("tensors".into(), thousands(plan.weights.len() as u64)));
    list.push(("arena".into(), bytes(plan.arena_bytes)));
    list.push(("ops".into(), thousands(facts.ops)));
    list.push(("steps".into(), thousands(plan.steps.len() as u64)));
    list.push(("kernels".into(), thousands(plan.kernels.len() as u64)));
    for context in CONTEXTS.iter().filter(|context| **context <= m.max_context) {
        let read = cost::of(plan).decode_bytes(*context, 1);
        list.push((format!("read by a decode step at {}", tokens(*context)), bytes(read)));
    }
    list
}

fn table(h: &mut Html, one: &Facts<'_>, other: &Facts<'_>) {
    let (here, there) = (figures(one), figures(other));
    let of_other: BTreeMap<&String, &String> = there.iter().map(|(name, value)| (name, value)).collect();
    let mut lines: Vec<(&String, &String, &str)> = here
        .iter()
        .map(|(name, value)| (name, value, of_other.get(name).map_or("–", |v| v.as_str())))
        .collect();
    lines.sort_by_key(|(_, one, other)| one.as_str() == *other);
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                h.leaf("th", &[], "");
                h.leaf("th", &[("class", &"n")], &one.plan.model.name);
                h.leaf("th", &[("class", &"n")], &other.plan.model.name);
            });
            for (name, one, other) in lines {
                let class = if one.as_str() == other { "same" } else { "differs" };
                h.el("tr", &[("class", &class)], |h| {
                    h.el("th", &[], |h| {
                        h.text(if class == "same" { "  " } else { "≠ " });
                        h.text(name);
                    });
                    h.leaf("td", &[("class", &"n")], one);
                    h.leaf("td", &[("class", &"n")], other);
                });
            }
        })
    });
}

/// Templates that share layers, and those outside of layers: their places among each model's, and the layers.
fn pairs(one: &Facts<'_>, other: &Facts<'_>) -> Vec<(usize, usize, Vec<u32>)> {
    let mut pairs: BTreeMap<(usize, usize), Vec<u32>> = BTreeMap::new();
    for (a, template) in one.templates.iter().enumerate() {
        for layer in &template.layers {
            let b = other.templates.iter().position(|template| template.layers.binary_search(layer).is_ok());
            if let Some(b) = b {
                pairs.entry((a, b)).or_default().push(*layer);
            }
        }
    }
    let outside = |facts: &Facts<'_>| facts.templates.iter().position(|template| template.layers.is_empty());
    if let (Some(a), Some(b)) = (outside(one), outside(other)) {
        pairs.insert((a, b), Vec::new());
    }
    pairs.into_iter().map(|((a, b), layers)| (a, b, layers)).collect()
}

/// The ops of layers in both models.
struct Pair {
    title: String,
    old: Vec<String>,
    new: Vec<String>,
    rows: Vec<Row>,
}

fn layers(h: &mut Html, one: &Facts<'_>, other: &Facts<'_>) {
    h.leaf("h3", &[], "Layer by layer");
    let pair = |(a, b, layers): (usize, usize, Vec<u32>)| {
        let (here, there) = (&one.templates[a], &other.templates[b]);
        let (old, new) = (lines(one.graph, here), lines(other.graph, there));
        let title = match layers[..] {
            [] => "Outside the layers".to_string(),
            _ => format!("{}: here {}, there {}", numbered(&layers), here.title(), there.title()),
        };
        Pair { title, rows: rows(&old, &new), old, new }
    };
    let mut found: Vec<Pair> = pairs(one, other).into_iter().map(pair).collect();
    found.sort_by_key(|pair| pair.rows.is_empty());
    for Pair { title, old, new, rows } in found {
        h.el("p", &[("class", &"of")], |h| {
            h.leaf("b", &[], title);
            if rows.is_empty() {
                h.text(": the same ops");
            }
        });
        if !rows.is_empty() {
            h.el("div", &[("class", &"sides")], |h| {
                side(h, &one.plan.model.name, &rows, &old, true);
                side(h, &other.plan.model.name, &rows, &new, false);
            });
        }
    }
    let (a, b) = (one.plan.model.layers, other.plan.model.layers);
    if a != b {
        h.leaf("p", &[], format!("Layers {} to {} are of one model alone.", a.min(b), a.max(b) - 1));
    }
}

fn side(h: &mut Html, name: &str, rows: &[Row], lines: &[String], first: bool) {
    h.el("pre", &[("tabindex", &"0"), ("role", &"region"), ("aria-label", &name)], |h| {
        for row in rows {
            match *row {
                Row::Both(a, b) => h.text(&lines[if first { a } else { b }]),
                Row::Changed(a, b) => {
                    if let Some(at) = if first { a } else { b } {
                        h.leaf(if first { "del" } else { "ins" }, &[], &lines[at]);
                    }
                }
                Row::Folded(n) => h.text(format!("   … {n} the same")),
            }
            h.text("\n");
        }
    });
}

/// The ops of a template with names that do not say the layer, and the shapes of what they read and make.
fn lines(graph: &Graph, template: &Template) -> Vec<String> {
    let own = template.layers.first().map(|layer| format!("L{layer}.")).unwrap_or_default();
    let name = |value: ValueId| {
        let name = graph.name(value);
        match (name.strip_prefix(&own), name.split_once('.')) {
            (Some(rest), _) => format!("%{rest}"),
            (None, Some((_, rest))) if graph.def_op(value).is_some_and(|(_, data)| data.layer.is_some()) => {
                match graph.ty(value) {
                    Type::Tensor { .. } => "%x before".to_string(),
                    _ => format!("%oracle.{rest}"),
                }
            }
            _ => "%x before".to_string(),
        }
    };
    let one = |id: &OpId| {
        let data = graph.op(*id);
        let mut line = told(graph, *id, &name);
        if let Some(chain) = data.chain {
            line = line.replace(&format!(" chain {chain}"), "");
        }
        if let Some(layer) = data.layer {
            line = line.replace(&format!("{{owner = {layer}}}"), "");
        }
        let shape = |value: &ValueId| match graph.ty(*value) {
            Type::Weight { dims, .. } => dims.iter().map(u64::to_string).collect::<Vec<_>>().join("×"),
            _ => String::new(),
        };
        let weights: Vec<String> =
            data.operands.iter().filter(|value| is_weight(graph, **value)).map(shape).collect();
        if weights.is_empty() { line } else { format!("{line} @ {}", weights.join(", ")) }
    };
    template.ops.iter().map(one).collect()
}

fn kernels(h: &mut Html, one: &Plan, other: &Plan) {
    h.leaf("h3", &[], "Kernels");
    let lacks = |plan: &Plan, name: &str| plan.kernels.iter().all(|kernel| kernel.name != name);
    let list = |of: &Plan, beside: &Plan, wanted: bool| -> String {
        let names = of.kernels.iter().map(|kernel| kernel.name.as_str());
        names.filter(|name| lacks(beside, name) == wanted).collect::<Vec<_>>().join(", ")
    };
    h.el("dl", &[("class", &"kernels")], |h| {
        let lists = [
            (format!("of {} alone", one.model.name), list(one, other, true)),
            (format!("of {} alone", other.model.name), list(other, one, true)),
            ("of both".to_string(), list(one, other, false)),
        ];
        for (title, names) in lists {
            h.leaf("dt", &[], title);
            h.leaf("dd", &[], if names.is_empty() { "none".to_string() } else { names });
        }
    });
}
