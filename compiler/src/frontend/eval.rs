//! `[eval]`: what must hold of the model on a text.

use hyc_plan::eval::{EvalGates, RANGES};

use super::attention::Attention;
use super::desc::{AttentionKind, TargetDesc};
use super::keys;
use super::reader::{Faults, Section};

/// Reads the section; `None` where there is none. What the model cannot have is refused.
pub fn read(
    section: &Section,
    attention: Option<&Attention>,
    target: Option<&TargetDesc>,
    faults: &Faults,
) -> Option<EvalGates> {
    if !section.present() {
        return None;
    }
    let gate = |key: &str| {
        let range = RANGES.iter().find(|range| range.key == key)?;
        let example = keys::EVAL.key(key).map_or("", |key| key.example);
        section.number(key, &range.wanted(), &|x| range.holds(x), example).map(|at| at.value)
    };
    let selects = |kind: &AttentionKind| match kind {
        AttentionKind::Full { top_k } => top_k.is_some(),
        AttentionKind::Sparse { .. } => true,
        AttentionKind::Window { .. } => false,
    };
    if attention.is_some_and(|attention| !attention.kinds.iter().any(selects)) {
        section.refuse("recall", "no layer reads a selection");
    }
    let context = section.size("context", "4096");
    if let (Some(context), Some(target)) = (&context, target)
        && context.value > target.max_context
    {
        faults.add(
            context.span.clone(),
            format!("a window of {} tokens is longer than the model's context", context.value),
            format!("more than max_context = {}", target.max_context),
            "write less, or a larger `max_context` under [target]",
        );
    }
    let context = context.map(|at| at.value as u64);
    Some(EvalGates { recall: gate("recall"), keys: gate("keys"), perplexity: gate("perplexity"), context })
}
