//! A warp group: its queries, and the pages that one of them takes.

use std::f32::consts::LOG2_E;
use std::mem::offset_of;

use hyc_plan::abi::StepContext;

use super::{SharedPages, Stages};
use crate::gpu::isa::{Emit, Float, Int, Var};
use crate::gpu::tile::{SharedTile, Swizzle, TILE_BYTES, clear_from};
use crate::gpu::work_item::{group, row_count};
use crate::lists::{GROUPS, ROWS, stage_bytes};
use hyc_plan::lists::{EDGE, PAGE_SHIFT};

/// By how much, in units of log2, a logit may pass the reference.
const SLACK: f32 = 8.0;
/// The reference before the first logit.
const LOWEST: f32 = -1e30;
/// Rows of queries of a thread that wait for memory together.
const TOGETHER: u64 = 4;
/// The first of a named barrier for each warp group's own threads.
const OWN: u64 = 1;

/// What a thread keeps of rows g and g + 8 of its warp.
pub(super) struct State<'c> {
    /// q . k of a page, then their exponentials.
    scores: Vec<Var<'c>>,
    /// `[v_dim / 8][row][2]`
    pub(super) acc: Vec<Var<'c>>,
    /// References in units of log2; a sum is this lane's part.
    pub(super) reference: [Var<'c>; 2],
    pub(super) sum: [Var<'c>; 2],
}

/// Where a thread stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'c> {
    /// Its warp group.
    pub(super) part: Int<'c>,
    /// Its two rows of the warp group.
    pub(super) rows: [Int<'c>; 2],
    /// Its lane of the four that share them.
    pub(super) t: Int<'c>,
}

/// How far a warp group is.
struct Walk<'c> {
    /// The stage in hand, the second word of its list's entry, 0 where the branch ends, and which of the group's queries take
    /// its page: a bit each.
    stage: Var<'c>,
    flags: Var<'c>,
    takers: Var<'c>,
}

/// A page, as a warp group meets it.
#[derive(Clone, Copy)]
struct Page<'c> {
    stage: Int<'c>,
    flags: Int<'c>,
    takers: Int<'c>,
    /// How far back a row sees.
    reach: Int<'c>,
}

