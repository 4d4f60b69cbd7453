//! A processor's kernels of weights that share scales depend on what groups share, each output on its own groups' alone; and the
//! check of kernels sees it.

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{
    Batch, Case, HostKernel, Memory, Rng, cases, memory, pointers, result_rows, run_reference,
};
use hyc_kernels::cpu::Level;
use hyc_plan::pack::{Panel, load};
use hyc_plan::*;

/// The output whose group's scale changes: neither in the first panel nor in the first vector.
const OUTPUT: u64 = 37;

/// The operands after the kernel ran.
fn run(code: &HostKernel, batch: &Batch, before: &[Memory]) -> Vec<Memory> {
    let (mut after, mut scratch) = (before.to_vec(), code.scratch());
    let (context, addresses) = (batch.context(), pointers(&mut after));
    // SAFETY: the memory was made for this spec and batch.
    unsafe { code.run(&context, &addresses, &mut scratch, 0..code.items(batch)) };
    after
}

/// Doubles a scale: of the second group of [`OUTPUT`].
fn spoil(format: Format, weight: &mut [u8]) {
    let (codec, panel) = (format.codec, Panel::of(format.codec, format.layout.cols()));
    let group = OUTPUT / PANEL * panel.bytes() + panel.group_bytes(panel.group());
    let bytes = codec.shared_bytes() as usize;
    let at = group as usize + (OUTPUT % PANEL) as usize * bytes;
    let shared = codec.shared_of_bytes(&weight[at..]);
    let doubled = codec.shared_to_bytes(Shared { scale: 2.0 * shared.scale, ..shared });
    weight[at..at + bytes].copy_from_slice(&doubled[..bytes]);
}

fn check(case: &Case) {
    let (at, out) = (case.spec.at("weight").expect("a weight"), case.spec.at("out").expect("a result"));
    let (OperandSpec::Weight(format), OperandSpec::Tensor { width, stride, .. }) =
        (case.spec.operands[at], case.spec.operands[out])
    else {
        panic!("no product");
    };
    let mut rng = Rng::of(3, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let mut other = before.clone();
    spoil(format, other[at].bytes_mut());
    let code = HostKernel::new(&case.spec, Level::Baseline);
    let [usual, spoilt] = [&before, &other].map(|before| run(&code, &batch, before));
    let rows: Vec<u64> = (0..result_rows(&case.spec, &batch)).collect();
    for (row, col) in rows.iter().flat_map(|row| (0..width).map(move |col| (row, col))) {
        let [a, b] = [&usual, &spoilt].map(|m| load(Elem::F32, m[out].bytes(), row * stride + col));
        assert_eq!(a != b, col == OUTPUT, "{}: row {row}, column {col}: {a} and {b}", case.name());
    }
    let passes = |before: &[Memory], got: &[Memory]| {
        let want = run_reference(&case.spec, &batch, before, &rows);
        let limits = Limits { error: case.f32_error, bf16_cache: 3e-3, margin: 1e-6 };
        let step = Step { spec: &case.spec, batch: &batch, before, want: &want, got, rows: &rows };
        step.check(&limits).is_ok()
    };
    assert!(passes(&before, &usual) && passes(&other, &spoilt), "{}", case.name());
    assert!(!passes(&before, &spoilt) && !passes(&other, &usual), "{}", case.name());
}

#[test]
fn a_scale_changes_its_output_alone() {
    let is_one = |case: &&Case| {
        let op = case.spec.op;
        let sizes =
            matches!(op, StepOp::Linear(ops::Linear { in_features: 200, epilogue: Epilogue::Store, .. }));
        let groups = case.spec.operands.iter().any(|operand| {
            matches!(operand, OperandSpec::Weight(f) if f.codec.group().is_some_and(|n| (32..=128).contains(&n)))
        });
        case.family == "linear grouped" && sizes && groups
    };
    let all = cases::host();
    let cases: Vec<&Case> = all.iter().filter(is_one).collect();
    // Three groups of four codecs, by each batch.
    assert!(cases.len() >= 48, "{} cases", cases.len());
    cases.into_iter().for_each(check);
}
