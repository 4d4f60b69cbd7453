//! Tensor cores: `mma` and `wgmma`, with operands as attention and products have them.

use hyc_plan::TILE;

use super::common::{Probe, copy, launch, probe};
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::{Fragment, Swizzle, TILE_BYTES};

pub fn all() -> Vec<Probe> {
    vec![
        probe("mma", 4, mma),
        probe("mma of bytes", 4, mma_of_bytes),
        probe("mma of tiles", 3, mma_of_tiles),
        probe("wgmma 64", 3, |k| wgmma(k, 64, How::Once)),
        probe("wgmma 128", 3, |k| wgmma(k, 128, How::Once)),
        probe("wgmma 256", 3, |k| wgmma(k, 256, How::Once)),
        probe("wgmma 64 added", 3, |k| wgmma(k, 64, How::Added)),
        probe("wgmma_start 128", 3, |k| wgmma(k, 128, How::Started)),
        probe("wgmma_start 256", 3, |k| wgmma(k, 256, How::Started)),
        probe("wgmma_registers_start 64", 3, |k| wgmma_registers(k, 64, None)),
        probe("wgmma_registers_start 128", 3, |k| wgmma_registers(k, 128, None)),
        probe("wgmma_registers_start 128 begun", 3, |k| wgmma_registers(k, 128, Some(false))),
        probe("wgmma_registers_start 128 added", 3, |k| wgmma_registers(k, 128, Some(true))),
    ]
}

const TILE_WORDS: u64 = TILE_BYTES / 4;

/// One step as the manual has it: `[16][8]` words of A, `[8][8]` of B (a row a column of the result), f32 `[16][8]`
/// that it is added to.
fn mma(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 32, 0, |e| {
        let (a, b, places) = one_step(e);
        let sums = places.map(|at| e.var(e.load(e.operand_at(2), at).into()));
        e.mma(&sums, a, b);
        places.iter().zip(sums).for_each(|(at, sum)| e.store(e.operand_at(3), *at, e.get(sum)));
    });
}

/// A lane's words of `[16][8]` of A and `[8][8]` of B, and its places in the result.
fn one_step<'c>(e: &Emit<'c>) -> ([Int<'c>; 4], [Int<'c>; 2], [Int<'c>; 4]) {
    let (g, t) = e.lane_pair();
    let at = e.add(e.mul_const(g, 8), t);
    let a = [(0, 0), (8, 0), (0, 4), (8, 4)]
        .map(|(row, word)| e.load_int(e.operand_at(0), e.add_const(at, 8 * row + word)));
    let b = [0, 4].map(|word| e.load_int(e.operand_at(1), e.add_const(at, word)));
    (a, b, places(e, g, t))
}

/// The same of signed bytes: `[16][8]` and `[8][8]` words of four, whole numbers `[16][8]`.
fn mma_of_bytes(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 32, 0, |e| {
        let (a, b, places) = one_step(e);
        let sums = e.mma_bytes(a, b, places.map(|at| e.load_int(e.operand_at(2), at)));
        places.iter().zip(sums).for_each(|(at, sum)| e.store(e.operand_at(3), *at, sum.into()));
    });
}

/// Of a lane's four sums in `[16][8]`.
fn places<'c>(e: &Emit<'c>, g: Int<'c>, t: Int<'c>) -> [Int<'c>; 4] {
    let at = e.add(e.mul_const(g, 8), e.mul_const(t, 2));
    [0, 1, 64, 65].map(|plus| e.add_const(at, plus))
}

/// 16 rows of one swizzled tile by 8 of another: four steps, k's in the order that products and attentions take.
fn mma_of_tiles(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 32, 0, |e| {
        let (g, t) = e.lane_pair();
        let sums = [0; 4].map(|_| e.float_var(0.0));
        for first in [0, 4] {
            let at = Swizzle::words(e, g, e.add_const(t, first));
            let [low, high] = [0, 256].map(|eight| e.load4(e.operand_at(0), e.add_const(at, eight)));
            Fragment { low, high: Some(high) }.multiply(e, &sums, e.load4(e.operand_at(1), at));
        }
        places(e, g, t).iter().zip(sums).for_each(|(at, sum)| e.store(e.operand_at(2), *at, e.get(sum)));
    });
}

/// k tiles of a `wgmma`'s operands.
const K_TILES: u64 = 3;

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// All steps in one group.
    Once,
    /// A k tile a group, added to sums that begin as 1.5.
    Added,
    /// A k tile a group, one under way while the next is started.
    Started,
}

