//! A graph as text.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use super::layers::Layers;
use super::{listed, notes};
use crate::graph::{Graph, OpId, ValueId};
use crate::types::Type;

/// How much of a graph is printed.
#[derive(Debug, Clone, Default)]
pub struct Style {
    /// An op for each weight; without it a line for all weights of a pattern.
    pub weights: bool,
    /// Comments that say whose caches are read.
    pub notes: bool,
    /// The ops of these layers alone, a text that cannot be read back.
    pub layers: Option<Layers>,
}

/// The graph's text form: every op, and no comments.
pub fn print(graph: &Graph) -> String {
    print_as(graph, &Style { weights: true, ..Style::default() })
}

/// The graph's text form in that style.
pub fn print_as(graph: &Graph, style: &Style) -> String {
    let h = &graph.header;
    let part = style.layers.as_ref().map(|layers| format!(" layers {layers}")).unwrap_or_default();
    let named = h.named.map(|named| format!(", named = {named}")).unwrap_or_default();
    let mut out = format!(
        "graph \"{}\"{part} {{\n  layers = {}, hidden = {}, vocab = {}{named}, max_context = {}, max_batch = {}, \
         chunk = {}, max_outputs = {}, target = {}\n}}\n",
        h.name, h.layers, h.hidden, h.vocab, h.max_context, h.max_batch, h.chunk, h.max_outputs, h.target
    );
    let shown: Vec<OpId> = graph.ops().filter(|id| is_of(graph, *id, style.layers.as_ref())).collect();
    let hidden = if style.weights { HashMap::new() } else { listed::hidden(graph) };
    let listed = shown.iter().filter_map(|id| Some((*id, *hidden.get(id)?)));
    out.push_str(&listed::print_list(graph, listed));
    if style.layers.is_some() {
        out.push_str(&from_outside(graph, &shown));
    }
    let notes = if style.notes { notes::aliases(graph) } else { Default::default() };
    for id in shown.into_iter().filter(|id| !hidden.contains_key(id)) {
        // Writing to a String cannot fail.
        let _ = print_op(&mut out, graph, id);
        out.extend(notes.get(&id).map(|note| format!("  ; {note}")));
        out.push('\n');
    }
    out
}

fn is_of(graph: &Graph, id: OpId, layers: Option<&Layers>) -> bool {
    layers.is_none_or(|layers| graph.op(id).layer.is_some_and(|layer| layers.contains(layer)))
}

/// A comment for each value that these ops read and none of them makes.
fn from_outside(graph: &Graph, shown: &[OpId]) -> String {
    let mut known: HashSet<ValueId> =
        shown.iter().flat_map(|id| graph.op(*id).results.iter().copied()).collect();
    let mut out = String::new();
    for value in shown.iter().flat_map(|id| graph.op(*id).operands.iter()) {
        if !known.insert(*value) {
            continue;
        }
        let by = match graph.def_op(*value) {
            Some((_, data)) => {
                let layer = data.layer.map(|layer| format!(" of layer {layer}")).unwrap_or_default();
                format!("{}{layer}", data.op.name())
            }
            None => "nothing".to_string(),
        };
        let (name, ty) = (sigil(graph, *value), graph.ty(*value));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "; input {name} : {ty}, made by {by}");
    }
    out
}

fn sigil(graph: &Graph, value: ValueId) -> String {
    let mark = if matches!(graph.ty(value), Type::Weight { .. }) { '@' } else { '%' };
    format!("{mark}{}", graph.name(value))
}

fn names(graph: &Graph, values: &[ValueId]) -> String {
    values.iter().map(|v| sigil(graph, *v)).collect::<Vec<_>>().join(", ")
}

fn print_op(out: &mut String, graph: &Graph, id: OpId) -> fmt::Result {
    let data = graph.op(id);
    if !data.results.is_empty() {
        write!(out, "{} = ", names(graph, &data.results))?;
    }
    let takes = data.op.roles().takes;
    // A graph that a pass or a person broke has a text form too.
    let named = |(at, value): (usize, &ValueId)| match takes.get(at) {
        Some(role) => format!("{}={}", role.name, sigil(graph, *value)),
        None => sigil(graph, *value),
    };
    let operands: Vec<String> = data.operands.iter().enumerate().map(named).collect();
    write!(out, "{}({})", data.op.name(), operands.join(", "))?;
    let attrs: Vec<String> = data.op.attrs().iter().map(|(key, value)| format!("{key} = {value}")).collect();
    if !attrs.is_empty() {
        write!(out, " {{{}}}", attrs.join(", "))?;
    }
    if let Some(layer) = data.layer {
        write!(out, " layer {layer}")?;
    }
    if let Some(chain) = data.chain {
        write!(out, " chain {chain}")?;
    }
    if !data.results.is_empty() {
        let types: Vec<String> = data.results.iter().map(|v| graph.ty(*v).to_string()).collect();
        write!(out, " : {}", types.join(", "))?;
    }
    Ok(())
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}
