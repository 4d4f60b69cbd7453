//! The meaning of every step, in plain Rust.
//!
//! f32 in memory, f64 in every sum. The attention is the textbook's: all probabilities of one row in a
//! vector, no streaming, selection by sorting. It reads and writes the memory that generated kernels do
//! (`hyc_plan::abi`), so that the two can run one after the other on the same buffers.

mod attention;
mod linear;
mod lists;
mod moe;
mod pointwise;
mod view;

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, StepOp, ops};

pub use attention::select_top;
use view::{Views, row_count};

use crate::slices::{OUTPUTS, split};

/// Executes the whole grid of one step.
///
/// # Safety
/// `context` and `operands` must be as `hyc_plan::abi` says for `spec`: every pointer valid for the sizes that
/// the spec and the context's counts give, the outputs not shared with anything else meanwhile.
pub unsafe fn run(spec: &KernelSpec, context: &StepContext, operands: &[*mut u8]) {
    let rows: Vec<u64> = (0..row_count(spec, context)).collect();
    // SAFETY: passed on from the caller.
    unsafe { run_rows(spec, context, operands, &rows) };
}

/// Executes one step for some of its rows, which are independent of each other.
///
/// # Safety
/// As for [`run`]; rows must be below the step's count.
pub unsafe fn run_rows(spec: &KernelSpec, context: &StepContext, operands: &[*mut u8], rows: &[u64]) {
    // SAFETY: passed on from the caller.
    let views = unsafe { Views::new(spec, context, operands, rows) };
    let v = &views;
    match spec.op {
        StepOp::Embed(ops::Embed { hidden, .. }) => pointwise::embed(v, hidden),
        StepOp::RmsNorm(ops::RmsNorm { groups, width, eps }) => pointwise::rmsnorm(v, groups, width, eps),
        StepOp::Linear(op) => linear::linear(v, &op, 0..op.out_features),
        StepOp::QkvAppend(op) => {
            linear::qkv_append(v, &op);
        }
        StepOp::Rope(ops::Rope { heads, dim, rope }) => pointwise::rope(v, heads, dim, rope),
        StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim }) => {
            pointwise::append(v, kv_heads, qk_dim, v_dim)
        }
        StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, .. }) => pointwise::quantise_kv(v, kv_heads),
        StepOp::Add(ops::Add { width }) => pointwise::binary(v, width, |a, b| a + b),
        StepOp::Bias(ops::Bias { width }) => pointwise::bias(v, width),
        StepOp::SiluMul(ops::SiluMul { width }) => {
            pointwise::binary(v, width, |a, b| a * pointwise::sigmoid(a) * b)
        }
        StepOp::Gate(ops::Gate { heads, v_dim, mode }) => pointwise::gate(v, heads, v_dim, mode),
        StepOp::FullAttention(ops::FullAttention { shape, sink }) => attention::full(v, shape, sink, None),
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) => {
            attention::full(v, shape, sink, Some(select))
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }) => {
            attention::window(v, shape, window, sink)
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, lists }) => {
            attention::sparse(v, shape, (select, lists), sink)
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, lists }) => {
            attention::hybrid(v, shape, (select, lists), window, gate);
        }
        StepOp::Router(op) => moe::router(v, op),
        StepOp::ExpertsUp(op) => moe::up(v, &op, 0..op.columns()),
        StepOp::ExpertsDown(op) => moe::down(v, &op, 0..op.out_features),
        StepOp::PageLists(ops::PageLists { select, lists, .. }) => lists::make(v, select, lists),
        StepOp::GatherRows(ops::GatherRows { width }) => pointwise::gather(v, width),
        StepOp::Sample(op) => pointwise::sample(v, op),
    }
}

/// Tasks of a step: those that a GPU's persistent kernels split it into; one, all of it, where they do not.
pub fn tasks(spec: &KernelSpec) -> u64 {
    split(&spec.op).unwrap_or(1)
}

/// Executes one task of a step for all rows; none where `task` is not below [`tasks`]. What it stores no other task stores, and
/// reads the step's inputs alone.
///
/// # Safety
/// As for [`run`].
pub unsafe fn run_task(spec: &KernelSpec, context: &StepContext, operands: &[*mut u8], task: u64) {
    if task >= tasks(spec) {
        return;
    }
    let rows: Vec<u64> = (0..row_count(spec, context)).collect();
    // SAFETY: passed on from the caller.
    let v = &unsafe { Views::new(spec, context, operands, &rows) };
    let columns = |all: u64| task * OUTPUTS..all.min((task + 1) * OUTPUTS);
    match spec.op {
        StepOp::Linear(op) => linear::linear(v, &op, columns(op.out_features)),
        StepOp::ExpertsUp(op) if split(&spec.op).is_some() => moe::up(v, &op, columns(op.columns())),
        StepOp::ExpertsDown(op) => moe::down(v, &op, columns(op.out_features)),
        StepOp::QkvAppend(op) if split(&spec.op).is_some() => linear::qkv_strip(v, &op, task),
        // SAFETY: passed on from the caller.
        _ => unsafe { run(spec, context, operands) },
    }
}

/// What a step that selects chose row `row` by, a list for each of its selections: the logarithm of every
/// visible block's score for each KV head (less a number that all share), or what a router chooses by: logits, or sigmoids
/// with their bias. Empty for any other step.
///
/// # Safety
/// As for [`run_rows`].
pub unsafe fn scores(
    spec: &KernelSpec,
    context: &StepContext,
    operands: &[*mut u8],
    row: u64,
) -> Vec<Vec<f64>> {
    // SAFETY: passed on from the caller.
    let v = &unsafe { Views::new(spec, context, operands, &[]) };
    match spec.op {
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) => {
            attention::block_scores(v, shape, sink, select, row)
        }
        StepOp::Router(op) => vec![moe::choice(v, op, row)],
        StepOp::Embed(_)
        | StepOp::RmsNorm(_)
        | StepOp::Linear(_)
        | StepOp::QkvAppend(_)
        | StepOp::Rope(_)
        | StepOp::Append(_)
        | StepOp::QuantiseKv(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::FullAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_)
        | StepOp::PageLists(_)
        | StepOp::ExpertsUp(_)
        | StepOp::ExpertsDown(_)
        | StepOp::GatherRows(_)
        | StepOp::Sample(_) => Vec::new(),
    }
}
