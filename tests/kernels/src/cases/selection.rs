//! Selections where the order of blocks is easily lost: large logits, of one head and of several.

use hyc_plan::*;

use super::attention::{attention, caches};
use super::{FEW, Limits, MANY, Sequences, case};
use crate::case::{Case, Fill};

/// (Query heads, KV heads, block).
fn oracles(
    shapes: &[(u64, u64)],
    dim: u64,
    (block, blocks): (u64, u64),
    codec: KvCodec,
    limits: Limits,
) -> Vec<KernelSpec> {
    let mut specs = Vec::new();
    for (heads, kv_heads) in shapes {
        let shape = AttnShape { heads: *heads, kv_heads: *kv_heads, qk_dim: dim, v_dim: dim };
        let growing = caches(shape, block, codec, 11, limits)[0];
        let order = if block == TILE { KvOrder::Tiles } else { KvOrder::Columns };
        let growing = CacheSpec { order, ..growing };
        let select = SelectShape { kv_heads: *kv_heads, block, blocks };
        for sink in [false, true] {
            specs.push(attention(
                StepOp::OracleAttention(ops::OracleAttention { shape, sink, select }),
                growing,
                growing,
                limits,
            ));
        }
    }
    specs
}

fn large(family: &str, specs: &[KernelSpec], batches: &[Sequences<'_>], error: f64) -> Vec<Case> {
    let of = |spec| batches.iter().map(move |batch| case(family, spec, batch, error));
    specs.iter().flat_map(of).map(|case| Case { fill: Fill::LargeLogits, ..case }).collect()
}

/// For kernels of panels.
pub fn portable() -> Vec<Case> {
    let groups = [(2, 2), (4, 2), (5, 1), (8, 1), (17, 1)];
    let batches: [Sequences<'_>; 2] = [&[(900, 1), (30, 2)], &[(200, 40)]];
    large("attention", &oracles(&groups, 16, (8, 6), KvCodec::F32, FEW), &batches, 5e-6)
}

/// For kernels of tiles: a decode and a prefill.
pub fn tiled() -> Vec<Case> {
    let groups = [(2, 2), (4, 2), (5, 1), (16, 1)];
    let batches: [Sequences<'_>; 3] = [&[(9_999, 1)], &[(2000, 1), (500, 1)], &[(1500, 100), (0, 70)]];
    let specs = oracles(&groups, 64, (64, 16), KvCodec::Bf16, MANY);
    large("oracle_attention tiled", &specs, &batches, 1e-2)
}
