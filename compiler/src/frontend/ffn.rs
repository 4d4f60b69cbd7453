//! `ffn` of `[model]`, or `[moe]`: the feed-forward part of each layer.

use hyc_plan::{RouterRule, Scores};

use super::attention::read_layer_list;
use super::desc::Ffn;
use super::reader::{At, Faults, Section};

/// What the two say.
pub struct Ffns {
    usual: Ffn,
    /// Layers without experts, in a model that has some, and their width.
    dense: (Vec<usize>, usize),
}

impl Ffns {
    /// That of a layer.
    pub fn of(&self, layer: usize) -> Ffn {
        let (layers, ffn) = &self.dense;
        if layers.contains(&layer) { Ffn::Dense { ffn: *ffn } } else { self.usual }
    }
}

/// Reads the one of the two that is there, or both, where some of the `layers` have no experts.
pub fn read(model: &Section, moe: &Section, layers: Option<At<usize>>, faults: &Faults) -> Option<Ffns> {
    if !moe.present() {
        let usual = Ffn::Dense { ffn: model.need_size("ffn", "11008")?.value };
        return Some(Ffns { usual, dense: (Vec::new(), 0) });
    }
    let dense = match moe.get("dense") {
        Some(value) => {
            let list = layers.and_then(|n| read_layer_list(("dense", "[0]"), value, n.value, faults));
            let ffn = model.need_size("ffn", "11008");
            list.zip(ffn).map(|(list, ffn)| (list, ffn.value))
        }
        None => {
            model.refuse("ffn", "with [moe] the width is `expert_ffn`, but for layers that `dense` names");
            Some((Vec::new(), 0))
        }
    };
    let experts = moe.need_size("experts", "512");
    let active = moe.need_size("active", "8");
    let expert_ffn = moe.need_size("expert_ffn", "512");
    let shared_ffn = moe.integer("shared_ffn", 0, "512");
    let rule = read_rule(moe);
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
    let usual = Ffn::Moe {
        experts: experts.value,
        active: active.value,
        expert_ffn: expert_ffn.value,
        shared_ffn: shared_ffn.map_or(0, |at| at.value),
        rule,
    };
    Some(Ffns { usual, dense: dense? })
}

/// How experts are chosen and weighed.
fn read_rule(moe: &Section) -> RouterRule {
    let scores =
        moe.word("router", &[("softmax", Scores::Softmax), ("sigmoid", Scores::Sigmoid)], Scores::Softmax);
    let bias = moe.flag("router_bias", false);
    if bias && scores == Scores::Softmax {
        moe.refuse(
            "router_bias",
            "a softmax chooses by its logits alone; `router = \"sigmoid\"` may have one",
        );
    }
    RouterRule {
        scores,
        bias,
        whole: !moe.flag("renormalise", true),
        scale: moe.positive("router_scale", "2.5").map_or(1.0, |at| at.value),
    }
}
