//! Each step's operands against what its op wants.

use super::Report;
use crate::{Buffer, Code, Codec, Elem, Format, Kind, Layout, Operand, Plan, Role, Rows, Step, StepOp, ops};

/// Checks one step: ids, operands, grid, kernel.
pub fn check(plan: &Plan, step: &Step, roles: &[Role], report: &mut Report) {
    if step.kernel.index() >= plan.kernels.len() {
        report.add(&step.name, format!("there is no kernel {}", step.kernel));
    }
    if step.layer.is_some_and(|layer| layer >= plan.model.layers) {
        report.add(&step.name, "its layer is not one of the model's");
    }
    if !step.op.is_possible() {
        return report.add(&step.name, "the op's sizes or numbers are not possible");
    }
    // The runtime checks token ids against the model's vocabulary.
    if let StepOp::Embed(ops::Embed { vocab, .. }) = step.op
        && vocab != plan.model.vocab
    {
        report.add(&step.name, format!("a table of {vocab} rows for a vocabulary of {}", plan.model.vocab));
    }
    if let StepOp::Sample(ops::Sample { named, .. }) = step.op
        && named != plan.model.named
    {
        report.add(&step.name, "chooses from other entries than the model says");
    }
    if let StepOp::Sample(_) = step.op
        && !matches!(step.operands[..], [Operand::Buffer(from), Operand::Buffer(to)]
            if from == plan.logits && Some(to) == plan.sampled)
    {
        report.add(&step.name, "samples something else than the plan's logits");
    }
    if step.op.is_by_token() && rows_of(plan, step) != Rows::Tokens {
        report.add(&step.name, "its rows are not the step's tokens, whose lists it reads");
    }
    if roles.len() != step.operands.len() {
        return report.add(&step.name, format!("{} operands for {}", step.operands.len(), roles.len()));
    }
    let rows = rows_of(plan, step);
    for (operand, role) in step.operands.iter().zip(roles) {
        if !holds(plan, operand, &role.kind, rows) {
            report.add(&step.name, format!("operand `{}` is not what the op wants", role.name));
        }
    }
}

/// Checks that the kernel of a step, whose operands are valid, is split as its work is.
pub fn check_kernel(plan: &Plan, step: &Step, report: &mut Report) {
    let (kernel, spec) = (&plan.kernels[step.kernel.index()], plan.spec(step));
    if let Code::Host { grid, .. } = kernel.code
        && grid != spec.grid()
    {
        report.add(&step.name, "its kernel's grid is not the op's");
    }
    if kernel.rows != spec.rows {
        report.add(&step.name, "its kernel counts other rows");
    }
}

/// The rows of the last tensor that the step writes; of any tensor where it writes none.
fn rows_of(plan: &Plan, step: &Step) -> Rows {
    let buffers = step.operands.iter().rev().filter_map(|operand| match operand {
        Operand::Buffer(id) => plan.buffers.get(id.index()),
        _ => None,
    });
    buffers.map(|buffer| buffer.rows).next().unwrap_or(Rows::Tokens)
}

fn holds(plan: &Plan, operand: &Operand, kind: &Kind, rows: Rows) -> bool {
    match *operand {
        Operand::Buffer(id) => plan.buffers.get(id.index()).is_some_and(|b| buffer_holds(b, kind, rows)),
        Operand::Weight(id) => plan.weights.get(id.index()).is_some_and(|w| weight_holds(w.format, kind)),
        Operand::Cache(id) => plan.caches.get(id.index()).is_some_and(|c| {
            matches!(*kind, Kind::Cache { kv_heads, qk_dim, v_dim, stored, .. }
                if (c.kv_heads, c.qk_dim, c.v_dim) == (kv_heads, qk_dim, v_dim) && stored.takes(c.codec))
        }),
    }
}

fn buffer_holds(b: &Buffer, kind: &Kind, rows: Rows) -> bool {
    let is = |width: Option<u64>, elem, rows| Some(b.width) == width && b.elem == elem && b.rows == rows;
    match *kind {
        Kind::Rows(width) => is(width, Elem::F32, rows),
        Kind::RowsOrTiles(width) => is(width, Elem::F32, rows) || is(width, Elem::Bf16, rows),
        Kind::TokenRows(width) => is(Some(width), Elem::F32, Rows::Tokens),
        Kind::Token => is(Some(1), Elem::I32, rows) && b.selection.is_none(),
        Kind::Experts { active, .. } => is(Some(active), Elem::I32, rows) && b.selection.is_none(),
        Kind::Selection { shape, .. } => b.selection == Some(shape) && b.rows == rows,
        Kind::PageLists { select, lists, .. } => {
            is(lists.width(select), Elem::I32, Rows::Tokens) && b.selection.is_none()
        }
        Kind::Vector(_) | Kind::Matrices { .. } | Kind::Table { .. } | Kind::Cache { .. } => false,
    }
}

fn weight_holds(Format { codec, layout }: Format, kind: &Kind) -> bool {
    match *kind {
        Kind::Vector(n) => layout == Layout::Vector { len: n } && codec == Codec::F32,
        Kind::Matrices { count, out_features: out, in_features, group } => match layout {
            Layout::Panels { count: c, out_features: o, in_features: i, group: g } => {
                (c, Some(o), i) == (count, out, in_features) && Some(g) == group.or(out)
            }
            Layout::Tiles { count: c, out_features: o, in_features: i }
            | Layout::Strips { count: c, out_features: o, in_features: i } => {
                (c, Some(o), i) == (count, out, in_features)
            }
            Layout::Vector { .. } | Layout::Rows { .. } => false,
        },
        Kind::Table { rows, cols } => match layout {
            Layout::Tiles { count, out_features: out, in_features }
            | Layout::Strips { count, out_features: out, in_features } => {
                (count, out, in_features) == (1, rows, cols)
            }
            Layout::Rows { rows: r, cols: c } => (r, c) == (rows, cols),
            Layout::Panels { count, out_features: out, in_features, group } => {
                (count, out, in_features, group) == (1, rows, cols, rows)
            }
            Layout::Vector { .. } => false,
        },
        Kind::Rows(_)
        | Kind::RowsOrTiles(_)
        | Kind::TokenRows(_)
        | Kind::Token
        | Kind::Experts { .. }
        | Kind::Selection { .. }
        | Kind::PageLists { .. }
        | Kind::Cache { .. } => false,
    }
}
