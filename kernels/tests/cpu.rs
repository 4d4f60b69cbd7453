//! Every CPU kernel against the reference on fresh random inputs.

mod common;

use common::{Batch, Rng, check};
use hyc_ir::abi::round_up;
use hyc_ir::plan::*;

fn tensor(width: u64) -> OperandSpec {
    OperandSpec::Tensor { elem: Elem::F32, width, stride: round_up(width, 16) }
}

fn indices(width: u64) -> OperandSpec {
    OperandSpec::Tensor { elem: Elem::I32, width, stride: round_up(width, 16) }
}

fn vector(len: u64) -> OperandSpec {
    OperandSpec::Weight { elem: Elem::F32, layout: Layout::Vector { len } }
}

fn panels(elem: Elem, count: u64, out: u64, inn: u64, group: u64) -> OperandSpec {
    OperandSpec::Weight { elem, layout: Layout::Panels { count, out, inn, group } }
}

fn spec(op: StepOp, operands: Vec<OperandSpec>) -> KernelSpec {
    KernelSpec { op, operands, rows: Rows::Tokens, max_rows: 64, max_context: 1024 }
}

/// A fresh seed a run, printed so that a failure can be repeated with HYC_SEED.
fn seed() -> Rng {
    let seed = std::env::var("HYC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
    });
    println!("HYC_SEED={seed}");
    Rng(seed)
}

const RAGGED: &[&[(u64, u64)]] = &[&[(0, 1)], &[(5, 1), (23, 1)], &[(0, 13)], &[(9, 7), (0, 3), (31, 1)]];

#[test]
fn linear_with_every_epilogue() {
    let mut rng = seed();
    for (inn, out) in [(44, 97), (7, 5), (64, 48), (33, 16)] {
        for elem in [Elem::F32, Elem::Bf16] {
            for norm in [None, Some(1e-6)] {
                for epilogue in [Epilogue::Store, Epilogue::Residual, Epilogue::SwiGlu] {
                    let mut operands = vec![tensor(inn)];
                    operands.extend(norm.map(|_| vector(inn)));
                    operands.push(panels(elem, 1, out, inn, out));
                    match epilogue {
                        Epilogue::Store => {}
                        Epilogue::Residual => operands.push(tensor(out)),
                        Epilogue::SwiGlu => operands.push(panels(elem, 1, out, inn, out)),
                    }
                    operands.push(tensor(out));
                    let spec = spec(StepOp::Linear { inn, out, norm, epilogue }, operands);
                    for sequences in RAGGED {
                        let batch = Batch::new(&mut rng, 8, sequences, 50);
                        check(&mut rng, &spec, &batch, 3e-6);
                    }
                }
            }
        }
    }
}

fn caches(shape: AttnShape, page: u64, elem: Elem) -> [CacheSpec; 2] {
    let growing = CacheSpec {
        kv_heads: shape.kv_heads,
        qk_dim: shape.qk_dim,
        v_dim: shape.v_dim,
        elem,
        page,
        policy: CachePolicy::Growing,
        tiled: false,
    };
    let ring = CachePolicy::Ring { window: 11, pages: (11 + 64u64).div_ceil(page) + 1 };
    [growing, CacheSpec { policy: ring, ..growing }]
}

const SHAPES: &[AttnShape] = &[
    AttnShape { heads: 6, kv_heads: 2, qk_dim: 20, v_dim: 20 },
    AttnShape { heads: 4, kv_heads: 4, qk_dim: 24, v_dim: 12 },
    AttnShape { heads: 16, kv_heads: 1, qk_dim: 10, v_dim: 10 },
    AttnShape { heads: 5, kv_heads: 1, qk_dim: 32, v_dim: 33 },
];

#[test]
fn qkv_append() {
    let mut rng = seed();
    for shape in SHAPES {
        let AttnShape { heads, kv_heads, qk_dim, v_dim } = *shape;
        for (elem, norm, qk_norm, own_kv) in [
            (Elem::F32, None, None, true),
            (Elem::Bf16, Some(1e-5), Some(1e-6), true),
            (Elem::F32, Some(1e-6), Some(1e-6), false),
        ] {
            for cache in caches(*shape, 8, elem) {
                let inn = 44;
                let mut operands = vec![tensor(inn)];
                operands.extend(norm.map(|_| vector(inn)));
                operands.push(panels(elem, 1, heads * qk_dim, inn, qk_dim));
                if own_kv {
                    operands.push(panels(elem, 1, kv_heads * qk_dim, inn, qk_dim));
                    operands.push(panels(elem, 1, kv_heads * v_dim, inn, v_dim));
                }
                operands.extend(qk_norm.map(|_| vector(qk_dim)));
                operands.extend(qk_norm.filter(|_| own_kv).map(|_| vector(qk_dim)));
                operands.push(tensor(heads * qk_dim));
                operands.extend(own_kv.then_some(OperandSpec::Cache(cache)));
                let rope = RopeSpec { theta: 640_000.0, dims: qk_dim - 4 };
                let op = StepOp::QkvAppend { inn, shape: *shape, norm, qk_norm, rope, own_kv };
                let spec = spec(op, operands);
                for sequences in RAGGED {
                    let batch = Batch::new(&mut rng, 8, sequences, 50);
                    check(&mut rng, &spec, &batch, 3e-6);
                }
            }
        }
    }
}

