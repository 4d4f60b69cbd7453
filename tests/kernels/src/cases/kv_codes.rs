//! Caches of codes with scales: how they are made, and attention over them.

use hyc_plan::*;

use super::attention::{attention, caches, every};
use super::tiled::ERROR;
use super::{Case, FEW, Fill, RAGGED, Sequences, case, sized, spec};

pub fn all() -> Vec<Case> {
    [codes(), attentions()].concat()
}

/// A fourth of these attentions over bf16 tiles once more, over codes where caches grow, and how such pages are made.
pub fn tiled(of: &[Case]) -> Vec<Case> {
    let coded = |(i, case): (usize, &Case)| {
        let mut spec = case.spec.clone();
        let mut changed = false;
        for operand in &mut spec.operands {
            if let OperandSpec::Cache(cache) = operand
                && cache.policy == CachePolicy::Growing
                && cache.order == KvOrder::Tiles
            {
                (cache.codec, changed) = (CODECS[i % 2], true);
            }
        }
        let family = format!("{}, codes", case.family);
        changed.then(|| Case { family, spec, ..case.clone() })
    };
    let attends = of.iter().filter(|case| case.spec.op.attention().is_some() && !appends(case));
    let mut cases: Vec<Case> = attends.step_by(4).enumerate().filter_map(coded).collect();
    // States of warps that are larger than their pages of codes.
    let shape = AttnShape { heads: 16, kv_heads: 1, qk_dim: 64, v_dim: 128 };
    for (codec, op) in CODECS.into_iter().flat_map(|codec| {
        every(shape, (64, 3), 70, true, GateMode::None).into_iter().map(move |op| (codec, op))
    }) {
        let [mut cache, _] = caches(shape, 64, codec, 70, FEW);
        cache.order = KvOrder::Tiles;
        if let StepOp::SparseAttention(_) = op {
            let spec = attention(op, cache, cache, FEW);
            cases.push(case("sparse_attention tiled, codes", &spec, &[(700, 3), (0, 2)], ERROR));
        }
    }
    for (i, (qk_dim, v_dim)) in [(64, 64), (128, 128), (192, 128), (64, 48)].into_iter().enumerate() {
        let shape = AttnShape { heads: 6, kv_heads: 3, qk_dim, v_dim };
        for (codec, batch) in
            CODECS.into_iter().flat_map(|codec| RAGGED.iter().map(move |batch| (codec, *batch)))
        {
            let in_tiles =
                |cache: CacheSpec| OperandSpec::Cache(CacheSpec { order: KvOrder::Tiles, ..cache });
            let ([cache, _], [_, from]) =
                (caches(shape, 64, codec, 1, FEW), caches(shape, 64, KvCodec::Bf16, 1, FEW));
            let op = StepOp::QuantiseKv(ops::QuantiseKv { kv_heads: 3, qk_dim, v_dim });
            let spec = spec(op, vec![in_tiles(from), in_tiles(cache)], FEW);
            let case = sized(case("quantise_kv tiled", &spec, batch, 0.0), i == 0);
            cases.extend([case.clone(), Case { fill: Fill::OddVectors, ..case }]);
        }
    }
    cases
}

/// Whether it writes to a cache.
fn appends(case: &Case) -> bool {
    case.spec.op.roles().iter().any(|role| role.writes() && matches!(role.kind, Kind::Cache { .. }))
}

const SHAPES: [AttnShape; 4] = [
    AttnShape { heads: 6, kv_heads: 2, qk_dim: 20, v_dim: 20 },
    AttnShape { heads: 4, kv_heads: 4, qk_dim: 24, v_dim: 12 },
    AttnShape { heads: 5, kv_heads: 1, qk_dim: 33, v_dim: 33 },
    AttnShape { heads: 8, kv_heads: 2, qk_dim: 64, v_dim: 64 },
];

const CODECS: [KvCodec; 2] = [KvCodec::Int8, KvCodec::Fp8];

/// Codes of a step's keys and values, from a ring of either codec and from a cache that grows.
fn codes() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        let AttnShape { kv_heads, qk_dim, v_dim, .. } = shape;
        for (codec, page) in CODECS.into_iter().flat_map(|codec| [(codec, 8), (codec, 64)]) {
            let [cache, _] = caches(shape, page, codec, 1, FEW);
            let from = [KvCodec::F32, KvCodec::Bf16].map(|codec| caches(shape, page, codec, 1, FEW));
            for from in from.into_iter().flatten() {
                let op = StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, qk_dim, v_dim });
                let spec = spec(op, vec![OperandSpec::Cache(from), OperandSpec::Cache(cache)], FEW);
                let of = |(i, batch): (usize, &Sequences<'_>)| {
                    let case = sized(case("quantise_kv", &spec, batch, 0.0), i == 3 && page == 8);
                    [case.clone(), Case { fill: Fill::OddVectors, ..case }]
                };
                cases.extend(RAGGED.iter().enumerate().flat_map(of));
            }
        }
    }
    cases
}

/// A first token, parts of pages, contexts that end nowhere, and fewer blocks than are chosen.
fn attentions() -> Vec<Case> {
    let small: [Sequences<'_>; 3] = [&[(0, 1)], &[(0, 13)], &[(40, 7), (0, 9), (100, 1)]];
    let large: [Sequences<'_>; 2] = [&[(0, 1), (62, 3)], &[(700, 3), (0, 2), (63, 2), (127, 1)]];
    let mut cases = Vec::new();
    for (codec, shape) in CODECS.into_iter().flat_map(|codec| SHAPES.map(|shape| (codec, shape))) {
        let (page, batches) = if shape.qk_dim == 64 { (64, &large[..]) } else { (8, &small[..]) };
        let [growing, ring] = caches(shape, page, codec, 11, FEW);
        for (blocks, sink, gate, own) in [
            (3, true, GateMode::Elementwise, ring),
            (1, false, GateMode::Head, growing),
            (9, true, GateMode::None, ring),
        ] {
            for op in every(shape, (page, blocks), 11, sink, gate) {
                // Those of one k are those of another.
                let all = matches!(op, StepOp::FullAttention(_) | StepOp::WindowAttention(_));
                // A window reads codes where the cache is its layer's own and grows.
                let own = if matches!(op, StepOp::WindowAttention(_)) { growing } else { own };
                if blocks == 9 && all {
                    continue;
                }
                let spec = attention(op, growing, own, FEW);
                let of = |(i, batch): (usize, &Sequences<'_>)| {
                    sized(case("attention of codes", &spec, batch, 5e-6), i + 1 == batches.len())
                };
                cases.extend(batches.iter().enumerate().map(of));
            }
        }
    }
    cases
}
