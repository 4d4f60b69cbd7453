//! `ffn` of `[model]`, or `[moe]`: the feed-forward part of every layer.

use super::desc::Ffn;
use super::reader::{Faults, Section};

/// Reads the one of the two that is there.
pub fn read(model: &Section, moe: &Section, faults: &Faults) -> Option<Ffn> {
    if !moe.present() {
        return model.need_size("ffn", "11008").map(|at| Ffn::Dense { ffn: at.value });
    }
    model.refuse("ffn", "with [moe] the width is `expert_ffn`");
    let experts = moe.need_size("experts", "512");
    let active = moe.need_size("active", "8");
    let expert_ffn = moe.need_size("expert_ffn", "512");
    let shared_ffn = moe.integer("shared_ffn", 0, "512");
    let (experts, active, expert_ffn) = (experts?, active?, expert_ffn?);
    if active.value > experts.value {
        faults.add(
            active.span,
            format!("{} experts per token cannot be chosen from {}", active.value, experts.value),
            "more than `experts`",
            &format!("write at most `active = {}`", experts.value),
        );
        return None;
    }
    Some(Ffn::Moe {
        experts: experts.value,
        active: active.value,
        expert_ffn: expert_ffn.value,
        shared_ffn: shared_ffn.map_or(0, |at| at.value),
    })
}
