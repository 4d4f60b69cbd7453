//! A graph as text.

use std::fmt::{self, Write};

use crate::graph::{Graph, OpId, ValueId};
use crate::op::Attr;
use crate::types::Type;

/// The graph's text form.
pub fn print(graph: &Graph) -> String {
    let h = &graph.header;
    let mut out = format!(
        "graph \"{}\" {{\n  layers = {}, hidden = {}, vocab = {}, max_context = {}, max_batch = {}, chunk = {}, \
         max_outputs = {}, target = {}\n}}\n",
        h.name, h.layers, h.hidden, h.vocab, h.max_context, h.max_batch, h.chunk, h.max_outputs, h.target
    );
    for id in graph.ops() {
        // Writing to a String cannot fail.
        let _ = print_op(&mut out, graph, id);
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
    let attrs: Vec<String> =
        data.op.attrs().iter().map(|(key, value)| format!("{key} = {}", attr(value))).collect();
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
    out.push('\n');
    Ok(())
}

fn attr(value: &Attr) -> String {
    match value {
        Attr::Int(n) => n.to_string(),
        // `{:?}` prints the shortest text that parses back to the same bits, always with a point or exponent.
        Attr::Float(x) => format!("{x:?}"),
        Attr::Bool(b) => b.to_string(),
        Attr::Word(word) => word.clone(),
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}