impl<'c> State<'c> {
    fn new(e: &Emit<'c>, v_dim: u64) -> State<'c> {
        let zeros = |n: u64| (0..n).map(|_| e.float_var(0.0)).collect();
        let pair = |first: f32| [e.float_var(first), e.float_var(first)];
        State { scores: zeros(32), acc: zeros(v_dim / 2), reference: pair(LOWEST), sum: pair(0.0) }
    }

    fn clear(&self, e: &Emit<'c>) {
        self.reference.iter().for_each(|reference| e.set(*reference, e.float(LOWEST).into()));
        self.acc.iter().chain(&self.sum).for_each(|x| e.set(*x, e.float(0.0).into()));
    }

    /// The scores of a row: 0 is g, 1 is g + 8.
    fn row(&self, half: usize) -> impl Iterator<Item = (u64, Var<'c>)> + '_ {
        let column = |i: usize| (i / 4 * 8 + i % 2) as u64;
        self.scores
            .iter()
            .enumerate()
            .filter(move |(i, _)| i / 2 % 2 == half)
            .map(move |(i, x)| (column(i), *x))
    }

    /// Raises the references of rows that take the page, where a logit passes one by more than [`SLACK`].
    fn raise(&self, e: &Emit<'c>, scale: Float<'c>, takes: [Int<'c>; 2]) {
        let most = [0, 1].map(|half| {
            let logits: Vec<_> = self.row(half).map(|(_, x)| e.get_float(x)).collect();
            // Four chains, so that none waits for itself.
            let chain = |first: usize| logits[first..].iter().step_by(4).copied().reduce(|a, b| e.fmax(a, b));
            let most = (0..4).filter_map(chain).reduce(|a, b| e.fmax(a, b)).unwrap_or(e.float(LOWEST));
            e.pick_float(takes[half], e.fmul(most, scale), e.float(LOWEST))
        });
        let old = self.reference.map(|reference| e.get_float(reference));
        let passes = [0, 1].map(|half| e.above(most[half], e.fadd(old[half], e.float(SLACK))));
        e.when(e.any(e.or(passes[0], passes[1])), |e| {
            let new = [0, 1].map(|half| {
                let quad = [1, 2].iter().fold(most[half], |most, mask| e.fmax(most, e.shuffle(most, *mask)));
                e.fmax(old[half], quad)
            });
            let shrink = [0, 1].map(|half| e.exp2(e.fsub(old[half], new[half])));
            for half in 0..2 {
                e.set(self.reference[half], new[half].into());
                e.set(self.sum[half], e.fmul(e.get_float(self.sum[half]), shrink[half]).into());
            }
            for (i, acc) in self.acc.iter().enumerate() {
                e.set(*acc, e.fmul(e.get_float(*acc), shrink[i / 2 % 2]).into());
            }
        });
    }

    /// Scores become exponentials, 0 in rows that do not take the page, and are added to the sums.
    fn exponentials(&self, e: &Emit<'c>, scale: Float<'c>, takes: [Int<'c>; 2]) {
        for (half, takes) in takes.into_iter().enumerate() {
            let minus = e.fsub(e.float(0.0), e.get_float(self.reference[half]));
            let minus = e.pick_float(takes, minus, e.float(f32::NEG_INFINITY));
            let sum = self.row(half).fold(e.get_float(self.sum[half]), |sum, (_, x)| {
                let p = e.exp2(e.fma(e.get_float(x), scale, minus));
                e.set(x, p.into());
                e.fadd(sum, p)
            });
            e.set(self.sum[half], sum.into());
        }
    }

    /// P by steps of 16 keys: words (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8).
    fn fragments(&self, e: &Emit<'c>) -> Vec<[Int<'c>; 4]> {
        let word = |i: usize| {
            let [low, high] = [0, 1].map(|plus| e.get_float(self.scores[2 * i + plus]));
            e.pack_bf16(low, high)
        };
        (0..self.scores.len() / 8).map(|step| [0, 1, 2, 3].map(|i| word(4 * step + i))).collect()
    }
}

impl<'c> Place<'c> {
    /// Computed anew, so that nothing which follows from it takes a register meanwhile.
    pub(super) fn anew(e: &Emit<'c>) -> Place<'c> {
        let thread = e.opaque(e.thread());
        let part = e.div_rem(thread, 128).0;
        let (quad, t) = e.div_rem(e.and(thread, e.int(127)), 4);
        let row = e.add(e.mul_const(e.div_rem(quad, 8).0, 16), e.and(quad, e.int(7)));
        Place { part, rows: [row, e.add_const(row, 8)], t }
    }
}

impl SharedPages<'_, '_> {
    /// A warp group that multiplies: all items.
    pub(super) fn multiply<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, queries: SharedTile<'c>) {
        let query = queries.descriptor(e, e.uniform(e.div_rem(e.thread(), 128).0));
        let state = State::new(e, self.shape.v_dim);
        let number = || e.var(e.int(0).into());
        let takers = e.var(self.none(e).into());
        let walk = Walk { stage: number(), flags: number(), takers };
        self.items(e, |e, (tile, kv_head), _| {
            self.load_queries(e, queries, tile, kv_head);
            e.each(e.int(0), e.int(self.branches.len() as u64), 1, |e, branch| {
                let reach = self.branches.iter().zip(0..).fold(e.int(0), |reach, (which, i)| {
                    e.pick(e.eq(branch, e.int(i)), e.int(which.reach()), reach)
                });
                self.attend(e, stages, (query, tile, reach), (&walk, &state));
                let last = self.branches.len() - 1;
                for (i, which) in self.branches[..last].iter().enumerate() {
                    e.when(e.eq(branch, e.int(i as u64)), |e| self.keep(e, &state, which, kv_head));
                }
            });
            self.finish(e, &state, tile, kv_head);
        });
    }

    /// Token of the step and head of the group of a row of warp group `part`, and whether there is such; without it the
    /// step's last token.
    pub(super) fn row<'c>(
        &self,
        e: &Emit<'c>,
        (tile, part): (Int<'c>, Int<'c>),
        row: Int<'c>,
    ) -> (Int<'c>, Int<'c>, Int<'c>) {
        let (query, head) = e.div_rem(row, group(self.shape));
        let real = e.lt(query, e.int(self.queries()));
        let first = e.add(e.mul_const(tile, self.tile()), e.mul_const(part, self.queries()));
        let token = e.add(first, e.min(query, e.int(self.queries() - 1)));
        let rows = row_count(e, self.spec);
        (e.min(token, e.add_const(rows, -1)), head, e.and(real, e.lt(token, rows)))
    }

    /// The group's queries as swizzled rows of bf16.
    fn load_queries<'c>(&self, e: &Emit<'c>, to: SharedTile<'c>, tile: Int<'c>, kv_head: Int<'c>) {
        let part = Place::anew(e).part;
        let own = e.add_const(part, OWN as i64);
        // The group's last product over the queries before is through in all of its warps.
        e.named_barrier(own, 128);
        let (sub, piece) = e.div_rem(e.and(e.opaque(e.thread()), e.int(127)), 8);
        e.each(sub, e.int(ROWS), 16 * TOGETHER, |e, first| {
            let rows: Vec<_> = (0..TOGETHER)
                .map(|i| {
                    let row = e.add_const(first, 16 * i as i64);
                    let (token, head, _) = self.row(e, (tile, part), row);
                    let head = e.add(e.mul_const(kv_head, group(self.shape)), head);
                    let from = e.wide(e.add(e.mul_const(head, self.shape.qk_dim), e.mul_const(piece, 8)));
                    let from = e.add(e.mul_const(e.wide(token), e.stride("q")), from);
                    let words =
                        |panel: u64| e.load_as_chunk(e.operand("q"), e.add_const(from, 64 * panel as i64));
                    (row, (0..self.shape.qk_dim / 64).map(words).collect::<Vec<_>>())
                })
                .collect();
            for (row, words) in rows {
                let row = e.add(e.mul_const(part, ROWS), row);
                for (panel, words) in (0..).zip(&words) {
                    to.store(e, row, (panel, piece), words);
                }
            }
        });
        e.async_fence();
        e.named_barrier(own, 128);
    }

    /// One branch: every stage up to its end. The next one is looked up under the last product of the one before.
    fn attend<'c>(
        &self,
        e: &Emit<'c>,
        stages: &Stages<'c>,
        (query, tile, reach): (Int<'c>, Int<'c>, Int<'c>),
        (walk, state): (&Walk<'c>, &State<'c>),
    ) {
        state.clear(e);
        let leader = e.eq(e.lane(), e.int(0));
        self.look_up(e, stages, walk);
        e.repeat(|e| {
            let [stage, flags] = [walk.stage, walk.flags].map(|var| e.get(var).into_int_value());
            let page = Page { stage, flags, takers: e.get(walk.takers).into_int_value(), reach };
            let ends = e.any(e.eq(flags, e.int(0)));
            e.either(
                e.any(e.not(e.eq(page.takers, self.none(e)))),
                |e| {
                    self.clear_values(e, stages, &page);
                    self.start_scores(e, stages, &page, query, state);
                    e.wgmma_wait(&state.scores, 0);
                    self.softmax(e, &page, tile, state);
                    self.start_outputs(e, stages, &page, state);
                    self.look_up(e, stages, walk);
                    e.wgmma_wait(&state.acc, 0);
                },
                |e| e.when(e.not(ends), |e| self.look_up(e, stages, walk)),
            );
            // All lanes have read the note.
            e.warp_barrier();
            stages.ring.release_stage(e, stage, leader);
            ends
        });
    }

    /// Waits for the next stage, and reads its note.
    fn look_up<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, walk: &Walk<'c>) {
        let stage = stages.ring.full(e);
        stages.ring.advance(e);
        let note = e.mul_const(stage, self.note_words());
        e.set(walk.stage, stage.into());
        e.set(walk.flags, e.load_int(stages.notes, note).into());
        e.set(walk.takers, self.takers(e, stages, note).into());
    }

    /// No query of a warp group: an i32, or an i64 where it has 64.
    fn none<'c>(&self, e: &Emit<'c>) -> Int<'c> {
        if self.queries() > 32 { e.long(0) } else { e.int(0) }
    }

    /// Which of the group's queries take the page of a note.
    fn takers<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, note: Int<'c>) -> Int<'c> {
        let (word, shift) = e.div_rem(e.mul_const(Place::anew(e).part, self.queries()), 32);
        let at = e.add(e.add_const(note, 1), word);
        let [low, high] = [0, 1].map(|i| e.load_int(stages.notes, e.add_const(at, i)));
        let both = e.shift_right_unsigned(e.join(high, low), e.wide(shift));
        if self.queries() > 32 {
            return both;
        }
        e.and(e.low(both), e.int((1 << self.queries()) - 1))
    }

    /// Whether this thread's two rows take a page.
    fn takes<'c>(&self, e: &Emit<'c>, takers: Int<'c>) -> [Int<'c>; 2] {
        Place::anew(e).rows.map(|row| {
            let (query, _) = e.div_rem(row, group(self.shape));
            let query = if self.queries() > 32 { e.wide(query) } else { query };
            // Rows of no query have bits that no query has.
            let bit = e.and(e.shift_right_unsigned(takers, query), takers.get_type().const_int(1, false));
            e.not(e.eq(bit, self.none(e)))
        })
    }

    /// Starts S of a page.
    fn start_scores<'c>(
        &self,
        e: &Emit<'c>,
        stages: &Stages<'c>,
        page: &Page<'c>,
        query: Int<'c>,
        state: &State<'c>,
    ) {
        let keys = e.descriptor(self.keys(e, stages, page));
        let steps: Vec<(u64, u64)> = (0..self.shape.qk_dim / 16)
            .map(|step| (step / 4 * TILE_BYTES, step % 4 * 32))
            .map(|(panel, at)| (GROUPS * panel + at, panel + at))
            .collect();
        e.wgmma_start(&state.scores, query, keys, &steps, false);
    }

    /// Starts O += P V of a page.
    fn start_outputs<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, page: &Page<'c>, state: &State<'c>) {
        let values = e.descriptor(self.values(e, stages, page));
        e.wgmma_registers_start((&state.acc, None), &state.fragments(e), values, &[0, 32, 64, 96]);
    }

    /// Scores become exponentials.
    fn softmax<'c>(&self, e: &Emit<'c>, page: &Page<'c>, tile: Int<'c>, state: &State<'c>) {
        let edge = e.not(e.eq(e.and(page.flags, e.int(EDGE)), e.int(0)));
        e.when(e.any(edge), |e| self.mask(e, page, tile, state));
        let scale = e.float(LOG2_E / (self.shape.qk_dim as f32).sqrt());
        let takes = self.takes(e, page.takers);
        state.raise(e, scale, takes);
        state.exponentials(e, scale, takes);
    }

    /// Byte address of the keys of a page.
    fn keys<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, page: &Page<'c>) -> Int<'c> {
        e.add(stages.pages, e.mul_const(page.stage, stage_bytes(self.shape)))
    }

    /// Byte address of the values of a page: they follow the keys.
    fn values<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, page: &Page<'c>) -> Int<'c> {
        e.add_const(self.keys(e, stages, page), 2 * 64 * self.shape.qk_dim as i64)
    }

    /// Tokens of a page that there are.
    fn tokens<'c>(&self, e: &Emit<'c>, page: &Page<'c>) -> Int<'c> {
        e.and(page.flags, e.int(EDGE - 1))
    }

    /// Minus infinity where a row does not see a key. Behind the newest token are no numbers, for rows of other sequences too.
    fn mask<'c>(&self, e: &Emit<'c>, page: &Page<'c>, tile: Int<'c>, state: &State<'c>) {
        let Place { part, rows, t } = Place::anew(e);
        let first = e.mul_const(e.shift_right_unsigned(page.flags, e.int(PAGE_SHIFT)), 64);
        for (half, row) in rows.into_iter().enumerate() {
            let token = self.row(e, (tile, part), row).0;
            let position = e.load_int(e.list(offset_of!(StepContext, positions)), token);
            let inside = e.mul_const(t, 2);
            let back = e.sub(e.sub(position, first), inside);
            let left = e.sub(self.tokens(e, page), inside);
            for (column, score) in state.row(half) {
                let seen = e.lt_unsigned(e.add_const(back, -(column as i64)), page.reach);
                let seen = e.and(seen, e.lt(e.int(column), left));
                e.set(score, e.pick_float(seen, e.get_float(score), e.float(f32::NEG_INFINITY)).into());
            }
        }
    }

    /// Zeroes the columns of a page's values for which there is no token: what stands there may be no number. Each warp group
    /// does it by itself, and all the same.
    fn clear_values<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, page: &Page<'c>) {
        let tokens = self.tokens(e, page);
        e.when(e.any(e.lt(tokens, e.int(64))), |e| {
            let thread = e.and(e.opaque(e.thread()), e.int(127));
            e.each(thread, e.int(self.shape.v_dim * 8), 128, |e, i| {
                let (row, chunk) = e.div_rem(i, 8);
                let at = e.add(self.values(e, stages, page), Swizzle::bytes(e, row, chunk));
                clear_from(e, at, e.mul_const(chunk, 8), tokens);
            });
            e.async_fence();
            e.named_barrier(e.add_const(Place::anew(e).part, OWN as i64), 128);
        });
    }
}
