//! Layers of one shape as one template: its ops in order, each a card. The cards of all other layers wait in an inert
//! `<template>` for the script.

use hyc_ir::OpId;

use super::card::card;
use super::facts::{Facts, card_id, key, ranges, thousands};
use super::html::Html;
use super::line::line;
use super::shape::Template;
use crate::report::bytes;

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>) {
    h.el("section", &[("id", &"shapes"), ("aria-labelledby", &"h-shapes")], |h| {
        h.leaf("h2", &[("id", &"h-shapes")], "Layers of one shape");
        let weights = facts.graph.len() as u64 - facts.ops;
        h.leaf(
            "p",
            &[("class", &"about")],
            format!(
                "The scheduled graph has {} ops and {} weights. Layers that compute the same on values \
                 of the same types are one template, shown as its first layer; a weight is a line of the \
                 op that reads it.",
                thousands(facts.ops),
                thousands(weights)
            ),
        );
        for template in &facts.templates {
            h.el("article", &[("class", &format!("shape {}", template.role.name()))], |h| {
                h.leaf("h3", &[], template.title());
                h.leaf("p", &[("class", &"about")], alike(template));
                template.ops.iter().for_each(|id| card(h, facts, template, *id));
            });
        }
        if !facts.has_all_cards() {
            h.leaf(
                "p",
                &[("class", &"about")],
                "This graph is large: the other layers have no cards of their own.",
            );
        }
    });
}

fn alike(template: &Template) -> String {
    match template.layers[..] {
        [] => "What stands before the first layer and behind the last.".to_string(),
        [layer] => format!("Layer {layer} alone."),
        [first, ..] => {
            format!(
                "{} alike: layers {}. Shown is layer {first}.",
                template.layers.len(),
                ranges(&template.layers)
            )
        }
    }
}

/// What the script shows when it is asked for: each layer, and the cards of the layers that no template shows.
pub fn waiting(h: &mut Html, facts: &Facts<'_>) {
    h.line();
    h.el("template", &[("id", &"rest")], |h| {
        for template in &facts.templates {
            for layer in &template.layers {
                let ops: Vec<OpId> = ops_of(facts, *layer);
                layer_panel(h, facts, template, *layer, &ops);
                if facts.has_all_cards() && template.layers.first() != Some(layer) {
                    ops.iter().for_each(|id| card(h, facts, template, *id));
                }
            }
        }
    });
}

fn ops_of(facts: &Facts<'_>, layer: u32) -> Vec<OpId> {
    facts.by_layer.get(&layer).cloned().unwrap_or_default()
}

/// A layer by itself: what it does, and its ops.
fn layer_panel(h: &mut Html, facts: &Facts<'_>, template: &Template, layer: u32, ops: &[OpId]) {
    let graph = facts.graph;
    h.line();
    h.el("article", &[("id", &format!("layer.L{layer}")), ("class", &template.role.name())], |h| {
        h.leaf("h3", &[], format!("Layer {layer}: {}", template.title()));
        h.leaf("p", &[], super::strip::sentence(facts, layer));
        h.leaf("p", &[("class", &"about")], format!("Alike: layers {}.", ranges(&template.layers)));
        h.el("ol", &[("class", &"ops")], |h| {
            for id in ops {
                h.el("li", &[], |h| {
                    let name = key(graph, *id).map(|value| graph.name(value)).unwrap_or_default();
                    if facts.has_card(*id) {
                        h.leaf(
                            "a",
                            &[("href", &format!("#{}", card_id(graph, *id))), ("title", &line(graph, *id))],
                            name,
                        );
                    } else {
                        h.text(name);
                    }
                    h.text(format!(" {}", graph.op(*id).op.name()));
                });
            }
        });
        h.leaf("p", &[("class", &"about")], format!("Its weights take {}.", bytes(facts.layer_bytes(layer))));
    });
}
