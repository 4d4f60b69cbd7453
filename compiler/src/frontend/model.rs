//! `[model]`: widths, heads, RoPE.

use std::ops::Range;

use super::desc::Rope;
use super::reader::{At, Faults, Section};
use super::rope;

/// Heads of the layers of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub qk_dim: usize,
    pub v_dim: usize,
    pub rope: Rope,
}

/// What `[model]` says, with a hole for each fault.
pub struct Base {
    pub name: Option<String>,
    pub layers: Option<At<usize>>,
    pub hidden: Option<usize>,
    pub heads: Option<Heads>,
    pub vocab: Option<usize>,
    pub norm_eps: f64,
    pub qk_norm: bool,
    pub qkv_bias: bool,
    pub tie_embeddings: bool,
}

/// Reads `[model]` without `ffn`, which depends on `[moe]`.
pub fn read(model: &Section, faults: &Faults) -> Base {
    if model.get("name").is_none() {
        model.missing("name", "\"my-model\"");
    }
    let heads = model.need_size("heads", "32");
    let kv_heads = model.need_size("kv_heads", "8");
    if let (Some(heads), Some(kv)) = (&heads, &kv_heads) {
        share_evenly(heads.value, kv.value, kv.span.clone(), faults);
    }
    let both = model.size("head_dim", "128");
    let qk = model.size("qk_head_dim", "192");
    let v = model.size("v_head_dim", "128");
    if both.is_none() && model.get("head_dim").is_none() && (qk.is_none() || v.is_none()) {
        model.missing("head_dim", "128");
    }
    if both.is_some() && qk.is_some() && v.is_some() {
        model.refuse("head_dim", "qk_head_dim and v_head_dim say it all");
    }
    let qk_dim = qk.or(both.clone()).map(|at| at.value);
    let v_dim = v.or(both).map(|at| at.value);
    let rope = rope::read(model, "rope", qk_dim, faults);
    let all = || {
        let (heads, kv_heads) = (heads?.value, kv_heads?.value);
        Some(Heads { heads, kv_heads, qk_dim: qk_dim?, v_dim: v_dim?, rope: rope? })
    };
    Base {
        name: read_name(model, faults),
        layers: read_layers(model, faults),
        hidden: model.need_size("hidden", "4096").map(|at| at.value),
        heads: all(),
        vocab: model.need_size("vocab", "32000").map(|at| at.value),
        norm_eps: model.positive("norm_eps", "1e-6").map_or(1e-6, |at| at.value),
        qk_norm: model.flag("qk_norm", false),
        qkv_bias: model.flag("qkv_bias", false),
        tie_embeddings: model.flag("tie_embeddings", false),
    }
}

/// A fault where query heads cannot be shared by KV heads, as many by each.
pub fn share_evenly(heads: usize, kv_heads: usize, span: Range<usize>, faults: &Faults) {
    if !heads.is_multiple_of(kv_heads) {
        faults.add(
            span,
            format!("{heads} heads cannot be shared evenly by {kv_heads} KV heads"),
            format!("does not divide heads = {heads}"),
            &format!("write a divisor of {heads}"),
        );
    }
}

fn read_layers(model: &Section, faults: &Faults) -> Option<At<usize>> {
    let layers = model.need_size("layers", "36")?;
    if layers.value as u64 > hyc_plan::MAX_LAYERS {
        faults.add(
            layers.span,
            format!("`layers` must be between 1 and {}", hyc_plan::MAX_LAYERS),
            "out of range",
            "write for example `layers = 36`",
        );
        return None;
    }
    Some(layers)
}

fn read_name(model: &Section, faults: &Faults) -> Option<String> {
    let name = model.string("name", "my-model")?;
    if !hyc_ir::text::is_model_name(&name.value) {
        faults.add(
            name.span,
            "`name` becomes a file name",
            "letters, digits, `.`, `_` and `-` only",
            "write for example `name = \"my-model\"`",
        );
        return None;
    }
    Some(name.value)
}
