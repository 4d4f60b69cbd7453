//! Where selections and caches come from: who makes each, who reads it, and what is saved by sharing it.

use std::collections::BTreeMap;

use hyc_ir::{Op, OpId, ValueId};
use hyc_plan::{Cache, CachePolicy};

use super::card::told;
use super::facts::{Facts, ranges, thousands, tokens};
use super::html::{Html, value_id};
use crate::report::bytes;

/// What the verifier holds every read of a selection to.
const RULES: &str = "Held after every pass and in every plan that is loaded: one op makes it, in this \
    very pass; whoever reads it looks its blocks up in the cache that they were ranked over, through the \
    same page map; a block is a page of that cache; KV heads and blocks agree.";

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>) {
    h.el("section", &[("id", &"provenance"), ("aria-labelledby", &"h-provenance")], |h| {
        h.leaf("h2", &[("id", &"h-provenance")], "Selections and caches");
        slider(h, facts);
        selections(h, facts);
        caches(h, facts);
    });
}

/// The context that bytes of caches are told at.
fn slider(h: &mut Html, facts: &Facts<'_>) {
    let at = told_at(facts);
    h.el("p", &[("class", &"slider")], |h| {
        h.leaf("label", &[("for", &"context")], "KV bytes of one sequence at ");
        let (step, place) = ("0.25", (at as f64).log2());
        h.void(
            "input",
            &[
                ("type", &"range"),
                ("id", &"context"),
                ("class", &"js-only"),
                ("min", &"10"),
                ("max", &"20"),
                ("step", &step),
                ("value", &place),
            ],
        );
        h.leaf("output", &[("id", &"context-is"), ("for", &"context")], format!("{} tokens", tokens(at)));
    });
}

/// The context that bytes are told at before anybody moves the slider.
pub fn told_at(facts: &Facts<'_>) -> u64 {
    facts.plan.model.max_context.clamp(1 << 10, 128 << 10)
}

/// Bytes that follow the slider: `page` bytes for each page of tokens and `fixed` beside them.
pub fn moving(h: &mut Html, facts: &Facts<'_>, page: u64, fixed: u64) {
    let pages = told_at(facts).div_ceil(facts.plan.model.page.max(1));
    let sum = page.saturating_mul(pages).saturating_add(fixed);
    h.leaf("span", &[("class", &"moving n"), ("data-page", &page), ("data-fixed", &fixed)], bytes(sum));
}

fn selections(h: &mut Html, facts: &Facts<'_>) {
    let graph = facts.graph;
    let makers: Vec<(OpId, ValueId)> = graph
        .ops()
        .filter_map(|id| match graph.op(id).op {
            Op::OracleAttention(_) => Some((id, *graph.op(id).results.get(1)?)),
            _ => None,
        })
        .collect();
    h.leaf("h3", &[], "Selections");
    if makers.is_empty() {
        h.leaf("p", &[], "No layer selects: every layer attends to all that its cache holds.");
        return;
    }
    h.leaf("p", &[("class", &"about")], RULES);
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                ["selection", "made by", "blocks a KV head", "page map", "read by layers"]
                    .iter()
                    .for_each(|head| h.leaf("th", &[], head));
            });
            for (id, value) in makers {
                // Page lists are a form of the selection, for its readers.
                let users = graph.uses(value).into_iter().map(|(user, _)| graph.op(user));
                let readers: Vec<u32> = users
                    .filter(|user| !matches!(user.op, hyc_ir::Op::PageLists(_)))
                    .filter_map(|user| user.layer)
                    .collect();
                let hyc_ir::Type::Selection(ty) = graph.ty(value) else { continue };
                h.el("tr", &[], |h| {
                    h.el("th", &[], |h| {
                        let name = graph.name(value);
                        if facts.has_card(id) {
                            h.leaf("a", &[("href", &format!("#{}", value_id(name)))], format!("%{name}"));
                        } else {
                            h.text(format!("%{name}"));
                        }
                    });
                    h.leaf("td", &[], graph.op(id).op.name());
                    h.leaf("td", &[], format!("{} of {} tokens", ty.shape.blocks, ty.shape.block));
                    h.leaf("td", &[], &ty.map);
                    h.leaf("td", &[], ranges(&readers));
                });
            }
        })
    });
}

