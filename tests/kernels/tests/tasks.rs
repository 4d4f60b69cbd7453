//! A step by its tasks on the reference: no two store to one place, and together they leave what the step leaves.

use hyc_kernel_tests::{Case, Rng, cases, memory, pointers};
use hyc_kernels::reference;
use hyc_plan::OperandSpec;

/// How many tasks a step has that has several; all of them checked.
fn check(case: &Case, seed: u64) -> u64 {
    let tasks = reference::tasks(&case.spec);
    let mut rng = Rng::of(seed, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let context = batch.context();
    let mut want = before.clone();
    // SAFETY: the memory was made for this spec and batch.
    unsafe { reference::run(&case.spec, &context, &pointers(&mut want)) };
    let mut together = before.clone();
    let mut owners: Vec<Vec<Option<u64>>> = before.iter().map(|m| vec![None; m.bytes().len()]).collect();
    // One more has nothing to do.
    for task in (0..=tasks).rev() {
        let mut after = before.clone();
        // SAFETY: as above.
        unsafe { reference::run_task(&case.spec, &context, &pointers(&mut after), task) };
        for (operand, (after, before)) in after.iter().zip(&before).enumerate() {
            let changed = after.bytes().iter().zip(before.bytes()).enumerate().filter(|(_, (a, b))| a != b);
            for (at, (byte, _)) in changed {
                let owner = owners[operand][at].replace(task);
                assert_eq!(owner, None, "{}: task {task}, operand {operand}, byte {at}", case.name());
                together[operand].bytes_mut()[at] = *byte;
            }
        }
    }
    assert!(owners.iter().flatten().all(|owner| *owner != Some(tasks)), "{}", case.name());
    let same = together.iter().zip(&want).all(|(a, b)| a.bytes() == b.bytes());
    assert!(same, "{}: {tasks} tasks leave other bits than the step", case.name());
    tasks
}

/// Bytes that the tasks of a case may copy: some tenths of a second.
const MOST: u64 = 64 << 20;

/// Of each kernel the case that copies least.
#[test]
fn tasks_are_a_step_cut_in_pieces() {
    let all = cases::all();
    for op in ["linear", "qkv_append"] {
        let of_kernels =
            all.chunk_by(|a, b| a.spec == b.spec).filter(|of_one| of_one[0].spec.op.name() == op);
        let least = of_kernels.filter_map(|of_one| of_one.iter().min_by_key(|case| bytes(case)));
        let cases: Vec<&Case> =
            least.filter(|case| bytes(case) < MOST && case.batch(&mut Rng(5)).rows() < 99).collect();
        let several = cases.iter().filter(|case| check(case, 5) > 1).count();
        assert!(several >= 4, "{op}: {several}");
    }
}

/// What a case's tasks copy, all together.
fn bytes(case: &Case) -> u64 {
    let mut rng = Rng::of(5, &case.name());
    let batch = case.batch(&mut rng);
    let weights = case.spec.operands.iter().map(|operand| match operand {
        OperandSpec::Weight(format) => format.bytes(),
        OperandSpec::Tensor { stride, .. } => 4 * stride * batch.rows(),
        OperandSpec::Cache(cache) => cache.page_bytes() * batch.pages(cache),
    });
    reference::tasks(&case.spec) * weights.sum::<u64>()
}

/// A step that is not split has one task.
#[test]
fn other_steps_are_one_task() {
    let small: Vec<Case> = cases::portable().into_iter().filter(|case| case.small).collect();
    let one =
        small.iter().filter(|case| reference::tasks(&case.spec) == 1 && case.spec.op.name() != "linear");
    assert!(one.map(|case| check(case, 5)).sum::<u64>() > 20);
}
