//! The card of an op: what it computes, its operands and results, what it was made of, and what runs it.

use hyc_ir::{Graph, OpId, ValueId};
use hyc_plan::{Operand, OperandSpec};

use super::facts::{Facts, card_id, key, thousands, tokens};
use super::html::{Html, slug, value_id};
use super::line::{attributes, is_weight};
use super::maths::formula;
use super::shape::Template;
use crate::cost;
use crate::report::bytes;

/// Users of a value that a card names.
const MOST_USERS: usize = 24;

/// One op; `of` is the template of its layer.
pub fn card(h: &mut Html, facts: &Facts<'_>, of: &Template, id: OpId) {
    let (graph, data) = (facts.graph, facts.graph.op(id));
    let step = facts.steps.get(&id);
    let made = marks(facts, of, id);
    let layer = data.layer.map(|layer| layer.to_string()).unwrap_or_default();
    h.line();
    h.el(
        "details",
        &[("class", &"card"), ("id", &card_id(graph, id)), ("data-made", &made), ("data-layer", &layer)],
        |h| {
            h.el("summary", &[], |h| {
                let name = key(graph, id).map(|value| graph.name(value)).unwrap_or_default();
                h.leaf("code", &[], name);
                h.text(" ");
                h.leaf("b", &[], data.op.name());
            });
            h.leaf("p", &[("class", &"math")], formula(&data.op));
            values(h, facts, id);
            let attrs = attributes(graph, id);
            if !attrs.is_empty() {
                h.leaf("p", &[("class", &"attrs")], attrs);
            }
            made_of(h, facts, id);
            if let Some(step) = step {
                runs(h, facts, *step);
            }
        },
    );
}

/// Operands and results by the names of their roles.
fn values(h: &mut Html, facts: &Facts<'_>, id: OpId) {
    let (graph, data) = (facts.graph, facts.graph.op(id));
    let roles = data.op.roles();
    h.el("table", &[("class", &"values")], |h| {
        for (at, value) in data.operands.iter().enumerate() {
            h.el("tr", &[], |h| {
                h.leaf("th", &[], roles.takes.get(at).map_or("", |role| role.name));
                h.el("td", &[], |h| value_link(h, facts, *value));
                h.leaf("td", &[], ty(graph, *value));
                h.el("td", &[], |h| from(h, facts, *value));
            });
        }
        for (at, value) in data.results.iter().enumerate() {
            h.el("tr", &[("class", &"out"), ("id", &value_id(graph.name(*value)))], |h| {
                h.leaf("th", &[], format!("→ {}", roles.gives.get(at).map_or("", |role| role.name)));
                h.leaf("td", &[], format!("%{}", graph.name(*value)));
                h.leaf("td", &[], ty(graph, *value));
                h.el("td", &[], |h| users(h, facts, *value));
            });
        }
    });
}

fn ty(graph: &Graph, value: ValueId) -> String {
    graph.ty(value).to_string()
}

fn value_link(h: &mut Html, facts: &Facts<'_>, value: ValueId) {
    let (graph, name) = (facts.graph, facts.graph.name(value));
    match graph.def(value) {
        Some(def) if facts.has_card(def) => {
            h.leaf("a", &[("href", &format!("#{}", value_id(name)))], format!("%{name}"));
        }
        _ if is_weight(graph, value) => h.text(format!("@{name}")),
        _ => h.text(format!("%{name}")),
    }
}

/// Where an operand comes from; a weight's bytes.
fn from(h: &mut Html, facts: &Facts<'_>, value: ValueId) {
    let graph = facts.graph;
    if is_weight(graph, value) {
        let stored = facts.weight_bytes(graph.name(value));
        h.text(stored.map(bytes).unwrap_or_default());
    } else if let Some((_, data)) = graph.def_op(value) {
        let layer = data.layer.map(|layer| format!(" of layer {layer}")).unwrap_or_default();
        h.text(format!("{}{layer}", data.op.name()));
    }
}

