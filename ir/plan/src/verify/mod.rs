//! The rules of a Plan, checked when it is made and again when an artefact is loaded. A Plan that passes lets
//! kernels touch only memory that is theirs; it may come from a hostile file, so nothing here trusts a number.
//!
//! * variants: a kernel has one for every number of rows, and on a GPU functions for it;
//! * sizes: counts from 1 to 2^31, element counts that fit; the version is this build's. What can be told from the
//!   rest is what the rest says: the arena ends with its last buffer, a ring has the pages of its window and a chunk;
//! * uses: every kernel, buffer, weight and cache is some step's ([`uses`]), so that there are no more of them than
//!   steps could use;
//! * ids: every id names something; kernels' and grids' are the step's own ([`operands`]);
//! * buffers lie in the arena, at multiples of 64, and have the rows that their count may reach;
//! * operands have the kind, the width and the element type that the op's roles say ([`operands`]);
//! * order: a buffer is read after it was written in the pass, and nothing overlapping was written since; no
//!   step's reads and writes overlap ([`order`]);
//! * slices: a part waits for whole parts before it, and for every one that writes what it touches or touches what it
//!   writes; slices do not overlap, those of one kernel are alike ([`slices`]);
//! * caches: a read follows the owner's append, a ring is read within its window, rings hold window and chunk;
//! * selections: each read has one producer in the pass, of the same shape, whose bytes nobody overwrote, made
//!   over the very cache that is read, or read over the layer's own ([`order`]).

mod operands;
mod order;
mod slices;
mod uses;

use std::fmt;

use crate::tensor::{self, BLOCK_ROWS};
use crate::{
    CachePolicy, Chosen, Code, Elem, Format, Kernel, KvOrder, Launch, MAX_BYTES, MAX_LAYERS, PLAN_VERSION,
    Plan, Role, Rows, StepOp, Target,
};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// Where: a step's name, a buffer, ...
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Collects broken rules.
struct Report(Vec<PlanError>);

impl Report {
    fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(PlanError { place: place.into(), message: message.into() });
    }
}

/// No count of a plan is above this.
const MAX_COUNT: u64 = i32::MAX as u64;
/// Dynamic shared memory of a block on the largest card.
const MAX_SHARED_BYTES: u32 = 227 << 10;
/// Functions of a kernel, its variants, and their ranges of rows.
const MAX_LAUNCHES: usize = 64;
/// Steps, and whatever steps use one by one.
const MAX_STEPS: usize = 1 << 17;
/// Functions of all kernels.
const MAX_ALL_LAUNCHES: usize = 1 << 14;
/// Sequences of a step: a session and its listings have room for each of them.
const MAX_SEQUENCES: u64 = 1 << 16;

/// Whether the product of all factors is at most [`MAX_BYTES`].
fn fits(factors: &[u64]) -> bool {
    factors.iter().try_fold(1u64, |n, f| n.checked_mul(*f)).is_some_and(|n| n <= MAX_BYTES)
}

/// Says what an op's operands are: [`StepOp::roles`], but in tests of a description that is wrong.
type Describe<'d> = dyn Fn(&StepOp) -> Vec<Role> + 'd;

impl Plan {
    /// Checks every invariant of a plan and returns all violations.
    pub fn verify(&self) -> Result<(), Vec<PlanError>> {
        verify_as(self, &StepOp::roles)
    }
}

fn verify_as(plan: &Plan, describe: &Describe<'_>) -> Result<(), Vec<PlanError>> {
    let mut report = Report(Vec::new());
    lengths(plan, &mut report);
    // What follows looks at every entry.
    if !report.0.is_empty() {
        return Err(report.0);
    }
    sizes(plan, &mut report);
    weights(plan, &mut report);
    caches(plan, &mut report);
    // What follows computes with the numbers above, and indexes.
    if report.0.is_empty() {
        buffers(plan, &mut report);
        plan.steps.iter().for_each(|step| operands::check(plan, step, &describe(&step.op), &mut report));
    }
    if report.0.is_empty() {
        plan.steps.iter().for_each(|step| operands::check_kernel(plan, step, &mut report));
        order::check(plan, describe, &mut report);
        slices::check(plan, &mut report);
        uses::check(plan, &mut report);
    }
    if report.0.is_empty() { Ok(()) } else { Err(report.0) }
}

