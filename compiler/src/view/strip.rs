//! The strip of layers, by which the page is navigated: who selects for whom (solid arcs above), who reads whose cache
//! (dashed arcs below), whose cache grows. Behind it the same as a table.

use std::collections::BTreeSet;

use hyc_plan::{Cache, CachePolicy, Plan, StepOp, ops};

use super::facts::{Facts, ranges};
use super::html::Html;
use super::shape::Role;
use crate::report::bytes;

/// The height of the layers' boxes.
const BOX: usize = 26;
/// Left of the first layer.
const LEFT: usize = 14;
/// What a strip of few layers may fill.
const WIDTH: usize = 1180;
/// Between the boxes and the arcs below them stand the layer's number and its cache.
const CAPTION: usize = 34;

/// Where things lie.
struct Places {
    /// Pixels from layer to layer.
    pitch: usize,
    /// Top of the boxes.
    top: usize,
    /// Bottom of all.
    height: usize,
}

impl Places {
    fn of(plan: &Plan) -> Places {
        let pitch = (WIDTH / plan.model.layers.max(1) as usize).clamp(23, 36);
        let chains = plan.chains.iter().map(|chain| farthest(chain.oracle, &chain.sparse));
        let caches = plan.caches.iter().map(|cache| farthest(cache.owner, &cache.readers));
        let above = chains.max().map_or(0, peak);
        let below = caches.max().map_or(0, peak);
        let top = above + 4;
        Places { pitch, top, height: top + BOX + CAPTION + below + 4 }
    }

    fn x(&self, layer: u32) -> usize {
        LEFT + layer as usize * self.pitch + self.pitch / 2
    }

    /// Arcs from `from` to each of `to`: above the boxes, or below them.
    fn arcs(&self, from: u32, to: &[u32], above: bool) -> String {
        let y = if above { self.top } else { self.top + BOX + CAPTION } as i64;
        let arc = |to: &u32| {
            // The curve goes three quarters of the way to the points that bend it.
            let rise = peak(to.abs_diff(from)) as i64 * 4 / 3;
            let bend = if above { y - rise } else { y + rise };
            let (x0, x1) = (self.x(from), self.x(*to));
            format!("M{x0} {y}C{x0} {bend} {x1} {bend} {x1} {y}")
        };
        to.iter().filter(|to| **to != from).map(arc).collect()
    }
}

fn farthest(from: u32, to: &[u32]) -> u32 {
    to.iter().map(|to| to.abs_diff(from)).max().unwrap_or(0)
}

/// The height of an arc over so many layers.
fn peak(layers: u32) -> usize {
    if layers == 0 { 0 } else { (8 + 7 * layers as usize).min(86) }
}

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>) {
    h.el("section", &[("id", &"layers"), ("aria-labelledby", &"h-layers")], |h| {
        h.leaf("h2", &[("id", &"h-layers")], "Layers");
        legend(h, facts);
        h.el(
            "div",
            &[
                ("class", &"wide"),
                ("tabindex", &"0"),
                ("role", &"region"),
                ("aria-label", &"Strip of layers"),
            ],
            |h| {
                strip(h, facts);
            },
        );
        h.el("details", &[("id", &"layer-table")], |h| {
            h.leaf("summary", &[], "The same as a table");
            table(h, facts);
        });
    });
}

fn legend(h: &mut Html, facts: &Facts<'_>) {
    let roles = [Role::Oracle, Role::Sparse, Role::Window, Role::Full, Role::Plain];
    h.el("p", &[("class", &"legend")], |h| {
        for role in roles {
            let layers: usize =
                facts.templates.iter().filter(|t| t.role == role).map(|t| t.layers.len()).sum();
            if layers > 0 {
                h.el("span", &[("class", &role.name())], |h| {
                    h.leaf("b", &[], role.letter());
                    h.text(format!(" {} {}", layers, role.name()));
                });
                h.text(" ");
            }
        }
        h.text("solid arc: reads this selection; dashed arc: reads this KV cache; ");
        let [growing, rings] = kept(facts.plan);
        h.text(format!("■ a cache that grows{growing}, ○ a ring of the window's tokens{rings}, – none"));
    });
}

/// Bytes a token of the caches that grow, and of the rings, each number once.
fn kept(plan: &Plan) -> [String; 2] {
    let (mut growing, mut rings) = (BTreeSet::new(), BTreeSet::new());
    for cache in &plan.caches {
        match cache.policy {
            CachePolicy::Growing => growing.insert(cache.token_bytes()),
            CachePolicy::Ring { pages, .. } => rings.insert(pages.saturating_mul(cache.page_bytes())),
        };
    }
    let told = |all: BTreeSet<u64>, what: &str| match all.len() {
        0 => String::new(),
        _ => format!(" ({}{what})", all.into_iter().map(bytes).collect::<Vec<_>>().join(", ")),
    };
    [told(growing, " a token"), told(rings, "")]
}

