//! A warp group: its queries, and the pages that one of them takes.

use std::f32::consts::LOG2_E;
use std::mem::offset_of;

use hyc_plan::abi::StepContext;

use super::{BLOCK_TILES, ROWS, SharedPages, Stages, TILES, stage_bytes};
use crate::gpu::attention::page_lists::{EDGE, PAGE_SHIFT};
use crate::gpu::isa::{Emit, Float, Int, Var};
use crate::gpu::tile::{SharedTile, Swizzle, TILE_BYTES};
use crate::gpu::work_item::{group, row_count};

/// By how much, in units of log2, a logit may pass the reference.
const SLACK: f32 = 8.0;
/// The reference before the first logit.
const LOWEST: f32 = -1e30;
/// Rows of queries of a thread that wait for memory together.
const TOGETHER: u64 = 4;
/// The first of a named barrier for each warp group's own threads.
const OWN: u64 = 1;

/// What a thread keeps of rows g and g + 8 of its warp's sixteen of a row tile.
pub(super) struct State<'c> {
    /// q . k of a page, then their exponentials.
    scores: Vec<Var<'c>>,
    /// `[v_dim / 8][row][2]`
    pub(super) acc: Vec<Var<'c>>,
    /// References in units of log2; a sum is this lane's part.
    pub(super) reference: [Var<'c>; 2],
    pub(super) sum: [Var<'c>; 2],
}

/// By what a page multiplies the sums before it, and whether by anything but 1.
struct Growth<'c> {
    some: Int<'c>,
    shrink: [Float<'c>; 2],
}

/// Where a thread stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'c> {
    /// Its warp group.
    pub(super) part: Int<'c>,
    /// Its two rows of each row tile.
    pub(super) rows: [Int<'c>; 2],
    /// Its lane of the four that share them.
    pub(super) t: Int<'c>,
}

/// The page in hand of a warp group: the next one is looked up under the last product of the one before.
struct Next<'c> {
    stage: Var<'c>,
    /// The second word of a list's entry; 0 where the branch ends.
    flags: Var<'c>,
    /// Which queries of each row tile take it: a bit each.
    takers: [Var<'c>; TILES as usize],
}

/// A page, as a warp group meets it.
#[derive(Clone, Copy)]
struct Page<'c> {
    /// Byte address of its keys; its values follow.
    keys: Int<'c>,
    flags: Int<'c>,
    takers: [Int<'c>; TILES as usize],
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

    /// Scores become exponentials, 0 in rows that do not take the page, and are added to the sums. The reference of a row that
    /// takes it is raised where a logit passes it by more than [`SLACK`].
    fn exponentials(&self, e: &Emit<'c>, scale: Float<'c>, takes: [Int<'c>; 2]) -> Growth<'c> {
        let most = [0, 1].map(|half| {
            let logits: Vec<_> = self.row(half).map(|(_, x)| e.get_float(x)).collect();
            // Four chains, so that none waits for itself.
            let chain = |first: usize| logits[first..].iter().step_by(4).copied().reduce(|a, b| e.fmax(a, b));
            let most = (0..4).filter_map(chain).reduce(|a, b| e.fmax(a, b)).unwrap_or(e.float(LOWEST));
            let most = e.fmul(most, scale);
            e.pick_float(takes[half], most, e.float(LOWEST))
        });
        let old = self.reference.map(|reference| e.get_float(reference));
        let grown = [0, 1].map(|half| e.above(most[half], e.fadd(old[half], e.float(SLACK))));
        let some = e.any(e.or(grown[0], grown[1]));
        e.when(some, |e| {
            for half in 0..2 {
                let quad = [1, 2].iter().fold(most[half], |most, mask| e.fmax(most, e.shuffle(most, *mask)));
                e.set(self.reference[half], e.fmax(old[half], quad).into());
            }
        });
        let new = self.reference.map(|reference| e.get_float(reference));
        let shrink = [0, 1].map(|half| e.exp2(e.fsub(old[half], new[half])));
        for half in 0..2 {
            let minus = e.fsub(e.float(0.0), new[half]);
            let minus = e.pick_float(takes[half], minus, e.float(f32::NEG_INFINITY));
            let first = e.fmul(e.get_float(self.sum[half]), shrink[half]);
            let sum = self.row(half).fold(first, |sum, (_, x)| {
                let p = e.exp2(e.fma(e.get_float(x), scale, minus));
                e.set(x, p.into());
                e.fadd(sum, p)
            });
            e.set(self.sum[half], sum.into());
        }
        Growth { some, shrink }
    }

    /// O gets the reference of the exponentials, where that has moved. `wait` comes first in either case: whether it has moved
    /// is known behind all exponentials, sums being no numbers below zero, so that they stay ahead of it.
    fn shrink(&self, e: &Emit<'c>, growth: &Growth<'c>, wait: &dyn Fn(&Emit<'c>)) {
        let sum = e.fadd(e.get_float(self.sum[0]), e.get_float(self.sum[1]));
        let wrong = e.not(e.at_least(sum, e.float(0.0)));
        e.either(
            e.any(e.or(growth.some, wrong)),
            |e| {
                wait(e);
                for (i, acc) in self.acc.iter().enumerate() {
                    e.set(*acc, e.fmul(e.get_float(*acc), growth.shrink[i / 2 % 2]).into());
                }
            },
            wait,
        );
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
        let part = e.uniform(e.div_rem(e.thread(), 128).0);
        let query = queries.descriptor(e, e.mul_const(part, TILES));
        let states = [(); TILES as usize].map(|()| State::new(e, self.shape.v_dim));
        self.items(e, |e, (tile, kv_head), _| {
            self.load_queries(e, queries, tile, kv_head);
            e.each(e.int(0), e.int(self.branches.len() as u64), 1, |e, branch| {
                let reach = self.branches.iter().zip(0..).fold(e.int(0), |reach, (which, i)| {
                    e.pick(e.eq(branch, e.int(i)), e.int(which.reach()), reach)
                });
                self.attend(e, stages, (query, tile, reach), &states);
                let last = self.branches.len() - 1;
                for (i, which) in self.branches[..last].iter().enumerate() {
                    e.when(e.eq(branch, e.int(i as u64)), |e| {
                        for (at, state) in (0..).zip(&states) {
                            self.keep(e, (at, state), which, kv_head);
                        }
                    });
                }
            });
            for (at, state) in (0..).zip(&states) {
                self.finish(e, (at, state), tile, kv_head);
            }
        });
    }

    /// Token of the step and head of the group of a row of row tile `of` of the item, and whether there is such; without it
    /// the step's last token.
    pub(super) fn row<'c>(
        &self,
        e: &Emit<'c>,
        (tile, of): (Int<'c>, Int<'c>),
        row: Int<'c>,
    ) -> (Int<'c>, Int<'c>, Int<'c>) {
        let (query, head) = e.div_rem(row, group(self.shape));
        let real = e.lt(query, e.int(self.queries()));
        let first = e.add(e.mul_const(tile, self.tile()), e.mul_const(of, self.queries()));
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
        e.each(sub, e.int(TILES * ROWS), 16 * TOGETHER, |e, first| {
            let rows: Vec<_> = (0..TOGETHER)
                .map(|i| {
                    let at = e.add_const(first, 16 * i as i64);
                    let (of, row) = e.div_rem(at, ROWS);
                    let (token, head, _) = self.row(e, (tile, e.add(e.mul_const(part, TILES), of)), row);
                    let head = e.add(e.mul_const(kv_head, group(self.shape)), head);
                    let from = e.wide(e.add(e.mul_const(head, self.shape.qk_dim), e.mul_const(piece, 8)));
                    let from = e.add(e.mul_const(e.wide(token), e.stride("q")), from);
                    let words =
                        |panel: u64| e.load_as_chunk(e.operand("q"), e.add_const(from, 64 * panel as i64));
                    (at, (0..self.shape.qk_dim / 64).map(words).collect::<Vec<_>>())
                })
                .collect();
            for (at, words) in rows {
                let row = e.add(e.mul_const(part, TILES * ROWS), at);
                for (panel, words) in (0..).zip(&words) {
                    to.store(e, row, (panel, piece), words);
                }
            }
        });
        e.async_fence();
        e.named_barrier(own, 128);
    }

    /// One branch: every stage up to its end.
    fn attend<'c>(
        &self,
        e: &Emit<'c>,
        stages: &Stages<'c>,
        (query, tile, reach): (Int<'c>, Int<'c>, Int<'c>),
        states: &[State<'c>; TILES as usize],
    ) {
        states.iter().for_each(|state| state.clear(e));
        let leader = e.eq(e.lane(), e.int(0));
        let zero = if self.queries() > 32 { e.long(0) } else { e.int(0) };
        let [stage, flags] = [0, 1].map(|_| e.var(e.int(0).into()));
        let next = Next { stage, flags, takers: [0, 1].map(|_| e.var(zero.into())) };
        self.look_up(e, stages, &next);
        e.repeat(|e| {
            let [stage, flags] = [next.stage, next.flags].map(|var| e.get(var).into_int_value());
            let takers = next.takers.map(|var| e.get(var).into_int_value());
            let keys = e.add(stages.pages, e.mul_const(stage, stage_bytes(self.shape)));
            let page = Page { keys, flags, takers, reach };
            let ends = e.any(e.eq(flags, e.int(0)));
            let [first, second] = takers.map(|takers| e.any(e.not(e.eq(takers, zero))));
            let visit = |e: &Emit<'c>, of: &[usize]| {
                self.visit(e, &page, (query, tile), (of, states), &|e| self.look_up(e, stages, &next));
            };
            e.either(
                e.or(first, second),
                |e| {
                    self.clear(e, &page);
                    e.either(
                        first,
                        |e| e.either(second, |e| visit(e, &[0, 1]), |e| visit(e, &[0])),
                        |e| visit(e, &[1]),
                    );
                },
                |e| e.when(e.not(ends), |e| self.look_up(e, stages, &next)),
            );
            stages.ring.release_stage(e, stage, leader);
            ends
        });
    }

    /// Waits for the next stage, and reads its note.
    fn look_up<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, next: &Next<'c>) {
        let stage = stages.ring.full(e);
        stages.ring.advance(e);
        let note = e.mul_const(stage, self.note_words());
        e.set(next.stage, stage.into());
        e.set(next.flags, e.load_int(stages.notes, note).into());
        for (of, takers) in (0..).zip(next.takers) {
            e.set(takers, self.takers(e, stages, note, of).into());
        }
    }

    /// Which queries of a row tile of the group take the page of a note: i32, or i64 where a row tile has 64.
    fn takers<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, note: Int<'c>, of: u64) -> Int<'c> {
        let tile = e.add_const(e.mul_const(Place::anew(e).part, TILES), of as i64);
        let (word, shift) = e.div_rem(e.mul_const(tile, self.queries()), 32);
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
            // Rows of no query have bits that no query of the tile has.
            let bit = e.and(e.shift_right_unsigned(takers, query), takers.get_type().const_int(1, false));
            e.not(e.eq(bit, takers.get_type().const_zero()))
        })
    }

    /// The products of a page with the row tiles `of` of the group that take it; `meanwhile` stands under the last of them.
    fn visit<'c>(
        &self,
        e: &Emit<'c>,
        page: &Page<'c>,
        (query, tile): (Int<'c>, Int<'c>),
        (of, states): (&[usize], &[State<'c>; TILES as usize]),
        meanwhile: &dyn Fn(&Emit<'c>),
    ) {
        let values = e.descriptor(self.values(e, page));
        for &i in of {
            let steps: Vec<(u64, u64)> = (0..self.shape.qk_dim / 16)
                .map(|step| (step / 4 * TILE_BYTES, step % 4 * 32))
                .map(|(panel, at)| (BLOCK_TILES * panel + i as u64 * TILE_BYTES + at, panel + at))
                .collect();
            e.wgmma_start(&states[i].scores, query, e.descriptor(page.keys), &steps, false);
        }
        e.wgmma_wait(&states[of[0]].scores, of.len() as u64 - 1);
        let scale = e.float(LOG2_E / (self.shape.qk_dim as f32).sqrt());
        let edge = e.not(e.eq(e.and(page.flags, e.int(EDGE)), e.int(0)));
        for (at, &i) in of.iter().enumerate() {
            let state = &states[i];
            e.when(e.any(edge), |e| self.mask(e, page, (tile, i as u64), state));
            let growth = state.exponentials(e, scale, self.takes(e, page.takers[i]));
            state.shrink(e, &growth, &|e| match (at, of) {
                (0, [_, other]) => e.wgmma_wait(&states[*other].scores, 0),
                (1, [other, _]) => e.wgmma_wait(&states[*other].acc, 0),
                _ => {}
            });
            e.wgmma_registers_start(&state.acc, &state.fragments(e), values, &[0, 32, 64, 96]);
        }
        meanwhile(e);
        if let Some(&last) = of.last() {
            e.wgmma_wait(&states[last].acc, 0);
        }
    }

    /// Byte address of a page's values.
    fn values<'c>(&self, e: &Emit<'c>, page: &Page<'c>) -> Int<'c> {
        e.add_const(page.keys, 2 * 64 * self.shape.qk_dim as i64)
    }

    /// Tokens of a page that there are.
    fn tokens<'c>(&self, e: &Emit<'c>, page: &Page<'c>) -> Int<'c> {
        e.and(page.flags, e.int(EDGE - 1))
    }

    /// Minus infinity where a row does not see a key. Behind the newest token are no numbers, for rows of other sequences too.
    fn mask<'c>(&self, e: &Emit<'c>, page: &Page<'c>, (tile, of): (Int<'c>, u64), state: &State<'c>) {
        let Place { part, rows, t } = Place::anew(e);
        let first = e.mul_const(e.shift_right_unsigned(page.flags, e.int(PAGE_SHIFT)), 64);
        let of = e.add_const(e.mul_const(part, TILES), of as i64);
        for (half, row) in rows.into_iter().enumerate() {
            let token = self.row(e, (tile, of), row).0;
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
    fn clear<'c>(&self, e: &Emit<'c>, page: &Page<'c>) {
        let tokens = self.tokens(e, page);
        e.when(e.any(e.lt(tokens, e.int(64))), |e| {
            let thread = e.and(e.opaque(e.thread()), e.int(127));
            e.each(thread, e.int(self.shape.v_dim * 8), 128, |e, i| {
                let (row, chunk) = e.div_rem(i, 8);
                let at = e.add(self.values(e, page), Swizzle::bytes(e, row, chunk));
                for word in 0..4u64 {
                    let token = e.add_const(e.mul_const(chunk, 8), 2 * word as i64);
                    let low = e.pick(e.lt(token, tokens), e.int(0xffff), e.int(0));
                    let high = e.pick(e.lt(e.add_const(token, 1), tokens), e.int(0xffff_0000), e.int(0));
                    e.mask_shared(e.add_const(at, 4 * word as i64), e.or(low, high));
                }
            });
            e.async_fence();
            e.named_barrier(e.add_const(Place::anew(e).part, OWN as i64), 128);
        });
    }
}
