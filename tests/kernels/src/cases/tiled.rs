//! Weights and caches as tensor cores read them, at the sizes of real models and at the edges of tiles; and the
//! mixtures of tiled and other storage that a GPU plan can have.

use hyc_plan::*;

use super::attention::{attention, caches, every};
use super::experts::{Mixture, RULES, experts, routings, ruled};
use super::projections::{EPILOGUES, Qkv, append, linear, qkv, rope, scaled_ropes};
use super::{Case, Fill, MANY, Sequences, Store, case, sized, spec, tensor, vector};

pub fn all() -> Vec<Case> {
    [linears(), vocabulary(), projections(), mixed(), attentions(), ties(), mixtures(), rows()].concat()
}

/// Where all arithmetic is in f32 none of these is.
pub const ERROR: f64 = 1e-5;
pub const WINDOW: u64 = 128;

/// Counts of rows at and around the steps of decode and prefill kernels.
const ROWS: [u64; 10] = [1, 2, 8, 9, 33, 64, 100, 130, 257, 512];

fn shape(heads: u64, kv_heads: u64, qk_dim: u64, v_dim: u64) -> AttnShape {
    AttnShape { heads, kv_heads, qk_dim, v_dim }
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [(64, 64), (96, 200), (200, 96), (64, 96), (200, 64), (1000, 320)] {
        for norm in [None, Some(1e-6)] {
            for epilogue in EPILOGUES {
                let spec = linear(size, Store::Tiles, norm, epilogue, MANY);
                for rows in ROWS {
                    let small = size == (96, 200) && [1, 9, 130].contains(&rows);
                    cases.push(sized(case("linear tiled", &spec, &[(0, rows)], ERROR), small));
                }
            }
        }
    }
    for (size, norm, epilogue) in [
        ((4096, 4096), None, Epilogue::Residual),
        ((4096, 4096), Some(1e-6), Epilogue::Store),
        ((11008, 4096), Some(1e-6), Epilogue::SwiGlu),
        ((4096, 11008), None, Epilogue::Residual),
        ((8192, 2048), Some(1e-6), Epilogue::Store),
        ((2048, 8192), None, Epilogue::Residual),
        ((512, 2048), Some(1e-6), Epilogue::Store),
        ((512, 2048), Some(1e-6), Epilogue::SwiGlu),
    ] {
        let spec = linear(size, Store::Tiles, norm, epilogue, MANY);
        cases.extend(ROWS.map(|rows| case("linear tiled", &spec, &[(0, rows)], ERROR)));
    }
    cases
}

