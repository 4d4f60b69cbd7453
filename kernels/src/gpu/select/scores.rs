//! By what blocks of a context are chosen: HySparse 2602.03560, equation 3, in logs.

use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};

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
    pub(super) kept: Option<Kept<'c>>,
}

#[derive(Clone, Copy)]
pub(super) struct Kept<'c> {
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
    /// What a score of head `h` is less than its raw maximum: that head's largest logit, then what its sum is above the
    /// least. Without them, the raw maximum is the score.
    pub fn less(&self, e: &Emit<'c>, h: Int<'c>) -> Option<[Float<'c>; 2]> {
        self.most_excess.map(|(most, excess)| [e.load(most, h), e.load(excess, h)])
    }

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
