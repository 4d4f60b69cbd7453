//! Sizes that a graph may have. A graph may come from a hand-written dump, so that all later arithmetic on
//! sizes rests on what is checked here and at the two other places that multiply them: plan-memory for
//! activations, [`bytes`] for weights and pages.

use hyc_ir::{Graph, Op, op};
use hyc_plan::{MAX_BYTES, MAX_LAYERS};

use crate::error::PassError;

/// What the pipeline calls a graph that has not met a pass yet.
const PASS: &str = "input";

/// Counts that reach a kernel as i32: positions, token ids, rows, sequences.
const MAX_COUNT: u64 = i32::MAX as u64;

/// Checks the header's counts and that every op's layer is one of the model's.
pub fn check(graph: &Graph) -> Result<(), PassError> {
    let h = &graph.header;
    let counts = [
        ("layers", h.layers),
        ("hidden", h.hidden),
        ("vocab", h.vocab),
        ("max_context", h.max_context),
        ("max_batch", h.max_batch),
        ("chunk", h.chunk),
        ("max_outputs", h.max_outputs),
    ];
    for (name, count) in counts {
        if count == 0 || count > MAX_COUNT {
            let message = format!("the header's `{name} = {count}` is not from 1 to {MAX_COUNT}");
            return Err(PassError::new(PASS, message));
        }
    }
    if let Some(named) = h.named.filter(|named| *named == 0 || *named > h.vocab) {
        let message = format!("the header's `named = {named}` is not from 1 to `vocab`, {}", h.vocab);
        return Err(PassError::new(PASS, message));
    }
    if h.layers > MAX_LAYERS {
        let message = format!("the header says {} layers, a model has at most {MAX_LAYERS}", h.layers);
        return Err(PassError::new(PASS, message));
    }
    for id in graph.ops() {
        let data = graph.op(id);
        let owner = match data.op {
            Op::Cache(op::Cache { owner, .. }) => Some(owner),
            _ => None,
        };
        for layer in data.layer.map(u64::from).into_iter().chain(owner) {
            if layer >= h.layers {
                let message = format!("there is no layer {layer}: the header says {} layers", h.layers);
                return Err(PassError::at(PASS, graph, id, message));
            }
        }
    }
    Ok(())
}

/// The product of `factors`, where it is at most [`MAX_BYTES`].
pub fn bytes(factors: &[u64]) -> Option<u64> {
    let product = factors.iter().try_fold(1u64, |product, factor| product.checked_mul(*factor));
    product.filter(|bytes| *bytes <= MAX_BYTES)
}
