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
    pub in_features: u64,
    pub ffn: u64,
}

/// Both halves of a mixture.
pub fn experts(m: Mixture, store: Store, limits: Limits) -> [KernelSpec; 2] {
    let Mixture { experts, active, in_features, ffn } = m;
    let matrix = |out, in_features| store.matrix(experts, out, in_features, out);
    let up = vec![
        tensor(in_features),
        indices(active),
        matrix(ffn, in_features),
        matrix(ffn, in_features),
        tensor(active * ffn),
    ];
    let down = vec![
        tensor(active * ffn),
        indices(active),
        tensor(active),
        matrix(in_features, ffn),
        tensor(in_features),
        tensor(in_features),
    ];
    [
        spec(StepOp::ExpertsUp(ops::ExpertsUp { experts, active, in_features, ffn }), up, limits),
        spec(
            StepOp::ExpertsDown(ops::ExpertsDown { experts, active, out_features: in_features, ffn }),
            down,
            limits,
        ),
    ]
}
