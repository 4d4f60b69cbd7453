//! The passes: what each one changed, layer by layer of a shape, side by side; what the last three decided.

use hyc_ir::{Graph, OpId};

use super::card::told;
use super::diff::{Row, rows};
use super::facts::{Facts, key, ranges, thousands};
use super::html::{Html, slug};
use super::line::{self, names_weight};
use super::shape::Template;

/// Passes with what they do, in a sentence.
const TOLD: [(&str, &str); 12] = [
    ("input", "What the front end wrote or the dump held: mathematics alone, nothing fused, nothing shared."),
    (
        "detect-chains",
        "A sparse layer's open references become the selection and the cache of the nearest oracle \
         before it; an oracle without listeners stops selecting.",
    ),
    (
        "plan-kv",
        "A layer that reads another's cache reads the cache itself; a cache that only a window reads \
         becomes a ring; one that nobody reads goes.",
    ),
    (
        "fuse-topk",
        "Attention, maxima and top-k in one op: the probabilities, tokens × heads × context, are never \
         in memory.",
    ),
    ("fuse-branches", "Both softmaxes of a sparse layer, their sinks and gates in one op."),
    (
        "fuse-epilogues",
        "What stands around a matrix product joins it: norms, RoPE and append, SwiGLU, residual sums.",
    ),
    (
        "quantise-kv",
        "Keys and values of a cache of codes with scales go to a ring of one step's rows first, and from there become codes.",
    ),
    (
        "tile-rows",
        "Rows that only kernels on tensor cores read lie in bf16 tiles, as those products' weights do.",
    ),
    ("fp8-rows", "Products of many rows by weights in fp8 round each row to fp8, with a scale of its own."),
    ("plan-memory", "Values whose lives do not meet share bytes of one arena."),
    (
        "select-kernels",
        "Ops that agree in everything that a kernel may depend on share one; each number of rows gets a \
         variant.",
    ),
    ("schedule", "The ops in their order as steps over numbered buffers, weights and caches: the plan."),
];

/// What a pass does.
fn about(pass: &str) -> &'static str {
    TOLD.iter().find(|(name, _)| *name == pass).map_or("", |(_, told)| told)
}

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>) {
    let stages = &facts.subject.stages;
    let planned = planned(facts);
    h.el("section", &[("id", &"passes"), ("aria-labelledby", &"h-passes")], |h| {
        h.leaf("h2", &[("id", &"h-passes")], "Passes");
        h.el("ol", &[("class", &"chips")], |h| {
            let rewritten = stages.iter().map(|stage| (stage.name, stage.changes));
            for (name, changes) in rewritten.chain(planned.iter().map(|(name, count, _)| (*name, *count))) {
                let class = if changes == 0 && name != "input" { "idle" } else { "" };
                h.el("li", &[("class", &class)], |h| {
                    h.el("a", &[("href", &format!("#pass.{name}"))], |h| {
                        h.text(name);
                        if name != "input" {
                            h.leaf("small", &[], thousands(changes as u64));
                        }
                    });
                });
            }
        });
        if stages.len() == 1 {
            h.leaf(
                "p",
                &[("class", &"about")],
                "An artefact holds the graph that was scheduled. What the passes made it of is told of \
                 its description.",
            );
        }
        h.leaf(
            "p",
            &[("class", &"about")],
            "Numbers are changes: rewrites, and of the last three buffers, kernels and steps. A pass is \
             shown on the first layer of each shape; times are told by hyc compile, since equal input \
             gives an equal page.",
        );
        for stage in 0..stages.len() {
            pass(h, facts, stage);
        }
        for (name, count, decided) in planned {
            pass_box(h, name, count, |h| h.leaf("p", &[], decided));
        }
    });
}

/// What the passes behind the rewriting ones decided.
fn planned(facts: &Facts<'_>) -> [(&'static str, usize, String); 3] {
    let plan = facts.plan;
    let variants: usize = plan.kernels.iter().map(|kernel| kernel.variants.len()).sum();
    [
        ("plan-memory", plan.buffers.len(), super::memory::decided(facts)),
        (
            "select-kernels",
            plan.kernels.len(),
            format!(
                "{} steps need {} kernels, which come in {variants} variants in all; the table of \
                 kernels below says which was taken for which rows.",
                thousands(plan.steps.len() as u64),
                plan.kernels.len()
            ),
        ),
        (
            "schedule",
            plan.steps.len(),
            format!(
                "{} steps over {} buffers, {} weights and {} caches; {} chains.",
                thousands(plan.steps.len() as u64),
                thousands(plan.buffers.len() as u64),
                thousands(plan.weights.len() as u64),
                plan.caches.len(),
                plan.chains.len()
            ),
        ),
    ]
}

