//! The k best blocks of a block's (token, KV head): HySparse 2602.03560, Algorithm 1 and equation 3, in logs.

use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, Var, WARP};

/// Warps and threads of a block that selects.
pub const WARPS: u64 = 4;
pub const THREADS: u64 = WARPS * WARP;

/// By what the scores of a group's heads compare, in shared memory.
///
/// ```text
/// score_h(page) = (raw_h(page) - most_h) - (ln l_h - least ln l of the group)      (any one base of logarithms)
/// most_h = largest logit of the head       l_h = sum of exp(logit - most_h), the sink's included
/// ```
/// The group's best block is near 0, where f32 is finest, and a score is off by 2^-22 of itself. `raw - lse` would be
/// off by as much of the logits, which may be thousands. One head's blocks stay in the order of their raw maxima, and
/// in a group of one those are the scores: nothing is kept then.
#[derive(Clone, Copy)]
pub struct Heads<'c> {
    group: u64,
    kept: Option<Kept<'c>>,
}

#[derive(Clone, Copy)]
struct Kept<'c> {
    /// `[rows]` each: the largest logit, the larger of that and the sink, ln of the sum relative to that.
    most: Ptr<'c>,
    top: Option<Ptr<'c>>,
    log_sum: Ptr<'c>,
    /// `[warp][group]`: ln l less the least.
    excess: Ptr<'c>,
}

impl<'c> Heads<'c> {
    /// For `rows` rows, each a head of a token, that `warps` warps compare.
    pub fn new(e: &Emit<'c>, group: u64, rows: u64, warps: u64, sink: bool) -> Heads<'c> {
        let kept = (group > 1).then(|| Kept {
            most: e.shared(rows),
            top: sink.then(|| e.shared(rows)),
            log_sum: e.shared(rows),
            excess: e.shared(warps * group),
        });
        Heads { group, kept }
    }

    /// Floats of shared memory that this takes.
    pub fn floats(group: u64, rows: u64, warps: u64) -> u64 {
        if group > 1 { 3 * rows + warps * group } else { 0 }
    }

    /// Notes a row: its largest logit, the larger of that and the sink, and the sum of exponentials relative to that.
    /// A barrier follows.
    pub fn note(&self, e: &Emit<'c>, row: Int<'c>, most: Float<'c>, top: Float<'c>, log_sum: Float<'c>) {
        let Some(kept) = self.kept else { return };
        e.store(kept.most, row, most.into());
        if let Some(tops) = kept.top {
            e.store(tops, row, top.into());
        }
        e.store(kept.log_sum, row, log_sum.into());
    }

    /// The group whose rows start at `first`, by all lanes of a warp.
    pub fn group(&self, e: &Emit<'c>, first: Int<'c>) -> Group<'c> {
        let Some(kept) = self.kept else { return Group { heads: self.group, most_excess: None } };
        let (warp, lane) = e.div_rem(e.thread(), WARP);
        let excess = e.at(kept.excess, e.mul_const(warp, self.group));
        // A sink may be far above all logits: in f32 its distance would be too coarse.
        let log_l = |e: &Emit<'c>, head: Int<'c>| {
            let row = e.add(first, head);
            let log_sum = e.load(kept.log_sum, row);
            kept.top.map_or(log_sum, |top| {
                let (top, most) = (e.double(e.load(top, row)), e.double(e.load(kept.most, row)));
                e.fadd(e.fsub(top, most), e.double(log_sum))
            })
        };
        let least = (1..self.group).fold(log_l(e, e.int(0)), |least, head| {
            let own = log_l(e, e.int(head));
            e.pick_float(e.above(least, own), own, least)
        });
        // Lanes may still read what stood here for the group before.
        e.warp_barrier();
        e.each(lane, e.int(self.group), WARP, |e, head| {
            let more = e.fsub(log_l(e, head), least);
            let more = if kept.top.is_some() { e.single(more) } else { more };
            e.store(excess, head, more.into());
        });
        e.warp_barrier();
        Group { heads: self.group, most_excess: Some((e.at(kept.most, first), excess)) }
    }
}

/// One group, ready to score its pages.
pub struct Group<'c> {
    heads: u64,
    most_excess: Option<(Ptr<'c>, Ptr<'c>)>,
}

impl<'c> Group<'c> {
    /// A page's score: `above` gives its raw maximum of a head less that head's largest logit, or, without one, as it
    /// is.
    pub fn score(&self, e: &Emit<'c>, above: impl Fn(u64, Option<Float<'c>>) -> Float<'c>) -> Float<'c> {
        let Some((most, excess)) = self.most_excess else { return above(0, None) };
        (0..self.heads).fold(e.float(f32::NEG_INFINITY), |score, h| {
            let own = above(h, Some(e.load(most, e.int(h))));
            e.fmax(score, e.fsub(own, e.load(excess, e.int(h))))
        })
    }
}

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
            let (best, at) = argmax(e, self.table, visible, THREADS);
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

