//! What a model needs of its weights.

use hyc_ir::{Graph, Op, Type, op};
use hyc_plan::{Codec, Plan};

use super::names;

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The model's name for it.
    pub name: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// How its numbers are stored in the artefact.
    pub codec: Codec,
}

impl Expected {
    /// The weights of a plan.
    pub fn of_plan(plan: &Plan) -> Vec<Expected> {
        let weight = |w: &hyc_plan::Weight| Expected {
            name: w.name.clone(),
            shape: w.shape.clone(),
            codec: w.format.codec,
        };
        plan.weights.iter().map(weight).collect()
    }

    /// The weights of a graph.
    pub fn of_graph(graph: &Graph) -> Vec<Expected> {
        let results = graph.ops().filter(|id| graph.op(*id).op == (Op::Weight(op::Weight {})));
        results
            .filter_map(|id| {
                let value = *graph.op(id).results.first()?;
                let Type::Weight { codec, dims } = graph.ty(value) else { return None };
                Some(Expected { name: graph.name(value).to_string(), shape: dims.clone(), codec: *codec })
            })
            .collect()
    }

    /// Elements of a row, as [`TensorSource`] counts them, and rows.
    pub(super) fn rows(&self) -> (u64, u64) {
        let cols = self.shape.last().copied().unwrap_or(1);
        (cols, self.shape.iter().rev().skip(1).product())
    }
}

/// What to write where names do not fit.
pub(super) fn advice(missing: &[&str], extra: &[&str]) -> String {
    const LIST: &str = "`hyc check --tensors MODEL.toml` lists every tensor that the model needs";
    let shared = |a: &str, b: &str| a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    if let (Some(need), false) = (missing.first(), extra.is_empty()) {
        let need = names::generalised(need);
        let near = extra.iter().map(|name| names::generalised(name)).max_by_key(|name| shared(name, &need));
        let near = near.unwrap_or_default();
        return format!(
            "where names differ, write under [weights] for example `rename = {{ \"{near}\" = \"{need}\" }}`; {LIST}"
        );
    }
    if extra.is_empty() {
        return LIST.to_string();
    }
    let mut patterns: Vec<String> =
        extra.iter().map(|name| format!("\"{}\"", names::generalised(name))).collect();
    patterns.sort();
    patterns.dedup();
    let more = if patterns.len() > 4 { ", ..." } else { "" };
    patterns.truncate(4);
    format!("to leave them out, write under [weights] `ignore = [{}{more}]`", patterns.join(", "))
}
