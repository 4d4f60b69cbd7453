//! `model.toml` to a [`ModelDesc`]; all faults of a file at once.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::desc::*;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::reader::{At, Faults, Section, nearest};

const SECTIONS: &[&str] = &["model", "attention", "moe", "weights", "tokenizer", "target"];
const MODEL: &[&str] = &[
    "name",
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "qk_head_dim",
    "v_head_dim",
    "ffn",
    "vocab",
    "norm_eps",
    "rope",
    "qk_norm",
    "tie_embeddings",
];
const ATTENTION: &[&str] = &[
    "kind",
    "pattern",
    "full",
    "block",
    "top_k",
    "window",
    "gate",
    "sparse_kv",
    "window_branch",
    "full_gate",
    "full_sink",
];
const MOE: &[&str] = &["experts", "active", "expert_ffn", "shared_ffn"];
const TARGET: &[&str] = &["kind", "max_context", "max_batch", "chunk", "max_outputs", "kv_dtype"];
/// Targets that a description may name; whether this build carries one is asked when it compiles.
const TARGETS: &[(&str, &str)] = &[("cpu", "cpu"), ("sm_90a", "sm_90a")];
const DTYPES: &[(&str, WeightDtype)] = &[("bf16", WeightDtype::Bf16), ("f32", WeightDtype::F32)];

/// Reads a model description. `path` is named in faults, and files are found relative to its folder.
pub fn parse_model(path: &Path, text: &str) -> Result<ModelDesc, Diagnostics> {
    let fail = |list| Diagnostics { path: path.display().to_string(), text: text.to_string(), list };
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let list = errors.iter().map(|e| Diagnostic {
            message: format!("not valid TOML: {}", e.message()),
            span: e.span().unwrap_or(0..0),
            label: "here".to_string(),
            help: None,
        });
        return Err(fail(list.collect()));
    }
    let faults = Faults::default();
    let desc = read(path.parent().unwrap_or(Path::new("")), root.get_ref(), &faults);
    let list = faults.finish();
    match desc {
        Some(desc) if list.is_empty() => Ok(desc),
        _ if list.is_empty() => Err(fail(vec![Diagnostic {
            message: "the description is not complete".into(),
            span: 0..0,
            label: "in this file".into(),
            help: Some("examples/models has descriptions to start from".into()),
        }])),
        _ => Err(fail(list)),
    }
}

/// Every section is read before anything is given up, so that all faults are noted.
fn read(folder: &Path, root: &DeTable<'_>, faults: &Faults) -> Option<ModelDesc> {
    for (key, _) in root {
        let word: &str = key.get_ref();
        if !SECTIONS.contains(&word) {
            let help = match nearest(word, SECTIONS) {
                Some(near) => format!("did you mean `[{near}]`?"),
                None => format!("sections are: {}", SECTIONS.join(", ")),
            };
            faults.add(key.span(), format!("unknown section `{word}`"), "unknown section", &help);
        }
    }
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
    let model = Section::new("model", find("model"), MODEL, faults);
    let attention = Section::new("attention", find("attention"), ATTENTION, faults);
    let moe = Section::new("moe", find("moe"), MOE, faults);
    let weights = Section::new("weights", find("weights"), &["files", "dtype"], faults);
    let tokenizer = Section::new("tokenizer", find("tokenizer"), &["file"], faults);
    let target = Section::new("target", find("target"), TARGET, faults);

    let base = model.present().then(|| read_base(&model, faults));
    let layers = base.as_ref().and_then(|b| b.layers.clone());
    let attention = attention.present().then(|| read_attention(&attention, layers, faults)).flatten();
    let ffn = read_ffn(&model, &moe, faults);
    let weights = read_weights(folder, &weights, faults);
    let target = read_target(&target, weights.dtype, attention.as_ref(), faults);
    let tokenizer = tokenizer.string("file", "tokenizer.json").map(|file| folder.join(file.value));

    let base = base?;
    Some(ModelDesc {
        name: base.name?,
        layers: base.layers?.value,
        hidden: base.hidden?,
        heads: base.heads?,
        kv_heads: base.kv_heads?,
        qk_dim: base.qk_dim?,
        v_dim: base.v_dim?,
        vocab: base.vocab?,
        norm_eps: base.norm_eps,
        rope: base.rope?,
        qk_norm: base.qk_norm,
        tie_embeddings: base.tie_embeddings,
        ffn: ffn?,
        attention: attention?,
        weights,
        tokenizer,
        target: target?,
    })
}

