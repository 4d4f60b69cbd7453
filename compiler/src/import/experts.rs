//! Routed experts: of Qwen3-MoE, whose router is a softmax, and of families that have DeepSeek-V3's, which chooses by sigmoids
//! and a bias of each expert, and weighs by the sigmoids.

use std::collections::BTreeSet;
use std::fmt::Write;

use hyc_plan::{RouterRule, Scores};
use serde_json::Value;

use super::config::Config;
use super::family::{Family, Routed};
use crate::error::Result;

/// What a configuration says of them.
pub struct Experts {
    experts: u64,
    active: u64,
    width: u64,
    /// Width of what every token is sent to.
    shared: u64,
    /// Layers without, ascending.
    dense: Vec<u64>,
    rule: RouterRule,
}

/// Tensors of an expert, each by itself in the files.
const STACKS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
/// Says of each layer whether it has experts.
const TYPES: &str = "mlp_layer_types";
/// The same as numbers.
const FREQUENCIES: &str = "moe_layer_freq";
/// Said of experts alone.
const KEYS: [&str; 11] = [
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "routed_scaling_factor",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    TYPES,
];

/// Reads them; `None`: no layer has any. What cannot be expressed is noted.
pub fn read(config: &Config, family: Family) -> Result<Option<Experts>> {
    match family.routed {
        Routed::Never => Ok(None),
        Routed::Softmax => of_softmax(config).map(Some),
        Routed::Sigmoids { shared, usual } => of_sigmoids(config, shared, usual),
    }
}

fn of_softmax(config: &Config) -> Result<Experts> {
    let layers = config.layers()?;
    // transformers 5 has a name of its own.
    let experts = match config.size("num_local_experts")? {
        Some(experts) => experts,
        None => config.needs_size("num_experts")?,
    };
    // Where nothing is said the weights stay as they are.
    let whole = config.flag("norm_topk_prob")? != Some(true);
    Ok(Experts {
        experts,
        active: active(config, experts)?,
        width: config.needs_size("moe_intermediate_size")?,
        shared: 0,
        dense: dense_of_qwen(config, layers)?,
        rule: RouterRule { whole, ..RouterRule::USUAL },
    })
}

/// `shared`: whether the family has experts that every token is sent to; `usual`: whether layers are dense where nothing says
/// what they are.
fn of_sigmoids(config: &Config, shared: bool, usual: bool) -> Result<Option<Experts>> {
    let layers = config.layers()?;
    let Some(dense) = dense(config, layers, usual)? else {
        KEYS.iter().for_each(|key| _ = config.get(key));
        return Ok(None);
    };
    let one = [Value::from(1)];
    for key in ["n_group", "topk_group"] {
        config.must_be(key, &one, "experts are chosen by groups first");
    }
    let experts = config.needs_size("n_routed_experts")?;
    let width = config.needs_size("moe_intermediate_size")?;
    let scores = match config.word("scoring_func")? {
        None | Some("sigmoid") => Scores::Sigmoid,
        Some("softmax") if shared => Scores::Softmax,
        Some(other) => {
            return Err(config.refused("scoring_func", &Value::from(other), "experts are scored otherwise"));
        }
    };
    let bias = match config.word("topk_method")? {
        None => scores == Scores::Sigmoid,
        Some("noaux_tc") if scores == Scores::Sigmoid => true,
        Some("greedy") if shared => false,
        Some(other) => {
            let why = format!("experts are not chosen so by {}", spelt(scores));
            return Err(config.refused("topk_method", &Value::from(other), &why));
        }
    };
    let count = config.number("n_shared_experts")?.unwrap_or(0.0);
    if count != 0.0 && (!shared || count.fract() != 0.0) {
        let why = "experts that every token is sent to, which the class has not, or no whole number of them";
        config.cannot("n_shared_experts", &Value::from(count), why);
    }
    Ok(Some(Experts {
        experts,
        active: active(config, experts)?,
        width,
        shared: if shared { (count as u64).saturating_mul(width) } else { 0 },
        dense,
        rule: RouterRule {
            scores,
            bias,
            whole: config.flag("norm_topk_prob")? == Some(false),
            scale: config.positive("routed_scaling_factor")?.unwrap_or(1.0),
        },
    }))
}

fn spelt(scores: Scores) -> &'static str {
    match scores {
        Scores::Softmax => "a softmax",
        Scores::Sigmoid => "sigmoids",
    }
}

