//! `model.toml` to a [`ModelDesc`]; all faults of a file at once.

use std::path::Path;

use hyc_ir::text::nearest;
use toml::de::DeTable;

use super::desc::{AttentionDesc, AttentionKind, LayerDesc, ModelDesc};
use super::diagnostic::{Diagnostic, Diagnostics, MOST};
use super::model::Heads;
use super::reader::{Faults, Section};
use super::{
    attention, eval, ffn, formats, keys, model, names, sampling, sparse, target, tokenizer, weights,
};

/// Reads a model description. `path` is named in faults, and files are found relative to its folder.
pub fn parse_model(path: &Path, text: &str) -> Result<ModelDesc, Diagnostics> {
    let fail = |list: Vec<Diagnostic>| Diagnostics::new(path.display().to_string(), text.to_string(), list);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let more = errors.len().saturating_sub(MOST);
        let list = errors.iter().take(MOST).map(|e| Diagnostic {
            message: format!("not valid TOML: {}", e.message()),
            span: e.span().unwrap_or(0..0),
            label: "here".to_string(),
            help: None,
        });
        return Err(Diagnostics { more, ..fail(list.collect()) });
    }
    let faults = Faults::default();
    let desc = read(path.parent().unwrap_or(Path::new("")), root.get_ref(), &faults);
    let (list, more) = faults.finish();
    match desc {
        Some(desc) if list.is_empty() => Ok(desc),
        _ if list.is_empty() => Err(fail(vec![Diagnostic {
            message: "the description is not complete".into(),
            span: 0..0,
            label: "in this file".into(),
            help: Some("examples/models has descriptions to start from".into()),
        }])),
        _ => {
            let shown = fail(list);
            Err(Diagnostics { more: shown.more + more, ..shown })
        }
    }
}

/// Every section is read before anything is given up, so that all faults are noted.
fn read(folder: &Path, root: &DeTable<'_>, faults: &Faults) -> Option<ModelDesc> {
    check_sections(root, faults);
    let find = |name: &str| root.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
    for name in ["model", "attention"] {
        if find(name).is_none() {
            faults.add(
                0..0,
                format!("section [{name}] is missing"),
                "in this file",
                &format!("add `[{name}]`"),
            );
        }
    }
    let model = Section::new(&keys::MODEL, find("model"), faults);
    let attention = Section::new(&keys::ATTENTION, find("attention"), faults);
    let moe = Section::new(&keys::MOE, find("moe"), faults);
    let weights = Section::new(&keys::WEIGHTS, find("weights"), faults);
    let tokenizer = Section::new(&keys::TOKENIZER, find("tokenizer"), faults);
    let sampling = Section::new(&keys::SAMPLING, find("sampling"), faults);
    let eval = Section::new(&keys::EVAL, find("eval"), faults);
    let target = Section::new(&keys::TARGET, find("target"), faults);

    let base = model.present().then(|| model::read(&model, faults));
    let layers = base.as_ref().and_then(|b| b.layers.clone());
    let section = attention;
    let attention = section.present().then(|| attention::read(&section, layers.clone(), faults)).flatten();
    let full = base.as_ref().and_then(|b| b.heads);
    let sparse = sparse::read(&section, full, attention.as_ref(), faults);
    // Without [model] nobody can say which of the two is missing.
    let ffn = (model.present() || moe.present()).then(|| ffn::read(&model, &moe, layers, faults)).flatten();
    let interleaved = weights.get("interleaved").map(|value| value.span());
    let weights_section = weights;
    let mut weights = weights::read(folder, &weights_section, faults);
    let target = target::read(&target, weights.dtype, attention.as_ref(), faults);
    let tokenizer = tokenizer::read(folder, &tokenizer);
    let sampling = sampling::read(&sampling);
    let eval = eval::read(&eval, attention.as_ref(), target.as_ref(), faults);

    let (base, attention, ffn, full, sparse) = (base?, attention?, ffn?, full?, sparse?);
    let (qk_norm, qkv_bias) = (base.qk_norm, base.qkv_bias);
    weights.names.head = full.qk_dim as u64;
    let other = [full, sparse].into_iter().find(|of| of.qk_dim != full.qk_dim || of.rope.dims < of.qk_dim);
    if let (Some(span), Some(Heads { qk_dim, rope, .. })) = (interleaved, other) {
        let message = match qk_dim == full.qk_dim {
            true => format!("`interleaved`: {} of the {qk_dim} elements of a head turn", rope.dims),
            false => format!("`interleaved`: some heads have {} elements, and some {qk_dim}", full.qk_dim),
        };
        faults.add(
            span,
            message,
            "whole heads of one size are put in halves",
            "convert the weights to halves, as transformers has them",
        );
    }
    let layer = |(layer, kind): (usize, AttentionKind)| {
        let of = if matches!(kind, AttentionKind::Full { .. }) { full } else { sparse };
        let Heads { heads, kv_heads, qk_dim, v_dim, rope } = of;
        let rope = Some(rope).filter(|_| !attention.no_rope.contains(&layer));
        let (gate, sink) = (attention.gate(kind), attention.sink(kind));
        let attention =
            AttentionDesc { kind, heads, kv_heads, qk_dim, v_dim, rope, qkv_bias, qk_norm, gate, sink };
        LayerDesc { attention, ffn: ffn.of(layer) }
    };
    let desc = ModelDesc {
        name: base.name?,
        hidden: base.hidden?,
        vocab: base.vocab?,
        norm_eps: base.norm_eps,
        tie_embeddings: base.tie_embeddings,
        block: attention.block,
        layers: attention.kinds.iter().copied().enumerate().map(layer).collect(),
        weights,
        tokenizer,
        sampling,
        eval,
        target: target?,
    };
    // What has faults may be a model that nobody could build.
    if faults.none() {
        formats::check(&weights_section, &desc, faults);
    }
    Some(desc)
}

/// What stands at the top of the file is a section; a key there belongs into one.
fn check_sections(root: &DeTable<'_>, faults: &Faults) {
    for (key, value) in root {
        let word: &str = key.get_ref();
        if keys::section(word).is_some() || faults.full() {
            continue;
        }
        let is_key = !keys::homes(word).is_empty() || names::ours(word).is_some();
        if is_key || !value.get_ref().is_table() {
            faults.add(
                key.span(),
                format!("`{word}` stands in no section"),
                "a key outside of a section",
                &names::help(word, None),
            );
            continue;
        }
        let list: Vec<&str> = keys::SECTIONS.iter().map(|section| section.name).collect();
        let help = match nearest(word, &list) {
            Some(near) => format!("did you mean `[{near}]`?"),
            None => format!("sections are: {}", list.join(", ")),
        };
        faults.add(key.span(), format!("unknown section `{word}`"), "unknown section", &help);
    }
}
