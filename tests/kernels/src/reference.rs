//! Runs the reference on a case's memory, on some of its rows where all would take too long.

use hyc_kernels::reference;
use hyc_plan::*;

use crate::{Batch, Memory, Rng};

/// Multiply-adds that a case's reference may take: well under a second.
const MOST: u64 = 400_000_000;

/// Addresses of a step's operands.
pub fn pointers(memory: &mut [Memory]) -> Vec<*mut u8> {
    memory.iter_mut().map(|m| m.bytes_mut().as_mut_ptr()).collect()
}

/// The written operands after the reference ran for `rows`; nothing for those that are only read.
pub fn run_reference(spec: &KernelSpec, batch: &Batch, memory: &[Memory], rows: &[u64]) -> Vec<Memory> {
    let roles = spec.op.roles();
    let mut written: Vec<Memory> = memory
        .iter()
        .zip(&roles)
        .map(|(memory, role)| if role.writes() { memory.clone() } else { Memory::new(&[]) })
        .collect();
    let addresses: Vec<*mut u8> =
        written
            .iter_mut()
            .zip(memory)
            .zip(&roles)
            .map(|((copy, memory), role)| {
                if role.writes() { copy.bytes_mut().as_mut_ptr() } else { memory.bytes().as_ptr().cast_mut() }
            })
            .collect();
    // SAFETY: the memory was made for this spec and batch; the reference writes only what is written.
    unsafe { reference::run_rows(spec, &batch.context(), &addresses, rows) };
    written
}

/// What row `row` of a selection or of a router was chosen by; see [`reference::scores`].
pub fn scores(spec: &KernelSpec, batch: &Batch, memory: &[Memory], row: u64) -> Vec<Vec<f64>> {
    let addresses: Vec<*mut u8> = memory.iter().map(|m| m.bytes().as_ptr().cast_mut()).collect();
    // SAFETY: as above; scores write nothing.
    unsafe { reference::scores(spec, &batch.context(), &addresses, row) }
}

/// Rows of the step's results.
pub fn result_rows(spec: &KernelSpec, batch: &Batch) -> u64 {
    spec.rows.count(batch.rows(), batch.outputs())
}

/// All rows, or the first, the last and random others where all are too much work.
pub fn sample_rows(rng: &mut Rng, spec: &KernelSpec, batch: &Batch) -> Vec<u64> {
    let count = result_rows(spec, batch);
    if (0..count).map(|row| cost(&spec.op, batch.position(row))).sum::<u64>() <= MOST {
        return (0..count).collect();
    }
    let mut rest: Vec<u64> = (1..count - 1).collect();
    let mut rows = vec![0, count - 1];
    let mut left = MOST;
    while !rest.is_empty() {
        let row = rest.swap_remove(rng.below(rest.len() as u64) as usize);
        left = left.saturating_sub(cost(&spec.op, batch.position(row)));
        if left == 0 {
            break;
        }
        rows.push(row);
    }
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// About the multiply-adds of a row.
fn cost(op: &StepOp, position: u64) -> u64 {
    let attention = |s: AttnShape, keys: u64| s.heads * (s.qk_dim + s.v_dim) * keys;
    let seen = position + 1;
    match *op {
        StepOp::Linear(ops::Linear { in_features, out_features: out, epilogue, .. }) => {
            in_features * out * if epilogue == Epilogue::SwiGlu { 2 } else { 1 }
        }
        StepOp::QkvAppend(ops::QkvAppend { in_features, shape: s, gates, .. }) => {
            in_features * (s.heads * (s.qk_dim + gates * s.v_dim) + s.kv_heads * (s.qk_dim + s.v_dim))
        }
        StepOp::FullAttention(ops::FullAttention { shape, .. })
        | StepOp::OracleAttention(ops::OracleAttention { shape, .. }) => attention(shape, seen),
        StepOp::WindowAttention(ops::WindowAttention { shape, window, .. }) => {
            attention(shape, seen.min(window))
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, .. }) => {
            attention(shape, seen.min(select.block * select.blocks))
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, .. }) => {
            attention(shape, seen.min(select.block * select.blocks) + seen.min(window))
        }
        // Each weight is decoded for each row that uses it.
        StepOp::ExpertsUp(ops::ExpertsUp { active, in_features, ffn, shared, .. }) => {
            6 * (active + u64::from(shared)) * in_features * ffn
        }
        StepOp::ExpertsDown(ops::ExpertsDown { active, out_features: out, ffn, shared, .. }) => {
            3 * (active + u64::from(shared)) * out * ffn
        }
        _ => 1,
    }
}