fn caches(h: &mut Html, facts: &Facts<'_>) {
    h.leaf("h3", &[], "Caches");
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                for head in [
                    "cache",
                    "owner",
                    "keeps",
                    "read by layers",
                    "a token",
                    "a sequence",
                    "saved by its readers",
                ] {
                    h.leaf("th", &[], head);
                }
            });
            let caches = facts.plan.caches.iter().enumerate();
            for (at, cache) in caches.filter(|(_, cache)| cache.policy == CachePolicy::Growing) {
                growing(h, facts, at, cache);
            }
            rings(h, facts);
        })
    });
    removed(h, facts);
}

fn growing(h: &mut Html, facts: &Facts<'_>, at: usize, cache: &Cache) {
    let aliases = cache.readers.iter().filter(|reader| **reader != cache.owner).count() as u64;
    let page = cache.page_bytes();
    h.el("tr", &[("id", &format!("cache.{at}"))], |h| {
        h.leaf("th", &[], &cache.name);
        h.el("td", &[], |h| {
            h.leaf("a", &[("href", &format!("#L{}", cache.owner))], format!("L{}", cache.owner))
        });
        h.leaf("td", &[], "every token");
        h.leaf("td", &[], ranges(&cache.readers));
        h.leaf("td", &[("class", &"n")], bytes(cache.token_bytes()));
        h.el("td", &[("class", &"n")], |h| moving(h, facts, page, 0));
        h.el("td", &[("class", &"n")], |h| match aliases {
            0 => h.text("–"),
            _ => {
                moving(h, facts, page.saturating_mul(aliases), 0);
                h.leaf("small", &[], format!(" in {aliases} copies"));
            }
        });
    });
}

/// Rings that agree in everything but their owners.
fn rings(h: &mut Html, facts: &Facts<'_>) {
    let mut alike: BTreeMap<(u64, u64, u64, u64), Vec<u32>> = BTreeMap::new();
    for cache in &facts.plan.caches {
        if let CachePolicy::Ring { window, pages } = cache.policy {
            alike
                .entry((window, pages, cache.token_bytes(), cache.page_bytes()))
                .or_default()
                .push(cache.owner);
        }
    }
    for ((window, pages, token, page), owners) in alike {
        h.el("tr", &[], |h| {
            h.leaf("th", &[], format!("{} rings", owners.len()));
            h.leaf("td", &[], ranges(&owners));
            h.leaf("td", &[], format!("{window} tokens, in {pages} pages"));
            h.leaf("td", &[], "each its owner");
            h.leaf("td", &[("class", &"n")], bytes(token));
            let all = pages.saturating_mul(page).saturating_mul(owners.len() as u64);
            h.el("td", &[("class", &"n")], |h| moving(h, facts, 0, all));
            h.leaf("td", &[("class", &"n")], "–");
        });
    }
}

/// What plan-kv took away.
fn removed(h: &mut Html, facts: &Facts<'_>) {
    let stages = &facts.subject.stages;
    let Some(at) = stages.iter().position(|stage| stage.name == "plan-kv") else { return };
    let (before, after) = (&stages[at - 1].graph, &stages[at].graph);
    let count = |graph: &hyc_ir::Graph, name: &str| {
        graph.ops().filter(|id| graph.op(*id).op.name() == name).count() as u64
    };
    let shares = count(before, "kv_share").saturating_sub(count(after, "kv_share"));
    let caches = count(before, "cache").saturating_sub(count(after, "cache"));
    let first = before.ops().find(|id| matches!(before.op(*id).op, Op::KvShare(_)));
    let example = first.map_or(String::new(), |id| format!(" (the first is {})", told(before, id)));
    h.leaf(
        "p",
        &[("class", &"about")],
        format!(
            "plan-kv removed {} copies of another layer's cache{example} and {} caches that nobody read.",
            thousands(shares),
            thousands(caches)
        ),
    );
}