fn strip(h: &mut Html, facts: &Facts<'_>) {
    let layers = facts.plan.model.layers;
    let places = Places::of(facts.plan);
    let (width, height) = (2 * LEFT + layers as usize * places.pitch, places.height);
    let view = format!("0 0 {width} {height}");
    h.el("svg", &[("viewBox", &view), ("width", &width), ("height", &height), ("class", &"strip")], |h| {
        for chain in &facts.plan.chains {
            let d = places.arcs(chain.oracle, &chain.sparse, true);
            h.el("path", &[("class", &"sel"), ("data-from", &chain.oracle), ("d", &d)], |_| {});
        }
        for cache in &facts.plan.caches {
            let d = places.arcs(cache.owner, &cache.readers, false);
            if !d.is_empty() {
                h.el("path", &[("class", &"alias"), ("data-from", &cache.owner), ("d", &d)], |_| {});
            }
        }
        (0..layers).for_each(|layer| layer_box(h, facts, &places, layer));
    });
}

fn layer_box(h: &mut Html, facts: &Facts<'_>, places: &Places, layer: u32) {
    let role = facts.role(layer);
    let label = format!("layer {layer}, {}. {}", role.name(), sentence(facts, layer));
    let own = facts.plan.caches.iter().find(|cache| cache.owner == layer);
    let glyph = match own.map(|cache| cache.policy) {
        Some(CachePolicy::Growing) => "■",
        Some(CachePolicy::Ring { .. }) => "○",
        None => "–",
    };
    let (x, top) = (places.x(layer), places.top);
    let left = x - places.pitch / 2 + 1;
    h.el(
        "a",
        &[
            ("href", &format!("#L{layer}")),
            ("class", &role.name()),
            ("data-layer", &layer),
            ("aria-label", &label),
        ],
        |h| {
            h.el(
                "rect",
                &[("x", &left), ("y", &top), ("width", &(places.pitch - 2)), ("height", &BOX), ("rx", &4)],
                |_| {},
            );
            h.leaf("text", &[("x", &x), ("y", &(top + 18)), ("class", &"letter")], role.letter());
            h.leaf("text", &[("x", &x), ("y", &(top + BOX + 13))], layer);
            h.leaf("text", &[("x", &x), ("y", &(top + BOX + 28))], glyph);
        },
    );
}

/// What a layer has to do with others, in words.
pub fn sentence(facts: &Facts<'_>, layer: u32) -> String {
    let mut out: Vec<String> = Vec::new();
    for chain in &facts.plan.chains {
        if chain.oracle == layer {
            let kept = selected(facts, layer).map_or(String::new(), |(blocks, block)| {
                format!("{blocks} blocks of {block} tokens a KV head ")
            });
            let shared = if chain.shared_kv { ", which read its cache" } else { "" };
            out.push(format!("Selects {kept}for layers {}{shared}.", ranges(&chain.sparse)));
        } else if chain.sparse.contains(&layer) {
            let and = if chain.shared_kv { " and its KV cache" } else { "; KV are its own" };
            out.push(format!("Reads the selection of layer {}{and}.", chain.oracle));
        }
    }
    out.extend(facts.plan.caches.iter().filter(|cache| cache.owner == layer).map(owned));
    out.join(" ")
}

fn owned(cache: &Cache) -> String {
    match cache.policy {
        CachePolicy::Growing => format!(
            "Its cache grows by {} a token, read by layers {}.",
            bytes(cache.token_bytes()),
            ranges(&cache.readers)
        ),
        CachePolicy::Ring { window, pages } => format!(
            "Its own K, V are a ring: {window} tokens in {pages} pages, {}.",
            bytes(pages.saturating_mul(cache.page_bytes()))
        ),
    }
}

/// Blocks that a layer selects, and tokens of a block.
pub fn selected(facts: &Facts<'_>, layer: u32) -> Option<(u64, u64)> {
    let steps = facts.plan.steps.iter().filter(|step| step.layer == Some(layer));
    steps.into_iter().find_map(|step| match step.op {
        StepOp::OracleAttention(ops::OracleAttention { select, .. }) => Some((select.blocks, select.block)),
        _ => None,
    })
}

fn table(h: &mut Html, facts: &Facts<'_>) {
    let plan = facts.plan;
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                for head in ["layer", "does", "selection of", "cache of", "its own KV", "weights"] {
                    h.leaf("th", &[], head);
                }
            });
            for layer in 0..plan.model.layers {
                let role = facts.role(layer);
                let chain =
                    plan.chains.iter().find(|chain| chain.oracle == layer || chain.sparse.contains(&layer));
                let cache = plan
                    .caches
                    .iter()
                    .find(|c| c.policy == CachePolicy::Growing && c.readers.contains(&layer));
                let own = plan.caches.iter().find(|cache| cache.owner == layer);
                let kv = match own.map(|cache| (cache, cache.policy)) {
                    Some((cache, CachePolicy::Growing)) => format!("{} a token", bytes(cache.token_bytes())),
                    Some((cache, CachePolicy::Ring { pages, .. })) => {
                        format!("{} in all", bytes(pages.saturating_mul(cache.page_bytes())))
                    }
                    None => "–".to_string(),
                };
                let name = |layer: u32| format!("L{layer}");
                h.el("tr", &[("id", &name(layer)), ("class", &role.name())], |h| {
                    h.el("th", &[], |h| h.leaf("a", &[("href", &format!("#L{layer}"))], name(layer)));
                    h.leaf("td", &[], role.name());
                    h.leaf("td", &[], chain.map_or(String::new(), |chain| name(chain.oracle)));
                    h.leaf("td", &[], cache.map_or(String::new(), |cache| name(cache.owner)));
                    h.leaf("td", &[("class", &"n")], kv);
                    h.leaf("td", &[("class", &"n")], bytes(facts.layer_bytes(layer)));
                });
            }
        })
    });
}
