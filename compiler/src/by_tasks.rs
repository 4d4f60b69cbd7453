//! The interpreter of slices: their steps as tasks, in any order that the counters allow.
//!
//! ```text
//! call of part 0 .. n - 2: put off        call of part n - 1: until every task is through
//!                                           choose a part whose waits are met, and any of its tasks
//!                                           compute it, raise the part's counter
//! ```
//! What it gives is to the bit what the steps in turn give, for every order, where the plan's waits are enough.

use hyc_plan::abi::StepContext;
use hyc_plan::{KernelSpec, Part, Plan, Slice};
use hyc_runtime::{Error, ErrorKind, Kernels, ModelId, StepCall};

use crate::source::random::next;

/// The kernels of `hyc_kernels::reference`, for any plan: passes that its slices are for by tasks in an order of chance, all else
/// step by step. A slice's results are there once its last step has been called.
#[derive(Debug)]
pub struct ByTasks {
    /// Of the order.
    state: u64,
    /// The steps of the slice in hand that were called.
    held: Vec<Held>,
}

/// What a step was called with.
#[derive(Debug)]
struct Held {
    spec: KernelSpec,
    operands: Vec<*mut u8>,
}

// SAFETY: the addresses are followed only in `run`, whose caller's they are, and who may send them.
unsafe impl Send for Held {}

impl ByTasks {
    /// An order by this seed.
    ///
    /// # Safety
    /// Operands that a step of a pass is called with stay valid, and nobody else uses them, until the pass's last step was
    /// called; those of a [`HostRunner`](hyc_runtime::HostRunner) in its own memory do, where nobody looks at results
    /// between two steps.
    pub unsafe fn new(seed: u64) -> ByTasks {
        ByTasks { state: seed, held: Vec::new() }
    }

    /// A number below `count`.
    fn below(&mut self, count: usize) -> usize {
        (next(&mut self.state) % count.max(1) as u64) as usize
    }

    /// All tasks of the steps in hand. Errors: a step has other tasks; none may begin.
    ///
    /// # Safety
    /// As for [`Kernels::run`] of each of them, save that those before it have not run.
    unsafe fn run_held(&mut self, plan: &Plan, slice: &Slice, context: &StepContext) -> Result<(), Error> {
        let held = std::mem::take(&mut self.held);
        let fault = |message| Err(Error::new(ErrorKind::BadArtefact, message));
        for ((part, held), step) in slice.parts.iter().zip(&held).zip(slice.steps()) {
            let tasks = hyc_kernels::reference::tasks(&held.spec);
            if tasks != part.tasks {
                let name = plan.steps.get(step).map_or("a step", |step| step.name.as_str());
                return fault(format!("{name} has {tasks} tasks; its slice says {}", part.tasks));
            }
        }
        let mut left: Vec<Vec<u64>> = slice.parts.iter().map(|part| (0..part.tasks).collect()).collect();
        while left.iter().any(|tasks| !tasks.is_empty()) {
            let open = |i: &usize| !left[*i].is_empty() && may_begin(&slice.parts[*i], slice, &left);
            let open: Vec<usize> = (0..left.len()).filter(open).collect();
            if open.is_empty() {
                return fault(format!("no task of the slice of step {} may begin", slice.first));
            }
            let part = open[self.below(open.len())];
            let chosen = self.below(left[part].len());
            let task = left[part].swap_remove(chosen);
            let Held { spec, operands } = &held[part];
            // SAFETY: passed on from the caller; this is one thread.
            unsafe { hyc_kernels::reference::run_task(spec, context, operands, task) };
        }
        Ok(())
    }
}

/// Whether all counters that a part waits for have come to their counts; `left`: the tasks of each part that are not through.
fn may_begin(part: &Part, slice: &Slice, left: &[Vec<u64>]) -> bool {
    part.waits.iter().all(|wait| {
        let awaited = wait.part as usize;
        let through = slice.parts.get(awaited).zip(left.get(awaited));
        through.is_some_and(|(part, left)| part.tasks - left.len() as u64 >= wait.count)
    })
}

/// The slice that computes a step in a pass of so many rows.
fn slice_of(plan: &Plan, step: usize, rows: u64) -> Option<&Slice> {
    let begun = plan.slices.partition_point(|slice| slice.first as usize <= step);
    let slice = &plan.slices[begun.checked_sub(1)?];
    let kernel = plan.slice_kernels.get(slice.kernel as usize)?;
    (slice.steps().contains(&step) && kernel.rows.contains(rows)).then_some(slice)
}

// SAFETY: the reference touches a step's operands and lists alone; those of steps that were put off are valid still, which who
// made this has promised, since a slice's last step is one of the pass of its first.
unsafe impl Kernels for ByTasks {
    fn model(&self) -> Option<ModelId> {
        None
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<(), Error> {
        let StepCall { plan, step, spec, context, operands } = *call;
        let index = plan.steps.element_offset(step);
        let Some((index, slice)) = index.and_then(|i| Some((i, slice_of(plan, i, context.tokens)?))) else {
            // SAFETY: passed on from the caller.
            unsafe { hyc_kernels::reference::run(spec, context, operands) };
            return Ok(());
        };
        let part = index - slice.steps().start;
        // A pass that ended within a slice has left some.
        self.held.truncate(part);
        if self.held.len() != part {
            let message = format!("{} was called before the steps before it", step.name);
            return Err(Error::new(ErrorKind::BadInput, message));
        }
        self.held.push(Held { spec: spec.clone(), operands: operands.to_vec() });
        if part + 1 < slice.parts.len() {
            return Ok(());
        }
        // SAFETY: passed on from the callers of these steps; what they were called with is valid still.
        unsafe { self.run_held(plan, slice, context) }
    }
}
