//! Every CPU kernel against the reference on fresh random inputs; `HYC_SEED=N` repeats a run.

#![allow(clippy::print_stdout)] // A test's output is captured.

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{Batch, Case, Memory, Rng, cases, memory, pointers, run_reference};
use hyc_kernels::cpu::{self, CpuTarget, Level};
use hyc_plan::abi::KernelFn;
use hyc_plan::*;

/// Items of the whole grid.
fn items(spec: &KernelSpec, batch: &Batch) -> u64 {
    let grid = spec.grid();
    grid.per
        * match grid.dim {
            GridDim::One => 1,
            GridDim::Tokens => batch.rows(),
            GridDim::Outputs => batch.outputs(),
        }
}

/// Generated code, mapped.
struct Code {
    map: memmap2::Mmap,
    scratch_bytes: u64,
}

impl Code {
    fn new(spec: &KernelSpec, level: Level) -> Code {
        cpu::supports(spec).unwrap();
        let kernel = cpu::compile(spec, &CpuTarget { level }, false).unwrap();
        let mut map = memmap2::MmapMut::map_anon(kernel.code.len()).unwrap();
        map.copy_from_slice(&kernel.code);
        Code { map: map.make_exec().unwrap(), scratch_bytes: kernel.scratch_bytes }
    }

    /// The operands after the code ran over the grid in ranges of `step` items.
    fn run(&self, spec: &KernelSpec, batch: &Batch, before: &[Memory], step: u64) -> Vec<Memory> {
        // SAFETY: the code is a kernel of this type.
        let function: KernelFn = unsafe { std::mem::transmute(self.map.as_ptr()) };
        let mut after = before.to_vec();
        let mut scratch = Memory::filled(self.scratch_bytes as usize, 0xff);
        let (context, addresses) = (batch.context(), pointers(&mut after));
        let all = items(spec, batch);
        for begin in (0..all).step_by(step as usize) {
            let (end, scratch) = (all.min(begin + step), scratch.bytes_mut().as_mut_ptr());
            // SAFETY: the memory was made for this spec and batch.
            unsafe { function(&context, addresses.as_ptr(), begin, end, scratch) };
        }
        after
    }
}

/// Checks both levels of code, and that splitting the grid changes no bit.
fn check(seed: u64, case: &Case, codes: &[(Level, Code)]) {
    let mut rng = Rng::of(seed, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let rows: Vec<u64> = match case.spec.rows {
        Rows::Tokens => (0..batch.rows()).collect(),
        Rows::Outputs => (0..batch.outputs()).collect(),
    };
    let want = run_reference(&case.spec, &batch, &before, &rows);
    let margin = if case.selects_exactly() { 0.0 } else { 1e-6 };
    let limits = Limits { error: case.f32_error, bf16_cache: 3e-3, margin };
    for (level, code) in codes {
        let got = code.run(&case.spec, &batch, &before, items(&case.spec, &batch).max(1));
        let step =
            Step { spec: &case.spec, batch: &batch, before: &before, want: &want, got: &got, rows: &rows };
        step.check(&limits).unwrap_or_else(|wrong| panic!("{} {level:?}: {wrong:?}", case.name()));
        for items in [1, 3] {
            let split = code.run(&case.spec, &batch, &before, items);
            let same = split.iter().zip(&got).all(|(a, b)| a.bytes() == b.bytes());
            assert!(same, "{}: ranges of {items} items give other bits", case.name());
        }
    }
}

fn family(name: &str) {
    let seed = std::env::var("HYC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(Rng::fresh_seed);
    println!("HYC_SEED={seed}");
    let cases: Vec<Case> = cases::portable().into_iter().filter(|case| case.family == name).collect();
    assert!(!cases.is_empty());
    let levels = [Level::Baseline, Level::V3];
    let levels = levels.iter().filter(|level| **level != Level::V3 || CpuTarget::host().level == Level::V3);
    for of_one_kernel in cases.chunk_by(|a, b| a.spec == b.spec) {
        let code = |level: &Level| (*level, Code::new(&of_one_kernel[0].spec, *level));
        let codes: Vec<(Level, Code)> = levels.clone().map(code).collect();
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
fn mixtures_of_experts() {
    family("experts");
}
