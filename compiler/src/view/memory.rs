//! What a session takes: KV caches at three contexts, and the arena as rectangles of step by offset.

use hyc_passes::{CONTEXTS, kv_table};

use super::facts::{Facts, thousands, tokens};
use super::html::Html;
use super::provenance::moving;
use crate::report::bytes;

/// Width and height of the drawings.
const SIZE: (f64, f64) = (1000.0, 200.0);
/// Steps that the closer look shows.
const CLOSE: usize = 30;
/// The least height of a rectangle: a selection is small beside activations.
const THIN: f64 = 2.0;
/// Characters of a label, by the pixels that they take.
const LETTER: f64 = 6.2;

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>) {
    h.el("section", &[("id", &"memory"), ("aria-labelledby", &"h-memory")], |h| {
        h.leaf("h2", &[("id", &"h-memory")], "Memory");
        kv(h, facts);
        h.leaf("h3", &[], "Arena");
        h.leaf("p", &[("class", &"about")], decided(facts));
        arena(h, facts);
    });
}

/// KV caches of one sequence, beside full attention and hybrid SWA.
fn kv(h: &mut Html, facts: &Facts<'_>) {
    let table = kv_table(facts.plan);
    let most = table.rows.iter().map(|row| row.at[2]).max().unwrap_or(1).max(1);
    h.leaf("h3", &[], "KV caches of one sequence");
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                for head in ["", "grow", "a token", "rings"] {
                    h.leaf("th", &[], head);
                }
                CONTEXTS.iter().for_each(|context| h.leaf("th", &[], format!("at {}", tokens(*context))));
                ["at the slider", "at 1M"].iter().for_each(|head| h.leaf("th", &[], head));
            });
            for row in &table.rows {
                h.el("tr", &[], |h| {
                    h.leaf("th", &[], row.name);
                    h.leaf("td", &[("class", &"n")], row.growing);
                    h.leaf("td", &[("class", &"n")], bytes(row.token_bytes));
                    h.leaf("td", &[("class", &"n")], bytes(row.ring_bytes));
                    row.at.iter().for_each(|at| h.leaf("td", &[("class", &"n")], bytes(*at)));
                    let pages = CONTEXTS[2].div_ceil(facts.plan.model.page.max(1)).max(1);
                    let page = row.at[2].saturating_sub(row.ring_bytes) / pages;
                    h.el("td", &[("class", &"n")], |h| moving(h, facts, page, row.ring_bytes));
                    h.el("td", &[], |h| {
                        bar(h, row.at[2] as f64 / most as f64, &format!("{:.1}×", row.ratio))
                    });
                });
            }
        })
    });
    h.leaf(
        "p",
        &[("class", &"about")],
        format!(
            "As they are allocated: whole pages of {} tokens. The other rows are the same layers with \
             full attention in each, and with windows in place of the sparse layers. This plan goes to \
             {} tokens.",
            facts.plan.model.page,
            tokens(table.max_context)
        ),
    );
}

/// A share as a bar with its number.
pub fn bar(h: &mut Html, share: f64, number: &str) {
    let width = format!("{:.1}", (share * 100.0).clamp(0.0, 100.0));
    h.el(
        "svg",
        &[
            ("class", &"bar"),
            ("viewBox", &"0 0 100 8"),
            ("preserveAspectRatio", &"none"),
            ("aria-hidden", &"true"),
        ],
        |h| {
            h.el("rect", &[("width", &width), ("height", &"8")], |_| {});
        },
    );
    h.leaf("span", &[("class", &"n")], number);
}

/// What plan-memory decided, in words.
pub fn decided(facts: &Facts<'_>) -> String {
    let plan = facts.plan;
    let each: u64 = plan.buffers.iter().map(hyc_plan::Buffer::bytes).fold(0, u64::saturating_add);
    format!(
        "{} buffers of {} in all share an arena of {}; the most that live at once take {}.",
        thousands(plan.buffers.len() as u64),
        bytes(each),
        bytes(plan.arena_bytes),
        bytes(peak(facts))
    )
}

/// The most bytes that live at once: no arena can be smaller.
fn peak(facts: &Facts<'_>) -> u64 {
    let mut change = vec![0i128; facts.plan.steps.len() + 1];
    for (buffer, life) in facts.plan.buffers.iter().zip(&facts.lives) {
        let Some((first, last)) = life else { continue };
        change[*first] += i128::from(buffer.bytes());
        change[last + 1] -= i128::from(buffer.bytes());
    }
    let mut now = 0;
    let sums = change.into_iter().map(|change| {
        now += change;
        now
    });
    u64::try_from(sums.max().unwrap_or(0)).unwrap_or(0)
}

