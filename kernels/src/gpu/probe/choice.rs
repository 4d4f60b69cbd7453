//! The best of many scores, by one warp and by several.

use super::common::{Probe, launch, probe};
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Float, Int, WARP};
use crate::gpu::select::{CHUNK, TopK};

pub fn all() -> Vec<Probe> {
    vec![
        probe("best 16", 3, |k| best(k, 16, 1)),
        probe("best 32", 3, |k| best(k, 32, 1)),
        probe("best 16 merged", 3, |k| best(k, 16, 4)),
        probe("best 32 merged", 3, |k| best(k, 32, 4)),
    ]
}

/// Lists, and scores of each; as `blocks::choice` has them.
const LISTS: u64 = 8;
const SCORES: u64 = 2600;

/// A block a list: scores `[LISTS][SCORES]`, how many of them count, the indices `[LISTS][count]`.
fn best<'c>(k: &mut Kernel<'c, '_>, count: u64, warps: u64) {
    launch(k, LISTS, warps * WARP, 0, |e| {
        let list = e.block_x();
        let scores = e.at(e.operand_at(0), e.mul_const(list, SCORES));
        let visible = e.load_int(e.operand_at(1), list);
        let to = e.at(e.operand_at(2), e.mul_const(list, count));
        let score = |e: &Emit<'c>, i: Int<'c>| -> Float<'c> { e.load(scores, i) };
        let warp = e.div_rem(e.thread(), WARP).0;
        let best = TopK::none(e, count);
        e.each(e.mul_const(warp, CHUNK), visible, warps * CHUNK, |e, begin| {
            best.take(e, (begin, visible), &score);
        });
        if warps == 1 {
            return best.write(e, to);
        }
        let (keys, indices) = (e.shared(warps * WARP), e.shared(warps * WARP));
        let mine = e.mul_const(warp, WARP);
        best.leave(e, e.at(keys, mine), e.at(indices, mine));
        e.barrier();
        e.when(e.eq(warp, e.int(0)), |e| {
            best.merge(e, keys, indices, warps);
            best.write(e, to);
        });
    });
}
