//! Attention whose neighbouring queries share pages, where its lists are at an edge: pages that one query takes, that all take,
//! and that no two take; tiles of a few queries and of several sequences; contexts of one to three pages, and of a million
//! tokens.

use hyc_plan::*;

use super::attention::{attention, caches};
use super::tiled::{ERROR, SHAPES, WINDOW};
use super::{Case, Fill, Limits, MANY, Sequences, case, indices, sized, spec};

/// With what each is selected.
const EDGES: [(Fill, Sequences<'static>); 8] = [
    (Fill::Random, &[(0, 3)]),
    // One to three pages, one to three queries.
    (Fill::Random, &[(0, 1), (64, 2), (128, 3), (191, 1)]),
    // A chunk that begins in a page and ends in another.
    (Fill::Random, &[(63, 130)]),
    (Fill::SameBlocks, &[(5_000, 130)]),
    (Fill::SameBlocks, &[(2_000, 70), (300, 1), (9_000, 65)]),
    (Fill::OwnBlocks, &[(30_000, 130)]),
    (Fill::OwnBlocks, &[(30_000, 3), (700, 61), (10, 20)]),
    (Fill::OwnBlocks, &[(20_000, 512)]),
];

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in SHAPES {
        for (op, own) in ops(shape) {
            let [growing, ring] = tiled(shape, MANY);
            let spec = attention(op, growing, if own { ring } else { growing }, MANY);
            for (i, (fill, batch)) in EDGES.into_iter().enumerate() {
                let small = shape.heads == 5 && i == 1;
                cases.push(Case { fill, ..sized(case(FAMILY, &spec, batch, ERROR), small) });
            }
        }
    }
    let (shape, limits) = (SHAPES[5], Limits { context: 1 << 20, ..MANY });
    let [growing, _] = tiled(shape, limits);
    let [(op, _), _] = ops(shape);
    let spec = attention(op, growing, growing, limits);
    for fill in [Fill::Random, Fill::OwnBlocks] {
        cases.push(Case { fill, ..case(FAMILY, &spec, &[((1 << 20) - 100, 100)], ERROR) });
    }
    cases.extend(lists());
    cases
}

/// The lists themselves: of each tile that there is, and in steps that have none.
fn lists() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tile, least) in [(48, 1), (12, 1), (24, 1), (192, 1), (36, 1), (48, 131)] {
        for (shape, blocks) in [(SHAPES[0], 16), (SHAPES[5], 3)] {
            let select = SelectShape { kv_heads: shape.kv_heads, block: 64, blocks };
            let lists = ListShape { tile, least };
            let op = ops::PageLists { select, qk_dim: shape.qk_dim, v_dim: shape.v_dim, lists };
            let [growing, _] = tiled(shape, MANY);
            let operands = vec![
                OperandSpec::Cache(growing),
                indices(select.kv_heads * blocks),
                indices(lists.width(select).unwrap_or_default()),
            ];
            let spec = spec(StepOp::PageLists(op), operands, MANY);
            for (i, (fill, batch)) in EDGES.into_iter().enumerate() {
                let small = shape.heads == 5 && i == 1;
                cases.push(Case { fill, ..sized(case(FAMILY, &spec, batch, 0.0), small) });
            }
        }
    }
    cases
}

const FAMILY: &str = "page lists";

fn tiled(shape: AttnShape, limits: Limits) -> [CacheSpec; 2] {
    caches(shape, 64, KvCodec::Bf16, WINDOW, limits).map(|cache| CacheSpec { order: KvOrder::Tiles, ..cache })
}

/// A sparse attention of few blocks, and both branches; whether a window reads a ring.
fn ops(shape: AttnShape) -> [(StepOp, bool); 2] {
    let select = |blocks| SelectShape { kv_heads: shape.kv_heads, block: 64, blocks };
    let gate = GateMode::Elementwise;
    [
        (
            StepOp::SparseAttention(ops::SparseAttention {
                shape,
                select: select(3),
                sink: true,
                lists: None,
            }),
            false,
        ),
        (
            StepOp::HybridAttention(ops::HybridAttention {
                shape,
                select: select(16),
                window: WINDOW,
                gate,
                lists: None,
            }),
            true,
        ),
    ]
}
