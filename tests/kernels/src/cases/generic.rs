//! Shapes that fit nothing: odd widths, f32 and bf16 panels, pages of 8, whole layers of a few tokens.

use hyc_plan::*;

use super::attention::{attention, caches, every};
use super::experts::{Mixture, RULES, experts, routings, ruled};
use super::projections::{EPILOGUES, Qkv, append, linear, qkv, rope, scaled_ropes};
use super::{Case, FEW, Fill, RAGGED, Sequences, Store, case, sized, spec, tensor, vector};

pub fn all() -> Vec<Case> {
    [linears(), projections(), positions(), attentions(), ties(), rows(), appends(), mixtures()].concat()
}

const SHAPES: &[AttnShape] = &[
    AttnShape { heads: 6, kv_heads: 2, qk_dim: 20, v_dim: 20 },
    AttnShape { heads: 4, kv_heads: 4, qk_dim: 24, v_dim: 12 },
    AttnShape { heads: 16, kv_heads: 1, qk_dim: 10, v_dim: 10 },
    AttnShape { heads: 5, kv_heads: 1, qk_dim: 32, v_dim: 33 },
];

const BOTH: [Store; 2] = [Store::Panels(Codec::F32), Store::Panels(Codec::Bf16)];

/// One case a batch; the last, which has most, is for the sanitizers too.
fn ragged<'a>(
    family: &'a str,
    spec: &'a KernelSpec,
    batches: &'a [Sequences<'a>],
    error: f64,
) -> impl Iterator<Item = Case> + 'a {
    let cases = batches.iter().enumerate();
    cases.map(move |(i, batch)| sized(case(family, spec, batch, error), i + 1 == batches.len()))
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [(97, 44), (5, 7), (48, 64), (16, 33)] {
        for store in BOTH {
            for norm in [None, Some(1e-6)] {
                for epilogue in EPILOGUES {
                    let spec = linear(size, store, norm, epilogue, FEW);
                    cases.extend(ragged("linear", &spec, RAGGED, 3e-6));
                }
            }
        }
    }
    cases
}

/// Positions at which frequencies that are scaled differ from others.
const FAR: &[Sequences<'static>] = &[&[(90, 6), (17, 2)]];

fn projections() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for (codec, norm, qk_norm, own_kv) in [
            (KvCodec::F32, None, None, true),
            (KvCodec::Bf16, Some(1e-5), Some(1e-6), true),
            (KvCodec::F32, Some(1e-6), Some(1e-6), false),
        ] {
            for cache in &caches(*shape, 8, codec, 11, FEW)[..1 + usize::from(own_kv)] {
                let store = Store::Panels(if codec == KvCodec::Bf16 { Codec::Bf16 } else { Codec::F32 });
                let rope = rope(shape.qk_dim - 4);
                let (shape, cache) = (*shape, *cache);
                let q = Qkv { in_features: 44, shape, norm, qk_norm, rope, own_kv, gates: 0, store, cache };
                cases.extend(ragged("qkv", &qkv(q, FEW), RAGGED, 3e-6));
                for rope in scaled_ropes(rope.dims) {
                    let spec = qkv(Qkv { rope, ..q }, FEW);
                    cases.extend(ragged("qkv scaled", &spec, FAR, 3e-6));
                }
            }
        }
    }
    cases
}

/// Angles of positions that f32 does not hold exactly.
fn positions() -> Vec<Case> {
    let ropes = [&[RopeSpec::plain(10_000.0, 64)][..], &scaled_ropes(64), &scaled_ropes(60)].concat();
    let rotation = |rope| {
        let op = StepOp::Rope(ops::Rope { heads: 2, dim: 64, rope });
        let mut spec = spec(op, vec![tensor(128), tensor(128)], FEW);
        spec.max_context = 1 << 20;
        sized(case("rope", &spec, &[(1_048_570, 5), (131_071, 2)], 1e-6), true)
    };
    ropes.into_iter().map(rotation).collect()
}