struct Base {
    name: Option<String>,
    layers: Option<At<usize>>,
    hidden: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    qk_dim: Option<usize>,
    v_dim: Option<usize>,
    vocab: Option<usize>,
    norm_eps: f64,
    rope: Option<Rope>,
    qk_norm: bool,
    tie_embeddings: bool,
}

fn read_base(model: &Section, faults: &Faults) -> Base {
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
        layers: model.need_size("layers", "36"),
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
    let rope = Section::new("rope", Some(value), &["theta", "dims"], faults);
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

fn read_attention(a: &Section, layers: Option<At<usize>>, faults: &Faults) -> Option<AttentionDesc> {
    let kind = a.word(
        "kind",
        &[("hysparse", Kind::HySparse), ("full", Kind::Full), ("swa", Kind::Swa)],
        Kind::HySparse,
    );
    let (why_full, why_swa) = ("every layer is full", "a hybrid SWA model selects nothing");
    if kind == Kind::Full {
        for key in ["pattern", "full", "window", "sparse_kv", "window_branch"] {
            a.refuse(key, why_full);
        }
    }
    if kind == Kind::Swa {
        for key in ["top_k", "gate", "sparse_kv", "window_branch"] {
            a.refuse(key, why_swa);
        }
    } else if kind == Kind::Full {
        a.refuse("top_k", "a model of full layers selects nothing");
    }
    let block = read_block(a, faults);
    let top_k = if kind == Kind::HySparse { read_top_k(a, block, faults) } else { Some(0) };
    let window_branch = kind == Kind::Swa || (kind != Kind::Full && a.flag("window_branch", true));
    let window = if kind == Kind::Full { Some(0) } else { read_window(a, window_branch, faults) };
    let kinds = match kind {
        Kind::Full => layers.map(|n| vec![LayerKind::Full; n.value]),
        _ => read_layers(a, layers, faults),
    };
    let gates = &[("elementwise", Gate::Elementwise), ("head", Gate::Head), ("none", Gate::None)];
    let full_gate = a.flag("full_gate", false);
    let default_gate = if kind == Kind::Swa { Gate::None } else { Gate::Elementwise };
    let gate = if kind == Kind::Swa { default_gate } else { a.word("gate", gates, default_gate) };
    if full_gate && gate == Gate::None {
        a.refuse("full_gate", "`gate` is \"none\"");
    }
    if kind == Kind::Full && !full_gate {
        a.refuse("gate", "full layers have none unless `full_gate = true`");
    }
    let kvs = &[("shared", SparseKv::Shared), ("own", SparseKv::Own), ("shared-both", SparseKv::SharedBoth)];
    let sparse_kv = a.word("sparse_kv", kvs, SparseKv::Shared);
    if sparse_kv == SparseKv::SharedBoth && !window_branch {
        a.refuse("sparse_kv", "without a window branch \"shared-both\" is the same as \"shared\"");
    }
    Some(AttentionDesc {
        kind,
        layers: kinds?,
        block: block?,
        top_k: top_k?,
        window: window?,
        gate,
        sparse_kv,
        window_branch,
        full_gate,
        full_sink: a.flag("full_sink", false),
    })
}

fn read_block(a: &Section, faults: &Faults) -> Option<usize> {
    let Some(block) = a.size("block", "64") else {
        return a.get("block").is_none().then_some(64);
    };
    if block.value % 8 != 0 || block.value > 256 {
        faults.add(
            block.span,
            "`block` must be a multiple of 8 from 8 to 256",
            "not a possible block",
            "write `block = 64`",
        );
        return None;
    }
    Some(block.value)
}

fn read_top_k(a: &Section, block: Option<usize>, faults: &Faults) -> Option<usize> {
    let top_k = a.need_size("top_k", "1024")?;
    let block = block?;
    if top_k.value % block != 0 {
        let near = top_k.value.next_multiple_of(block);
        faults.add(
            top_k.span,
            format!("`top_k` = {} tokens is not a whole number of blocks of {block}", top_k.value),
            "counted in tokens",
            &format!("write `top_k = {near}`"),
        );
        return None;
    }
    Some(top_k.value)
}

fn read_window(a: &Section, branch: bool, faults: &Faults) -> Option<usize> {
    if !branch {
        a.refuse("window", "`window_branch` is false");
        return Some(0);
    }
    if a.get("window").is_none() {
        a.missing("window", "128");
    }
    let window = a.integer("window", 0, "128")?;
    if window.value == 0 {
        faults.add(
            window.span,
            "a window of 0 tokens sees nothing",
            "must be at least 1",
            "write `window = 128`; to leave the branch out, write `window_branch = false` and no window",
        );
        return None;
    }
    Some(window.value)
}

fn read_layers(a: &Section, layers: Option<At<usize>>, faults: &Faults) -> Option<Vec<LayerKind>> {
    let (pattern, full) = (a.get("pattern"), a.get("full"));
    if let (Some(_), Some(full)) = (pattern, full) {
        faults.add(
            full.span(),
            "`pattern` and `full` both say which layers are full",
            "the second of the two",
            "keep one of them",
        );
        return None;
    }
    match (pattern, full) {
        (Some(_), _) => read_pattern(a, layers?.value, faults),
        (_, Some(full)) => read_full_list(full, layers?.value, faults),
        _ => {
            a.missing("pattern", "\"1:3\"");
            None
        }
    }
}

fn read_pattern(a: &Section, layers: usize, faults: &Faults) -> Option<Vec<LayerKind>> {
    let pattern = a.string("pattern", "1:3")?;
    let parsed = pattern.value.split_once(':').and_then(|(full, sparse)| {
        let pair: (usize, usize) = (full.trim().parse().ok()?, sparse.trim().parse().ok()?);
        (pair.0 > 0 && pair.0 <= layers && pair.1 <= layers).then_some(pair)
    });
    let Some((full, sparse)) = parsed else {
        faults.add(
            pattern.span,
            format!("\"{}\" is no pattern for {layers} layers", pattern.value),
            "full:sparse, at least one full",
            "write for example `pattern = \"1:3\"`: one full layer, then three sparse ones",
        );
        return None;
    };
    let kind = |layer: usize| {
        let is_full = layer % (full + sparse) < full || layer + 1 == layers;
        if is_full { LayerKind::Full } else { LayerKind::Sparse }
    };
    Some((0..layers).map(kind).collect())
}

fn read_full_list(value: &toml::Spanned<DeValue>, layers: usize, faults: &Faults) -> Option<Vec<LayerKind>> {
    let example = format!("write for example `full = [0, {}]`", layers - 1);
    let Some(items) = value.get_ref().as_array() else {
        faults.add(value.span(), "`full` must be a list of layers", "not a list", &example);
        return None;
    };
    let mut kinds = vec![LayerKind::Sparse; layers];
    let mut last: Option<usize> = None;
    let mut good = true;
    for item in items {
        let n = item.get_ref().as_integer().and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok());
        let fault = match n {
            None => Some("a layer is an integer from 0".to_string()),
            Some(n) if n >= layers => {
                Some(format!("layer {n} is out of range: layers are 0 to {}", layers - 1))
            }
            Some(n) if last.is_some_and(|last| n <= last) => {
                Some("layers must ascend, each once".to_string())
            }
            Some(n) => {
                kinds[n] = LayerKind::Full;
                last = Some(n);
                None
            }
        };
        if let Some(message) = fault {
            faults.add(item.span(), message, "in this list", &example);
            good = false;
        }
    }
    if good && kinds[0] != LayerKind::Full {
        faults.add(
            value.span(),
            "layer 0 is sparse and has no oracle before it",
            "must start with 0",
            "start the list with 0: a sparse layer reuses the selection of a full layer before it",
        );
        return None;
    }
    if good && kinds[layers - 1] != LayerKind::Full {
        faults.add(
            value.span(),
            "the last layer must be full",
            format!("must end with {}", layers - 1),
            &format!("add {} to the list", layers - 1),
        );
        return None;
    }
    good.then_some(kinds)
}

fn read_ffn(model: &Section, moe: &Section, faults: &Faults) -> Option<Ffn> {
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
            format!("{} experts a token cannot be chosen from {}", active.value, experts.value),
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

fn read_weights(folder: &Path, weights: &Section, faults: &Faults) -> WeightsDesc {
    let mut files: Vec<PathBuf> = Vec::new();
    if let Some(value) = weights.get("files") {
        let items = value.get_ref().as_array();
        for item in items.into_iter().flatten() {
            match item.get_ref().as_str() {
                Some(file) => files.push(folder.join(file)),
                None => faults.add(item.span(), "a weight file is a string", "not a string", ""),
            }
        }
        if items.is_none_or(|items| items.is_empty()) {
            let help = "write `files = [\"model.safetensors\"]`";
            faults.add(value.span(), "`files` must be a list of paths", "not such a list", help);
        }
    }
    WeightsDesc { files, dtype: weights.word("dtype", DTYPES, WeightDtype::Bf16) }
}

fn read_target(
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