fn lengths(plan: &Plan, report: &mut Report) {
    let lengths = [
        ("steps", plan.steps.len()),
        ("buffers", plan.buffers.len()),
        ("caches", plan.caches.len()),
        ("kernels", plan.kernels.len()),
        ("chains", plan.chains.len()),
        ("slices", plan.slices.len()),
        ("slices' kernels", plan.slice_kernels.len()),
        ("parts", plan.slices.iter().map(|slice| slice.parts.len()).sum::<usize>()),
        // A step has a few at most.
        ("weights", plan.weights.len() / 8),
        ("operands", plan.steps.iter().map(|step| step.operands.len()).sum::<usize>() / 16),
    ];
    for (what, length) in lengths {
        if length > MAX_STEPS {
            report.add("plan", format!("it has too many {what}; the most steps are {MAX_STEPS}"));
        }
    }
    if plan.kernels.iter().map(|kernel| kernel.launches().len()).sum::<usize>() > MAX_ALL_LAUNCHES {
        report.add("plan", format!("its kernels have more than {MAX_ALL_LAUNCHES} functions"));
    }
}

fn sizes(plan: &Plan, report: &mut Report) {
    let m = &plan.model;
    if plan.version != PLAN_VERSION {
        report.add("plan", format!("version {}, this build knows {PLAN_VERSION}", plan.version));
    }
    let counts = [
        ("layers", u64::from(m.layers)),
        ("hidden", m.hidden),
        ("vocab", m.vocab),
        ("max_context", m.max_context),
        ("max_batch", m.max_batch),
        ("chunk", m.chunk),
        ("max_outputs", m.max_outputs),
        ("page", m.page),
    ];
    for (name, count) in counts {
        if count == 0 || count > MAX_COUNT {
            report.add("model", format!("{name} = {count} is not from 1 to {MAX_COUNT}"));
        }
    }
    if m.named.is_some_and(|named| named == 0 || named > m.vocab) {
        report.add("model", format!("named = {:?} is not from 1 to vocab", m.named));
    }
    for (name, count, most) in
        [("layers", u64::from(m.layers), MAX_LAYERS), ("max_batch", m.max_batch, MAX_SEQUENCES)]
    {
        if count > most {
            report.add("model", format!("{name} = {count} is above {most}"));
        }
    }
    if !fits(&[m.max_batch, m.max_context.div_ceil(m.page.max(1)), 4]) {
        report.add("model", "page tables of max_batch sequences of max_context are too large");
    }
    if plan.arena_bytes > MAX_BYTES {
        report.add("arena", format!("{} bytes are too many", plan.arena_bytes));
    }
    for kernel in &plan.kernels {
        let possible = match (&kernel.code, &plan.target) {
            (Code::Host { offset, bytes, .. }, Target::Host { .. }) => offset.checked_add(*bytes).is_some(),
            (Code::Nvidia { .. }, Target::Nvidia(_)) => true,
            (Code::Host { .. } | Code::Nvidia { .. }, _) => {
                report.add(&kernel.name, "its code is another target's");
                continue;
            }
        };
        if kernel.scratch_bytes > MAX_BYTES || !possible {
            report.add(&kernel.name, "impossible sizes");
        }
        kernel.launches().iter().for_each(|launch| check_launch(&kernel.name, launch, report));
        chosen(plan, kernel, report);
    }
}

fn check_launch(kernel: &str, launch: &Launch, report: &mut Report) {
    // Counts are at most MAX_COUNT, so that products of them stay in 64 bits.
    let extents = launch.grid.iter().all(|e| (1..=MAX_COUNT).contains(&e.per) && e.each > 0);
    if !extents || !(1..=1024).contains(&launch.threads) || launch.shared_bytes > MAX_SHARED_BYTES {
        report.add(kernel, format!("`{}` cannot be launched", launch.entry));
    }
}

/// Every pass that the model allows has one variant of the kernel, which can compute it, and on a GPU some function.
fn chosen(plan: &Plan, kernel: &Kernel, report: &mut Report) {
    let launches = kernel.launches();
    let lengths = [launches.len(), kernel.variants.len(), kernel.chosen.len()];
    if lengths.iter().any(|length| *length > MAX_LAUNCHES) {
        let [functions, variants, ranges] = lengths;
        let message = format!(
            "has {functions} functions and {variants} variants for {ranges} ranges of rows: {MAX_LAUNCHES} of each are the most"
        );
        return report.add(&kernel.name, message);
    }
    let known = |name: &str| kernel.variants.iter().find(|variant| variant.name == name);
    let names: std::collections::HashSet<&str> = kernel.variants.iter().map(|v| v.name.as_str()).collect();
    if names.len() != kernel.variants.len() {
        return report.add(&kernel.name, "two of its variants have one name");
    }
    let mut next = 1;
    for Chosen { variant, rows } in &kernel.chosen {
        if rows.least != next || rows.most < rows.least {
            return report.add(
                &kernel.name,
                format!("its variants leave a gap: {rows} rows come where {next} should"),
            );
        }
        if known(variant).is_none_or(|known| !known.rows.covers(*rows)) {
            return report.add(&kernel.name, format!("its variant `{variant}` cannot compute {rows} rows"));
        }
        if !launches.is_empty() && !kernel.has_code(variant) {
            return report.add(&kernel.name, format!("no function is launched for {rows} rows"));
        }
        next = rows.most.saturating_add(1);
    }
    let most = kernel.rows.count(plan.model.chunk, plan.model.max_outputs);
    if next != most.saturating_add(1) {
        return report.add(&kernel.name, format!("its variants end at {} rows, of {most}", next - 1));
    }
    let stranger = launches.iter().flat_map(|launch| &launch.variants).find(|name| known(name).is_none());
    if let Some(name) = stranger {
        report.add(&kernel.name, format!("a function is of variant `{name}`, which it does not have"));
    }
}

