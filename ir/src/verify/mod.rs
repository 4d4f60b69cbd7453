//! The graph's invariants. Every violation is returned, each with its op and its rule.
//!
//! Structure
//! * `ssa-producer`: a value that is read has a producer; `ssa-two-producers`: and no second one.
//! * `ssa-order`: the producer stands before the reader.
//! * `arity`: an op has the operands and results that its kind and attributes say.
//! * `type`: operands and results have the types and widths that the op's kind says (see `rules.rs`).
//! * `attribute`: attributes are possible (no zero heads, a finite eps above 0, ...).
//! * `output`: exactly one `output`, the last op.
//!
//! Caches
//! * `cache-version`: a version of a cache is appended to once: each append continues the newest version.
//! * `ring-window`: a ring is read by window attentions of at most its window alone.
//!
//! Selection provenance: of each read of a selection
//! * `selection-producer`: there is a producer; `selection-two-producers`: exactly one;
//! * `selection-dominance`: it stands before the read;
//! * `selection-step`: it ran in this forward pass, not in an earlier one;
//! * `selection-map`: selection and cache share their page map;
//! * `selection-block`: the block is the cache's page;
//! * `selection-heads`: the KV heads agree;
//! * `selection-cache`: the cache is the version that the oracle itself read, or the reading layer's own.
//! * `alias-before-append`: a cache that is read in a step has been appended to in that step: the bare state
//!   of before is never read while its owner appends.

mod provenance;
mod rules;

use std::fmt;

use crate::graph::{Graph, OpId};
use crate::op::Op;
use crate::types::Type;

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The op with its results.
    pub op: String,
    /// Line of the text that the op was parsed from.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.line.iter().try_for_each(|line| write!(f, "line {line}: "))?;
        write!(f, "{}: {} [{}]", self.op, self.message, self.rule)
    }
}

/// Collects violations.
struct Report<'g> {
    graph: &'g Graph,
    list: Vec<Violation>,
}

impl Report<'_> {
    fn add(&mut self, id: OpId, rule: &'static str, message: impl Into<String>) {
        let data = self.graph.op(id);
        let names: Vec<String> = data.results.iter().map(|v| format!("%{}", self.graph.name(*v))).collect();
        let op = match names.is_empty() {
            true => data.op.name().to_string(),
            false => format!("{} = {}", names.join(", "), data.op.name()),
        };
        self.list.push(Violation { rule, op, line: data.line, message: message.into() });
    }
}

/// Checks every invariant.
pub fn verify(graph: &Graph) -> Result<(), Vec<Violation>> {
    let mut report = Report { graph, list: Vec::new() };
    let places = graph.ops().enumerate().map(|(place, id)| (id, place)).collect();
    for id in graph.ops() {
        producers(&mut report, &places, id);
        if arity(&mut report, id) {
            rules::check(graph, id, &mut |rule, message| report.add(id, rule, message));
        }
    }
    outputs(&mut report);
    if report.list.is_empty() {
        provenance::caches(&mut report);
        provenance::selections(&mut report);
    }
    report.list.sort_by_key(|violation| violation.line);
    if report.list.is_empty() { Ok(()) } else { Err(report.list) }
}

/// The structural rules of one op's operands; a selection's have names of their own.
fn producers(report: &mut Report<'_>, places: &std::collections::HashMap<OpId, usize>, id: OpId) {
    let graph = report.graph;
    for value in &graph.op(id).operands {
        let name = graph.name(*value);
        let selection =
            matches!(graph.ty(*value), Type::Selection(_)) || reads_selection_there(graph, id, *value);
        match graph.defs(*value) {
            [] if selection => report.add(id, "selection-producer", format!("nothing selects %{name}")),
            [] => report.add(id, "ssa-producer", format!("nothing produces %{name}")),
            [(def, _)] if places[def] >= places[&id] && selection => {
                report.add(id, "selection-dominance", format!("%{name} is read before it is selected"));
            }
            [(def, _)] if places[def] >= places[&id] => {
                report.add(id, "ssa-order", format!("%{name} is read before it is produced"));
            }
            [_] => {}
            many if selection => report.add(
                id,
                "selection-two-producers",
                format!("%{name} has {} producers: which one is meant?", many.len()),
            ),
            many => report.add(id, "ssa-two-producers", format!("%{name} has {} producers", many.len())),
        }
    }
}

/// Whether the operand stands where the op reads a selection: a value without a producer has no type.
fn reads_selection_there(graph: &Graph, id: OpId, value: crate::ValueId) -> bool {
    let data = graph.op(id);
    matches!(data.op, Op::SparseAttention { .. } | Op::HybridAttention { .. })
        && data.operands.get(2) == Some(&value)
}

fn arity(report: &mut Report<'_>, id: OpId) -> bool {
    let data = report.graph.op(id);
    let (operands, results) = rules::arity(&data.op);
    if (data.operands.len(), data.results.len()) == (operands, results) {
        return true;
    }
    let message = format!(
        "has {} operands and {} results, needs {operands} and {results}",
        data.operands.len(),
        data.results.len()
    );
    report.add(id, "arity", message);
    false
}

fn outputs(report: &mut Report<'_>) {
    let graph = report.graph;
    let outputs: Vec<OpId> = graph.ops().filter(|id| graph.op(*id).op == (Op::Output {})).collect();
    let last = graph.ops().next_back();
    match (&outputs[..], last) {
        ([one], Some(last)) if *one == last => {}
        ([one], _) => report.add(*one, "output", "the output must be the last op"),
        ([], Some(last)) => report.add(last, "output", "the graph ends without an output"),
        ([], None) => report.list.push(Violation {
            rule: "output",
            op: "graph".to_string(),
            line: None,
            message: "the graph is empty".to_string(),
        }),
        ([_, second, ..], _) => report.add(*second, "output", "there is a second output"),
    }
}
