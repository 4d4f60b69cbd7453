//! The kernels with their variants, their times where there are some, and their code.

use hyc_plan::{Code, Grid, GridDim, variant};

use super::facts::{Facts, thousands};
use super::html::{Html, slug};
use super::profile::{Point, Profile};

/// Lines of a kernel's code that are shown.
const MOST_LINES: usize = 1500;

/// The kernels: how many steps each runs, in which variants, and how long that takes where it was measured.
pub fn table(h: &mut Html, facts: &Facts<'_>, profile: Option<&Profile>) {
    let plan = facts.plan;
    let mut order: Vec<usize> = (0..plan.kernels.len()).collect();
    let point = profile.and_then(|profile| profile.points.last());
    let seconds = |at: &usize| {
        point
            .and_then(|point| point.kernels.get(&plan.kernels[*at].name))
            .map_or(0.0, |(seconds, _)| *seconds)
    };
    order.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    h.leaf("h3", &[], "Kernels");
    if let Some(profile) = profile {
        let more = match profile.left_out {
            0 => String::new(),
            n => format!(" {n} more measurements are left out."),
        };
        h.leaf(
            "p",
            &[("class", &"about")],
            format!(
                "Milliseconds of all launches of a pass, the share of that pass, and behind it the share \
                 of the machine's limit: bytes of a decode step, operations of a prefill.{more}"
            ),
        );
    }
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                h.leaf("th", &[], "kernel");
                profile
                    .iter()
                    .flat_map(|profile| &profile.points)
                    .for_each(|point| h.leaf("th", &[], &point.title));
                ["steps", "variant for rows", "why"].iter().for_each(|head| h.leaf("th", &[], head));
            });
            for at in order {
                let kernel = &plan.kernels[at];
                h.el("tr", &[("id", &format!("k.{}", slug(&kernel.name)))], |h| {
                    h.leaf("th", &[], &kernel.name);
                    profile
                        .iter()
                        .flat_map(|profile| &profile.points)
                        .for_each(|point| heat(h, point, &kernel.name));
                    let steps = plan.steps.iter().filter(|step| step.kernel.index() == at).count();
                    h.leaf("td", &[("class", &"n")], steps);
                    let chosen: Vec<String> = kernel
                        .chosen
                        .iter()
                        .map(|chosen| format!("{}: {}", chosen.rows, chosen.variant))
                        .collect();
                    h.leaf("td", &[], chosen.join("; "));
                    let mut why: Vec<String> =
                        kernel.chosen.iter().map(|chosen| variant::why(&kernel.variants, chosen)).collect();
                    why.dedup();
                    h.leaf("td", &[("class", &"few")], why.join("; "));
                });
            }
        })
    });
}

/// A time with a colour of ten, and its number.
fn heat(h: &mut Html, point: &Point, kernel: &str) {
    let Some((seconds, limit)) = point.kernels.get(kernel) else {
        h.leaf("td", &[], "–");
        return;
    };
    let share = if point.seconds > 0.0 { seconds / point.seconds } else { 0.0 };
    let class = format!("n heat h{}", (share * 10.0).clamp(0.0, 9.0) as u8);
    h.el("td", &[("class", &class)], |h| {
        h.text(format!("{:.3} ms, {:.0} %", 1e3 * seconds, 100.0 * share));
        if let Some(limit) = limit {
            h.leaf("small", &[], format!(" {:.0} % of limit", 100.0 * limit));
        }
    });
}

/// Each kernel's code, folded.
pub fn code(h: &mut Html, facts: &Facts<'_>) {
    let (plan, subject) = (facts.plan, facts.subject);
    let (what, part) = if plan.target.is_host() { ("disassembly", "asm") } else { ("PTX", "ptx") };
    h.leaf("h3", &[], format!("Code: {what}"));
    if subject.code.is_empty() {
        h.leaf(
            "p",
            &[],
            format!("No {what} here: it stands in an artefact that was compiled for this target."),
        );
        return;
    }
    for kernel in &plan.kernels {
        let Some(text) = subject.code.get(&kernel.name) else { continue };
        let lines = text.lines().count();
        let shown: String = text.lines().take(MOST_LINES).map(|line| format!("{line}\n")).collect();
        let grid = match &kernel.code {
            Code::Host { grid, .. } => items(grid),
            Code::Nvidia { launches } => format!("{} functions", launches.len()),
        };
        h.line();
        h.el("details", &[("class", &"code")], |h| {
            h.el("summary", &[], |h| {
                h.leaf("code", &[], &kernel.name);
                h.leaf("span", &[], format!(" {} lines; {grid}", thousands(lines as u64)));
            });
            h.leaf(
                "pre",
                &[
                    ("tabindex", &"0"),
                    ("role", &"region"),
                    ("aria-label", &format!("code of {}", kernel.name)),
                ],
                shown,
            );
            if lines > MOST_LINES {
                let more = thousands((lines - MOST_LINES) as u64);
                h.leaf("p", &[], format!("{more} more lines: hyc inspect MODEL.hyc {part}"));
            }
        });
    }
}

/// How a processor splits a kernel's work.
fn items(grid: &Grid) -> String {
    let each = match grid.dim {
        GridDim::One => "",
        GridDim::Tokens => " a token",
        GridDim::Outputs => " a row of logits",
    };
    format!("{} work item{}{each}", thousands(grid.per), if grid.per == 1 { "" } else { "s" })
}
