//! Slices of the Plan: runs of steps that the back end's persistent kernels compute in one launch, split into tasks, with the
//! counters that order them.
//!
//! ```text
//! linear o, linear gate/up, linear down, qkv_append of the next layer
//!   -> slice of 4 parts, 256 / 688 / 256 / 896 tasks, each part behind all of the one before
//! ```
//! The waits are the least that keep what the steps do in turn: a part waits for those whose results it reads, and for those
//! that read what its own results lie over in the arena, where no other wait says so already.

use hyc_plan::{Backend, Part, Plan, Rows, Slice, SliceKernel, Slicer};

/// Most steps of a slice.
const MOST: usize = 8;

/// Adds them to a plan that has its steps.
pub fn add(plan: &mut Plan, backend: &dyn Backend) {
    let Some(slicer) = backend.slicer() else { return };
    let tasks: Vec<Option<u64>> = plan
        .steps
        .iter()
        .map(|step| plan.spec(step))
        .map(|spec| (slicer.tasks)(&spec).filter(|_| spec.rows == Rows::Tokens))
        .collect();
    let mut first = 0;
    for run in tasks.chunk_by(|a, b| a.is_some() == b.is_some()) {
        for run in run.chunks(MOST) {
            let tasks: Vec<u64> = run.iter().copied().flatten().collect();
            if tasks.len() >= 2 {
                add_slice(plan, slicer, first, &tasks);
            }
            first += run.len();
        }
    }
}

fn add_slice(plan: &mut Plan, slicer: Slicer, first: usize, tasks: &[u64]) {
    let steps = &plan.steps[first..first + tasks.len()];
    let waits = plan.waits(steps, tasks);
    let parts: Vec<Part> = tasks.iter().zip(waits).map(|(&tasks, waits)| Part { tasks, waits }).collect();
    let slice = Slice { first: first as u32, parts, kernel: 0 };
    let specs = plan.slice_specs(&slice);
    let alike = |other: &&Slice| other.parts == slice.parts && plan.slice_specs(other) == specs;
    let kernel = match plan.slices.iter().find(alike) {
        Some(other) => other.kernel,
        None => {
            let (rows, blocks) = (slicer.rows, slicer.blocks);
            let kernel = SliceKernel { name: name(plan, &slice), rows, blocks, launch: None };
            plan.slice_kernels.push(kernel);
            plan.slice_kernels.len() as u32 - 1
        }
    };
    plan.slices.push(Slice { kernel, ..slice });
}

/// How many steps it has and what the first one is; a number follows where that is not all.
fn name(plan: &Plan, slice: &Slice) -> String {
    let first = &plan.kernels[plan.steps[slice.first as usize].kernel.index()].name;
    let base = format!("slice{}_{first}", slice.parts.len());
    let taken = |name: &String| plan.slice_kernels.iter().any(|kernel| kernel.name == *name);
    let numbered = (2u64..).map(|n| format!("{base}_n{n}"));
    std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(base)
}
