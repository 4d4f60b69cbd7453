//! What runs: steps by the bytes that they read, kernels with their variants, times where there are some, and code.

use std::collections::HashMap;

use hyc_plan::{Code, Grid, GridDim, Layout, Operand, Step, variant};

use super::facts::{Facts, ranges, thousands, tokens};
use super::html::{Html, slug};
use super::memory::bar;
use super::profile::Profile;
use super::shape::Role;
use crate::cost;
use crate::report::bytes;

/// A row of the table reads at least one part of so many of what a decode step reads.
const LEAST_SHARE: u64 = 2000;
/// Lines of a kernel's code that are shown.
const MOST_LINES: usize = 1500;

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>, profile: Option<&Profile>) {
    h.el("section", &[("id", &"steps"), ("aria-labelledby", &"h-steps")], |h| {
        h.leaf("h2", &[("id", &"h-steps")], "Steps and kernels");
        by_bytes(h, facts);
        kernels(h, facts, profile);
        code(h, facts);
        all(h, facts);
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
             The least that it can \
         take is that over the memory's bandwidth. Steps of less than 0.05 % are left out here.",
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

fn kernels(h: &mut Html, facts: &Facts<'_>, profile: Option<&Profile>) {
    let plan = facts.plan;
    let mut order: Vec<usize> = (0..plan.kernels.len()).collect();
    let point = profile.and_then(|profile| profile.points.last());
    let seconds = |at: &usize| {
        point
            .and_then(|point| point.kernels.get(&plan.kernels[*at].name))
            .map_or(0.0, |(seconds, _)| *seconds)
    };
    order.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    h.leaf("h3", &[], "Kernels");
    if let Some(profile) = profile {
        let more = match profile.left_out {
            0 => String::new(),
            n => format!(" {n} more measurements are left out."),
        };
        h.leaf(
            "p",
            &[("class", &"about")],
            format!(
                "Milliseconds of all launches of a pass, the share of that pass, and behind it the share \
                 of the machine's \
             limit: bytes of a decode step, operations of a prefill.{more}"
            ),
        );
    }
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                h.leaf("th", &[], "kernel");
                profile
                    .iter()
                    .flat_map(|profile| &profile.points)
                    .for_each(|point| h.leaf("th", &[], &point.title));
                ["steps", "variant for rows", "why"].iter().for_each(|head| h.leaf("th", &[], head));
            });
            for at in order {
                let kernel = &plan.kernels[at];
                h.el("tr", &[("id", &format!("k.{}", slug(&kernel.name)))], |h| {
                    h.leaf("th", &[], &kernel.name);
                    profile
                        .iter()
                        .flat_map(|profile| &profile.points)
                        .for_each(|point| heat(h, point, &kernel.name));
                    let steps = plan.steps.iter().filter(|step| step.kernel.index() == at).count();
                    h.leaf("td", &[("class", &"n")], steps);
                    let chosen: Vec<String> = kernel
                        .chosen
                        .iter()
                        .map(|chosen| format!("{}: {}", chosen.rows, chosen.variant))
                        .collect();
                    h.leaf("td", &[], chosen.join("; "));
                    let mut why: Vec<String> =
                        kernel.chosen.iter().map(|chosen| variant::why(&kernel.variants, chosen)).collect();
                    why.dedup();
                    h.leaf("td", &[("class", &"few")], why.join("; "));
                });
            }
        })
    });
}

/// A time with a colour of ten, and its number.
fn heat(h: &mut Html, point: &super::profile::Point, kernel: &str) {
    let Some((seconds, limit)) = point.kernels.get(kernel) else {
        h.leaf("td", &[], "–");
        return;
    };
    let share = if point.seconds > 0.0 { seconds / point.seconds } else { 0.0 };
    let class = format!("n heat h{}", (share * 10.0).clamp(0.0, 9.0) as u8);
    h.el("td", &[("class", &class)], |h| {
        h.text(format!("{:.3} ms, {:.0} %", 1e3 * seconds, 100.0 * share));
        if let Some(limit) = limit {
            h.leaf("small", &[], format!(" {:.0} % of limit", 100.0 * limit));
        }
    });
}

/// Each kernel's code, folded.
fn code(h: &mut Html, facts: &Facts<'_>) {
    let (plan, subject) = (facts.plan, facts.subject);
    let (what, part) = if plan.target.is_host() { ("disassembly", "asm") } else { ("PTX", "ptx") };
    h.leaf("h3", &[], format!("Code: {what}"));
    if subject.code.is_empty() {
        h.leaf(
            "p",
            &[],
            format!("No {what} here: it stands in an artefact that was compiled for this target."),
        );
        return;
    }
    for kernel in &plan.kernels {
        let Some(text) = subject.code.get(&kernel.name) else { continue };
        let lines = text.lines().count();
        let shown: String = text.lines().take(MOST_LINES).map(|line| format!("{line}\n")).collect();
        let grid = match &kernel.code {
            Code::Host { grid, .. } => items(grid),
            Code::Nvidia { launches } => format!("{} functions", launches.len()),
        };
        h.line();
        h.el("details", &[("class", &"code")], |h| {
            h.el("summary", &[], |h| {
                h.leaf("code", &[], &kernel.name);
                h.leaf("span", &[], format!(" {} lines; {grid}", thousands(lines as u64)));
            });
            h.leaf(
                "pre",
                &[
                    ("tabindex", &"0"),
                    ("role", &"region"),
                    ("aria-label", &format!("code of {}", kernel.name)),
                ],
                shown,
            );
            if lines > MOST_LINES {
                let more = thousands((lines - MOST_LINES) as u64);
                h.leaf("p", &[], format!("{more} more lines: hyc inspect MODEL.hyc {part}"));
            }
        });
    }
}

/// How a processor splits a kernel's work.
fn items(grid: &Grid) -> String {
    let each = match grid.dim {
        GridDim::One => "",
        GridDim::Tokens => " a token",
        GridDim::Outputs => " a row of logits",
    };
    format!("{} work items{each}", thousands(grid.per))
}

/// All steps in their order, a line each.
fn all(h: &mut Html, facts: &Facts<'_>) {
    let plan = facts.plan;
    let context = facts.contexts()[0];
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
                format!("{at:5}  {read:>10}  {:<24} {made:<14} {kernel}\n", step.name)
            })
            .collect();
        h.leaf(
            "pre",
            &[("id", &"step-lines"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &"all steps")],
            lines,
        );
    });
}
