//! A step by its tasks on the reference: no two store to one place, and together they leave what the step leaves.

use hyc_kernel_tests::{Case, Rng, cases, memory, pointers};
use hyc_kernels::reference;

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

#[test]
fn tasks_are_a_step_cut_in_pieces() {
    let named = |case: &Case| ["linear", "qkv_append"].contains(&case.spec.op.name());
    let several = cases::all()
        .iter()
        .filter(|case| case.small && named(case))
        .filter(|case| check(case, 5) > 1)
        .count();
    assert!(several > 20, "{several}");
}

/// A step that is not split has one task.
#[test]
fn other_steps_are_one_task() {
    let small: Vec<Case> = cases::portable().into_iter().filter(|case| case.small).collect();
    let one =
        small.iter().filter(|case| reference::tasks(&case.spec) == 1 && case.spec.op.name() != "linear");
    assert!(one.map(|case| check(case, 5)).sum::<u64>() > 20);
}
