//! `[attention]`: which layers are full, what the others select and see.

use toml::de::DeValue;

use super::desc::{AttentionKind, Gate, SparseKv};
use super::reader::{At, Faults, Section};

/// Which family of the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Full layers select for the sparse layers after them.
    HySparse,
    /// Full attention in every layer.
    Full,
    /// Layers that are not full have the window alone.
    Swa,
}

/// What `[attention]` says, the same for all layers of a kind.
pub struct Attention {
    /// Tokens per block and per page.
    pub block: usize,
    /// Tokens selected, a multiple of `block`; 0: nothing is.
    pub top_k: usize,
    /// What each layer sees.
    pub kinds: Vec<AttentionKind>,
    /// Layers whose queries and keys do not turn.
    pub no_rope: Vec<usize>,
    gate: Gate,
    full_gate: bool,
    full_sink: bool,
    sparse_sink: bool,
}

impl Attention {
    /// Gates of the layers of that kind.
    pub fn gate(&self, kind: AttentionKind) -> Gate {
        match kind {
            AttentionKind::Full { .. } if self.full_gate => self.gate,
            AttentionKind::Full { .. } | AttentionKind::Window { .. } => Gate::None,
            AttentionKind::Sparse { .. } => self.gate,
        }
    }

    /// Whether the layers of that kind have sinks.
    pub fn sink(&self, kind: AttentionKind) -> bool {
        match kind {
            AttentionKind::Full { .. } => self.full_sink,
            AttentionKind::Sparse { .. } | AttentionKind::Window { .. } => self.sparse_sink,
        }
    }
}

/// Reads `[attention]` for a model of `layers`.
pub fn read(a: &Section, layers: Option<At<usize>>, faults: &Faults) -> Option<Attention> {
    let kind = a.word(
        "kind",
        &[("hysparse", Family::HySparse), ("full", Family::Full), ("swa", Family::Swa)],
        Family::HySparse,
    );
    let (why_full, why_swa) = ("every layer is full", "a hybrid SWA model selects nothing");
    if kind == Family::Full {
        for key in ["pattern", "full", "window", "sparse_kv", "window_branch", "sparse_sink"] {
            a.refuse(key, why_full);
        }
    }
    if kind == Family::Swa {
        for key in ["top_k", "gate", "sparse_kv", "window_branch"] {
            a.refuse(key, why_swa);
        }
    } else if kind == Family::Full {
        a.refuse("top_k", "a model of full layers selects nothing");
    }
    let block = read_block(a, faults);
    let top_k = if kind == Family::HySparse { read_top_k(a, block, faults) } else { Some(0) };
    let window_branch = kind == Family::Swa || (kind != Family::Full && a.flag("window_branch", true));
    let window = if kind == Family::Full { Some(0) } else { read_window(a, window_branch, faults) };
    let full = match kind {
        Family::Full => layers.map(|n| vec![true; n.value]),
        _ => read_layers(a, layers, kind == Family::HySparse, faults),
    };
    let gates = &[("elementwise", Gate::Elementwise), ("head", Gate::Head), ("none", Gate::None)];
    let full_gate = a.flag("full_gate", false);
    let default_gate = if kind == Family::Swa { Gate::None } else { Gate::Elementwise };
    let gate = if kind == Family::Swa { default_gate } else { a.word("gate", gates, default_gate) };
    if full_gate && gate == Gate::None {
        a.refuse("full_gate", "`gate` is \"none\"");
    }
    if kind == Family::Full && !full_gate {
        a.refuse("gate", "full layers have none unless `full_gate = true`");
    }
    let kvs = &[("shared", SparseKv::Shared), ("own", SparseKv::Own), ("shared-both", SparseKv::SharedBoth)];
    let sparse_kv = a.word("sparse_kv", kvs, SparseKv::Shared);
    if sparse_kv == SparseKv::SharedBoth && !window_branch {
        a.refuse("sparse_kv", "without a window branch \"shared-both\" is the same as \"shared\"");
    }
    let full_sink = a.flag("full_sink", false);
    let sparse_sink = a.flag("sparse_sink", true);
    let (full, block, top_k, window) = (full?, block?, top_k?, window?);
    let layer = |is_full: bool| match kind {
        Family::HySparse if is_full => AttentionKind::Full { top_k: Some(top_k) },
        Family::HySparse => {
            AttentionKind::Sparse { top_k, kv: sparse_kv, window: window_branch.then_some(window) }
        }
        Family::Swa if !is_full => AttentionKind::Window { window },
        Family::Swa | Family::Full => AttentionKind::Full { top_k: None },
    };
    let kinds: Vec<AttentionKind> = full.into_iter().map(layer).collect();
    let no_rope = read_no_rope(a, &kinds, faults)?;
    Some(Attention { block, top_k, kinds, no_rope, gate, full_gate, full_sink, sparse_sink })
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

/// Which layers are full. `selects`: the others reuse what a full one before them selects.
fn read_layers(a: &Section, layers: Option<At<usize>>, selects: bool, faults: &Faults) -> Option<Vec<bool>> {
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
        (_, Some(full)) => read_full_list(full, layers?.value, selects, faults),
        _ => {
            a.missing("pattern", "\"1:3\"");
            None
        }
    }
}

