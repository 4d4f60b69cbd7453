//! Shared memory, barriers and the rings that the copy engine fills.

use inkwell::values::BasicValueEnum;

use super::common::{Probe, keep, launch, probe};
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK, Var, WARP};
use crate::gpu::tile::pipeline::{Fill, Ring, WarpRing};
use hyc_plan::Extent;

pub fn all() -> Vec<Probe> {
    vec![
        probe("dynamic_shared", 2, dynamic_shared),
        probe("named_barrier", 2, named_barrier),
        probe("mask_shared fetch_add_one", 2, words),
        probe("ring", 2, |k| ring(k, false)),
        probe("ring of a pair", 2, |k| ring(k, true)),
        probe("warp_ring", 3, |k| warp_ring(k, false)),
        probe("warp_ring early", 3, |k| warp_ring(k, true)),
    ]
}

/// Static memory beside dynamic: neither lies in the other. Leaves each thread's word of both, and the address
/// modulo 1024.
fn dynamic_shared(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 1024 + SHARED_SLACK, |e| {
        let (few, dynamic, more) = (e.shared(5), e.dynamic_shared(), e.shared(256));
        let (i, other) = (e.thread(), e.sub(e.int(255), e.thread()));
        let x = e.load_int(e.operand_at(0), i);
        e.when(e.lt(i, e.int(5)), |e| e.store(few, i, e.int(7).into()));
        e.store(more, i, e.xor(x, e.minus_one()).into());
        e.barrier();
        e.store(dynamic, i, x.into());
        e.barrier();
        // LLVM must not conclude from the declared alignment what is to be found out.
        let (to, from) = (e.i32(), e.shared_address(dynamic));
        let address = e.asm(to.fn_type(&[to.into()], false), "mov.b32 $0, $1;", "=r,r", true, &[from.into()]);
        let offset = e.and(address.into_int_value(), e.int(1023));
        let kept = e.load_int(few, e.div_rem(i, 5).1);
        let found = [e.load_int(dynamic, other), e.load_int(more, other), kept, offset];
        keep(e, e.operand_at(1), 256, &found.map(BasicValueEnum::from));
    });
}

/// Two groups of four warps, each at a barrier of its own, pass words around for 20 rounds: thread i of a group takes
/// that of thread i + 37 and adds the round.
fn named_barrier(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let memory = e.shared(256);
        let (group, i) = e.div_rem(e.thread(), 128);
        let id = e.add_const(group, 1);
        let mine = e.var(e.load_int(e.operand_at(0), e.thread()).into());
        let other = e.add(e.mul_const(group, 128), e.and(e.add_const(i, 37), e.int(127)));
        // The second group goes round less often: a barrier of both would never end.
        let rounds = e.sub(e.int(20), e.mul_const(group, 3));
        e.each(e.int(0), rounds, 1, |e, round| {
            e.store(memory, e.thread(), e.get(mine));
            e.named_barrier(id, 128);
            e.set(mine, e.add(e.load_int(memory, other), round).into());
            e.named_barrier(id, 128);
        });
        e.store(e.operand_at(1), e.thread(), e.get(mine));
    });
}

/// Masks a word of each thread; counts threads by the low bits of their words.
fn words(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let (memory, counts) = (e.shared(256), e.shared(8));
        let (i, x) = (e.thread(), e.load_int(e.operand_at(0), e.thread()));
        e.when(e.lt(i, e.int(8)), |e| e.store(counts, i, e.int(0).into()));
        e.store(memory, i, x.into());
        e.barrier();
        let other = e.xor(i, e.int(1));
        let at = e.add(e.shared_address(memory), e.mul_const(other, 4));
        e.mask_shared(at, e.or(e.int(0xffff), e.mul_const(other, 1 << 16)));
        e.fetch_add_one(counts, e.and(x, e.int(7)));
        e.barrier();
        let found = [e.load_int(memory, i), e.load_int(counts, e.and(i, e.int(7)))];
        keep(e, e.operand_at(1), 256, &found.map(BasicValueEnum::from));
    });
}

/// Tiles and stages of the ring; as `blocks::pipes` has them.
const TILES: u64 = 37;
const STAGES: u64 = 3;
const WORDS: u64 = 256;

