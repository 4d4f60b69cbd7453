//! The cases themselves: the reference gives numbers from their inputs, and agrees with itself.

#![allow(clippy::print_stdout)] // A test's output is captured.

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{Case, Rng, cases, memory, run_reference, sample_rows};

fn check(case: &Case, seed: u64) {
    let mut rng = Rng::of(seed, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let rows = sample_rows(&mut rng, &case.spec, &batch);
    let want = run_reference(&case.spec, &batch, &before, &rows);
    let count = rows.len() as u64;
    let roles = case.spec.op.roles();
    let after = roles.iter().zip(before.iter().zip(&want));
    let got: Vec<_> = after.map(|(role, (b, w))| if role.writes() { w } else { b }.clone()).collect();
    let step = Step { spec: &case.spec, batch: &batch, before: &before, want: &want, got: &got, rows: &rows };
    let limits = Limits { error: 1e-12, bf16_cache: 1e-12, margin: 0.0 };
    // Rows that the reference left out are NaN.
    if count == batch.rows() || count == batch.outputs() {
        step.check(&limits).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", case.name()));
    }
}

#[test]
fn small_cases_are_sound() {
    let seed = Rng::fresh_seed();
    println!("seed {seed}");
    cases::all().iter().filter(|case| case.small).for_each(|case| check(case, seed));
}

/// `cargo test --release -p hyc-kernel-tests --test cases -- --ignored --nocapture`: what each costs.
#[test]
#[ignore = "takes minutes"]
fn all_cases_are_sound_and_quick() {
    let mut times = Vec::new();
    for case in cases::all() {
        let start = std::time::Instant::now();
        check(&case, 7);
        times.push((start.elapsed().as_secs_f64(), case.name()));
    }
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{:.0} s in all", times.iter().map(|(seconds, _)| seconds).sum::<f64>());
    times.iter().take(25).for_each(|(seconds, name)| println!("{seconds:6.2} s {name}"));
}