fn read_pattern(a: &Section, layers: usize, faults: &Faults) -> Option<Vec<bool>> {
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
    let is_full = |layer: usize| layer % (full + sparse) < full || layer + 1 == layers;
    Some((0..layers).map(is_full).collect())
}

fn read_full_list(
    value: &toml::Spanned<DeValue>,
    layers: usize,
    selects: bool,
    faults: &Faults,
) -> Option<Vec<bool>> {
    let example = format!("[0, {}]", layers - 1);
    let list = read_layer_list(("full", &example), value, layers, faults);
    let good = list.is_some();
    let mut full = vec![false; layers];
    list.into_iter().flatten().for_each(|layer| full[layer] = true);
    if good && selects && !full[0] {
        faults.add(
            value.span(),
            "layer 0 is sparse and has no oracle before it",
            "must start with 0",
            "start the list with 0: a sparse layer reuses the selection of a full layer before it",
        );
        return None;
    }
    if good && selects && !full[layers - 1] {
        faults.add(
            value.span(),
            "the last layer must be full",
            format!("must end with {}", layers - 1),
            &format!("add {} to the list", layers - 1),
        );
        return None;
    }
    good.then_some(full)
}

/// Layers, ascending, each once.
pub fn read_layer_list(
    (key, example): (&str, &str),
    value: &toml::Spanned<DeValue>,
    layers: usize,
    faults: &Faults,
) -> Option<Vec<usize>> {
    let example = format!("write for example `{key} = {example}`");
    let Some(items) = value.get_ref().as_array() else {
        faults.add(value.span(), format!("`{key}` must be a list of layers"), "not a list", &example);
        return None;
    };
    let mut list: Vec<usize> = Vec::new();
    let mut good = true;
    for item in items {
        let n = item.get_ref().as_integer().and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok());
        let fault = match n {
            None => Some("a layer is an integer from 0".to_string()),
            Some(n) if n >= layers => {
                Some(format!("layer {n} is out of range: layers are 0 to {}", layers - 1))
            }
            Some(n) if list.last().is_some_and(|last| n <= *last) => {
                Some("layers must ascend, each once".to_string())
            }
            Some(n) => {
                list.push(n);
                None
            }
        };
        if let Some(message) = fault {
            faults.add(item.span(), message, "in this list", &example);
            good = false;
        }
    }
    good.then_some(list)
}

/// Layers whose queries and keys do not turn. Errors: a layer that reads the keys of one that is unlike it.
fn read_no_rope(a: &Section, kinds: &[AttentionKind], faults: &Faults) -> Option<Vec<usize>> {
    let Some(value) = a.get("no_rope") else { return Some(Vec::new()) };
    let list = read_layer_list(("no_rope", "[3]"), value, kinds.len(), faults)?;
    let mut oracle = 0;
    for (layer, kind) in kinds.iter().enumerate() {
        match kind {
            AttentionKind::Full { .. } => oracle = layer,
            AttentionKind::Sparse { kv: SparseKv::Shared | SparseKv::SharedBoth, .. }
                if list.contains(&layer) != list.contains(&oracle) =>
            {
                let message = format!(
                    "layer {layer} reads the keys of layer {oracle}, and one of the two does not turn"
                );
                let help = "name both in `no_rope`, or neither; or write `sparse_kv = \"own\"`";
                faults.add(value.span(), message, "in this list", help);
                return None;
            }
            AttentionKind::Sparse { .. } | AttentionKind::Window { .. } => {}
        }
    }
    Some(list)
}
