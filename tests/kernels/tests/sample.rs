//! The cases of `Sample` are what they say: their reference gives a token for each row, -1 for bad ones alone.

use hyc_kernel_tests::{Fill, Rng, cases, memory, run_reference, sample_rows};
use hyc_plan::pack;
use hyc_plan::{Elem, StepOp, ops};

#[test]
fn bad_rows_alone_have_no_token() {
    let small = |case: &hyc_kernel_tests::Case| matches!(case.spec.op, StepOp::Sample(ops::Sample { vocab }) if vocab < 5000);
    let cases: Vec<_> = cases::all().into_iter().filter(small).collect();
    assert_eq!(cases.len(), 3 * 3 * 9);
    for case in cases {
        let mut rng = Rng::of(3, &case.name());
        let batch = case.batch(&mut rng);
        assert_eq!(batch.sampling.len() as u64, batch.outputs());
        let before = memory(&mut rng, &case.spec, &batch, case.fill);
        let rows = sample_rows(&mut rng, &case.spec, &batch);
        assert_eq!(rows.len() as u64, batch.outputs());
        let want = run_reference(&case.spec, &batch, &before, &rows);
        for row in rows {
            let token = pack::load(Elem::F32, want[1].bytes(), row * 16).to_bits() as i32;
            let bad = case.fill == Fill::BadLogits && row % 3 == 0;
            assert_eq!(token == -1, bad, "{} row {row}: {token}", case.name());
        }
    }
}
