//! What runs: steps by the bytes that they read, kernels, all steps in a list.

use std::collections::HashMap;

use hyc_plan::{Layout, Operand, Step};

use super::difference::{self, Comparison};
use super::facts::{Facts, ranges, thousands, tokens};
use super::html::{Html, slug};
use super::kernels;
use super::memory::bar;
use super::profile::Profile;
use super::shape::Role;
use crate::cost;
use crate::report::bytes;

/// A row of the table reads at least one part of so many of what a decode step reads.
const LEAST_SHARE: u64 = 2000;

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>, profile: Option<&Profile>, comparison: Option<&Comparison>) {
    h.el("section", &[("id", &"steps"), ("aria-labelledby", &"h-steps")], |h| {
        h.leaf("h2", &[("id", &"h-steps")], "Steps and kernels");
        comparison.iter().for_each(|comparison| difference::told(h, comparison));
        by_bytes(h, facts);
        kernels::table(h, facts, profile);
        kernels::code(h, facts);
        all(h, facts, comparison);
    });
}

/// Steps that are alike: of one kernel, in layers that do the same, with a result of one name.
struct Group<'p> {
    first: &'p Step,
    what: String,
    role: Role,
    layers: Vec<u32>,
    count: u64,
    /// Bytes of all of them at each context.
    bytes: Vec<u64>,
}

fn groups<'p>(facts: &Facts<'p>) -> Vec<Group<'p>> {
    let (plan, contexts) = (facts.plan, facts.contexts());
    let cost = cost::of(plan);
    let mut found: Vec<Group<'p>> = Vec::new();
    let mut places: HashMap<(u32, &str, String), usize> = HashMap::new();
    for step in &plan.steps {
        let what = result(facts, step);
        let role = step.layer.map_or(Role::Plain, |layer| facts.role(layer));
        let key = (step.kernel.0, role.name(), what.clone());
        let at = *places.entry(key).or_insert_with(|| {
            let bytes = vec![0; contexts.len()];
            found.push(Group { first: step, what, role, layers: Vec::new(), count: 0, bytes });
            found.len() - 1
        });
        let group = &mut found[at];
        group.count += 1;
        group.layers.extend(step.layer);
        for (sum, context) in group.bytes.iter_mut().zip(&contexts) {
            *sum = sum.saturating_add(cost.step_bytes(step, *context, 1));
        }
    }
    found.sort_by_key(|group| std::cmp::Reverse(group.bytes[0]));
    found
}

/// What a step makes, without its layer.
fn result(facts: &Facts<'_>, step: &Step) -> String {
    let roles = step.op.roles();
    let written = step.operands.iter().zip(&roles).find(|(_, role)| role.writes());
    let name = match written.map(|(operand, _)| *operand) {
        Some(Operand::Buffer(id)) => facts.plan.buffers[id.index()].name.as_str(),
        Some(Operand::Cache(id)) => facts.plan.caches[id.index()].name.as_str(),
        Some(Operand::Weight(_)) | None => "",
    };
    let own = step.layer.map(|layer| format!("L{layer}.")).unwrap_or_default();
    name.strip_prefix(&own).unwrap_or(name).to_string()
}

/// The matrices of a step by the parts of their names that say which: `q_proj, k_proj`.
fn matrices(facts: &Facts<'_>, step: &Step) -> String {
    let name = |operand: &Operand| {
        let Operand::Weight(id) = operand else { return None };
        let weight = &facts.plan.weights[id.index()];
        let is_vector = matches!(weight.format.layout, Layout::Vector { .. });
        (!is_vector).then_some(weight.name.as_str())
    };
    let part = |name: &str| {
        let name = name.strip_suffix(".weight").unwrap_or(name);
        name.rsplit('.').next().unwrap_or(name).to_string()
    };
    let parts: Vec<String> = step.operands.iter().filter_map(name).map(part).collect();
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(", ")) }
}

