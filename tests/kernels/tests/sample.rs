//! The cases of `Sample` are what they say: their reference gives a token for each row, -1 for bad ones alone,
//! and none behind those that are chosen from.

use hyc_kernel_tests::{Case, Fill, Rng, cases, memory, run_reference, sample_rows};
use hyc_plan::pack;
use hyc_plan::{Elem, StepOp};

#[test]
fn bad_rows_alone_have_no_token() {
    let op = |case: &Case| match case.spec.op {
        StepOp::Sample(op) if op.vocab < 5000 => Some(op),
        _ => None,
    };
    let cases: Vec<_> = cases::all().into_iter().filter_map(|case| Some((op(&case)?, case))).collect();
    assert_eq!(cases.len(), 5 * 3 * 9);
    for (op, case) in cases {
        let mut rng = Rng::of(3, &case.name());
        let batch = case.batch(&mut rng);
        assert_eq!(batch.sampling.len() as u64, batch.outputs());
        let before = memory(&mut rng, &case.spec, &batch, case.fill);
        let rows = sample_rows(&mut rng, &case.spec, &batch);
        assert_eq!(rows.len() as u64, batch.outputs());
        let want = run_reference(&case.spec, &batch, &before, &rows);
        for row in rows {
            let token = pack::load(Elem::F32, want[1].bytes(), row * 16).to_bits() as i32;
            let bad = (row * 31 + op.vocab - 1) % op.vocab < op.choices();
            let bad = bad && case.fill == Fill::BadLogits && row % 3 == 0;
            assert!(token < op.choices() as i32, "{} row {row}: {token}", case.name());
            assert_eq!(token == -1, bad, "{} row {row}: {token}", case.name());
        }
    }
}
