//! The best of values in memory, one after the other, by a block.

use super::scores::Heads;
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, WARP};

/// Warps and threads of a block that selects.
pub const WARPS: u64 = 4;
pub const THREADS: u64 = WARPS * WARP;

/// `[group][blocks]` largest logits of each visible block, in device memory of this block alone.
#[derive(Clone, Copy)]
pub struct Scores<'c> {
    pub table: Ptr<'c>,
    pub blocks: u64,
    pub heads: Heads<'c>,
}

impl<'c> Scores<'c> {
    /// Writes the `count` best of the `visible` blocks to `to`, best first, ties to the lower index, -1 where
    /// fewer are visible. The table is used up.
    pub fn select(&self, e: &Emit<'c>, visible: Int<'c>, count: u64, to: Ptr<'c>) {
        let none = e.float(f32::NEG_INFINITY);
        if self.heads.kept.is_some() {
            let group = self.heads.group(e, e.int(0));
            e.each(e.thread(), visible, THREADS, |e, i| {
                let score = group.score(e, |h, most| {
                    let raw = e.load(self.table, e.add_const(i, (h * self.blocks) as i64));
                    most.map_or(raw, |most| e.fsub(raw, most))
                });
                e.store(self.table, i, score.into());
            });
            e.barrier();
        }
        e.each(e.int(0), e.int(count), 1, |e, slot| {
            let (best, at) = argmax(e, self.table, visible);
            e.when(e.eq(e.thread(), e.int(0)), |e| {
                let found = e.above(best, none);
                e.store(to, slot, e.pick(found, at, e.minus_one()).into());
                e.when(found, |e| e.store(self.table, at, none.into()));
            });
            e.barrier();
        });
    }
}

/// The larger of two (value, index), ties to the lower index.
fn better<'c>(e: &Emit<'c>, a: (Float<'c>, Int<'c>), b: (Float<'c>, Int<'c>)) -> (Float<'c>, Int<'c>) {
    let take = e.or(e.above(b.0, a.0), e.and(e.same(b.0, a.0), e.lt(b.1, a.1)));
    (e.pick_float(take, b.0, a.0), e.pick(take, b.1, a.1))
}

/// The largest of `values[0..count]` and where it stands, lowest first among equals; every thread of the block has it.
fn argmax<'c>(e: &Emit<'c>, values: Ptr<'c>, count: Int<'c>) -> (Float<'c>, Int<'c>) {
    let most = e.float_var(f32::NEG_INFINITY);
    let place = e.var(e.int(i32::MAX as u64).into());
    e.each(e.thread(), count, THREADS, |e, i| {
        let x = e.load(values, i);
        let larger = e.above(x, e.get_float(most));
        e.set(place, e.pick(larger, i, e.get(place).into_int_value()).into());
        e.set(most, e.pick_float(larger, x, e.get_float(most)).into());
    });
    let mine = (e.get_float(most), e.get(place).into_int_value());
    let mine = LANES
        .iter()
        .fold(mine, |mine, mask| better(e, mine, (e.shuffle(mine.0, *mask), e.shuffle_int(mine.1, *mask))));
    let (maxima, places) = (e.shared(WARPS), e.shared(WARPS));
    let (warp, lane) = e.div_rem(e.thread(), WARP);
    e.when(e.eq(lane, e.int(0)), |e| {
        e.store(maxima, warp, mine.0.into());
        e.store(places, warp, mine.1.into());
    });
    e.barrier();
    let of = |w: u64| (e.load(maxima, e.int(w)), e.load_int(places, e.int(w)));
    (1..WARPS).fold(of(0), |best, w| better(e, best, of(w)))
}