fn by_bytes(h: &mut Html, facts: &Facts<'_>) {
    let contexts = facts.contexts();
    let totals: Vec<u64> =
        contexts.iter().map(|context| cost::of(facts.plan).decode_bytes(*context, 1)).collect();
    h.leaf("h3", &[], "Steps by bytes read");
    let told: Vec<String> = contexts
        .iter()
        .zip(&totals)
        .map(|(context, total)| format!("{} at {}", bytes(*total), tokens(*context)))
        .collect();
    h.leaf(
        "p",
        &[("class", &"about")],
        format!(
            "A decode step of one sequence must read {}: weights once, keys and values of the context. \
             The least that it can take is that over the memory's bandwidth. Steps of less than 0.05 % \
             are left out here.",
            told.join(", ")
        ),
    );
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                h.leaf("th", &[], "result");
                for context in &contexts {
                    h.leaf("th", &[("class", &"n")], format!("at {}", tokens(*context)));
                    h.leaf("th", &[], "of all");
                }
                ["op", "steps", "layers"].iter().for_each(|head| h.leaf("th", &[], head));
            });
            let groups = groups(facts);
            let counts = |group: &&Group<'_>| {
                group
                    .bytes
                    .iter()
                    .zip(&totals)
                    .any(|(read, total)| read.saturating_mul(LEAST_SHARE) >= *total)
            };
            for group in groups.iter().filter(counts) {
                h.el("tr", &[("class", &group.role.name())], |h| {
                    h.el("th", &[], |h| {
                        h.text(&group.what);
                        h.leaf("small", &[], matrices(facts, group.first));
                    });
                    for (read, total) in group.bytes.iter().zip(&totals) {
                        h.leaf("td", &[("class", &"n")], bytes(*read));
                        let share = *read as f64 / (*total).max(1) as f64;
                        h.el("td", &[("class", &"share")], |h| {
                            bar(h, share, &format!("{:.1} %", 100.0 * share))
                        });
                    }
                    h.el("td", &[], |h| {
                        let kernel = &facts.plan.kernels[group.first.kernel.index()].name;
                        h.leaf(
                            "a",
                            &[("href", &format!("#k.{}", slug(kernel))), ("title", kernel)],
                            group.first.op.name(),
                        );
                    });
                    h.leaf("td", &[("class", &"n")], group.count);
                    let layers =
                        if group.layers.is_empty() { "–".to_string() } else { ranges(&group.layers) };
                    h.leaf("td", &[("class", &"few")], format!("{} {layers}", role_word(group.role)));
                });
            }
        })
    });
}

fn role_word(role: Role) -> &'static str {
    if role == Role::Plain { "" } else { role.name() }
}

/// All steps in their order, a line each.
fn all(h: &mut Html, facts: &Facts<'_>, comparison: Option<&Comparison>) {
    let plan = facts.plan;
    let context = facts.contexts()[0];
    let differs = comparison.and_then(|comparison| comparison.found.as_ref()).map(|first| first.step);
    h.leaf("h3", &[], "All steps");
    h.el("p", &[("class", &"js-only")], |h| {
        h.leaf("label", &[("for", &"filter")], "Lines with ");
        h.void("input", &[("type", &"search"), ("id", &"filter"), ("placeholder", &"attn, L12, k_proj")]);
        h.leaf("output", &[("id", &"filtered"), ("for", &"filter")], "");
    });
    h.el("details", &[("id", &"all-steps")], |h| {
        h.leaf(
            "summary",
            &[],
            format!(
                "{} steps in order, with what they read at {}",
                thousands(plan.steps.len() as u64),
                tokens(context)
            ),
        );
        let lines: String = plan
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| {
                let read = bytes(cost::of(plan).step_bytes(step, context, 1));
                let kernel = &plan.kernels[step.kernel.index()].name;
                let made = result(facts, step);
                let mark = if differs == Some(at) { "≠" } else { " " };
                format!("{mark}{at:5}  {read:>10}  {:<24} {made:<14} {kernel}\n", step.name)
            })
            .collect();
        h.leaf(
            "pre",
            &[("id", &"step-lines"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &"all steps")],
            lines,
        );
    });
}
