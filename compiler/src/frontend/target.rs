//! `[target]`: what the model is compiled for.

use hyc_kernels::Activations;
use hyc_plan::{KvCodec, TargetKind};

use super::attention::Attention;
use super::desc::{TargetDesc, WeightDtype};
use super::reader::{At, Faults, Section};
use crate::targets::{self, NEEDS_LLVM};

/// The words of `activations`.
const ACTIVATIONS: &[(&str, Option<Activations>)] =
    &[("bf16", Some(Activations::Bf16)), ("f32", Some(Activations::F32)), ("fp8", Some(Activations::Fp8))];

/// The words of `kv_dtype`.
const KV_DTYPES: &[(&str, KvCodec)] =
    &[("bf16", KvCodec::Bf16), ("f32", KvCodec::F32), ("int8", KvCodec::Int8), ("fp8", KvCodec::Fp8)];

/// Reads `[target]`; caches are of the weights' element type unless it says otherwise.
pub fn read(
    target: &Section,
    weights: WeightDtype,
    attention: Option<&Attention>,
    faults: &Faults,
) -> Option<TargetDesc> {
    let size = |key: &str, default: usize, example: &str| match target.size(key, example) {
        Some(at) => Some(at),
        None => target.get(key).is_none().then_some(At { value: default, span: 0..0 }),
    };
    let max_context = size("max_context", 4096, "4096");
    if let (Some(max), Some(a)) = (&max_context, attention)
        && max.value < a.block
    {
        faults.add(
            max.span.clone(),
            format!("a context of {} tokens does not hold one block", max.value),
            format!("less than block = {}", a.block),
            "write for example `max_context = 4096`",
        );
    }
    if let (Some(max), Some(a)) = (&max_context, attention) {
        check_top_k(target, max, a, faults);
    }
    let max_batch = size("max_batch", 4, "4").map(|at| at.value);
    let kind = read_kind(target, faults);
    if kind == Some(TargetKind::Host) {
        target.refuse("activations", "a processor's products read f32, and this is for `kind = \"sm_90a\"`");
    }
    Some(TargetDesc {
        kind: kind.unwrap_or(TargetKind::Host),
        activations: target.word("activations", ACTIVATIONS, None),
        max_context: max_context?.value,
        max_batch: max_batch?,
        chunk: size("chunk", 256, "256")?.value,
        max_outputs: size("max_outputs", max_batch?, "4")?.value,
        kv_dtype: target.word("kv_dtype", KV_DTYPES, weights.kv()),
    })
}

/// A context that `top_k` covers makes every sparse layer full, which nobody means.
fn check_top_k(target: &Section, max: &At<usize>, a: &Attention, faults: &Faults) {
    let whole = max.value.next_multiple_of(a.block);
    if a.top_k <= whole || max.value < a.block {
        return;
    }
    // Where the description leaves `max_context` out, its default is too short.
    let span = if max.span.is_empty() { target.span() } else { max.span.clone() };
    faults.add(
        span,
        format!("`top_k` = {} is more than the {} tokens of `max_context`", a.top_k, max.value),
        "every block would be selected",
        &format!(
            "write at least `max_context = {}`, or `top_k = {whole}` under [attention], which selects the same",
            a.top_k
        ),
    );
}

/// A target that `hyc` knows; `None` beside a fault. One that this build lacks is refused where it is compiled, and not
/// offered here.
fn read_kind(target: &Section, faults: &Faults) -> Option<TargetKind> {
    if target.get("kind").is_none() {
        return Some(TargetKind::Host);
    }
    let kind = target.string("kind", "cpu")?;
    let known = kind.value.parse().ok();
    if known.is_none() {
        let help = format!("write {}{}", targets::listed(" or ", "\""), NEEDS_LLVM);
        faults.add(kind.span, format!("`kind` cannot be \"{}\"", kind.value), "unknown value", &help);
    }
    known
}