/// A buffer as a rectangle.
struct Block<'p> {
    name: &'p str,
    kind: &'static str,
    steps: (usize, usize),
    bytes: (u64, u64),
}

fn blocks<'p>(facts: &Facts<'p>) -> Vec<Block<'p>> {
    let placed = facts.plan.buffers.iter().zip(&facts.lives);
    let block = |(buffer, life): (&'p hyc_plan::Buffer, &Option<(usize, usize)>)| {
        let kind = match buffer.selection {
            Some(_) => "selection",
            None if buffer.elem == hyc_plan::Elem::I32 => "index",
            None => "tensor",
        };
        let end = buffer.offset.saturating_add(buffer.bytes());
        Some(Block { name: &buffer.name, kind, steps: (*life)?, bytes: (buffer.offset, end) })
    };
    placed.filter_map(block).collect()
}

fn arena(h: &mut Html, facts: &Facts<'_>) {
    let blocks = blocks(facts);
    let steps = facts.plan.steps.len().max(1);
    let whole = |h: &mut Html| {
        for kind in ["tensor", "index", "selection"] {
            let d: String = blocks
                .iter()
                .filter(|block| block.kind == kind)
                .map(|block| path(facts, block, (0, steps)))
                .collect();
            if !d.is_empty() {
                h.el("path", &[("class", &kind), ("d", &d)], |_| {});
            }
        }
    };
    drawing(h, facts, "all steps", whole);
    h.leaf(
        "p",
        &[("class", &"legend")],
        "Left to right: steps; upwards: bytes of the arena. Orange lines: selections, which live until \
         the last layer that reads them.",
    );
    let from = close_look(facts);
    let to = (from + CLOSE).min(steps);
    if steps <= 8 || to <= from {
        return;
    }
    let near = |h: &mut Html| {
        for block in blocks.iter().filter(|block| block.steps.1 >= from && block.steps.0 < to) {
            let (x, y, width, height) = place(facts, block, (from, to));
            h.el("path", &[("class", &block.kind), ("d", &path(facts, block, (from, to)))], |_| {});
            if width > LETTER * block.name.chars().count() as f64 + 6.0 && height > 11.0 {
                h.leaf(
                    "text",
                    &[("x", &format!("{:.1}", x + 4.0)), ("y", &format!("{:.1}", y + height / 2.0 + 4.0))],
                    block.name,
                );
            }
        }
    };
    drawing(h, facts, &format!("steps {from} to {}", to - 1), near);
}

/// Where the first oracle or else the first layer begins.
fn close_look(facts: &Facts<'_>) -> usize {
    let oracle = facts.plan.chains.first().map_or(0, |chain| chain.oracle);
    facts.plan.steps.iter().position(|step| step.layer == Some(oracle)).unwrap_or(0)
}

fn drawing(h: &mut Html, facts: &Facts<'_>, steps: &str, inside: impl FnOnce(&mut Html)) {
    let view = format!("0 0 {} {}", SIZE.0, SIZE.1);
    let label = format!("Arena of {}, {steps}", bytes(facts.plan.arena_bytes));
    h.el("figure", &[], |h| {
        h.leaf("figcaption", &[], &label);
        h.el(
            "div",
            &[("class", &"wide"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &label)],
            |h| {
                h.el(
                    "svg",
                    &[("viewBox", &view), ("class", &"arena"), ("role", &"img"), ("aria-label", &label)],
                    inside,
                );
            },
        );
    });
}

/// Left, top, width and height of a buffer among the steps from the first to before the second.
fn place(facts: &Facts<'_>, block: &Block<'_>, (from, to): (usize, usize)) -> (f64, f64, f64, f64) {
    let step = SIZE.0 / (to - from).max(1) as f64;
    let (first, last) = (block.steps.0.max(from) - from, block.steps.1.min(to - 1) - from);
    let byte = SIZE.1 / facts.plan.arena_bytes.max(1) as f64;
    let (low, high) = (block.bytes.0 as f64 * byte, block.bytes.1 as f64 * byte);
    (first as f64 * step, SIZE.1 - high, (last + 1 - first) as f64 * step, high - low)
}

fn path(facts: &Facts<'_>, block: &Block<'_>, steps: (usize, usize)) -> String {
    let (x, y, width, height) = place(facts, block, steps);
    let height = height.max(THIN);
    format!("M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z")
}
