//! What a step must read and compute, whatever kernel does it.

use crate::roles::{Kind, Reach, Role};
use crate::spec::{KernelSpec, OperandSpec};
use crate::step::StepOp;

/// Bytes and operations of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Bytes of weights, keys, values and rows, read or written.
    pub bytes: f64,
    /// Operations; a multiply-add counts as two.
    pub flop: f64,
}

/// Tokens of each cache that a row at `context` tokens reads: the operand's index among the op's roles, and how many.
pub fn reads(op: &StepOp, context: u64) -> Vec<(usize, u64)> {
    let roles = op.roles();
    let listed = |name: &str| {
        let role = roles.iter().find(|role| role.name == name);
        match role.map(|role| role.kind) {
            Some(Kind::Selection { shape, .. }) => shape.blocks.saturating_mul(shape.block),
            _ => u64::MAX,
        }
    };
    let read = |(index, role): (usize, &Role)| {
        let Kind::Cache { reach, .. } = role.kind else { return None };
        let tokens = match reach {
            Reach::Nothing => return None,
            Reach::Context => context,
            Reach::Window(window) => window.min(context),
            Reach::Own => 1,
            Reach::Selected(list) => listed(list).min(context),
        };
        Some((index, tokens))
    };
    roles.iter().enumerate().filter_map(read).collect()
}

/// Experts of an op and those that a row chooses.
pub fn experts(roles: &[Role]) -> Option<(u64, u64)> {
    roles.iter().find_map(|role| match role.kind {
        Kind::Experts { experts, active } => Some((experts, active)),
        _ => None,
    })
}

/// Whether these are matrices of experts that are chosen: a shared one's name says so.
pub fn is_chosen(role: &Role) -> bool {
    matches!(role.kind, Kind::Matrices { .. }) && !role.name.starts_with("shared_")
}

/// Multiply-adds of an op's matrices for one row.
pub fn multiply_adds(op: &StepOp) -> f64 {
    let roles = op.roles();
    let active = experts(&roles).map_or(1, |(_, active)| active);
    let count = |role: &Role| match role.kind {
        Kind::Matrices { out_features: out, in_features, .. } => {
            let times = if is_chosen(role) { active } else { 1 };
            out.unwrap_or(0) as f64 * in_features as f64 * times as f64
        }
        _ => 0.0,
    };
    roles.iter().map(count).sum()
}

/// The work of a step of `rows` rows, each at `context` tokens, whose weights are read again for every `pass_rows` rows, and
/// keys and values too. Of experts' weights those are read that the rows choose, if each chooses others: once each, or for
/// every row where `pass_rows` is 1. Of a table a row each.
pub fn work(spec: &KernelSpec, rows: u64, context: u64, pass_rows: u64) -> Work {
    let roles = spec.op.roles();
    let passes = rows.div_ceil(pass_rows.max(1)) as f64;
    let chosen = experts(&roles).map(|(experts, active)| {
        let choices = active.saturating_mul(rows);
        let read = if pass_rows == 1 { choices } else { choices.min(experts) };
        read as f64 / experts.max(1) as f64
    });
    let tokens = reads(&spec.op, context);
    let bytes = |(index, (operand, role)): (usize, (&OperandSpec, &Role))| match (operand, role.kind) {
        (OperandSpec::Weight(format), Kind::Table { rows: entries, .. }) => {
            rows.min(entries) as f64 * format.bytes() as f64 / entries.max(1) as f64
        }
        (OperandSpec::Weight(format), Kind::Matrices { .. }) => match chosen.filter(|_| is_chosen(role)) {
            Some(share) => format.bytes() as f64 * share,
            None => format.bytes() as f64 * passes,
        },
        (OperandSpec::Weight(format), _) => format.bytes() as f64,
        (OperandSpec::Cache(cache), _) => {
            let read = tokens.iter().find(|(at, _)| *at == index).map_or(0, |(_, tokens)| *tokens);
            let token = cache.token_bytes() as f64;
            let own = role.writes() || matches!(role.kind, Kind::Cache { reach: Reach::Own, .. });
            if own { rows as f64 * token } else { passes * read as f64 * token }
        }
        (OperandSpec::Tensor { elem, width, .. }, _) => rows as f64 * *width as f64 * elem.bytes() as f64,
    };
    let attention: f64 = spec.op.attention().map_or(0.0, |shape| {
        let tokens: f64 = tokens.iter().map(|(_, tokens)| *tokens as f64).sum();
        shape.heads as f64 * (shape.qk_dim as f64 + shape.v_dim as f64) * tokens
    });
    Work {
        bytes: spec.operands.iter().zip(&roles).enumerate().map(bytes).sum(),
        flop: 2.0 * rows as f64 * (multiply_adds(&spec.op) + attention),
    }
}