/// Experts that a token is sent to, of so many.
fn active(config: &Config, experts: u64) -> Result<u64> {
    const KEY: &str = "num_experts_per_tok";
    let active = config.needs_size(KEY)?;
    if active > experts {
        return Err(config.wrong(
            KEY,
            &Value::from(active),
            &format!("at most the {experts} experts that there are"),
        ));
    }
    Ok(active)
}

/// Layers without experts; `None`: all are. Errors: nothing says which, in a family that must say it.
fn dense(config: &Config, layers: u64, usual: bool) -> Result<Option<Vec<u64>>> {
    let flags = config.flags(FREQUENCIES, layers)?;
    let kinds = config.words(TYPES)?;
    let routed: Vec<bool> = match (flags, kinds) {
        (Some(flags), _) => flags,
        (None, Some(kinds)) => {
            let value = Value::from(kinds.clone());
            if kinds.len() as u64 != layers {
                return Err(config.refused(TYPES, &value, &format!("the model has {layers} layers")));
            }
            if let Some(other) = kinds.iter().find(|kind| !["dense", "sparse"].contains(kind)) {
                let why = format!("no layers of the kind \"{other}\" are known here");
                return Err(config.refused(TYPES, &value, &why));
            }
            kinds.iter().map(|kind| *kind == "sparse").collect()
        }
        (None, None) if usual && config.get("n_routed_experts").is_none() => return Ok(None),
        (None, None) => return Err(config.missing(TYPES)),
    };
    let dense: Vec<u64> =
        (0..).zip(&routed).filter(|(_, routed)| !**routed).map(|(layer, _)| layer).collect();
    Ok(Some(dense).filter(|dense| (dense.len() as u64) < layers))
}

/// Layers without experts, of Qwen3-MoE.
fn dense_of_qwen(config: &Config, layers: u64) -> Result<Vec<u64>> {
    let every = config.size("decoder_sparse_step")?.unwrap_or(1);
    let listed = match config.get("mlp_only_layers") {
        None => BTreeSet::new(),
        Some(value) => {
            let layer = |value: &Value| value.as_u64().filter(|layer| *layer < layers);
            let list = value.as_array().and_then(|list| list.iter().map(layer).collect());
            let why = format!("it must be a list of layers, which are 0 to {}", layers - 1);
            list.ok_or_else(|| config.refused("mlp_only_layers", value, &why))?
        }
    };
    Ok((0..layers).filter(|layer| (layer + 1) % every != 0 || listed.contains(layer)).collect())
}

impl Experts {
    /// Whether every layer has them.
    pub fn everywhere(&self) -> bool {
        self.dense.is_empty()
    }

    /// `[moe]`.
    pub fn section(&self, out: &mut String) {
        let Experts { experts, active, width, shared, ref dense, rule } = *self;
        let _ = write!(
            out,
            "\n[moe]\nexperts = {experts}\nactive = {active}\nexpert_ffn = {width}\nshared_ffn = {shared}\n"
        );
        if !dense.is_empty() {
            let _ = writeln!(out, "dense = {dense:?}");
        }
        if rule.scores == Scores::Sigmoid {
            out.push_str("router = \"sigmoid\"\n");
        }
        if rule.bias {
            out.push_str("router_bias = true\n");
        }
        if rule.whole {
            out.push_str("renormalise = false\n");
        }
        if rule.scale != 1.0 {
            let _ = writeln!(out, "router_scale = {:?}", rule.scale);
        }
    }

    /// What its tensors but the experts' are called in the files, and here.
    pub fn names(&self, list: &mut Vec<(String, String)>) {
        let mut add = |theirs: &str, ours: &str| {
            let at = "model.layers.{i}.mlp";
            list.push((format!("{at}.{theirs}"), format!("{at}.{ours}")));
        };
        add(ROUTER, "router.weight");
        if self.rule.bias {
            add("gate.e_score_correction_bias", "router.choice_bias");
        }
        if self.shared > 0 {
            STACKS.iter().for_each(|part| {
                add(&format!("shared_experts.{part}.weight"), &format!("shared_expert.{part}.weight"));
            });
        }
    }

    /// `[weights.stack]`: the experts.
    pub fn stacks(&self, out: &mut String) {
        out.push_str("\n[weights.stack]\n");
        for part in STACKS {
            let at = "model.layers.{i}.mlp.experts";
            let _ = writeln!(out, "\"{at}.{{e}}.{part}.weight\" = \"{at}.{part}.weight\"");
        }
    }

    /// Whether a tensor of the files is what chooses them.
    pub fn is_router(&self, name: &str) -> bool {
        name.ends_with(ROUTER) && self.rule.scores == Scores::Sigmoid
    }
}

/// What makes the logits, within a layer's feed-forward part.
const ROUTER: &str = "gate.weight";