fn weights(plan: &Plan, report: &mut Report) {
    let mut names = std::collections::HashSet::new();
    for weight in &plan.weights {
        if !names.insert(&weight.name) {
            report.add(&weight.name, "two weights have this name");
        }
        if weight.format.checked_bytes().is_none() {
            let Format { codec, layout } = weight.format;
            report.add(&weight.name, format!("{layout:?} of {codec} is not possible"));
        }
    }
}

fn caches(plan: &Plan, report: &mut Report) {
    for cache in &plan.caches {
        let sizes = [cache.kv_heads, cache.qk_dim, cache.v_dim, cache.page];
        let small = sizes.iter().all(|n| (1..1 << 24).contains(n));
        if !small
            || (cache.codec.scaled() && cache.policy != CachePolicy::Growing)
            || (cache.order == KvOrder::Tiles && !cache.spec().can_tile())
            || !fits(&[cache.kv_heads, cache.page, cache.qk_dim + cache.v_dim + 8, 4])
        {
            report.add(&cache.name, "impossible sizes");
            continue;
        }
        if let CachePolicy::Ring { window, pages } = cache.policy {
            let held = CachePolicy::ring(window, plan.model.chunk, cache.page);
            if window == 0 || pages > MAX_COUNT || held != cache.policy {
                let held = match held {
                    CachePolicy::Ring { pages: u64::MAX, .. } | CachePolicy::Growing => {
                        "too many".to_string()
                    }
                    CachePolicy::Ring { pages, .. } => pages.to_string(),
                };
                let message = format!("a ring of {pages} pages; {window} tokens and a chunk take {held}");
                report.add(&cache.name, message);
            }
        } else if cache.page != plan.model.page {
            report.add(&cache.name, format!("pages of {}, the model's have {}", cache.page, plan.model.page));
        }
    }
}

fn buffers(plan: &Plan, report: &mut Report) {
    for buffer in &plan.buffers {
        let rows = buffer.rows.count(plan.model.chunk, plan.model.max_outputs);
        // Padding of a row, and of tiles.
        let fits = fits(&[buffer.width.saturating_add(16), rows.saturating_add(BLOCK_ROWS), 4]);
        let possible = buffer.width > 0
            && fits
            && buffer.max_rows == rows
            && tensor::bytes(buffer.elem, rows, buffer.width).is_some();
        if !possible {
            report.add(&buffer.name, "impossible sizes");
        } else if buffer.elem == Elem::Bf16 && matches!(plan.target, Target::Host { .. }) {
            report.add(&buffer.name, "it lies in tiles, which a processor's kernels do not read");
        } else if buffer.offset % 64 != 0
            || buffer.offset.checked_add(buffer.bytes()).is_none_or(|end| end > plan.arena_bytes)
        {
            report.add(&buffer.name, "not inside the arena");
        }
        if let Some(s) = buffer.selection
            && (s.kv_heads.checked_mul(s.blocks) != Some(buffer.width)
                || s.block == 0
                || buffer.elem != Elem::I32)
        {
            report.add(&buffer.name, "its selection has another shape");
        }
    }
    // What is impossible or lies outside has no end to speak of.
    if report.0.is_empty() {
        let end = plan.buffers.iter().map(|b| b.offset + b.bytes()).max().unwrap_or(0);
        if end != plan.arena_bytes {
            report.add("arena", format!("{} bytes; its last buffer ends at {end}", plan.arena_bytes));
        }
    }
    match plan.buffers.get(plan.logits.index()) {
        Some(b) if b.rows == Rows::Outputs && b.width == plan.model.vocab && b.elem == Elem::F32 => {}
        _ => report.add("logits", "not a buffer of rows of logits"),
    }
    if let Some(id) = plan.sampled {
        match plan.buffers.get(id.index()) {
            Some(b) if b.rows == Rows::Outputs && b.width == 1 && b.elem == Elem::I32 => {}
            _ => report.add("sampled", "not a buffer of tokens"),
        }
    }
}

#[cfg(test)]
mod tests;
