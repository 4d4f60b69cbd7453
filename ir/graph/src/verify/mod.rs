//! The graph's invariants, [`RULES`]. Every violation is returned, each with its op and its rule.

mod provenance;
mod rule;
mod rules;
mod view;

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::graph::{Graph, OpId};
use crate::op::{self, Op};
use crate::roles::{Gives, Over, Roles, Takes, Version};
use crate::types::Type;
use rule::{
    ARITY, OUTPUT, ROLES, SELECTION_DOMINANCE, SELECTION_PRODUCER, SELECTION_TWO_PRODUCERS, SSA_ORDER,
    SSA_PRODUCER, SSA_TWO_PRODUCERS, TYPE,
};

pub use provenance::SelectionRead;
pub use rule::{RULES, Rule};

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

/// Says what an op's operands and results are: [`Op::roles`], but in tests of a description that is wrong.
type Describe<'d> = dyn Fn(&Op) -> Roles + 'd;

/// Collects violations.
struct Report<'g> {
    graph: &'g Graph,
    describe: &'g Describe<'g>,
    list: Vec<Violation>,
}

impl Report<'_> {
    fn roles(&self, id: OpId) -> Roles {
        (self.describe)(&self.graph.op(id).op)
    }

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
    verify_as(graph, &Op::roles)
}

/// The reads of selections, and what each goes back to.
pub fn selection_reads(graph: &Graph) -> Vec<SelectionRead> {
    provenance::reads(&Report { graph, describe: &Op::roles, list: Vec::new() })
}

