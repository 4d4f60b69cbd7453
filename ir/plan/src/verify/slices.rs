//! Each task of a slice waits for what it reads, and for those that read what it overwrites.

use super::Report;
use crate::{Extent, KernelSpec, Part, Plan, Rows, Slice};

/// Most steps of a slice: what a function takes as parameters, sixteen operands each.
const MOST_PARTS: usize = 16;
/// Most blocks, of which each takes a multiprocessor.
const MOST_BLOCKS: u64 = 1024;

/// Checks slices and their kernels. Ids of steps' operands are in range: [`super::operands`] has seen to that.
pub fn check(plan: &Plan, report: &mut Report) {
    let mut next = 0;
    for slice in &plan.slices {
        let place = format!("slice of step {}", slice.first);
        let steps = slice.steps();
        if !(2..=MOST_PARTS).contains(&slice.parts.len())
            || steps.start < next
            || steps.end > plan.steps.len()
        {
            report.add(place, "it is not two steps or more behind those of the slice before");
            return;
        }
        next = steps.end;
        if plan.slice_kernels.get(slice.kernel as usize).is_none() {
            report.add(place, format!("there is no kernel {} of slices", slice.kernel));
            continue;
        }
        if let Err(fault) = waits(plan, slice) {
            report.add(place, fault);
        }
    }
    kernels(plan, report);
}

/// What the code of a slice has of it: its specs and its tasks.
fn made_of(plan: &Plan, slice: &Slice) -> (Vec<KernelSpec>, Vec<Part>) {
    (plan.slice_specs(slice), slice.parts.clone())
}

fn kernels(plan: &Plan, report: &mut Report) {
    // Of each kernel what its first slice is made of, and whether the others are like it.
    let mut first = vec![None; plan.slice_kernels.len()];
    let mut alike = vec![true; first.len()];
    for slice in &plan.slices {
        let kernel = slice.kernel as usize;
        let Some(first) = first.get_mut(kernel) else { continue };
        let made_of = made_of(plan, slice);
        alike[kernel] &= first.get_or_insert_with(|| made_of.clone()) == &made_of;
    }
    let names: std::collections::HashSet<&str> =
        plan.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    let mut seen = std::collections::HashSet::new();
    for ((kernel, first), alike) in plan.slice_kernels.iter().zip(first).zip(alike) {
        if first.is_none() {
            report.add(&kernel.name, "it is no slice's");
            continue;
        }
        if !alike {
            report.add(&kernel.name, "its slices are not alike");
        }
        if names.contains(kernel.name.as_str()) || !seen.insert(kernel.name.as_str()) {
            report.add(&kernel.name, "two kernels have this name");
        }
        if !(1..=MOST_BLOCKS).contains(&kernel.blocks) {
            report.add(&kernel.name, format!("{} blocks are not from 1 to {MOST_BLOCKS}", kernel.blocks));
        }
        if kernel.rows.least == 0 || kernel.rows.most < kernel.rows.least {
            report.add(&kernel.name, "it is for passes of no rows");
        }
        if let Some(launch) = &kernel.launch {
            super::check_launch(&kernel.name, launch, report);
            // What blocks hand over has room for so many.
            if launch.grid != [Extent::fixed(kernel.blocks), Extent::fixed(1)] {
                let message = format!("`{}` is not launched in {} blocks", launch.entry, kernel.blocks);
                report.add(&kernel.name, message);
            }
        }
    }
}

/// Whether what a part waits for is before it, whole, and all that it must.
fn waits(plan: &Plan, slice: &Slice) -> Result<(), String> {
    let steps = &plan.steps[slice.steps()];
    // Which parts are through before each begins.
    let mut before: Vec<Vec<bool>> = Vec::new();
    for (i, (part, step)) in slice.parts.iter().zip(steps).enumerate() {
        if part.tasks == 0 || part.tasks > super::MAX_COUNT {
            return Err(format!("{} has {} tasks", step.name, part.tasks));
        }
        if plan.kernels[step.kernel.index()].rows != Rows::Tokens {
            return Err(format!("{} has not a row for each token", step.name));
        }
        let mut through = vec![false; i];
        for wait in &part.waits {
            let of = wait.part as usize;
            let awaited = slice.parts.get(of).filter(|_| of < i);
            let awaited = awaited
                .ok_or_else(|| format!("{} waits for part {of}, which is not before it", step.name))?;
            if wait.count != awaited.tasks {
                return Err(format!(
                    "{} waits until part {of} has raised its counter to {}; it has {} tasks",
                    step.name, wait.count, awaited.tasks
                ));
            }
            through[of] = true;
            through.iter_mut().zip(&before[of]).for_each(|(through, there)| *through |= there);
        }
        if let Some(j) = (0..i).find(|j| !through[*j] && plan.conflict(step, &steps[*j])) {
            return Err(format!(
                "{} does not wait for {}, with which it shares memory",
                step.name, steps[j].name
            ));
        }
        before.push(through);
    }
    Ok(())
}
