//! Routers and experts.

use hyc_plan::*;

use super::{Limits, Store, indices, spec, tensor};

/// A router.
pub fn router(experts: u64, active: u64, limits: Limits) -> KernelSpec {
    let operands = vec![tensor(experts), indices(active), tensor(active)];
    spec(StepOp::Router(ops::Router { experts, active }), operands, limits)
}

/// Sizes of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    pub experts: u64,
    pub active: u64,
    pub inn: u64,
    pub ffn: u64,
}

/// Both halves of a mixture.
pub fn experts(m: Mixture, store: Store, limits: Limits) -> [KernelSpec; 2] {
    let Mixture { experts, active, inn, ffn } = m;
    let matrix = |out, inn| store.matrix(experts, out, inn, out);
    let up = vec![tensor(inn), indices(active), matrix(ffn, inn), matrix(ffn, inn), tensor(active * ffn)];
    let down = vec![
        tensor(active * ffn),
        indices(active),
        tensor(active),
        matrix(inn, ffn),
        tensor(inn),
        tensor(inn),
    ];
    [
        spec(StepOp::ExpertsUp(ops::ExpertsUp { experts, active, inn, ffn }), up, limits),
        spec(StepOp::ExpertsDown(ops::ExpertsDown { experts, active, out: inn, ffn }), down, limits),
    ]
}