/// The largest of `values[0..count]` and where it stands, lowest first among equals; every thread of the block
/// (of `threads`: one warp, or [`THREADS`]) has it.
pub fn argmax<'c>(e: &Emit<'c>, values: Ptr<'c>, count: Int<'c>, threads: u64) -> (Float<'c>, Int<'c>) {
    let most = e.float_var(f32::NEG_INFINITY);
    let place = e.var(e.int(i32::MAX as u64).into());
    e.each(e.thread(), count, threads, |e, i| {
        let x = e.load(values, i);
        let larger = e.above(x, e.get_float(most));
        e.set(place, e.pick(larger, i, e.get(place).into_int_value()).into());
        e.set(most, e.pick_float(larger, x, e.get_float(most)).into());
    });
    let mine = (e.get_float(most), e.get(place).into_int_value());
    let mine = LANES
        .iter()
        .fold(mine, |mine, mask| better(e, mine, (e.shuffle(mine.0, *mask), e.shuffle_int(mine.1, *mask))));
    if threads == WARP {
        return mine;
    }
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

/// Pages that a warp looks at together: sixteen a lane.
pub const CHUNK: u64 = 512;

/// The best blocks so far of one warp: lane i has the i-th, as a key and an index.
///
/// A key is a score as an unsigned int of the same order, so that the warp finds a maximum with one instruction;
/// 0 stands for none.
pub struct Best<'c> {
    key: Var<'c>,
    index: Var<'c>,
}

impl<'c> Best<'c> {
    /// None yet.
    pub fn none(e: &Emit<'c>) -> Best<'c> {
        Best { key: e.var(e.int(0).into()), index: e.var(e.minus_one().into()) }
    }

    /// Takes in pages `begin..end`, at most [`CHUNK`], and keeps the `count` best.
    pub fn take(
        &self,
        e: &Emit<'c>,
        (begin, end): (Int<'c>, Int<'c>),
        count: u64,
        score: &dyn Fn(&Emit<'c>, Int<'c>) -> Float<'c>,
    ) {
        let lane = e.and(e.thread(), e.int(WARP - 1));
        let mut candidates = vec![(self.key, self.index)];
        for i in 0..CHUNK / WARP {
            let page = e.add(begin, e.add_const(lane, (i * WARP) as i64));
            let key = ordered(e, score(e, e.min(page, e.add_const(end, -1))));
            let key = e.pick(e.lt(page, end), key, e.int(0));
            candidates.push((e.var(key.into()), e.var(page.into())));
        }
        self.choose(e, &candidates, count);
    }

    /// The `count` best of all lanes' candidates become the list.
    fn choose(&self, e: &Emit<'c>, candidates: &[(Var<'c>, Var<'c>)], count: u64) {
        let lane = e.and(e.thread(), e.int(WARP - 1));
        let (key, index) = (e.var(e.int(0).into()), e.var(e.minus_one().into()));
        let int = |e: &Emit<'c>, var: Var<'c>| e.get(var).into_int_value();
        e.each(e.int(0), e.int(count), 1, |e, slot| {
            let all = candidates.iter().map(|(key, index)| (int(e, *key), int(e, *index)));
            let mine = all.reduce(|a, b| {
                let take = e.or(e.above_unsigned(b.0, a.0), e.and(e.eq(b.0, a.0), e.lt_unsigned(b.1, a.1)));
                (e.pick(take, b.0, a.0), e.pick(take, b.1, a.1))
            });
            let Some(mine) = mine else { return };
            let most = e.warp_max_unsigned(mine.0);
            let first = e.warp_min_unsigned(e.pick(e.eq(mine.0, most), mine.1, e.minus_one()));
            let here = e.eq(lane, slot);
            e.set(key, e.pick(here, most, int(e, key)).into());
            e.set(index, e.pick(here, first, int(e, index)).into());
            for (key, index) in candidates {
                let taken = e.eq(int(e, *index), first);
                e.set(*key, e.pick(taken, e.int(0), int(e, *key)).into());
            }
        });
        e.set(self.key, e.get(key));
        e.set(self.index, e.get(index));
    }

    /// Leaves the warp's list at `[lane]` of both places.
    pub fn leave(&self, e: &Emit<'c>, keys: Ptr<'c>, indices: Ptr<'c>) {
        let lane = e.and(e.thread(), e.int(WARP - 1));
        e.store(keys, lane, e.get(self.key));
        e.store(indices, lane, e.get(self.index));
    }

    /// Merges `lists` that were left one after the other.
    pub fn merge(&self, e: &Emit<'c>, keys: Ptr<'c>, indices: Ptr<'c>, lists: u64, count: u64) {
        let lane = e.and(e.thread(), e.int(WARP - 1));
        let candidates: Vec<(Var<'c>, Var<'c>)> = (0..lists)
            .map(|i| {
                let at = e.add_const(lane, (i * WARP) as i64);
                (e.var(e.load_int(keys, at).into()), e.var(e.load_int(indices, at).into()))
            })
            .collect();
        self.choose(e, &candidates, count);
    }

    /// Writes the list: `count` indices, -1 where there are fewer.
    pub fn write(&self, e: &Emit<'c>, count: u64, to: Ptr<'c>) {
        let lane = e.and(e.thread(), e.int(WARP - 1));
        e.when(e.lt(lane, e.int(count)), |e| {
            let found = e.above_unsigned(e.get(self.key).into_int_value(), e.int(0));
            e.store(to, lane, e.pick(found, e.get(self.index).into_int_value(), e.minus_one()).into());
        });
    }
}

/// An f32 as an unsigned int of the same order, above 0.
fn ordered<'c>(e: &Emit<'c>, x: Float<'c>) -> Int<'c> {
    let bits = e.bits(x);
    let flip = e.or(e.shift_right(bits, 31), e.int(0x8000_0000));
    e.xor(bits, flip)
}