/// Logits: very many outputs for the few rows that are wanted.
fn vocabulary() -> Vec<Case> {
    let tokens = linear((151_680, 512), Store::Tiles, Some(1e-6), Epilogue::Store, MANY);
    let spec = KernelSpec { rows: Rows::Outputs, max_rows: 64, ..tokens };
    let batches: [Sequences<'_>; 3] = [&[(7, 1)], &[(3, 2), (0, 5), (9, 1)], &[(3, 1); 9]];
    batches.map(|batch| case("logits tiled", &spec, batch, ERROR)).to_vec()
}

pub const SHAPES: [AttnShape; 6] = [
    AttnShape { heads: 32, kv_heads: 8, qk_dim: 128, v_dim: 128 },
    AttnShape { heads: 64, kv_heads: 4, qk_dim: 128, v_dim: 128 },
    AttnShape { heads: 64, kv_heads: 4, qk_dim: 192, v_dim: 128 },
    AttnShape { heads: 8, kv_heads: 2, qk_dim: 64, v_dim: 64 },
    AttnShape { heads: 16, kv_heads: 16, qk_dim: 64, v_dim: 64 },
    AttnShape { heads: 5, kv_heads: 1, qk_dim: 64, v_dim: 64 },
];

pub fn tiled_caches(shape: AttnShape) -> [CacheSpec; 2] {
    caches(shape, 64, KvCodec::Bf16, WINDOW, MANY).map(|cache| CacheSpec { order: KvOrder::Tiles, ..cache })
}

const APPENDS: [Sequences<'static>; 6] = [
    &[(0, 1)],
    &[(4095, 1), (17, 1), (64, 1), (63, 1)],
    &[(700, 3), (0, 2), (63, 2)],
    &[(100, 1); 9],
    &[(0, 300)],
    &[(129, 200), (0, 77), (1000, 1)],
];

fn projections() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, in_features, qk_norm) in [
        (SHAPES[0], 4096, None),
        (SHAPES[1], 2048, None),
        (SHAPES[2], 2048, Some(1e-6)),
        (SHAPES[3], 256, None),
        (SHAPES[4], 320, Some(1e-6)),
        (SHAPES[5], 200, None),
    ] {
        let [growing, ring] = tiled_caches(shape);
        for (cache, norm, own_kv) in
            [(growing, Some(1e-6), true), (ring, Some(1e-6), true), (growing, None, false)]
        {
            let rope = rope(if shape.heads == 5 { 32 } else { shape.qk_dim });
            let store = Store::Tiles;
            let q = Qkv { in_features, shape, norm, qk_norm, rope, own_kv, gates: 0, store, cache };
            let spec = qkv(q, MANY);
            for (i, batch) in APPENDS.iter().enumerate() {
                let small = shape.heads == 5 && own_kv && [1, 2].contains(&i);
                cases.push(sized(case("qkv tiled", &spec, batch, ERROR), small));
            }
            for rope in scaled_ropes(rope.dims).into_iter().filter(|_| own_kv) {
                let spec = qkv(Qkv { rope, ..q }, MANY);
                cases.extend([1, 5].map(|i| case("qkv scaled", &spec, APPENDS[i], ERROR)));
            }
            // Where products end in registers, gates are projected beside them.
            let gates = if own_kv && cache == ring { 2 } else { 1 };
            if qk_norm.is_none() && rope.dims == shape.qk_dim {
                let spec = qkv(Qkv { gates, ..q }, MANY);
                cases.extend(APPENDS.map(|batch| case("qkv gates", &spec, batch, ERROR)));
            }
        }
        for cache in [growing, ring] {
            let spec = append(shape, cache, MANY);
            for (i, batch) in APPENDS.iter().enumerate() {
                let small = shape.heads == 5 && [1, 2].contains(&i);
                cases.push(sized(case("append tiled", &spec, batch, ERROR), small));
            }
        }
    }
    // So many strips that blocks take several one behind the other, by rows in registers, too.
    let shape = shape(40, 2, 128, 128);
    let (store, cache, rope) = (Store::Tiles, tiled_caches(shape)[0], rope(shape.qk_dim));
    let (in_features, norm, gates) = (512, Some(1e-6), 1);
    let q = Qkv { in_features, shape, norm, qk_norm: None, rope, own_kv: true, gates, store, cache };
    let spec = qkv(q, MANY);
    for (i, batch) in APPENDS.iter().enumerate() {
        cases.push(sized(case("qkv gates", &spec, batch, ERROR), [0, 1].contains(&i)));
    }
    cases
}

/// Weights of bf16 beside caches that cannot be tiled, and weights of f32 beside caches that are.
fn mixed() -> Vec<Case> {
    let mut cases = Vec::new();
    let untiled = |shape, page, codec| caches(shape, page, codec, WINDOW, MANY)[0];
    let odd = shape(6, 2, 20, 20);
    let narrow = shape(8, 2, 32, 32);
    let even = shape(8, 2, 64, 64);
    for (shape, store, cache, qk_norm) in [
        (odd, Store::Tiles, untiled(odd, 8, KvCodec::Bf16), None),
        (odd, Store::Tiles, untiled(odd, 8, KvCodec::F32), Some(1e-6)),
        (narrow, Store::Tiles, untiled(narrow, 32, KvCodec::F32), None),
        (even, Store::Tiles, untiled(even, 64, KvCodec::F32), None),
        (even, Store::Panels(Codec::F32), tiled_caches(even)[0], Some(1e-6)),
        (even, Store::Panels(Codec::F32), tiled_caches(even)[1], None),
        (even, Store::Panels(Codec::Bf16), tiled_caches(even)[0], None),
    ] {
        let rope = rope(shape.qk_dim - 4);
        let q = Qkv {
            in_features: 44,
            shape,
            norm: Some(1e-6),
            qk_norm,
            rope,
            own_kv: true,
            gates: 0,
            store,
            cache,
        };
        let spec = qkv(q, MANY);
        let batches = [&APPENDS[1..3], &APPENDS[4..]].concat();
        for (i, batch) in batches.iter().enumerate() {
            cases.push(sized(case("qkv mixed", &spec, batch, ERROR), i == 1));
        }
    }
    cases
}

/// From one token to 32k, decode and prefill, with partial blocks and with fewer blocks than are selected.
const CONTEXTS: [Sequences<'static>; 12] = [
    &[(0, 1)],
    &[(4095, 1), (17, 1), (64, 1), (63, 1)],
    &[(700, 3), (0, 2), (63, 2)],
    &[(300, 1); 9],
    &[(32_767, 1)],
    &[(20_000, 1), (1, 1)],
    &[(0, 300)],
    &[(129, 200), (0, 77), (1000, 1)],
    &[(5_000, 64)],
    &[(0, 64), (64, 33), (1023, 130)],
    // Short contexts of which a block takes several, whole, and beside them a long one.
    &[(40, 30), (0, 2), (127, 1), (128, 31)],
    &[(0, 20), (9_000, 1), (64, 30), (190, 2)],
];

