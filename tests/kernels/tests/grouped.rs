//! Weights whose numbers share scales: the reference computes with the very numbers that they stand for, they are near
//! those that were packed, and a table of them, which a processor has no kernel for, is refused.

use hyc_kernel_tests::{Case, Memory, Rng, cases, memory, run_reference};
use hyc_kernels::cpu;
use hyc_plan::pack::{load_row, pack};
use hyc_plan::*;

/// A weight's numbers, row by row.
fn numbers(format: Format, bytes: &[u8]) -> Vec<f32> {
    let rows: u64 = format.layout.bands().map(|(_, rows)| rows).sum();
    (0..rows).flat_map(|row| load_row(format, bytes, row, format.layout.cols())).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// Matrices of f32, which a grouped codec can have as well.
fn matrix(operand: &OperandSpec) -> Option<Format> {
    match *operand {
        OperandSpec::Weight(format) if format.codec == Codec::F32 && format.layout.shape().len() > 1 => {
            Some(format)
        }
        OperandSpec::Weight(_) | OperandSpec::Tensor { .. } | OperandSpec::Cache(_) => None,
    }
}

/// Runs a case with its matrices in `codec`, and with the f32 that those stand for.
fn check(case: &Case, codec: Codec, most: f64) -> bool {
    let mut rng = Rng::of(7, &case.name());
    let batch = case.batch(&mut rng);
    let mut plain = memory(&mut rng, &case.spec, &batch, case.fill);
    let (mut grouped, mut spec) = (plain.clone(), case.spec.clone());
    let mut any = false;
    for (i, operand) in spec.operands.iter_mut().enumerate() {
        let Some(format) = matrix(operand) else { continue };
        let stored = Format { codec, ..format };
        let before = numbers(format, plain[i].bytes());
        let bytes = pack(stored, &before);
        let after = numbers(stored, &bytes);
        let error = distance(&after, &before);
        assert!(error > 0.0 && error < most, "{codec}: {error}");
        (grouped[i], plain[i]) = (Memory::new(&bytes), Memory::new(&pack(format, &after)));
        *operand = OperandSpec::Weight(stored);
        any = true;
    }
    if any {
        let rows: Vec<u64> =
            (0..if spec.rows == Rows::Tokens { batch.rows() } else { batch.outputs() }).collect();
        let want = run_reference(&case.spec, &batch, &plain, &rows);
        let found = run_reference(&spec, &batch, &grouped, &rows);
        for (role, (want, found)) in spec.op.roles().iter().zip(want.iter().zip(&found)) {
            assert!(
                !role.writes() || want.bytes() == found.bytes(),
                "{} of {codec}: {}",
                case.name(),
                role.name
            );
        }
        let table = format!("no kernel of `embed` reads weights of {codec}");
        let supported = if matches!(spec.op, StepOp::Embed(_)) { Err(table) } else { Ok(()) };
        assert_eq!(cpu::supports(&spec), supported, "{}", case.name());
    }
    any
}

#[test]
fn the_reference_computes_with_what_the_codes_stand_for() {
    let small: Vec<Case> = cases::portable().into_iter().filter(|case| case.small).collect();
    // Twice what was measured.
    for (codec, most) in [
        (Codec::Int8 { group: 16 }, 0.0098),
        (Codec::Int8 { group: 1000 }, 0.0116),
        (Codec::Fp8 { group: 16 }, 0.047),
        (Codec::Fp8 { group: 5 }, 0.04),
        (Codec::Int4 { group: 16, zero: false }, 0.141),
        (Codec::Int4 { group: 64, zero: false }, 0.174),
        (Codec::Int4 { group: 32, zero: true }, 0.146),
    ] {
        let ran = small.iter().filter(|case| check(case, codec, most)).count();
        assert!(ran >= 10, "{ran} cases with matrices of f32");
    }
}
