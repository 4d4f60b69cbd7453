//! `[model]`: widths, heads, RoPE.

use toml::Spanned;
use toml::de::DeValue;

use super::desc::Rope;
use super::keys::ROPE;
use super::reader::{At, Faults, Section};

/// What `[model]` says, with a hole for each fault.
pub struct Base {
    pub name: Option<String>,
    pub layers: Option<At<usize>>,
    pub hidden: Option<usize>,
    pub heads: Option<usize>,
    pub kv_heads: Option<usize>,
    pub qk_dim: Option<usize>,
    pub v_dim: Option<usize>,
    pub vocab: Option<usize>,
    pub norm_eps: f64,
    pub rope: Option<Rope>,
    pub qk_norm: bool,
    pub tie_embeddings: bool,
}

/// Reads `[model]` without `ffn`, which depends on `[moe]`.
pub fn read(model: &Section, faults: &Faults) -> Base {
    if model.get("name").is_none() {
        model.missing("name", "\"my-model\"");
    }
    let heads = model.need_size("heads", "32");
    let kv_heads = model.need_size("kv_heads", "8");
    if let (Some(heads), Some(kv)) = (&heads, &kv_heads)
        && heads.value % kv.value != 0
    {
        faults.add(
            kv.span.clone(),
            format!("{} heads cannot be shared evenly by {} KV heads", heads.value, kv.value),
            format!("does not divide heads = {}", heads.value),
            &format!("write a divisor of {}", heads.value),
        );
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
    let rope = read_rope(model, qk_dim, faults);
    Base {
        name: read_name(model, faults),
        layers: read_layers(model, faults),
        hidden: model.need_size("hidden", "4096").map(|at| at.value),
        heads: heads.map(|at| at.value),
        kv_heads: kv_heads.map(|at| at.value),
        qk_dim,
        v_dim: v.or(both).map(|at| at.value),
        vocab: model.need_size("vocab", "32000").map(|at| at.value),
        norm_eps: model.positive("norm_eps", "1e-6").map_or(1e-6, |at| at.value),
        rope,
        qk_norm: model.flag("qk_norm", false),
        tie_embeddings: model.flag("tie_embeddings", false),
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

fn read_rope(model: &Section, qk_dim: Option<usize>, faults: &Faults) -> Option<Rope> {
    let Some(value) = model.get("rope") else {
        model.missing("rope", "{ theta = 640000.0 }");
        return None;
    };
    if !value.get_ref().is_table() {
        return not_a_rope(value, faults);
    }
    let rope = Section::new(&ROPE, Some(value), faults);
    if rope.present() && rope.get("theta").is_none() {
        rope.missing("theta", "640000.0");
    }
    let theta = rope.positive("theta", "640000.0")?.value;
    let dims = rope.size("dims", "64");
    let whole = qk_dim?;
    let (dims, span) = dims.map_or((whole, rope.span()), |at| (at.value, at.span));
    if dims % 2 != 0 || dims > whole {
        faults.add(
            span,
            format!("rope rotates pairs of the {whole} dims of a head, not {dims}"),
            "must be even and at most the head's dims",
            &format!("write `dims = {}`", whole - whole % 2),
        );
        return None;
    }
    Some(Rope { theta, dims })
}

/// A number in the place of the table is its base.
fn not_a_rope(value: &Spanned<DeValue<'_>>, faults: &Faults) -> Option<Rope> {
    let number = match value.get_ref() {
        DeValue::Integer(i) if i.radix() == 10 => Some(i.as_str()),
        DeValue::Float(f) => Some(f.as_str()),
        _ => None,
    };
    let good = |text: &&str| text.replace('_', "").parse::<f64>().is_ok_and(hyc_plan::is_positive_f32);
    let theta = number.filter(good).unwrap_or("640000.0");
    let help = format!("write `rope = {{ theta = {theta} }}`");
    faults.add(value.span(), "`rope` must be a table with its base `theta`", "not a table", &help);
    None
}
