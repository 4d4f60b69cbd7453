//! What `cargo bench` times on a processor: kernels as the models of half a billion parameters have them, for a token of a
//! decode and for 64 rows of a prefill.

use hyc_plan::*;

use super::attention::{attention, caches, every};
use super::experts::{Mixture, RULES, experts, router, ruled};
use super::projections::{Qkv, linear, qkv, rope};
use super::{Case, Fill, Limits, Store, case, indices, spec, tensor, vector};
use crate::case::Filter;

const LIMITS: Limits = Limits { rows: 64, context: 8192 };
const HIDDEN: u64 = 1280;
const FFN: u64 = 3456;
const SHAPE: AttnShape = AttnShape { heads: 20, kv_heads: 5, qk_dim: 64, v_dim: 64 };
const WINDOW: u64 = 128;
/// The first token of a context, and as many as a prefill's step may take.
const ROWS: [u64; 2] = [1, LIMITS.rows];

pub fn all() -> Vec<Case> {
    let both = |spec: KernelSpec| ROWS.map(|rows| case("timed", &spec, &[(0, rows)], 1e-5));
    let mut cases: Vec<Case> = on_rows().into_iter().flat_map(both).collect();
    cases.extend(attentions());
    cases.extend(samples());
    cases
}

/// Kernels whose time has nothing to do with the context.
fn on_rows() -> Vec<KernelSpec> {
    let bf16 = Store::Panels(Codec::Bf16);
    let norm = Some(1e-6);
    let [growing, _] = caches(SHAPE, 64, KvCodec::Bf16, WINDOW, LIMITS);
    let shape = SHAPE;
    let projection = Qkv {
        in_features: HIDDEN,
        shape,
        norm,
        qk_norm: None,
        rope: rope(64),
        own_kv: true,
        gates: 0,
        store: bf16,
        cache: growing,
    };
    let rms = StepOp::RmsNorm(ops::RmsNorm { groups: 1, width: HIDDEN, eps: 1e-6 });
    let mixture = Mixture { experts: 8, active: 2, in_features: HIDDEN, ffn: 256, shared: false };
    let mut all = experts(mixture, bf16, LIMITS);
    all.extend([
        spec(rms, vec![tensor(HIDDEN), vector(HIDDEN), tensor(HIDDEN)], LIMITS),
        linear((FFN, HIDDEN), Store::Panels(Codec::F32), None, Epilogue::Store, LIMITS),
        linear((FFN, HIDDEN), bf16, None, Epilogue::Store, LIMITS),
        linear((FFN, HIDDEN), bf16, norm, Epilogue::SwiGlu, LIMITS),
        linear((HIDDEN, FFN), bf16, None, Epilogue::Residual, LIMITS),
        qkv(projection, LIMITS),
        router(512, 8, LIMITS),
        ruled((256, 8), RULES[2], LIMITS),
    ]);
    all
}

/// A token at the end of a long context; the hybrid's window is a ring.
fn attentions() -> impl Iterator<Item = Case> {
    let [growing, ring] = caches(SHAPE, 64, KvCodec::Bf16, WINDOW, LIMITS);
    let ops = every(SHAPE, (64, 16), WINDOW, false, GateMode::Elementwise);
    ops.into_iter().map(move |op| {
        let spec = attention(op, growing, ring, LIMITS);
        case("timed", &spec, &[(LIMITS.context - 1, 1)], 1e-5)
    })
}

/// A row of logits to a token, which the host does without a kernel.
fn samples() -> impl Iterator<Item = Case> {
    let vocab = 32_000;
    let tokens =
        spec(StepOp::Sample(ops::Sample { vocab, named: None }), vec![tensor(vocab), indices(1)], LIMITS);
    let spec = KernelSpec { rows: Rows::Outputs, ..tokens };
    [Filter::Greedy, Filter::Temperature, Filter::TopP].into_iter().map(move |filter| {
        let case = case("timed", &spec, &[(0, 1)], 0.0);
        Case { fill: Fill::Sampled(filter), ..case }
    })
}
