//! The slices of a Plan as text, those of one kernel told once.
//!
//! ```text
//! slice slice4_linear_256, one launch of 132 blocks for passes of 1 row: steps 5..8, and 26 alike
//!     5 linear, 256 tasks
//!     6 linear, 688 tasks behind all of step 5
//! ```

use std::fmt::Write;

use hyc_plan::{Plan, Slice, SliceKernel, Wait};

/// A blank line and these of each kernel of slices that have a step of a layer that is `wanted`; empty where there is none.
pub fn text(plan: &Plan, wanted: impl Fn(Option<u32>) -> bool) -> String {
    let mut out = String::new();
    let asked = |slice: &Slice| {
        let mut steps = slice.steps().filter_map(|step| plan.steps.get(step));
        steps.any(|step| wanted(step.layer))
    };
    for (index, kernel) in plan.slice_kernels.iter().enumerate() {
        let mine = || plan.slices.iter().filter(|slice| slice.kernel as usize == index && asked(slice));
        if let Some(first) = mine().next() {
            slices(&mut out, plan, kernel, (first, mine().count() - 1));
        }
    }
    out
}

/// The first one, and how many others are as it is.
fn slices(out: &mut String, plan: &Plan, kernel: &SliceKernel, (slice, others): (&Slice, usize)) {
    let steps = slice.steps();
    let alike = if others == 0 { String::new() } else { format!(", and {others} alike") };
    let SliceKernel { name, rows, blocks, .. } = kernel;
    let many = plural(rows.most);
    let (first, last) = (steps.start, steps.end.saturating_sub(1));
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\nslice {name}, one launch of {blocks} blocks for passes of {rows} row{many}: steps {first}..{last}{alike}"
    );
    for (step, part) in steps.zip(&slice.parts) {
        let op = plan.steps.get(step).map_or("nothing", |step| step.op.name());
        let of = |wait: &Wait| format!("step {}", first + wait.part as usize);
        let waits: Vec<String> = part.waits.iter().map(of).collect();
        let waits =
            if waits.is_empty() { waits.concat() } else { format!(" behind all of {}", waits.join(" and ")) };
        let _ = writeln!(out, "{step:5} {op}, {} task{}{waits}", part.tasks, plural(part.tasks));
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}