fn attentions() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        let [growing, ring] = tiled_caches(shape);
        let mut specs = Vec::new();
        for (blocks, sink, gate, own) in [
            (16, true, GateMode::Elementwise, ring),
            (16, false, GateMode::Head, growing),
            (3, false, GateMode::None, ring),
        ] {
            for op in every(shape, (64, blocks), WINDOW, sink, gate) {
                let plain = matches!(op, StepOp::FullAttention(_) | StepOp::WindowAttention(_));
                if blocks == 16 || !plain {
                    specs.push(attention(op, growing, own, MANY));
                }
            }
        }
        for spec in specs {
            let family = format!("{} tiled", spec.op.name());
            for (i, batch) in CONTEXTS.iter().enumerate() {
                let small = shape.heads == 5 && [2, 3, 10].contains(&i);
                cases.push(sized(case(&family, &spec, batch, ERROR), small));
            }
        }
    }
    cases
}

/// Equal keys: all blocks tie, and the lower ones must win exactly.
fn ties() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [SHAPES[1], SHAPES[3], SHAPES[5]] {
        let [growing, _] = tiled_caches(shape);
        let select = SelectShape { kv_heads: shape.kv_heads, block: 64, blocks: 16 };
        let spec = attention(
            StepOp::OracleAttention(ops::OracleAttention { shape, sink: false, select }),
            growing,
            growing,
            MANY,
        );
        for batch in [&[(2000, 1), (500, 1)][..], &[(1500, 100)], &[(9_999, 1)]] {
            let case = case("oracle_attention tiled", &spec, batch, ERROR);
            cases.push(Case { fill: Fill::EqualKeys, ..case });
        }
    }
    cases
}

fn mixtures() -> Vec<Case> {
    let mut cases = Vec::new();
    let usual = [(512, 8), (64, 8), (16, 4)].map(|sizes| (sizes, RouterRule::USUAL));
    // As many as there are registers for, an odd number of each, and all of a few.
    let sizes = [(256, 8), (4096, 64), (37, 5), (5, 5)];
    let others = sizes.into_iter().flat_map(|sizes| RULES.map(|rule| (sizes, rule)));
    for (sizes, rule) in usual.into_iter().chain(others) {
        let spec = ruled(sizes, rule, MANY);
        cases.extend([1, 5, 70, 300].map(|rows| case("router", &spec, &[(0, rows)], ERROR)));
        let [_, tied, bad] = routings(case("router", &spec, &[(0, 70)], ERROR));
        cases.push(tied);
        // Where all are chosen those are that are no numbers.
        cases.extend((sizes.0 > sizes.1).then_some(bad));
    }
    let sizes = [(12, 3, 64, 96), (64, 8, 256, 128), (30, 8, 200, 40), (20, 4, 192, 64)];
    let with_shared = [(12, 3, 64, 96), (64, 8, 256, 128), (30, 7, 200, 40)];
    let sizes = sizes.map(|sizes| (sizes, false)).into_iter().chain(with_shared.map(|sizes| (sizes, true)));
    for ((experts_, active, in_features, ffn), shared) in sizes {
        let sizes = Mixture { experts: experts_, active, in_features, ffn, shared };
        for spec in experts(sizes, Store::Tiles, MANY) {
            for rows in [1, 5, 70, 300] {
                let case = case("experts tiled", &spec, &[(0, rows)], ERROR);
                let small = experts_ == 12 && rows < 100;
                cases.push(Case { fill: Fill::SameExperts, ..case.clone() });
                cases.push(sized(case, small));
            }
        }
    }
    cases
}

/// A table that a product reads too.
fn rows() -> Vec<Case> {
    let mut cases = Vec::new();
    for (vocab, hidden) in [(97, 44), (4096, 256), (1000, 2048)] {
        let table = Store::Tiles.matrix(1, vocab, hidden, vocab);
        let spec = spec(StepOp::Embed(ops::Embed { vocab, hidden }), vec![table, tensor(hidden)], MANY);
        cases.extend([1, 33, 300].map(|rows| sized(case("rows tiled", &spec, &[(0, rows)], 1e-6), true)));
    }
    let width = 4096;
    let three = || vec![tensor(width), tensor(width), tensor(width)];
    for spec in [
        spec(StepOp::Add(ops::Add { width }), three(), MANY),
        spec(StepOp::SiluMul(ops::SiluMul { width }), three(), MANY),
        spec(StepOp::Bias(ops::Bias { width }), vec![tensor(width), vector(width), tensor(width)], MANY),
    ] {
        cases.extend([1, 300].map(|rows| case("rows", &spec, &[(0, rows)], ERROR)));
    }
    cases
}
