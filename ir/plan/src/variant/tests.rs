use super::*;

fn variant(name: &str, rows: (u64, u64), usual: (u64, u64), measured: &[(u64, u64)]) -> Variant {
    Variant {
        name: name.to_string(),
        rows: RowRange::new(rows.0, rows.1),
        usual: Some(RowRange::new(usual.0, usual.1)),
        pass_rows: 1,
        launches: 1,
        tensor_cores: false,
        code: String::new(),
        stale: false,
        context: 0,
        measured: measured.iter().map(|(rows, ns)| Timing { rows: *rows, ns: *ns }).collect(),
    }
}

fn chosen(variants: &[Variant], most: u64) -> Vec<(String, u64, u64)> {
    let chosen = choose(variants, most).unwrap();
    chosen.into_iter().map(|c| (c.variant, c.rows.least, c.rows.most)).collect()
}

fn list(ranges: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
    ranges.iter().map(|(name, least, most)| (name.to_string(), *least, *most)).collect()
}

#[test]
fn without_measurements_the_usual_ones_are_chosen() {
    let variants = [variant("few", (1, 64), (1, 8), &[]), variant("many", (1, 512), (9, 512), &[])];
    assert_eq!(chosen(&variants, 512), list(&[("few", 1, 8), ("many", 9, 512)]));
    // A session of fewer rows has fewer ranges.
    assert_eq!(chosen(&variants, 8), list(&[("few", 1, 8)]));
    assert_eq!(chosen(&variants, 9), list(&[("few", 1, 8), ("many", 9, 9)]));
    assert_eq!(why(&variants, &choose(&variants, 9).unwrap()[0]), "usual for these rows; not measured");
}

#[test]
fn what_was_measured_decides() {
    let few = variant("few", (1, 64), (1, 8), &[(1, 100), (8, 100), (16, 100), (64, 400)]);
    let many = variant("many", (1, 512), (9, 512), &[(1, 300), (8, 98), (16, 200), (64, 200), (512, 900)]);
    // At 8 rows `many` is faster by less than the margin; up to 16 `few` is far faster.
    let both = [few, many];
    assert_eq!(chosen(&both, 512), list(&[("few", 1, 16), ("many", 17, 512)]));
    let ranges = choose(&both, 512).unwrap();
    assert_eq!(
        why(&both, &ranges[0]),
        "usual for 1..8, and measured faster than the usual ones for the others"
    );
    assert_eq!(why(&both, &ranges[1]), "usual, and none was measured faster by more than 3 %");
    let one = [both[0].clone()];
    assert_eq!(why(&one, &choose(&one, 4).unwrap()[0]), "the only one for these rows");
    assert_eq!(chosen(&both, 2), list(&[("few", 1, 2)]));
}

#[test]
fn a_variant_takes_no_rows_that_it_cannot_compute() {
    let few = variant("few", (1, 16), (1, 8), &[(16, 10), (64, 10)]);
    let many = variant("many", (1, 512), (9, 512), &[(16, 500), (64, 500)]);
    assert_eq!(chosen(&[few, many], 512), list(&[("few", 1, 16), ("many", 17, 512)]));
}

#[test]
fn beyond_the_last_measurement_the_usual_one_is_chosen() {
    let few = variant("few", (1, 512), (1, 8), &[(1, 10), (16, 10)]);
    let many = variant("many", (1, 512), (9, 512), &[(1, 90), (16, 90)]);
    assert_eq!(chosen(&[few, many], 512), list(&[("few", 1, 16), ("many", 17, 512)]));
}

#[test]
fn impossible_numbers_predict_the_longest_time() {
    let tensor = crate::OperandSpec::Tensor { elem: crate::Elem::F32, width: u64::MAX, stride: 16 };
    let op = crate::StepOp::Add(crate::ops::Add { width: u64::MAX });
    let spec =
        KernelSpec { op, operands: vec![tensor; 3], rows: crate::Rows::Tokens, max_rows: 1, max_context: 1 };
    let slow = variant("slow", (1, 1), (1, 1), &[]);
    assert_eq!(slow.predicted_ns(&spec, NvidiaArch::Sm90a, u64::MAX, u64::MAX), u64::MAX);
}

/// Rows of fp8 take half the operations' time of rows of bf16, where a step has them.
#[test]
fn rows_of_fp8_are_multiplied_twice_as_fast() {
    let of = |fp8_rows| {
        let (in_features, out_features, norm) = (8192, 8192, None);
        let epilogue = crate::Epilogue::Store;
        let linear = crate::ops::Linear { in_features, out_features, norm, epilogue, fp8_rows };
        let (op, rows) = (crate::StepOp::Linear(linear), crate::Rows::Tokens);
        KernelSpec { op, operands: vec![], rows, max_rows: 4096, max_context: 1 }
    };
    let tensor = Variant { launches: 0, tensor_cores: true, ..variant("wgmma", (1, 4096), (1, 4096), &[]) };
    let ns = |fp8_rows, rows| tensor.predicted_ns(&of(fp8_rows), NvidiaArch::Sm90a, rows, 1);
    let share = ns(Some(65), 4096) as f64 / ns(None, 4096) as f64;
    assert!((share - 0.5).abs() < 1e-3, "{share}");
    assert_eq!(ns(Some(65), 64), ns(None, 64));
}

#[test]
fn rows_without_a_variant_are_an_error() {
    let holes = [variant("few", (1, 8), (1, 8), &[]), variant("many", (10, 64), (10, 64), &[])];
    let error = choose(&holes, 64).unwrap_err();
    assert_eq!(error, "none of its variants is for steps of 9 rows");
    let unusual = Variant { usual: None, ..variant("only", (1, 64), (1, 64), &[]) };
    assert_eq!(choose(&[unusual], 64).unwrap_err(), "none of its variants is for steps of 1..64 rows");
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn timings() -> impl Strategy<Value = Vec<(u64, u64)>> {
        proptest::collection::btree_map(1..300u64, 1..1000u64, 0..6).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        /// Every number of rows has one variant, which can compute it and is no slower than the usual one where both
        /// were measured there.
        #[test]
        fn ranges_cover_all_rows(
            cut in 1..200u64, legal in 1..300u64, most in 1..300u64, a in timings(), b in timings(),
        ) {
            let few = variant("few", (1, legal.max(cut)), (1, cut), &a);
            let many = variant("many", (1, 300), (cut + 1, 300), &b);
            let variants = [few, many];
            let ranges = choose(&variants, most).unwrap();
            let mut next = 1;
            for range in &ranges {
                prop_assert_eq!(range.rows.least, next);
                next = range.rows.most + 1;
                let own = variants.iter().find(|v| v.name == range.variant).unwrap();
                prop_assert!(own.rows.covers(range.rows));
                prop_assert!(!why(&variants, range).is_empty());
            }
            prop_assert_eq!(next, most + 1);
            for pair in ranges.windows(2) {
                prop_assert_ne!(&pair[0].variant, &pair[1].variant);
            }
            for timing in variants.iter().flat_map(|v| &v.measured) {
                let Some(range) = ranges.iter().find(|r| r.rows.covers(RowRange::new(timing.rows, timing.rows)))
                else { continue };
                let usual = if timing.rows <= cut { &variants[0] } else { &variants[1] };
                let own = variants.iter().find(|v| v.name == range.variant).unwrap();
                if let (Some(own), Some(usual)) = (own.ns(timing.rows), usual.ns(timing.rows)) {
                    prop_assert!(own <= usual);
                }
            }
        }
    }
}
