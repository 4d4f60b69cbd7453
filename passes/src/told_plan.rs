//! A Plan as text. Layers whose steps differ in nothing but names and numbers are told once.

use std::collections::HashMap;
use std::fmt::Write;

use hyc_ir::text::{Layers, pattern};
use hyc_plan::{Cache, CachePolicy, Operand, Plan, Step};

use crate::told_slices;

/// Whether a layer is one of those that are asked for.
pub fn wanted(layers: Option<&Layers>, layer: Option<u32>) -> bool {
    layers.is_none_or(|layers| layer.is_some_and(|layer| layers.contains(layer)))
}

/// `, layers 0-3`, where there are some.
pub fn of_layers(layers: impl IntoIterator<Item = u32>) -> String {
    Layers::of(layers).map(|layers| format!(", {}", layers.named())).unwrap_or_default()
}

/// Arena, chains, caches, steps and slices.
pub fn text(plan: &Plan, layers: Option<&Layers>) -> String {
    let mut out = format!("arena of {} bytes, pages of {} tokens\n", plan.arena_bytes, plan.model.page);
    for chain in &plan.chains {
        let kv = if chain.shared_kv { "its cache" } else { "their own caches" };
        let sparse = Layers::of(chain.sparse.iter().copied());
        let sparse = sparse.map_or("no layer".to_string(), |layers| layers.named());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "chain: layer {} selects for {sparse}, reading {kv}", chain.oracle);
    }
    caches(&mut out, plan, layers);
    layers_of(&mut out, plan, layers);
    out + &told_slices::text(plan, |layer| wanted(layers, layer))
}

/// A line for all caches that only their owners read, and that are alike.
fn caches(out: &mut String, plan: &Plan, layers: Option<&Layers>) {
    let mut lines: Vec<((String, String), Vec<u32>)> = Vec::new();
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for cache in plan.caches.iter().filter(|cache| wanted(layers, Some(cache.owner))) {
        let line = (pattern(&cache.name, Some(cache.owner)), kept(cache));
        let at = *known.entry(line.clone()).or_insert(lines.len());
        if at == lines.len() {
            lines.push((line, Vec::new()));
        }
        lines[at].1.push(cache.owner);
    }
    for ((name, kept), owners) in lines {
        let name = if let [owner] = owners[..] { name.replacen("{i}", &owner.to_string(), 1) } else { name };
        let _ = writeln!(out, "cache {name}{}: {kept}", of_layers(owners));
    }
}

fn kept(cache: &Cache) -> String {
    let kept = match cache.policy {
        CachePolicy::Growing => "growing".to_string(),
        CachePolicy::Ring { window, pages } => format!("ring({window}, {pages})"),
    };
    let others = Layers::of(cache.readers.iter().copied().filter(|reader| *reader != cache.owner));
    let readers = others.map(|layers| format!(", read by {} too", layers.named())).unwrap_or_default();
    format!("{kept}, {} bytes a page{readers}", cache.page_bytes())
}

/// The steps in runs of one layer, alike ones together.
fn layers_of(out: &mut String, plan: &Plan, layers: Option<&Layers>) {
    let mut runs: Vec<(usize, &[Step], Vec<u32>)> = Vec::new();
    let mut known: HashMap<Vec<String>, usize> = HashMap::new();
    let oracles: HashMap<u32, u32> = plan
        .chains
        .iter()
        .flat_map(|chain| chain.sparse.iter().map(|layer| (*layer, chain.oracle)))
        .collect();
    let mut first = 0;
    for run in plan.steps.chunk_by(|a, b| a.layer == b.layer) {
        let layer = run[0].layer;
        if wanted(layers, layer) {
            let lines = run.iter().map(|step| line(plan, &oracles, step, layer)).collect();
            let at = *known.entry(lines).or_insert(runs.len());
            if at == runs.len() {
                runs.push((first, run, Vec::new()));
            }
            runs[at].2.extend(layer);
        }
        first += run.len();
    }
    for (first, run, layers) in runs {
        let last = first + run.len() - 1;
        let title = match Layers::of(layers.iter().copied()) {
            None => format!("steps {first}..{last}"),
            Some(all) if all.count() == 1 => format!("{}, steps {first}..{last}", all.named()),
            Some(all) => format!("{}, each as layer {}, steps {first}..{last}", all.named(), layers[0]),
        };
        let _ = writeln!(out, "\n{title}");
        for (i, step) in run.iter().enumerate() {
            // The names of one layer are its own.
            let seen_from = step.layer.filter(|_| layers.len() > 1);
            let _ = writeln!(out, "{:5} {}", first + i, line(plan, &oracles, step, seen_from));
        }
    }
}

/// Op, kernel and operands by their roles, as that layer sees them.
fn line(plan: &Plan, oracles: &HashMap<u32, u32>, step: &Step, layer: Option<u32>) -> String {
    let roles = step.op.roles();
    let operands = step.operands.iter().zip(&roles);
    let one = |(operand, role): (&Operand, &hyc_plan::Role)| {
        format!("{}={}", role.name, seen_from(plan, oracles, layer, operand))
    };
    let list: Vec<String> = operands.map(one).collect();
    format!("{} by {} ({})", step.op.name(), plan.kernels[step.kernel.index()].name, list.join(", "))
}

/// An operand's name as a layer sees it: its own number as `{i}`, the one before as `{i-1}`, and of a cache or a selection
/// its oracle's as `{oracle}`.
fn seen_from(plan: &Plan, oracles: &HashMap<u32, u32>, layer: Option<u32>, operand: &Operand) -> String {
    let name = name(plan, operand);
    let Some(layer) = layer else { return name.to_string() };
    let of_a_chain = match operand {
        Operand::Cache(_) => true,
        Operand::Buffer(id) => plan.buffers[id.index()].selection.is_some(),
        Operand::Weight(_) => false,
    };
    let other = match of_a_chain {
        true => (oracles.get(&layer).copied(), "{oracle}"),
        false => (layer.checked_sub(1), "{i-1}"),
    };
    for (layer, number) in [(Some(layer), "{i}"), other] {
        let seen = pattern(name, layer);
        if layer.is_some() && seen.contains("{i}") {
            return seen.replacen("{i}", number, 1);
        }
    }
    name.to_string()
}

fn name<'p>(plan: &'p Plan, operand: &Operand) -> &'p str {
    match operand {
        Operand::Buffer(id) => &plan.buffers[id.index()].name,
        Operand::Weight(id) => &plan.weights[id.index()].name,
        Operand::Cache(id) => &plan.caches[id.index()].name,
    }
}

/// A line a step: number, layer and op, kernel, operands by their roles with numbers and names. Then its slices.
pub fn steps(plan: &Plan) -> String {
    let operand = |operand: &Operand| {
        let id = match operand {
            Operand::Buffer(id) => id.to_string(),
            Operand::Weight(id) => id.to_string(),
            Operand::Cache(id) => id.to_string(),
        };
        format!("{id}:{}", name(plan, operand))
    };
    let line = |(i, step): (usize, &Step)| {
        let roles = step.op.roles();
        let operands = step.operands.iter().zip(&roles);
        let list: Vec<String> = operands.map(|(o, role)| format!("{}={}", role.name, operand(o))).collect();
        let kernel = &plan.kernels[step.kernel.index()].name;
        format!("{i:4} {} {kernel} ({})\n", step.name, list.join(", "))
    };
    let steps: String = plan.steps.iter().enumerate().map(line).collect();
    steps + &told_slices::text(plan, |_| true)
}