/// 64 rows by `n`, over [`K_TILES`]: A `[K_TILES]`, B `[n / 64][K_TILES]` tiles, the result `[64][n]`.
fn wgmma(k: &mut Kernel<'_, '_>, n: u64, how: How) {
    let rows = n / TILE;
    let shared = K_TILES * (1 + rows) * TILE_BYTES + SHARED_SLACK;
    launch(k, 1, 128, shared, |e| {
        let memory = e.dynamic_shared();
        copy(e, e.operand_at(0), memory, e.int(K_TILES * TILE_WORDS), 128);
        // B as a stage has it: the rows of one k tile together.
        e.each(e.int(0), e.int(K_TILES * rows), 1, |e, i| {
            let (tile, row) = e.div_rem(i, rows);
            let from = e.add(e.mul_const(row, K_TILES), tile);
            let from = e.at(e.operand_at(1), e.mul_const(from, TILE_WORDS));
            let to = e.at(memory, e.mul_const(e.add_const(i, K_TILES as i64), TILE_WORDS));
            copy(e, from, to, e.int(TILE_WORDS), 128);
        });
        e.async_fence();
        e.barrier();
        let base = e.shared_address(memory);
        let behind = e.add_const(base, (K_TILES * TILE_BYTES) as i64);
        let first = if how == How::Added { 1.5 } else { 0.0 };
        let sums: Vec<Var<'_>> = (0..n / 2).map(|_| e.float_var(first)).collect();
        let one =
            |tile: u64| (0..4).map(move |i| (tile * TILE_BYTES + 32 * i, tile * rows * TILE_BYTES + 32 * i));
        match how {
            How::Once => {
                let steps: Vec<(u64, u64)> = (0..K_TILES).flat_map(one).collect();
                e.wgmma(&sums, e.descriptor(base), e.descriptor(behind), &steps, false);
            }
            How::Added | How::Started => {
                let steps: Vec<(u64, u64)> = one(0).collect();
                e.each(e.int(0), e.int(K_TILES), 1, |e, tile| {
                    let a = e.descriptor(e.add(base, e.mul_const(tile, TILE_BYTES)));
                    let b = e.descriptor(e.add(behind, e.mul_const(tile, rows * TILE_BYTES)));
                    if how == How::Added {
                        e.wgmma(&sums, a, b, &steps, true);
                    } else {
                        e.wgmma_start(&sums, a, b, &steps, true);
                        e.wgmma_wait(&sums, 1);
                    }
                });
                e.wgmma_wait(&sums, 0);
            }
        }
        keep(e, &sums, n, e.operand_at(2));
    });
}

/// Sums of a warp group to `[64][n]`.
fn keep<'c>(e: &Emit<'c>, sums: &[Var<'c>], n: u64, to: Ptr<'c>) {
    let (g, t) = e.lane_pair();
    let row = e.add(e.mul_const(e.div_rem(e.thread(), 32).0, 16), g);
    let at = e.add(e.mul_const(row, n), e.mul_const(t, 2));
    for (i, sum) in sums.iter().enumerate() {
        let (column, low) = (8 * (i / 4) + i % 2, i / 2 % 2);
        e.store(to, e.add_const(at, (column as u64 + 8 * low as u64 * n) as i64), e.get(*sum));
    }
}

/// A `[64][64]` in plain rows, from registers; B `[n / 64]` tiles; added to sums that begin as 1.5, or instead of them.
fn wgmma_registers(k: &mut Kernel<'_, '_>, n: u64, added: Option<bool>) {
    launch(k, 1, 128, n / TILE * TILE_BYTES + SHARED_SLACK, |e| {
        let memory = e.dynamic_shared();
        copy(e, e.operand_at(1), memory, e.int(n / TILE * TILE_WORDS), 128);
        e.async_fence();
        e.barrier();
        let (g, t) = e.lane_pair();
        let row = e.add(e.mul_const(e.div_rem(e.thread(), 32).0, 16), g);
        let at = e.add(e.mul_const(row, 32), t);
        let a: Vec<[Int<'_>; 4]> = (0..4)
            .map(|step| {
                [(0, 0), (8, 0), (0, 4), (8, 4)].map(|(row, word)| {
                    e.load_int(e.operand_at(0), e.add_const(at, 32 * row + 8 * step + word))
                })
            })
            .collect();
        let sums: Vec<Var<'_>> = (0..n / 2).map(|_| e.float_var(1.5)).collect();
        let (right, steps) = (e.descriptor(e.shared_address(memory)), [0, 32, 64, 96]);
        let more = added.map(|added| e.eq(e.opaque(e.int(added.into())), e.int(1)));
        e.wgmma_registers_start((&sums, more), &a, right, &steps);
        e.wgmma_wait(&sums, 0);
        keep(e, &sums, n, e.operand_at(2));
    });
}