fn users(h: &mut Html, facts: &Facts<'_>, value: ValueId) {
    let graph = facts.graph;
    let mut users: Vec<OpId> = graph.uses(value).into_iter().map(|(user, _)| user).collect();
    users.dedup();
    h.text(if users.is_empty() { "used by nobody" } else { "used by " });
    for (at, user) in users.iter().take(MOST_USERS).enumerate() {
        if at > 0 {
            h.text(", ");
        }
        let data = graph.op(*user);
        let told = match data.layer {
            Some(layer) => format!("L{layer} {}", data.op.name()),
            None => data.op.name().to_string(),
        };
        if facts.has_card(*user) {
            h.leaf("a", &[("href", &format!("#{}", card_id(graph, *user)))], told);
        } else {
            h.text(told);
        }
    }
    if users.len() > MOST_USERS {
        h.text(format!(" and {} more", users.len() - MOST_USERS));
    }
}

/// What each pass made it of.
fn made_of(h: &mut Html, facts: &Facts<'_>, id: OpId) {
    let stages = &facts.subject.stages;
    let made = facts.lineage.of(stages, id);
    if made.is_empty() {
        return;
    }
    h.el("ul", &[("class", &"made")], |h| {
        for made in made {
            let (name, before) = (stages[made.stage].name, &stages[made.stage - 1].graph);
            h.el("li", &[], |h| {
                h.leaf("a", &[("href", &format!("#pass.{name}"))], name);
                let list: Vec<String> = made.of.iter().map(|id| told(before, *id)).collect();
                h.text(format!(" made it of {}", list.join(", ")));
            });
        }
    });
}

/// `topk %L0.sel`.
pub fn told(graph: &Graph, id: OpId) -> String {
    let name = key(graph, id).map(|value| graph.name(value)).unwrap_or_default();
    format!("{} %{name}", graph.op(id).op.name())
}

/// The lines of the pass timeline that show its ancestors, which stand there as the template's first layer.
fn marks(facts: &Facts<'_>, of: &Template, id: OpId) -> String {
    let stages = &facts.subject.stages;
    let own = facts.graph.op(id).layer.map(|layer| format!("L{layer}."));
    let mark = |stage: usize, graph: &Graph, id: OpId| {
        let name = key(graph, id).map(|value| graph.name(value)).unwrap_or_default();
        let name = match (own.as_deref().and_then(|own| name.strip_prefix(own)), of.layers.first()) {
            (Some(rest), Some(first)) => format!("L{first}.{rest}"),
            _ => name.to_string(),
        };
        format!("{stage}:{}", slug(&name))
    };
    let mut marks: Vec<String> = Vec::new();
    for made in facts.lineage.of(stages, id) {
        marks.extend(made.of.iter().map(|id| mark(made.stage - 1, &stages[made.stage - 1].graph, *id)));
        marks.push(mark(made.stage, facts.graph, id));
    }
    marks.join(" ")
}

/// The step that stands for it.
fn runs(h: &mut Html, facts: &Facts<'_>, at: usize) {
    let plan = facts.plan;
    let step = &plan.steps[at];
    let kernel = &plan.kernels[step.kernel.index()];
    h.el("p", &[("class", &"runs"), ("data-kernel", &slug(&kernel.name))], |h| {
        h.text(format!("step {} of {}, by ", thousands(at as u64), thousands(plan.steps.len() as u64)));
        h.leaf("a", &[("href", &format!("#k.{}", slug(&kernel.name)))], &kernel.name);
        for context in facts.contexts() {
            let read = cost::of(plan).step_bytes(step, context, 1);
            h.text(format!("; reads {} at {}", bytes(read), tokens(context)));
        }
        let spec = plan.spec(step);
        for ((operand, role), spec) in step.operands.iter().zip(step.op.roles()).zip(&spec.operands) {
            let (Operand::Buffer(id), true) = (operand, role.writes()) else { continue };
            let buffer = &plan.buffers[id.index()];
            let last = facts.lives[id.index()].map_or(at, |(_, last)| last);
            let stride = match spec {
                OperandSpec::Tensor { stride, .. } => *stride,
                OperandSpec::Weight(_) | OperandSpec::Cache(_) => buffer.width,
            };
            h.text(format!(
                "; {} lies at {} of the arena, {} rows of {} in {}, until step {last}",
                role.name,
                thousands(buffer.offset),
                buffer.max_rows,
                stride,
                bytes(buffer.bytes())
            ));
        }
    });
}
