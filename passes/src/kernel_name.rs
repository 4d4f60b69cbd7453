//! Names of kernels, such as `linear_256x576_swiglu`: what a profile or a disassembly is read by.

use hyc_plan::{
    AttnShape, CachePolicy, CacheSpec, Epilogue, GateMode, KernelSpec, OperandSpec, Rows, StepOp, ops,
};

/// A name for `spec` that `taken` does not hold yet: a number follows where kernels differ in what the name
/// does not say (weight type, limits).
pub fn unique(spec: &KernelSpec, taken: impl Fn(&str) -> bool) -> String {
    let base = base(spec);
    if !taken(&base) {
        return base;
    }
    let numbered = (2u64..).map(|n| format!("{base}_n{n}")).find(|name| !taken(name));
    numbered.unwrap_or(base)
}

fn base(spec: &KernelSpec) -> String {
    let op = spec.op.name();
    let mut name = match spec.op {
        StepOp::Linear(ops::Linear { in_features, out_features: out, norm, epilogue, fp8_rows }) => {
            let norm = if norm.is_some() { "_norm" } else { "" };
            let epilogue = match epilogue {
                Epilogue::Store => "",
                Epilogue::Residual => "_residual",
                Epilogue::SwiGlu => "_swiglu",
            };
            format!("{op}_{in_features}x{out}{norm}{epilogue}{}", in_fp8(fp8_rows))
        }
        StepOp::QkvAppend(ops::QkvAppend {
            in_features,
            shape,
            norm,
            qk_norm,
            own_kv,
            gates,
            fp8_rows,
            ..
        }) => {
            let kind = if own_kv { op } else { "q" };
            let norm = if norm.is_some() { "_norm" } else { "" };
            let qk_norm = if qk_norm.is_some() { "_qknorm" } else { "" };
            let gates = ["", "_gate", "_gates"][gates.min(2) as usize];
            format!("{kind}_{in_features}_{}{gates}{norm}{qk_norm}{}", heads(shape), in_fp8(fp8_rows))
        }
        StepOp::Embed(ops::Embed { hidden: width, .. })
        | StepOp::Add(ops::Add { width })
        | StepOp::SiluMul(ops::SiluMul { width })
        | StepOp::Bias(ops::Bias { width })
        | StepOp::GatherRows(ops::GatherRows { width }) => format!("{op}_{width}"),
        StepOp::RmsNorm(ops::RmsNorm { groups, width, .. }) => format!("{op}_{groups}x{width}"),
        StepOp::Rope(ops::Rope { heads, dim, .. }) => format!("{op}_{heads}x{dim}"),
        StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim })
        | StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, qk_dim, v_dim }) => {
            format!("{op}_{kv_heads}x{qk_dim}_{v_dim}")
        }
        StepOp::Gate(ops::Gate { heads, v_dim, .. }) => format!("{op}_{heads}x{v_dim}"),
        StepOp::FullAttention(ops::FullAttention { shape, sink }) => {
            format!("{op}_{}{}", heads(shape), sunk(sink))
        }
        StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }) => {
            format!("{op}_{}_top{}{}", heads(shape), select.blocks, sunk(sink))
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, .. }) => {
            format!("{op}_{}_top{}{}", heads(shape), select.blocks, sunk(sink))
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, sink }) => {
            format!("{op}_{}_w{window}{}", heads(shape), sunk(sink))
        }
        StepOp::HybridAttention(ops::HybridAttention { shape, select, window, gate, .. }) => {
            let gate = match gate {
                GateMode::None => "",
                GateMode::Head => "_headgate",
                GateMode::Elementwise => "_gate",
            };
            format!("{op}_{}_top{}_w{window}{gate}", heads(shape), select.blocks)
        }
        StepOp::PageLists(ops::PageLists { select, lists, .. }) => {
            format!("{op}_{}x{}_tile{}", select.kv_heads, select.blocks, lists.tile)
        }
        StepOp::Sample(ops::Sample { vocab, named: None }) => format!("{op}_{vocab}"),
        StepOp::Sample(ops::Sample { vocab, named: Some(named) }) => format!("{op}_{named}_of_{vocab}"),
        StepOp::Router(ops::Router { experts, active, rule }) => {
            let words: String = rule.words().iter().map(|word| format!("_{word}")).collect();
            format!("{op}_{active}of{experts}{}", words.replace('.', "p"))
        }
        StepOp::ExpertsUp(ops::ExpertsUp { experts, active, in_features, ffn, shared }) => {
            format!("{op}_{active}of{experts}{}_{in_features}x{ffn}", if shared { "_shared" } else { "" })
        }
        StepOp::ExpertsDown(ops::ExpertsDown { experts, active, out_features: out, ffn, shared }) => {
            format!("{op}_{active}of{experts}{}_{ffn}x{out}", if shared { "_shared" } else { "" })
        }
    };
    let ring = |operand: &OperandSpec| {
        matches!(operand, OperandSpec::Cache(CacheSpec { policy: CachePolicy::Ring { .. }, .. }))
    };
    if matches!(spec.op, StepOp::Append(_) | StepOp::QkvAppend(_)) && spec.operands.iter().any(ring) {
        name.push_str("_ring");
    }
    if spec.rows == Rows::Outputs {
        name.push_str("_outputs");
    }
    name
}

/// `32q8_128`: query heads, KV heads, widths (one number where keys and values are alike).
fn heads(shape: AttnShape) -> String {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = shape;
    match qk_dim == v_dim {
        true => format!("{heads}q{kv_heads}_{qk_dim}"),
        false => format!("{heads}q{kv_heads}_{qk_dim}v{v_dim}"),
    }
}

fn in_fp8(least: Option<u64>) -> &'static str {
    least.map_or("", |_| "_fp8rows")
}

fn sunk(sink: bool) -> &'static str {
    if sink { "_sink" } else { "" }
}