/// One producer, two groups of consumers: each thread sums its word of all tiles, times the tile's number. The second
/// group reads from the tile's end. Of a pair of blocks either copies half of each tile for both.
fn ring(k: &mut Kernel<'_, '_>, paired: bool) {
    let bytes = 4 * WORDS;
    let half = bytes / 2;
    let (blocks, shared) = (1 + u64::from(paired), STAGES * bytes + SHARED_SLACK);
    let grid = [Extent::fixed(blocks), Extent::fixed(1)];
    k.function(Function::new("", grid, 256 + WARP).shared_bytes(shared).clusters(blocks), |e| {
        let memory = e.dynamic_shared();
        let ring = if paired { Ring::of_pair(e, STAGES, 256) } else { Ring::new(e, STAGES, 256) };
        let base = e.shared_address(memory);
        e.when(e.eq(e.thread(), e.int(256)), |e| {
            e.each(e.int(0), e.int(TILES), 1, |e, tile| {
                let from = e.byte_offset(e.operand_at(0), e.mul_const(e.wide(tile), bytes));
                ring.produce(e, bytes, |e, stage, full| {
                    let to = e.add(base, e.mul_const(stage, bytes));
                    if paired {
                        let mine = e.mul_const(e.cluster_rank(), half);
                        e.bulk_copy_to_both(e.add(to, mine), e.byte_offset(from, mine), half, full);
                        return;
                    }
                    // Two copies that one barrier counts.
                    e.bulk_copy(to, from, half, full);
                    let rest = e.byte_offset(from, e.int(half));
                    e.bulk_copy(e.add_const(to, half as i64), rest, half, full);
                });
            });
        });
        e.when(e.lt(e.thread(), e.int(256)), |e| {
            let (group, i) = e.div_rem(e.thread(), 128);
            let last = e.eq(group, e.int(1));
            let sums = [e.var(e.int(0).into()), e.var(e.int(0).into())];
            e.each(e.int(0), e.int(TILES), 1, |e, tile| {
                let stage = ring.full(e);
                let at = e.byte_offset(memory, e.mul_const(stage, bytes));
                for (n, sum) in sums.iter().enumerate() {
                    let word = e.add_const(i, 128 * n as i64);
                    let word = e.pick(last, e.sub(e.int(WORDS - 1), word), word);
                    let part = e.mul(e.load_int(at, word), e.add_const(tile, 1));
                    e.set(*sum, e.add(e.get(*sum).into_int_value(), part).into());
                }
                // Every thread arrives: racecheck does not follow one that speaks for its group behind a barrier.
                e.named_barrier(e.add_const(group, 1), 128);
                ring.release(e, e.lt(i, e.int(128)));
            });
            let to = e.at(e.operand_at(1), e.mul_const(e.block_x(), 2 * 256));
            keep(e, to, 256, &sums.map(|sum| e.get(sum)));
        });
        if paired {
            e.cluster_barrier();
        }
    });
}

/// Warps, stages and bytes of weights and of inputs a tile.
const WARPS: u64 = 4;
const WEIGHTS: u64 = 512;
const INPUTS: u64 = 256;

/// Each warp sums every fourth tile, a lane's six words of it, times the number of tiles so far; then, in the same
/// ring, the first 10 tiles again.
fn warp_ring<'c>(k: &mut Kernel<'c, '_>, early: bool) {
    let bytes = WEIGHTS + INPUTS;
    let shared = WARPS * STAGES * bytes + SHARED_SLACK;
    let grid = [Extent::fixed(1), Extent::fixed(1)];
    k.function(Function::new("", grid, WARPS * WARP).shared_bytes(shared).waits_itself(), |e| {
        if !early {
            e.wait_for_inputs();
        }
        let ring = WarpRing::new(e, WARPS, STAGES, bytes);
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let (sum, count) = (e.var(e.int(0).into()), e.var(e.int(0).into()));
        let int = |e: &Emit<'c>, var: Var<'c>| e.get(var).into_int_value();
        let weights = |e: &Emit<'c>, tile: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let from = e.byte_offset(e.operand_at(0), e.mul_const(e.wide(tile), WEIGHTS));
            e.bulk_copy(to, from, WEIGHTS, full);
        };
        let inputs = |e: &Emit<'c>, tile: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let from = e.byte_offset(e.operand_at(1), e.mul_const(e.wide(tile), INPUTS));
            e.bulk_copy(e.add_const(to, WEIGHTS as i64), from, INPUTS, full);
        };
        let body = |e: &Emit<'c>, _: Int<'c>, stage: Ptr<'c>| {
            let words =
                (0..bytes / 4 / WARP).map(|n| e.load_int(stage, e.add_const(lane, (n * WARP) as i64)));
            let words = words.reduce(|a, b| e.add(a, b)).unwrap_or_else(|| e.int(0));
            e.set(count, e.add_const(int(e, count), 1).into());
            e.set(sum, e.add(int(e, sum), e.mul(words, int(e, count))).into());
        };
        for (tiles, early) in [(TILES, early), (10, false)] {
            let fill = Fill { bytes, weights: &weights, inputs: &inputs, early, then: &|_| {} };
            ring.run(e, (warp, WARPS, tiles), &fill, &body);
        }
        e.store(e.operand_at(2), e.thread(), e.get(sum));
    });
}