#[test]
fn rope_at_far_positions() {
    let mut rng = seed();
    let rope = RopeSpec { theta: 10_000.0, dims: 64 };
    let spec = spec(StepOp::Rope { heads: 2, dim: 64, rope }, vec![tensor(128), tensor(128)]);
    let batch = Batch::new(&mut rng, 64, &[(1_048_570, 5), (131_071, 2)], 50);
    check(&mut rng, &spec, &batch, 1e-6);
}

fn attentions(shape: AttnShape, select: SelectShape, sink: bool, gate: GateMode) -> Vec<StepOp> {
    vec![
        StepOp::FullAttention { shape, sink },
        StepOp::OracleAttention { shape, sink, select },
        StepOp::WindowAttention { shape, window: 11, sink },
        StepOp::SparseAttention { shape, select, sink },
        StepOp::HybridAttention { shape, select, window: 11, gate },
    ]
}

fn attention_operands(
    op: &StepOp,
    shape: AttnShape,
    select: SelectShape,
    own: CacheSpec,
    shared: CacheSpec,
) -> Vec<OperandSpec> {
    let cache = if matches!(op, StepOp::WindowAttention { .. }) { own } else { shared };
    op.signature()
        .iter()
        .map(|role| match role.name {
            "q" => tensor(shape.heads * shape.qk_dim),
            "cache" | "shared" => OperandSpec::Cache(cache),
            "own" => OperandSpec::Cache(own),
            "sel" => indices(select.kv_heads * select.blocks),
            "sink" | "sink_select" | "sink_window" => vector(shape.heads),
            "gate_select" | "gate_window" => match op {
                StepOp::HybridAttention { gate: GateMode::Head, .. } => tensor(shape.heads),
                _ => tensor(shape.heads * shape.v_dim),
            },
            _ => tensor(shape.heads * shape.v_dim),
        })
        .collect()
}

#[test]
fn every_attention() {
    let mut rng = seed();
    for (i, shape) in SHAPES.iter().enumerate() {
        let elem = if i % 2 == 0 { Elem::F32 } else { Elem::Bf16 };
        let [growing, ring] = caches(*shape, 8, elem);
        for (blocks, sink, gate, own) in [
            (3, true, GateMode::Elementwise, ring),
            (1, false, GateMode::Head, growing),
            (9, true, GateMode::None, ring),
        ] {
            let select = SelectShape { kv_heads: shape.kv_heads, block: 8, blocks };
            for op in attentions(*shape, select, sink, gate) {
                let spec = spec(op, attention_operands(&op, *shape, select, own, growing));
                for sequences in [&[(0u64, 1u64)][..], &[(0, 13)], &[(40, 7), (0, 9), (100, 1)]] {
                    let batch = Batch::new(&mut rng, 8, sequences, 50);
                    check(&mut rng, &spec, &batch, 5e-6);
                }
            }
        }
    }
}

#[test]
fn attention_over_blocks_of_64() {
    let mut rng = seed();
    let shape = AttnShape { heads: 8, kv_heads: 2, qk_dim: 64, v_dim: 64 };
    let [growing, ring] = caches(shape, 64, Elem::Bf16);
    let select = SelectShape { kv_heads: 2, block: 64, blocks: 4 };
    for op in attentions(shape, select, true, GateMode::Elementwise) {
        let spec = spec(op, attention_operands(&op, shape, select, ring, growing));
        let batch = Batch::new(&mut rng, 64, &[(700, 3), (0, 2), (63, 2)], 50);
        check(&mut rng, &spec, &batch, 5e-6);
    }
}

