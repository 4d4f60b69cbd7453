//! A model as one offline page: layers and who reads whose selection and cache, what each pass did, every op with its
//! origins, memory, steps and kernels.
//!
//! The page is plain HTML that reads without its script, which filters, folds and shows the cards that wait in a
//! `<template>`: those of layers that look like another. Equal input gives equal bytes. Nothing is fetched, and what a
//! file says is text ([`html`]).

mod card;
mod choice;
mod compare;
mod diff;
pub mod difference;
mod facts;
mod head;
mod html;
mod index;
mod kernels;
mod layers;
mod line;
mod lineage;
mod maths;
mod memory;
pub mod profile;
mod provenance;
mod shape;
mod steps;
mod strip;
pub mod subject;
mod timeline;

use hyc_plan::{CachePolicy, Target, bind};

use crate::chosen::Chosen;
use crate::report::bytes;
use difference::Comparison;
use facts::{Facts, thousands};
use html::{Html, policy_hash};
use profile::Profile;
use subject::Subject;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What stands beside the model.
#[derive(Default)]
pub struct Beside {
    /// What was measured of it.
    pub profile: Option<Profile>,
    /// How its code compares with the interpreter.
    pub comparison: Option<Comparison>,
    /// What its oracle layers chose for a text.
    pub chosen: Option<Chosen>,
    /// A model that it is compared with.
    pub other: Option<Subject>,
}

/// The page.
pub fn page(subject: &Subject, beside: &Beside) -> String {
    let facts = Facts::new(subject);
    let other = beside.other.as_ref().map(Facts::new);
    let mut h = Html::default();
    h.el("html", &[("lang", &"en")], |h| {
        h.el("head", &[], |h| head(h, &facts));
        h.el("body", &[], |h| {
            header(h, &facts, beside);
            h.el("main", &[("id", &"main")], |h| {
                about(h, &facts);
                if let Some(other) = &other {
                    compare::section(h, &facts, other);
                }
                strip::section(h, &facts);
                provenance::section(h, &facts);
                if let Some(chosen) = &beside.chosen {
                    choice::section(h, &facts, chosen);
                }
                memory::section(h, &facts);
                timeline::section(h, &facts);
                steps::section(h, &facts, beside.profile.as_ref(), beside.comparison.as_ref());
                layers::section(h, &facts);
            });
            panel(h);
            layers::waiting(h, &facts);
            h.data("index", &index::json(&facts));
            h.code("script", SCRIPT);
        });
    });
    format!("<!doctype html>\n{}\n", h.done())
}

fn head(h: &mut Html, facts: &Facts<'_>) {
    let policy =
        format!("default-src 'none'; style-src {}; script-src {}", policy_hash(STYLE), policy_hash(SCRIPT));
    h.void("meta", &[("charset", &"utf-8")]);
    h.void("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
    h.void("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
    h.void("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
    h.leaf("title", &[], format!("{} · hyc view", facts.plan.model.name));
    h.code("style", STYLE);
}

fn header(h: &mut Html, facts: &Facts<'_>, beside: &Beside) {
    let sections = [
        ("compare", "Compare"),
        ("layers", "Layers"),
        ("provenance", "Selections"),
        ("chosen", "Chosen"),
        ("memory", "Memory"),
        ("passes", "Passes"),
        ("steps", "Steps"),
        ("shapes", "Ops"),
    ];
    h.el("header", &[], |h| {
        h.el("a", &[("class", &"name"), ("href", &"#main")], |h| h.text(&facts.plan.model.name));
        h.el("nav", &[("aria-label", &"Sections")], |h| {
            let stands = |id: &str| match id {
                "compare" => beside.other.is_some(),
                "chosen" => beside.chosen.is_some(),
                _ => true,
            };
            for (id, name) in sections.iter().filter(|(id, _)| stands(id)) {
                h.leaf("a", &[("href", &format!("#{id}"))], name);
            }
        });
        h.el("div", &[("class", &"search js-only")], |h| {
            let label = "Find an op, a value, a weight, a kernel, a layer";
            h.void(
                "input",
                &[
                    ("type", &"search"),
                    ("id", &"search"),
                    ("aria-label", &label),
                    ("aria-controls", &"hits"),
                    ("placeholder", &"/ to find: L12.sel, topk, q_proj"),
                    ("autocomplete", &"off"),
                ],
            );
            h.el("ul", &[("id", &"hits"), ("aria-label", &"Matches"), ("hidden", &"")], |_| {});
        });
    });
}

/// What the model is, and how far it may be driven.
fn about(h: &mut Html, facts: &Facts<'_>) {
    let (plan, m) = (facts.plan, &facts.plan.model);
    let growing = plan.caches.iter().filter(|cache| cache.policy == CachePolicy::Growing).count();
    let weights = plan.weight_bytes();
    let digest: String = bind::plan_digest(plan).iter().map(|byte| format!("{byte:02x}")).collect();
    let figures = [
        ("target", target(&plan.target)),
        ("layers", format!("{} of width {}", m.layers, thousands(m.hidden))),
        ("vocabulary", thousands(m.vocab)),
        ("tokens of a sequence", thousands(m.max_context)),
        ("tokens of a step", thousands(m.chunk)),
        ("sequences, rows of logits", format!("{}, {}", thousands(m.max_batch), thousands(m.max_outputs))),
        ("weights", format!("{} in {} tensors", bytes(weights), thousands(plan.weights.len() as u64))),
        (
            "KV caches",
            format!("{growing} that grow, {} rings; pages of {} tokens", plan.caches.len() - growing, m.page),
        ),
        ("activations", format!("{} in one arena", bytes(plan.arena_bytes))),
        ("plan", format!("{} steps, {} kernels", thousands(plan.steps.len() as u64), plan.kernels.len())),
        ("digest of the plan", digest),
    ];
    h.leaf("h1", &[], &m.name);
    h.leaf("p", &[("class", &"about")], format!("Made by hyc view of this {}.", facts.subject.source));
    h.el("dl", &[("class", &"figures")], |h| {
        for (name, figure) in figures {
            let class = if name == "digest of the plan" { "long" } else { "" };
            h.el("div", &[("class", &class)], |h| {
                h.leaf("dt", &[], name);
                h.leaf("dd", &[], figure);
            });
        }
    });
}

fn target(target: &Target) -> String {
    match target {
        Target::Host { arch, features } => format!("{}: {arch} ({})", target.kind(), features.join(", ")),
        Target::Nvidia(gpu) => format!("{}, {} multiprocessors", target.kind(), gpu.multiprocessors),
    }
}

/// Where the script shows what is asked for.
fn panel(h: &mut Html) {
    h.el(
        "aside",
        &[("id", &"panel"), ("aria-label", &"Selected"), ("tabindex", &"-1"), ("hidden", &"")],
        |h| {
            h.leaf("button", &[("type", &"button"), ("id", &"close"), ("aria-label", &"Close")], "×");
            h.el("div", &[("id", &"shown"), ("aria-live", &"polite")], |_| {});
            h.leaf("p", &[("class", &"about")], "/ finds, ← → go through the layers, Esc closes.");
        },
    );
}
