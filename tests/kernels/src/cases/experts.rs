//! Routers and experts.

use hyc_plan::*;

use super::{Limits, Store, indices, spec, tensor, vector};
use crate::{Case, Fill};

/// A router of the usual rule.
pub fn router(experts: u64, active: u64, limits: Limits) -> KernelSpec {
    ruled((experts, active), RouterRule::USUAL, limits)
}

/// A router.
pub fn ruled((experts, active): (u64, u64), rule: RouterRule, limits: Limits) -> KernelSpec {
    let mut operands = vec![tensor(experts)];
    operands.extend(rule.bias.then(|| vector(experts)));
    operands.extend([indices(active), tensor(active)]);
    spec(StepOp::Router(ops::Router { experts, active, rule }), operands, limits)
}

/// Rules beside the usual one: each key of them at least once with and without each other.
pub const RULES: [RouterRule; 6] = [
    RouterRule { scores: Scores::Sigmoid, ..RouterRule::USUAL },
    RouterRule { scores: Scores::Sigmoid, bias: true, whole: false, scale: 2.5 },
    RouterRule { scores: Scores::Sigmoid, bias: true, ..RouterRule::USUAL },
    RouterRule { scores: Scores::Sigmoid, bias: true, whole: true, scale: 1.0 },
    RouterRule { whole: true, ..RouterRule::USUAL },
    RouterRule { whole: true, scale: 0.5, ..RouterRule::USUAL },
];

/// The cases of a router that any rows are: as they come, with ties, and with logits that are no numbers.
pub fn routings(case: Case) -> [Case; 3] {
    [Fill::Random, Fill::TiedLogits, Fill::BadLogits].map(|fill| Case { fill, ..case.clone() })
}

/// Sizes of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    pub experts: u64,
    pub active: u64,
    pub in_features: u64,
    pub ffn: u64,
    /// Whether every row has one more.
    pub shared: bool,
}

/// Both halves of a mixture.
pub fn experts(m: Mixture, store: Store, limits: Limits) -> Vec<KernelSpec> {
    let Mixture { experts, active, in_features, ffn, shared } = m;
    let matrix = |out, in_features| store.matrix(experts, out, in_features, out);
    let own = |out, in_features| shared.then(|| store.matrix(1, out, in_features, out));
    let h = tensor((active + u64::from(shared)) * ffn);
    let mut up =
        vec![tensor(in_features), indices(active), matrix(ffn, in_features), matrix(ffn, in_features)];
    up.extend([own(ffn, in_features), own(ffn, in_features)].into_iter().flatten());
    up.push(h);
    let mut down = vec![h, indices(active), tensor(active), matrix(in_features, ffn)];
    down.extend(own(in_features, ffn));
    down.extend([tensor(in_features), tensor(in_features)]);
    [
        StepOp::ExpertsUp(ops::ExpertsUp { experts, active, in_features, ffn, shared }),
        StepOp::ExpertsDown(ops::ExpertsDown { experts, active, out_features: in_features, ffn, shared }),
    ]
    .into_iter()
    .zip([up, down])
    .map(|(op, operands)| spec(op, operands, limits))
    .collect()
}
