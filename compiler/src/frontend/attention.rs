//! `[attention]`: which layers are full, what the others select and see.

use toml::de::DeValue;

use super::desc::*;
use super::reader::{At, Faults, Section};

/// Reads `[attention]` for a model of `layers`.
pub fn read(a: &Section, layers: Option<At<usize>>, faults: &Faults) -> Option<AttentionDesc> {
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
