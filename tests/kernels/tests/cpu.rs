//! Every CPU kernel against the reference on fresh random inputs; `HYC_SEED=N` repeats a run.

#![allow(clippy::print_stdout)] // A test's output is captured.

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{
    Batch, Case, HostKernel, Memory, Rng, cases, memory, pointers, result_rows, run_reference,
};
use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_plan::{Elem, OperandSpec, Scores, StepOp, ops, pack};

/// The operands after the code ran over the grid in ranges of `step` items.
fn run(code: &HostKernel, batch: &Batch, before: &[Memory], step: u64) -> Vec<Memory> {
    let (mut after, mut scratch) = (before.to_vec(), code.scratch());
    let (context, addresses) = (batch.context(), pointers(&mut after));
    let all = code.items(batch);
    for begin in (0..all).step_by(step as usize) {
        // SAFETY: the memory was made for this spec and batch.
        unsafe { code.run(&context, &addresses, &mut scratch, begin..all.min(begin + step)) };
    }
    after
}

/// Checks both levels of code, and that splitting the grid changes no bit.
fn check(seed: u64, case: &Case, codes: &[(Level, HostKernel)]) {
    let mut rng = Rng::of(seed, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let rows: Vec<u64> = (0..result_rows(&case.spec, &batch)).collect();
    let want = run_reference(&case.spec, &batch, &before, &rows);
    let margin = if case.selects_exactly() { 0.0 } else { 1e-6 };
    let limits = Limits { error: case.f32_error, bf16_cache: 3e-3, margin };
    for (level, code) in codes {
        let got = run(code, &batch, &before, code.items(&batch).max(1));
        let step =
            Step { spec: &case.spec, batch: &batch, before: &before, want: &want, got: &got, rows: &rows };
        step.check(&limits).unwrap_or_else(|wrong| panic!("{} {level:?}: {wrong:?}", case.name()));
        for items in [1, 3] {
            let split = run(code, &batch, &before, items);
            let same = split.iter().zip(&got).all(|(a, b)| a.bytes() == b.bytes());
            assert!(same, "{}: ranges of {items} items give other bits", case.name());
        }
    }
}

fn family(name: &str) {
    let seed = std::env::var("HYC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(Rng::fresh_seed);
    println!("HYC_SEED={seed}");
    let cases: Vec<Case> = cases::host().into_iter().filter(|case| case.family == name).collect();
    assert!(!cases.is_empty());
    let levels = [Level::Baseline, Level::V3];
    let levels = levels.iter().filter(|level| **level != Level::V3 || CpuTarget::host().level == Level::V3);
    for of_one_kernel in cases.chunk_by(|a, b| a.spec == b.spec) {
        let code = |level: &Level| (*level, HostKernel::new(&of_one_kernel[0].spec, *level));
        let codes: Vec<(Level, HostKernel)> = levels.clone().map(code).collect();
        of_one_kernel.iter().for_each(|case| check(seed, case, &codes));
    }
}

#[test]
fn linears_with_every_epilogue() {
    family("linear");
}

#[test]
fn projections_with_appends() {
    family("qkv");
}

#[test]
fn linears_of_weights_that_share_scales() {
    family("linear grouped");
}

#[test]
fn projections_of_weights_that_share_scales() {
    family("qkv grouped");
}

#[test]
fn experts_of_weights_that_share_scales() {
    family("experts grouped");
}

#[test]
fn rope_at_far_positions() {
    family("rope");
}

#[test]
fn every_attention() {
    family("attention");
}

#[test]
fn ops_on_rows() {
    family("rows");
}

#[test]
fn appends() {
    family("append");
}

#[test]
fn codes_of_keys_and_values() {
    family("quantise_kv");
}

#[test]
fn every_attention_over_codes() {
    family("attention of codes");
}

#[test]
fn mixtures_of_experts() {
    family("experts");
}

/// Sigmoids that are all as good as 0 are divided by 1e-20, as DeepSeek-V3's router has it: nothing is left of them.
#[test]
fn experts_that_no_logit_is_for_have_no_share() {
    let is_one = |case: &&Case| match case.spec.op {
        StepOp::Router(ops::Router { rule, .. }) => rule.scores == Scores::Sigmoid && !rule.whole,
        _ => false,
    };
    let all = cases::portable();
    let cases: Vec<&Case> = all.iter().filter(is_one).collect();
    assert!(cases.len() > 20);
    for case in cases {
        let batch = case.batch(&mut Rng::of(1, "batch"));
        let mut before = memory(&mut Rng::of(1, "memory"), &case.spec, &batch, case.fill);
        before[0].bytes_mut().chunks_mut(4).for_each(|word| word.copy_from_slice(&(-200f32).to_le_bytes()));
        let code = HostKernel::new(&case.spec, Level::Baseline);
        let after = run(&code, &batch, &before, code.items(&batch));
        let rows: Vec<u64> = (0..result_rows(&case.spec, &batch)).collect();
        let want = run_reference(&case.spec, &batch, &before, &rows);
        let last = case.spec.operands.len() - 1;
        let OperandSpec::Tensor { width, stride, .. } = case.spec.operands[last] else { panic!("no shares") };
        for shares in [&after[last], &want[last]] {
            for (row, col) in rows.iter().flat_map(|row| (0..width).map(move |col| (row, col))) {
                let share = pack::load(Elem::F32, shares.bytes(), row * stride + col);
                assert!((0.0..1e-10).contains(&share), "{}: row {row}, column {col}: {share:e}", case.name());
            }
        }
    }
}

#[test]
fn rows_of_fp8_are_refused() {
    let fp8_rows = Some(65);
    let mut refused = std::collections::BTreeSet::new();
    for case in cases::portable() {
        let op = match case.spec.op {
            StepOp::Linear(op) => StepOp::Linear(ops::Linear { fp8_rows, ..op }),
            StepOp::QkvAppend(op) if op.gates == 0 => StepOp::QkvAppend(ops::QkvAppend { fp8_rows, ..op }),
            _ => continue,
        };
        let spec = hyc_plan::KernelSpec { op, ..case.spec.clone() };
        let why = hyc_kernels::cpu::supports(&spec).unwrap_err();
        assert!(why.starts_with("rows of fp8: a processor's kernels multiply"), "{}: {why}", case.name());
        refused.insert(op.name());
    }
    assert_eq!(refused.len(), 2);
}