/// Equal keys in every block: all scores tie, and the lower blocks must win.
#[test]
fn ties_between_blocks_go_to_the_lower_index() {
    let mut rng = seed();
    let shape = AttnShape { heads: 2, kv_heads: 1, qk_dim: 8, v_dim: 8 };
    let [growing, _] = caches(shape, 8, Elem::F32);
    let select = SelectShape { kv_heads: 1, block: 8, blocks: 3 };
    let op = StepOp::OracleAttention { shape, sink: false, select };
    let spec = spec(op, attention_operands(&op, shape, select, growing, growing));
    let batch = Batch::new(&mut rng, 8, &[(0, 60)], 50);
    let mut memory = common::memory(&mut rng, &spec, &batch);
    let one = 1.0f32.to_le_bytes();
    memory[1].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&one));
    let got = common::run_generated(&spec, &batch, &memory, hyc_kernels::cpu::CpuTarget::host(), 1000);
    let want = common::run_reference(&spec, &batch, &memory);
    assert_eq!(got[3], want[3]);
    let last: Vec<i32> =
        (0..3).map(|i| i32::from_le_bytes(got[3][(59 * 16 + i) * 4..][..4].try_into().unwrap())).collect();
    assert_eq!(last, [0, 1, 2]);
}

#[test]
fn pointwise_ops() {
    let mut rng = seed();
    for width in [44, 7, 64] {
        let (heads, v_dim) = (2, width / 2);
        let mut cases = vec![
            (StepOp::Add { width }, vec![tensor(width), tensor(width), tensor(width)]),
            (StepOp::SiluMul { width }, vec![tensor(width), tensor(width), tensor(width)]),
            (StepOp::GatherRows { width }, vec![tensor(width), tensor(width)]),
            (
                StepOp::RmsNorm { groups: 1, width, eps: 1e-6 },
                vec![tensor(width), vector(width), tensor(width)],
            ),
            (
                StepOp::RmsNorm { groups: 3, width, eps: 1e-6 },
                vec![tensor(3 * width), vector(width), tensor(3 * width)],
            ),
        ];
        let wide = heads * v_dim;
        for (mode, gate) in [(GateMode::Head, heads), (GateMode::Elementwise, wide)] {
            cases.push((StepOp::Gate { heads, v_dim, mode }, vec![tensor(wide), tensor(gate), tensor(wide)]));
        }
        for elem in [Elem::F32, Elem::Bf16] {
            let rows = OperandSpec::Weight { elem, layout: Layout::Rows { rows: 50, cols: width } };
            for table in [rows, panels(elem, 1, 50, width, 50)] {
                cases.push((StepOp::Embed { vocab: 50, hidden: width }, vec![table, tensor(width)]));
            }
        }
        for (op, operands) in cases {
            let mut spec = spec(op, operands);
            if matches!(op, StepOp::GatherRows { .. }) {
                spec.rows = Rows::Outputs;
            }
            for sequences in RAGGED {
                let batch = Batch::new(&mut rng, 8, sequences, 50);
                check(&mut rng, &spec, &batch, 2e-6);
            }
        }
    }
}

#[test]
fn append() {
    let mut rng = seed();
    for shape in SHAPES {
        for cache in caches(*shape, 8, Elem::Bf16) {
            let AttnShape { kv_heads, qk_dim, v_dim, .. } = *shape;
            let operands =
                vec![tensor(kv_heads * qk_dim), tensor(kv_heads * v_dim), OperandSpec::Cache(cache)];
            let spec = spec(StepOp::Append { kv_heads, qk_dim, v_dim }, operands);
            for sequences in RAGGED {
                let batch = Batch::new(&mut rng, 8, sequences, 50);
                check(&mut rng, &spec, &batch, 1e-6);
            }
        }
    }
}

#[test]
fn mixture_of_experts() {
    let mut rng = seed();
    for (experts, active, inn, ffn) in [(12, 3, 44, 20), (4, 4, 16, 7), (30, 8, 32, 33)] {
        for elem in [Elem::F32, Elem::Bf16] {
            let router = StepOp::Router { experts, active };
            let up = StepOp::ExpertsUp { experts, active, inn, ffn };
            let down = StepOp::ExpertsDown { experts, active, out: inn, ffn };
            let cases = [
                (router, vec![tensor(experts), indices(active), tensor(active)]),
                (
                    up,
                    vec![
                        tensor(inn),
                        indices(active),
                        panels(elem, experts, ffn, inn, ffn),
                        panels(elem, experts, ffn, inn, ffn),
                        tensor(active * ffn),
                    ],
                ),
                (
                    down,
                    vec![
                        tensor(active * ffn),
                        indices(active),
                        tensor(active),
                        panels(elem, experts, inn, ffn, inn),
                        tensor(inn),
                        tensor(inn),
                    ],
                ),
            ];
            for (op, operands) in cases {
                let spec = spec(op, operands);
                for sequences in RAGGED {
                    let batch = Batch::new(&mut rng, 8, sequences, 50);
                    check(&mut rng, &spec, &batch, 3e-6);
                }
            }
        }
    }
}
