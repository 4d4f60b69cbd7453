//! What the last passes decided, as text: where buffers lie, which kernels compute what, the steps. Layers that are
//! alike are told once.

use std::collections::HashMap;
use std::fmt::Write;

use hyc_ir::text::{Layers, pattern};
use hyc_ir::{Graph, Op, OpId, op};
use hyc_plan::variant::why;
use hyc_plan::{Chosen, Layout, Plan, Rows};

use crate::plan_memory::{Arena, Placement};
use crate::select_kernels::{KernelChoice, Selected};
use crate::told_plan::{self, of_layers, wanted};

/// What a pass computed beside the graph.
#[derive(Clone, Copy)]
pub enum Decided<'a> {
    /// `plan-memory`: where each value lies.
    Memory(&'a Arena),
    /// `select-kernels`: the kernel of each step, and its variants by rows.
    Kernels(&'a Selected),
    /// `schedule`: the Plan.
    Plan(&'a Plan),
}

impl Decided<'_> {
    /// The decisions as text, those of some layers or all.
    pub fn text(&self, graph: &Graph, layers: Option<&Layers>) -> String {
        match self {
            Decided::Memory(arena) => memory(graph, arena, layers),
            Decided::Kernels(selected) => kernels(graph, selected, layers),
            Decided::Plan(plan) => told_plan::text(plan, layers),
        }
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The steps that ops become, by their places: an op that is no step has the number of the one behind it.
fn step_numbers(graph: &Graph) -> Vec<usize> {
    let mut next = 0;
    let number = |id: OpId| {
        let is_step =
            !matches!(graph.op(id).op, Op::Weight(op::Weight {}) | Op::Cache(_) | Op::Output(op::Output {}));
        let number = next;
        next += usize::from(is_step);
        number
    };
    graph.ops().map(number).collect()
}

/// A line for all placements that agree in everything but their layer.
fn memory(graph: &Graph, arena: &Arena, layers: Option<&Layers>) -> String {
    let (ops, numbers) = (graph.ops().collect::<Vec<_>>(), step_numbers(graph));
    let mut lines: Vec<(&Placement, String, Vec<u32>)> = Vec::new();
    let mut known: HashMap<(String, u64, u64, usize), usize> = HashMap::new();
    for place in &arena.placements {
        let layer = graph.def_op(place.value).and_then(|(_, data)| data.layer);
        if !wanted(layers, layer) {
            continue;
        }
        let text = lifetime(graph, place, &ops, layer);
        let length = numbers[place.live.1] - numbers[place.live.0];
        let at = *known.entry((text.clone(), place.offset, place.bytes, length)).or_insert(lines.len());
        if at == lines.len() {
            lines.push((place, text, Vec::new()));
        }
        lines[at].2.extend(layer);
    }
    let mut out = format!("arena of {} bytes\n{}", arena.bytes, peak(graph, arena, &ops, &numbers));
    for (place, text, layers) in lines {
        let (rows, first, last) = (rows(place.rows), numbers[place.live.0], numbers[place.live.1]);
        let (offset, bytes) = (place.offset, place.bytes);
        let text = match layers[..] {
            [] | [_] => lifetime(graph, place, &ops, None),
            _ => format!("{text}{}", of_layers(layers)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{offset:>10} +{bytes:<9} {rows:7} steps {first}..{last}  {text}");
    }
    out
}

/// Which value it is, and what it is last read for, with `{i}` in place of `layer`.
fn lifetime(graph: &Graph, place: &Placement, ops: &[OpId], layer: Option<u32>) -> String {
    let reader = graph.op(ops[place.live.1]);
    let until = match (reader.results.first(), layer, reader.layer) {
        (None, ..) => reader.op.name().to_string(),
        (Some(value), Some(layer), Some(at)) if at > layer => {
            let number = format!("{{i+{}}}", at - layer);
            format!("%{}", pattern(graph.name(*value), Some(at)).replacen("{i}", &number, 1))
        }
        (Some(value), ..) => format!("%{}", pattern(graph.name(*value), layer)),
    };
    format!("%{}, last read for {until}", pattern(graph.name(place.value), layer))
}

fn rows(rows: Rows) -> &'static str {
    match rows {
        Rows::Tokens => "tokens",
        Rows::Outputs => "outputs",
    }
}

/// What is alive where most bytes are.
fn peak(graph: &Graph, arena: &Arena, ops: &[OpId], numbers: &[usize]) -> String {
    let mut change = vec![0i128; ops.len() + 1];
    for place in &arena.placements {
        change[place.live.0] += i128::from(place.bytes);
        change[place.live.1 + 1] -= i128::from(place.bytes);
    }
    let mut alive = 0;
    let mut at = 0;
    for (i, change) in change.into_iter().enumerate() {
        alive += change;
        if alive == i128::from(arena.peak) {
            at = i;
            break;
        }
    }
    let there = arena.placements.iter().filter(|place| (place.live.0..=place.live.1).contains(&at));
    let names: Vec<String> = there.map(|place| format!("%{}", graph.name(place.value))).collect();
    let step = numbers.get(at).copied().unwrap_or(0);
    format!("peak of {} bytes in step {step}: {}\n", arena.peak, names.join(" "))
}

/// A line a kernel, and one for each choice that there was.
fn kernels(graph: &Graph, selected: &Selected, layers: Option<&Layers>) -> String {
    let mut steps: Vec<Vec<Option<u32>>> = vec![Vec::new(); selected.kernels.len()];
    for (id, _, kernel) in &selected.steps {
        let layer = graph.op(*id).layer;
        if wanted(layers, layer) {
            steps[*kernel].push(layer);
        }
    }
    let mut layouts: Vec<(&'static str, usize)> = Vec::new();
    let mut known: HashMap<&'static str, usize> = HashMap::new();
    for id in graph.ops() {
        for layout in graph.op(id).results.iter().filter_map(|value| selected.layouts.get(value)) {
            let name = layout_name(layout);
            let at = *known.entry(name).or_insert(layouts.len());
            if at == layouts.len() {
                layouts.push((name, 0));
            }
            layouts[at].1 += 1;
        }
    }
    let all: usize = steps.iter().map(Vec::len).sum();
    let used = steps.iter().filter(|steps| !steps.is_empty()).count();
    let mut out = format!("{} for {}\n", counted(used, "kernel"), counted(all, "step"));
    let layouts: Vec<String> = layouts.iter().map(|(name, n)| format!("{n} in {name}")).collect();
    let _ = writeln!(out, "weights: {}", layouts.join(", "));
    for (kernel, steps) in selected.kernels.iter().zip(steps).filter(|(_, steps)| !steps.is_empty()) {
        let (count, layers) = (counted(steps.len(), "step"), of_layers(steps.into_iter().flatten()));
        let _ = writeln!(out, "{} ({count}{layers}){}", kernel.name, choices(kernel));
    }
    out
}

fn layout_name(layout: &Layout) -> &'static str {
    match layout {
        Layout::Vector { .. } => "vectors",
        Layout::Rows { .. } => "rows",
        Layout::Panels { .. } => "panels",
        Layout::Tiles { .. } => "tiles",
        Layout::Strips { .. } => "strips",
    }
}

/// The only variant, or a line for each number of rows: which variant, and why.
fn choices(kernel: &KernelChoice) -> String {
    let (variants, chosen) = &kernel.variants;
    if let ([only], [_]) = (&variants[..], &chosen[..]) {
        return format!(": {}, the only variant", only.name);
    }
    let one = |chosen: &Chosen| {
        let Chosen { variant, rows } = chosen;
        format!("\n  {rows} {}: {variant}, {}", self::rows(kernel.spec.rows), why(variants, chosen))
    };
    chosen.iter().map(one).collect()
}
