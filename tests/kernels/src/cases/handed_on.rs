//! Rows that lie in bf16 tiles between kernels on tensor cores: a third of the cases of `tiled`, `page_lists` and `strips` once
//! more, with every tensor in tiles that may lie so.

use std::collections::HashSet;

use hyc_plan::tensor::can_tile;
use hyc_plan::*;

use super::tiled::ERROR;
use super::{Case, Limits, MANY, case, sized, spec, tensor, vector};

/// The same cases in tiles, where that makes a difference, and norms that write tiles.
pub fn all(of: &[Case]) -> Vec<Case> {
    // With and without a norm they are the same.
    let mut names = HashSet::new();
    // Three divides neither the number of batches nor that of contexts: each is met with each kernel.
    of.iter()
        .step_by(3)
        .filter_map(in_tiles)
        .chain(norms())
        .filter(|case| names.insert(case.name()))
        .collect()
}

/// The case in tiles; a product does not normalise its rows then.
fn in_tiles(case: &Case) -> Option<Case> {
    let mut spec = case.spec.clone();
    let (norm, attends) = (spec.at("norm"), spec.op.attention().is_some());
    match &mut spec.op {
        StepOp::Linear(ops::Linear { norm, .. }) | StepOp::QkvAppend(ops::QkvAppend { norm, .. }) => {
            *norm = None
        }
        StepOp::ExpertsUp(ops::ExpertsUp { ffn, .. }) | StepOp::ExpertsDown(ops::ExpertsDown { ffn, .. })
            if can_tile(*ffn) => {}
        _ if attends => {}
        _ => return None,
    }
    norm.map(|norm| spec.operands.remove(norm));
    let tiled_product = |operand: &OperandSpec| match operand {
        OperandSpec::Weight(format) => {
            matches!(format.layout, Layout::Vector { .. } | Layout::Tiles { .. } | Layout::Strips { .. })
        }
        OperandSpec::Tensor { .. } | OperandSpec::Cache(_) => true,
    };
    if !spec.operands.iter().all(tiled_product) {
        return None;
    }
    let mut changed = false;
    for (operand, role) in spec.operands.iter_mut().zip(spec.op.roles()) {
        if let (OperandSpec::Tensor { elem, width, .. }, Kind::RowsOrTiles(_)) = (operand, role.kind)
            && can_tile(*width)
        {
            (*elem, changed) = (Elem::Bf16, true);
        }
    }
    let family = format!("{}, handed on", case.family);
    changed.then(|| Case { family, spec, ..case.clone() })
}

fn norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for width in [64, 320, 2048, 4096, 11008] {
        for limits in [MANY, Limits { rows: 2048, ..MANY }] {
            let op = StepOp::RmsNorm(ops::RmsNorm { groups: 1, width, eps: 1e-6 });
            let out = OperandSpec::Tensor { elem: Elem::Bf16, width, stride: width };
            let spec = spec(op, vec![tensor(width), vector(width), out], limits);
            let rows: &[u64] = if limits.rows > 512 { &[2048] } else { &[1, 9, 63, 130, 300] };
            let case =
                |rows: &u64| sized(case("rmsnorm, handed on", &spec, &[(0, *rows)], ERROR), width == 320);
            cases.extend(rows.iter().map(case));
        }
    }
    cases
}
