//! What binds code to the plan that it was made for.
//!
//! Generated code has shapes, strides, pages, windows and limits in it as constants, so that it is memory-safe beside
//! one plan alone. Therefore the code tensor of an artefact holds, beside the code:
//!
//! * for each kernel the digest of all that its code was made from: target, [`KernelSpec`], scratch, launches,
//!   variants and which rows each has. Every step
//!   that names the kernel must have that very digest ([`kernel_digest`]);
//! * the digest of the whole Plan ([`plan_digest`]): the order of the steps, who reads what, where buffers lie.
//!
//! In a processor's code the plan's digest is the first 32 bytes, and a kernel's stand right before its entry. In PTX
//! they are global variables of 32 bytes, [`PLAN_SYMBOL`] and [`symbol`], which the GPU's machine code has as well.
//!
//! Digests find what was mixed up or edited; they are no signature, and whoever writes code can write them too.

use std::collections::HashMap;

use serde::Serialize;

use crate::artefact::{self, ALIGN, DIGEST, Digest};
use crate::kernel::{Code, Kernel};
use crate::plan::{Plan, Step};
use crate::spec::KernelSpec;
use crate::target::Target;

/// The variable with the plan's digest, in PTX.
pub const PLAN_SYMBOL: &str = "hyc_plan";

/// Why code and plan do not belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound(pub String);

impl std::fmt::Display for Unbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of plain data: its JSON, whose numbers read back as they were and whose fields have one order.
fn digest(value: &impl Serialize) -> Digest {
    // Plain data without maps has no way to fail.
    artefact::digest(&serde_json::to_vec(value).expect("plain data is JSON"))
}

/// The digest of what a kernel's code is made from.
pub fn kernel_digest(target: &Target, spec: &KernelSpec, kernel: &Kernel) -> Digest {
    let variants: Vec<_> = kernel.variants.iter().map(|v| (&v.name, v.rows, &v.code)).collect();
    digest(&("hyc kernel", target, spec, kernel.scratch_bytes, kernel.launches(), variants, &kernel.chosen))
}

/// The digest of a plan.
pub fn plan_digest(plan: &Plan) -> Digest {
    digest(&("hyc plan", plan))
}

/// What kernel `step.kernel` must have been made from for this step to run it.
fn of_step(plan: &Plan, step: &Step) -> Digest {
    let kernel = &plan.kernels[step.kernel.index()];
    kernel_digest(&plan.target, &plan.spec(step), kernel)
}

/// The digests of what the code of slices' kernels is made from, by the first slice of each. The plan must be verified.
fn slice_digests(plan: &Plan) -> Vec<Option<Digest>> {
    let mut digests = vec![None; plan.slice_kernels.len()];
    for slice in &plan.slices {
        let kernel = slice.kernel as usize;
        digests[kernel].get_or_insert_with(|| {
            let specs = plan.slice_specs(slice);
            digest(&("hyc slice", &plan.target, specs, &slice.parts, &plan.slice_kernels[kernel]))
        });
    }
    digests
}

/// The variables of all digests but the plan's, in PTX: kernels', then those of slices' kernels.
fn symbols(plan: &Plan) -> impl Iterator<Item = String> {
    let names = plan.kernels.iter().map(|kernel| &kernel.name);
    names.chain(plan.slice_kernels.iter().map(|kernel| &kernel.name)).map(|name| symbol(name))
}

/// The digests that belong there. The plan must be verified.
fn digests(plan: &Plan) -> impl Iterator<Item = Option<Digest>> {
    kernel_digests(plan).into_iter().chain(slice_digests(plan))
}

/// The variables with their digests. The plan must be verified.
pub fn code_digests(plan: &Plan) -> impl Iterator<Item = (String, Option<Digest>)> {
    symbols(plan).zip(digests(plan))
}

/// Digests of all kernels, by the first step that runs each. The plan must be verified.
pub fn kernel_digests(plan: &Plan) -> Vec<Option<Digest>> {
    let mut digests = vec![None; plan.kernels.len()];
    for step in &plan.steps {
        digests[step.kernel.index()].get_or_insert_with(|| of_step(plan, step));
    }
    digests
}

/// Lays out a processor's code, one function for each kernel, and writes the places into `plan`, a valid plan whose
/// kernels have all but those; then seals it.
pub fn lay_out(plan: &mut Plan, functions: &[Vec<u8>]) -> Vec<u8> {
    let mut code = vec![0; DIGEST];
    for (kernel, function) in plan.kernels.iter_mut().zip(functions) {
        let entry = (code.len() + DIGEST).next_multiple_of(ALIGN as usize);
        code.resize(entry, 0);
        code.extend_from_slice(function);
        if let Code::Host { offset, bytes, .. } = &mut kernel.code {
            (*offset, *bytes) = (entry as u64, function.len() as u64);
        }
    }
    seal(plan, &mut code);
    code
}

/// Adds the variables to the PTX of `plan`, a valid plan, and seals it.
pub fn lay_out_ptx(plan: &Plan, text: &str) -> Vec<u8> {
    let mut code = text.trim_end().to_string();
    code.push_str("\n\n");
    for symbol in symbols(plan).chain([PLAN_SYMBOL.to_string()]) {
        code.push_str(&format!("{VARIABLE}{symbol}{OPEN}{}}};\n", hex_list(&[0; DIGEST])));
    }
    let mut code = code.into_bytes();
    seal(plan, &mut code);
    code
}