fn attentions() -> Vec<Case> {
    let mut cases = Vec::new();
    let batches: [Sequences<'_>; 3] = [&[(0, 1)], &[(0, 13)], &[(40, 7), (0, 9), (100, 1)]];
    for (i, shape) in SHAPES.iter().enumerate() {
        let codec = if i % 2 == 0 { KvCodec::F32 } else { KvCodec::Bf16 };
        let [growing, ring] = caches(*shape, 8, codec, 11, FEW);
        for (blocks, sink, gate, own) in [
            (3, true, GateMode::Elementwise, ring),
            (1, false, GateMode::Head, growing),
            (9, true, GateMode::None, ring),
        ] {
            for op in every(*shape, (8, blocks), 11, sink, gate) {
                // Those of one k are those of another.
                if blocks == 9 && matches!(op, StepOp::FullAttention(_) | StepOp::WindowAttention(_)) {
                    continue;
                }
                let spec = attention(op, growing, own, FEW);
                cases.extend(ragged("attention", &spec, &batches, 5e-6));
            }
        }
    }
    let shape = AttnShape { heads: 8, kv_heads: 2, qk_dim: 64, v_dim: 64 };
    let [growing, ring] = caches(shape, 64, KvCodec::Bf16, 11, FEW);
    for op in every(shape, (64, 4), 11, true, GateMode::Elementwise) {
        let spec = attention(op, growing, ring, FEW);
        cases.extend(ragged("attention", &spec, &[&[(700, 3), (0, 2), (63, 2)]], 5e-6));
    }
    cases
}

/// All scores tie, and the lower blocks must win.
fn ties() -> Vec<Case> {
    let shape = AttnShape { heads: 2, kv_heads: 1, qk_dim: 8, v_dim: 8 };
    let [growing, _] = caches(shape, 8, KvCodec::F32, 11, FEW);
    let select = SelectShape { kv_heads: 1, block: 8, blocks: 3 };
    let spec = attention(
        StepOp::OracleAttention(ops::OracleAttention { shape, sink: false, select }),
        growing,
        growing,
        FEW,
    );
    vec![Case { fill: Fill::EqualKeys, ..sized(case("attention", &spec, &[(0, 60)], 5e-6), true) }]
}

fn rows() -> Vec<Case> {
    let mut specs = Vec::new();
    for width in [44, 7, 64] {
        let (heads, v_dim) = (2, width / 2);
        let three = || vec![tensor(width), tensor(width), tensor(width)];
        specs.push(spec(StepOp::Add(ops::Add { width }), three(), FEW));
        specs.push(spec(StepOp::SiluMul(ops::SiluMul { width }), three(), FEW));
        specs.push(spec(
            StepOp::Bias(ops::Bias { width }),
            vec![tensor(width), vector(width), tensor(width)],
            FEW,
        ));
        let gather =
            spec(StepOp::GatherRows(ops::GatherRows { width }), vec![tensor(width), tensor(width)], FEW);
        specs.push(KernelSpec { rows: Rows::Outputs, ..gather });
        for groups in [1, 3] {
            let all = groups * width;
            let op = StepOp::RmsNorm(ops::RmsNorm { groups, width, eps: 1e-6 });
            specs.push(spec(op, vec![tensor(all), vector(width), tensor(all)], FEW));
        }
        let wide = heads * v_dim;
        for (mode, gate) in [(GateMode::Head, heads), (GateMode::Elementwise, wide)] {
            let operands = vec![tensor(wide), tensor(gate), tensor(wide)];
            specs.push(spec(StepOp::Gate(ops::Gate { heads, v_dim, mode }), operands, FEW));
        }
        for codec in [Codec::F32, Codec::Bf16] {
            let rows = OperandSpec::Weight(Format { codec, layout: Layout::Rows { rows: 50, cols: width } });
            for table in [rows, Store::Panels(codec).matrix(1, 50, width, 50)] {
                let op = StepOp::Embed(ops::Embed { vocab: 50, hidden: width });
                specs.push(spec(op, vec![table, tensor(width)], FEW));
            }
        }
    }
    specs.iter().flat_map(|spec| ragged("rows", spec, RAGGED, 2e-6)).collect()
}

fn appends() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for cache in caches(*shape, 8, KvCodec::Bf16, 11, FEW) {
            cases.extend(ragged("append", &append(*shape, cache, FEW), RAGGED, 1e-6));
        }
    }
    cases
}

fn mixtures() -> Vec<Case> {
    let mut cases = Vec::new();
    for (experts_, active, in_features, ffn) in [(12, 3, 44, 20), (4, 4, 16, 7), (30, 8, 32, 33)] {
        for rule in [RouterRule::USUAL].iter().chain(&RULES) {
            let spec = ruled((experts_, active), *rule, FEW);
            // All are chosen: also those that are no numbers.
            let bad = |case: &Case| case.fill == Fill::BadLogits && active == experts_;
            cases.extend(ragged("experts", &spec, RAGGED, 3e-6).flat_map(routings).filter(|case| !bad(case)));
        }
        for store in BOTH {
            for spec in
                experts(Mixture { experts: experts_, active, in_features, ffn, shared: false }, store, FEW)
            {
                cases.extend(ragged("experts", &spec, RAGGED, 3e-6));
            }
        }
    }
    cases
}
