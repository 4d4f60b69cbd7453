//! What a step must move and compute, by its operands' roles: the floors that a time is set beside.

use hyc_kernel_tests::{Batch, result_rows};
use hyc_plan::*;

/// Bytes and operations of a step.
pub struct Cost {
    /// Of weights, of rows in and out, and of the keys and values that are read or appended: each once, whatever a cache
    /// makes of it. Of experts those that its rows choose, if each chooses others.
    pub bytes: u64,
    /// In products and attentions; a multiply-add counts as two.
    pub flop: u64,
}

/// The cost of a step of a kernel.
pub fn of(spec: &KernelSpec, batch: &Batch) -> Cost {
    let roles = spec.op.roles();
    let rows = result_rows(spec, batch);
    let experts = roles.iter().find_map(|role| match role.kind {
        Kind::Experts { experts, active } => Some((experts, active)),
        _ => None,
    });
    let (mut bytes, mut flop) = (0, 0);
    for (operand, role) in spec.operands.iter().zip(&roles) {
        bytes += match role.kind {
            Kind::Rows(width) => 4 * rows * width.unwrap_or_default(),
            Kind::TokenRows(width) => 4 * batch.rows() * width,
            Kind::Token => 4 * rows,
            Kind::Experts { active, .. } => 4 * rows * active,
            Kind::Selection { shape, .. } => 4 * rows * shape.kv_heads * shape.blocks,
            Kind::Vector(len) => 4 * len,
            Kind::Matrices { out, inn, .. } => {
                let matrix = out.unwrap_or_default() * inn;
                let (all, active) = experts.unwrap_or((1, 1));
                flop += 2 * rows * active * matrix;
                matrix * weight_bytes(operand) * all.min(active * rows)
            }
            Kind::Table { cols, .. } => rows * cols * weight_bytes(operand),
            Kind::Cache { reach, .. } => {
                let seen: Vec<u64> = (0..batch.rows()).map(|row| seen(&roles, reach, batch, row)).collect();
                if let Some(shape) = spec.op.attention() {
                    flop += 2 * shape.heads * (shape.qk_dim + shape.v_dim) * seen.iter().sum::<u64>();
                }
                token_bytes(operand) * if role.writes() { batch.rows() } else { read(batch, &seen) }
            }
        };
    }
    Cost { bytes, flop }
}

/// Tokens of a cache that a row looks at.
fn seen(roles: &[Role], reach: Reach, batch: &Batch, row: u64) -> u64 {
    let context = batch.position(row) + 1;
    match reach {
        Reach::Nothing => 0,
        Reach::Context => context,
        Reach::Window(window) => window.min(context),
        Reach::Selected(list) => roles
            .iter()
            .find_map(|role| match role.kind {
                Kind::Selection { shape, .. } if role.name == list => Some(shape.blocks * shape.block),
                _ => None,
            })
            .map_or(context, |tokens| tokens.min(context)),
    }
}

/// Tokens that the rows of each sequence read together: no more than it has.
fn read(batch: &Batch, seen: &[u64]) -> u64 {
    let each = batch.sequences.iter().enumerate().map(|(sequence, (past, rows))| {
        let of_it = (0..batch.rows()).filter(|row| batch.sequence(*row) == sequence);
        of_it.map(|row| seen[row as usize]).sum::<u64>().min(past + rows)
    });
    each.sum()
}

fn weight_bytes(operand: &OperandSpec) -> u64 {
    match operand {
        OperandSpec::Weight(Format { codec: Codec::F32, .. }) => 4,
        OperandSpec::Weight(Format { codec: Codec::Bf16, .. }) => 2,
        other => panic!("{other:?} is timed nowhere"),
    }
}

fn token_bytes(operand: &OperandSpec) -> u64 {
    match operand {
        OperandSpec::Cache(cache) => cache.page_bytes() / cache.page,
        other => panic!("{other:?} is no cache"),
    }
}