/// Writes all digests to their places. The plan must be verified; a place that is not there is left alone.
pub fn seal(plan: &Plan, code: &mut [u8]) {
    let places = places(plan, code).kernels;
    for (digest, place) in digests(plan).zip(places) {
        if let Some(digest) = digest {
            put(code, place, plan, &digest);
        }
    }
    seal_plan(plan, code);
}

/// Writes the plan's digest alone.
pub fn seal_plan(plan: &Plan, code: &mut [u8]) {
    let place = places(plan, code).plan;
    put(code, place, plan, &plan_digest(plan));
}

/// Checks that `code` was made for `plan`, a verified plan.
pub fn check(plan: &Plan, code: &[u8]) -> Result<(), Unbound> {
    let places = places(plan, code);
    let ours: Vec<Option<Digest>> = places.kernels.iter().map(|place| get(plan, code, *place)).collect();
    for (index, step) in plan.steps.iter().enumerate() {
        let kernel = &plan.kernels[step.kernel.index()].name;
        let what = match ours[step.kernel.index()] {
            Some(digest) if digest == of_step(plan, step) => continue,
            Some(_) => "was made for other sizes than this step's",
            None => "does not say what it was made for",
        };
        return Err(Unbound(format!("kernel `{kernel}` of step {index}, {}, {what}", step.name)));
    }
    let of_slices = ours.iter().skip(plan.kernels.len());
    for ((kernel, own), digest) in plan.slice_kernels.iter().zip(of_slices).zip(slice_digests(plan)) {
        if *own != digest {
            return Err(Unbound(format!("`{}` was made for other steps than its slices'", kernel.name)));
        }
    }
    match get(plan, code, places.plan) {
        Some(digest) if digest == plan_digest(plan) => Ok(()),
        _ => Err(Unbound("its plan is not the one that its code was made for".to_string())),
    }
}

fn is_ptx(plan: &Plan) -> bool {
    !plan.target.is_host()
}

/// Where digests begin in the code: the plan's, and each kernel's.
struct Places {
    plan: Option<usize>,
    /// Of kernels, then of slices' kernels.
    kernels: Vec<Option<usize>>,
}

fn places(plan: &Plan, code: &[u8]) -> Places {
    if is_ptx(plan) {
        let variables = variables(code);
        let find = |name: &str| variables.get(name.as_bytes()).copied();
        let kernels = symbols(plan).map(|symbol| find(&symbol)).collect();
        return Places { plan: find(PLAN_SYMBOL), kernels };
    }
    let before = |kernel: &Kernel| {
        let Code::Host { offset, .. } = kernel.code else { return None };
        let before = offset.checked_sub(DIGEST as u64)?;
        usize::try_from(before).ok().filter(|before| *before >= DIGEST)
    };
    Places { plan: Some(0), kernels: plan.kernels.iter().map(before).collect() }
}

/// The variables that end a PTX text, with the places of their bytes.
fn variables(code: &[u8]) -> HashMap<&[u8], usize> {
    let (mut found, mut end) = (HashMap::new(), code.len());
    for line in code.rsplit(|byte| *byte == b'\n') {
        let start = end - line.len();
        end = start.saturating_sub(1);
        if line.is_empty() {
            continue;
        }
        let name =
            line.strip_prefix(VARIABLE.as_bytes()).and_then(|rest| rest.split(|byte| *byte == b'[').next());
        let Some(name) = name else { break };
        found.insert(name, start + VARIABLE.len() + name.len() + OPEN.len());
    }
    found
}

fn get(plan: &Plan, code: &[u8], place: Option<usize>) -> Option<Digest> {
    let bytes = code.get(place?..)?;
    if !is_ptx(plan) {
        return bytes.get(..DIGEST)?.try_into().ok();
    }
    let text = std::str::from_utf8(bytes.get(..LIST_BYTES)?).ok()?;
    let mut digest = [0; DIGEST];
    for (to, word) in digest.iter_mut().zip(text.split(',')) {
        *to = u8::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
    }
    Some(digest)
}

fn put(code: &mut [u8], place: Option<usize>, plan: &Plan, digest: &Digest) {
    let list = hex_list(digest);
    let bytes = if is_ptx(plan) { list.as_bytes() } else { &digest[..] };
    if let Some(to) = place.and_then(|at| code.get_mut(at..at.checked_add(bytes.len())?)) {
        to.copy_from_slice(bytes);
    }
}

/// How a variable's line begins, before and after its name.
const VARIABLE: &str = ".visible .global .align 1 .b8 ";
const OPEN: &str = "[32] = {";
/// Bytes of [`hex_list`].
const LIST_BYTES: usize = 5 * DIGEST - 1;

/// `0x00,0x01,...`
fn hex_list(digest: &Digest) -> String {
    digest.map(|byte| format!("0x{byte:02x}")).join(",")
}

/// The variable with the digest of the kernel of this name, in PTX: names there take letters, digits, `_` and `$`.
pub fn symbol(kernel: &str) -> String {
    let plain = kernel.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    "hyc_spec_".chars().chain(plain).collect()
}

#[cfg(test)]
mod tests;
