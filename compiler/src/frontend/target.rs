//! `[target]`: what the model is compiled for.

use super::desc::{AttentionDesc, TargetDesc, WeightDtype};
use super::reader::{At, Faults, Section};
use super::weights::DTYPES;

/// Targets that a description may name; whether this build carries one is asked when it compiles.
const TARGETS: &[(&str, &str)] = &[("cpu", "cpu"), ("sm_90a", "sm_90a")];

/// Reads `[target]`; caches are of the weights' element type unless it says otherwise.
pub fn read(
    target: &Section,
    weights: WeightDtype,
    attention: Option<&AttentionDesc>,
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
    let max_batch = size("max_batch", 4, "4").map(|at| at.value);
    Some(TargetDesc {
        kind: target.word("kind", TARGETS, "cpu").to_string(),
        max_context: max_context?.value,
        max_batch: max_batch?,
        chunk: size("chunk", 256, "256")?.value,
        max_outputs: size("max_outputs", max_batch?, "4")?.value,
        kv_dtype: target.word("kv_dtype", DTYPES, weights),
    })
}