fn verify_as(graph: &Graph, describe: &Describe<'_>) -> Result<(), Vec<Violation>> {
    let mut report = Report { graph, describe, list: Vec::new() };
    let places = graph.ops().enumerate().map(|(place, id)| (id, place)).collect();
    for id in graph.ops() {
        let typed = producers(&mut report, &places, id);
        if arity(&mut report, id) && typed && described(&mut report, id) {
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

/// The structural rules of one op's operands; a selection's have names of their own. Gives whether each has a
/// producer, and so a type.
fn producers(report: &mut Report<'_>, places: &HashMap<OpId, usize>, id: OpId) -> bool {
    let graph = report.graph;
    let takes = report.roles(id).takes;
    let operands = &graph.op(id).operands;
    let mut seen = HashSet::new();
    for (at, value) in operands.iter().enumerate().filter(|(_, value)| seen.insert(**value)) {
        let name = graph.name(*value);
        // A value without a producer has no type.
        let selection = matches!(graph.ty(*value), Type::Selection(_))
            || takes.get(at).is_some_and(|role| matches!(role.kind, Takes::Selection { .. }));
        match graph.defs(*value) {
            [] if selection => report.add(id, SELECTION_PRODUCER, format!("nothing selects %{name}")),
            [] => report.add(id, SSA_PRODUCER, format!("nothing produces %{name}")),
            [(def, _)] if places[def] >= places[&id] && selection => {
                report.add(id, SELECTION_DOMINANCE, format!("%{name} is read before it is selected"));
            }
            [(def, _)] if places[def] >= places[&id] => {
                report.add(id, SSA_ORDER, format!("%{name} is read before it is produced"));
            }
            [_] => {}
            many if selection => report.add(
                id,
                SELECTION_TWO_PRODUCERS,
                format!("%{name} has {} producers: which one is meant?", many.len()),
            ),
            many => report.add(id, SSA_TWO_PRODUCERS, format!("%{name} has {} producers", many.len())),
        }
    }
    operands.iter().all(|value| !graph.defs(*value).is_empty())
}

fn arity(report: &mut Report<'_>, id: OpId) -> bool {
    let data = report.graph.op(id);
    let roles = report.roles(id);
    let (operands, results) = (roles.takes.len(), roles.gives.len());
    if (data.operands.len(), data.results.len()) == (operands, results) {
        return true;
    }
    let message = format!(
        "has {} operands and {} results, needs {operands} and {results}",
        data.operands.len(),
        data.results.len()
    );
    report.add(id, ARITY, message);
    false
}

/// A cache, a selection, a weight stands where the op says that one does, and nowhere else.
fn described(report: &mut Report<'_>, id: OpId) -> bool {
    let (graph, roles, before) = (report.graph, report.roles(id), report.list.len());
    let data = graph.op(id);
    for (value, role) in data.operands.iter().zip(roles.takes.iter()) {
        let want = match role.kind {
            Takes::Tensor | Takes::Experts | Takes::Scores => "a tensor",
            Takes::Weight => "a weight",
            Takes::Cache(_) | Takes::Append => "a cache",
            Takes::Selection { .. } => "a selection",
            Takes::PageLists { .. } => "page lists",
        };
        kind(report, id, (&format!("operand `{}`", role.name), want), graph.ty(*value));
    }
    for (value, role) in data.results.iter().zip(roles.gives.iter()) {
        let want = match role.kind {
            Gives::Tensor | Gives::Experts | Gives::Scores(_) => "a tensor",
            Gives::Weight => "a weight",
            Gives::Cache(_) => "a cache",
            Gives::Selection(_) => "a selection",
            Gives::PageLists(_) => "page lists",
        };
        kind(report, id, (&format!("result `{}`", role.name), want), graph.ty(*value));
    }
    if let Some(message) = incoherent(&roles) {
        report.add(id, ROLES, message);
    }
    report.list.len() == before
}

/// What an op's description says of an operand that is none, or is something else.
fn incoherent(roles: &Roles) -> Option<String> {
    let is = |name: &str, wanted: fn(&Takes) -> bool| {
        roles.takes.iter().any(|role| role.name == name && wanted(&role.kind))
    };
    let read = |kind: &Takes| matches!(kind, Takes::Cache(_));
    let selected = |kind: &Takes| matches!(kind, Takes::Selection { .. });
    let appended = |kind: &Takes| *kind == Takes::Append;
    for role in roles.takes.iter() {
        let coherent = match role.kind {
            Takes::Selection { over } => is(over, read),
            Takes::PageLists { of } => is(of, selected),
            Takes::Append => {
                let after = Gives::Cache(Version::After(role.name));
                roles.gives.iter().filter(|result| result.kind == after).count() == 1
            }
            Takes::Tensor | Takes::Experts | Takes::Weight | Takes::Scores | Takes::Cache(_) => true,
        };
        if !coherent {
            return Some(format!("its description of operand `{}` does not hold together", role.name));
        }
    }
    for role in roles.gives.iter() {
        let coherent = match role.kind {
            Gives::Scores(Over::Cache(name)) | Gives::Selection(Over::Cache(name)) => is(name, read),
            Gives::Scores(Over::Scores(name)) | Gives::Selection(Over::Scores(name)) => {
                is(name, |kind| *kind == Takes::Scores)
            }
            Gives::PageLists(of) => is(of, selected),
            Gives::Cache(Version::After(name)) => is(name, appended),
            Gives::Cache(Version::CopyOf(name)) => is(name, read),
            Gives::Scores(Over::EarlierStep | Over::Open)
            | Gives::Selection(Over::EarlierStep | Over::Open)
            | Gives::Cache(Version::State | Version::Open)
            | Gives::Tensor
            | Gives::Experts
            | Gives::Weight => true,
        };
        if !coherent {
            return Some(format!("its description of result `{}` does not hold together", role.name));
        }
    }
    None
}

fn kind(report: &mut Report<'_>, id: OpId, (place, want): (&str, &str), ty: &Type) {
    let is = match ty {
        Type::Tensor { .. } => "a tensor",
        Type::Weight { .. } => "a weight",
        Type::Cache(_) => "a cache",
        Type::Selection(_) => "a selection",
        Type::Lists(_) => "page lists",
    };
    if is != want {
        report.add(id, TYPE, format!("{place} must be {want}, is {ty}"));
    }
}

fn outputs(report: &mut Report<'_>) {
    let graph = report.graph;
    let outputs: Vec<OpId> =
        graph.ops().filter(|id| graph.op(*id).op == (Op::Output(op::Output {}))).collect();
    let last = graph.ops().next_back();
    match (&outputs[..], last) {
        ([one], Some(last)) if *one == last => {}
        ([one], _) => report.add(*one, OUTPUT, "the output must be the last op"),
        ([], Some(last)) => report.add(last, OUTPUT, "the graph ends without an output"),
        ([], None) => report.list.push(Violation {
            rule: OUTPUT,
            op: "graph".to_string(),
            line: None,
            message: "the graph is empty".to_string(),
        }),
        ([_, second, ..], _) => report.add(*second, OUTPUT, "there is a second output"),
    }
}

#[cfg(test)]
mod tests;