fn pass_box(h: &mut Html, name: &'static str, changes: usize, inside: impl FnOnce(&mut Html)) {
    let idle = changes == 0 && name != "input";
    let class = if idle { "pass idle" } else { "pass" };
    h.line();
    h.el("details", &[("class", &class), ("id", &format!("pass.{name}"))], |h| {
        h.el("summary", &[], |h| {
            h.leaf("b", &[], name);
            let count = match (name, idle) {
                ("input", _) => String::new(),
                (_, true) => " changed nothing".to_string(),
                (_, false) => format!(" {} {}", thousands(changes as u64), counted(name)),
            };
            h.leaf("span", &[], count);
        });
        h.leaf("p", &[("class", &"about")], about(name));
        inside(h);
    });
}

/// What a pass counts.
fn counted(pass: &str) -> &'static str {
    match pass {
        "plan-memory" => "buffers",
        "select-kernels" => "kernels",
        "schedule" => "steps",
        _ => "changes",
    }
}

fn pass(h: &mut Html, facts: &Facts<'_>, stage: usize) {
    let stages = &facts.subject.stages;
    let (name, after) = (stages[stage].name, &stages[stage].graph);
    pass_box(h, name, stages[stage].changes, |h| {
        if stage == 0 {
            let ops = after.ops().filter(|id| !names_weight(after, *id)).count() as u64;
            let weights = after.len() as u64 - ops;
            h.leaf("p", &[], format!("{} ops and {} weights.", thousands(ops), thousands(weights)));
            return;
        }
        let before = &stages[stage - 1].graph;
        for template in &facts.templates {
            sides(h, template, stage, before, after);
        }
        let dropped = facts.lineage.dropped(stage);
        let dropped: Vec<String> = dropped
            .iter()
            .filter(|id| !names_weight(before, **id))
            .take(12)
            .map(|id| told(before, *id))
            .collect();
        if !dropped.is_empty() {
            h.leaf("p", &[("class", &"about")], format!("Found to be of no use: {}.", dropped.join(", ")));
        }
    });
}

/// The ops of a template's first layer in a graph.
fn ops_of(graph: &Graph, template: &Template) -> Vec<OpId> {
    let layer = template.layers.first().copied();
    let own = |id: &OpId| graph.op(*id).layer == layer && !names_weight(graph, *id);
    graph.ops().filter(own).collect()
}

/// A layer before and after a pass; nothing where the pass left it alone.
fn sides(h: &mut Html, template: &Template, stage: usize, before: &Graph, after: &Graph) {
    let (old, new) = (ops_of(before, template), ops_of(after, template));
    let own = template.layers.first().map(|layer| format!("L{layer}.")).unwrap_or_default();
    let lines = |graph: &Graph, ops: &[OpId]| -> Vec<String> {
        // The heading says the layer.
        let name = |value| {
            let name = graph.name(value);
            format!("%{}", name.strip_prefix(&own).unwrap_or(name))
        };
        ops.iter().map(|id| line::told(graph, *id, &name)).collect()
    };
    let (old_lines, new_lines) = (lines(before, &old), lines(after, &new));
    let rows = rows(&old_lines, &new_lines);
    if rows.is_empty() {
        return;
    }
    let mark = |stage: usize, graph: &Graph, id: OpId| {
        let name = key(graph, id).map(|value| graph.name(value)).unwrap_or_default();
        format!("{stage}:{}", slug(name))
    };
    h.el("p", &[("class", &format!("of {}", template.role.name()))], |h| {
        h.leaf("b", &[], template.title());
        match template.layers.split_first() {
            Some((first, rest)) if !rest.is_empty() => {
                h.text(format!(" {first}; the same in layers {}", ranges(rest)));
            }
            Some((first, _)) => h.text(format!(" {first}")),
            None => {}
        }
    });
    h.el("div", &[("class", &"sides")], |h| {
        side(h, "before", &rows, |h, row| match row {
            Row::Both(at, _) => h.text(&old_lines[at]),
            Row::Changed(Some(at), _) => {
                h.leaf("del", &[("data-v", &mark(stage - 1, before, old[at]))], &old_lines[at]);
            }
            Row::Changed(None, _) => {}
            Row::Folded(lines) => h.text(format!("   … {lines} unchanged")),
        });
        side(h, "after", &rows, |h, row| match row {
            Row::Both(_, at) => h.text(&new_lines[at]),
            Row::Changed(_, Some(at)) => {
                h.leaf("ins", &[("data-v", &mark(stage, after, new[at]))], &new_lines[at]);
            }
            Row::Changed(_, None) => {}
            Row::Folded(lines) => h.text(format!("   … {lines} unchanged")),
        });
    });
}

fn side(h: &mut Html, name: &'static str, rows: &[Row], tell: impl Fn(&mut Html, Row)) {
    h.el("pre", &[("tabindex", &"0"), ("role", &"region"), ("aria-label", &name)], |h| {
        for row in rows {
            tell(h, *row);
            h.text("\n");
        }
    });
}
