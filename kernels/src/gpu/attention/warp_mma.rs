//! Attention of a (token, KV head) over a page by one warp, on tensor cores, over tiled caches: decode, and sparse and window
//! layers of a prefill that share no pages.
//!
//! ```text
//! S = Q K^T     A: the group's heads as rows (16, the rest repeats)
//!               B: 32 tokens as 4 column tiles; column n of tile j is token 8 (n / 2) + 2 j + n % 2
//! O += P V      A: P, which then lies as the first product left it: a lane has tokens 8t .. 8t + 8
//!               B: V is stored [dim][token], so eight tokens of a dim are one 16-byte load
//! ```
//! Pages are copied to shared memory as they lie (`staged`). Each warp has a softmax of its own (Milakov and Gimelshein,
//! 1805.02867), in units of log2; their states are merged behind all pages (`combine`). Reference: `reference::attention`.

use std::f32::consts::LOG2_E;

use hyc_plan::{AttnShape, CacheSpec};

use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var, WARP};
use crate::gpu::kv_codes::{Codes, Expander};
use crate::gpu::paged_kv::{HeadPages, copied_bytes, key_bytes, page_address, physical_page};
use crate::gpu::tile::{Fragment, Swizzle, TILE_BYTES};
use crate::gpu::work_item::{WorkItem, group};

/// A cache as one branch reads it.
#[derive(Clone, Copy)]
pub struct Reader {
    pub shape: AttnShape,
    pub cache: CacheSpec,
    /// Its operand's name.
    pub operand: &'static str,
    /// Warps of a block.
    pub warps: u64,
}

/// One warp's softmax; `[half]` are rows g and g + 8.
pub struct State<'c> {
    pub max: Vec<Var<'c>>,
    pub sum: Vec<Var<'c>>,
    /// `[v_dim / 8][4]`
    pub acc: Vec<Vec<Var<'c>>>,
}

/// Takes one (page, row of the group, largest scaled logit).
pub type PageMax<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>);

/// Query fragments in shared memory, the same for all warps: `[qk_dim / 32][half][lane]` chunks.
#[derive(Clone, Copy)]
pub struct Query<'c>(Ptr<'c>);

impl Reader {
    pub fn halves(&self) -> usize {
        if group(self.shape) > 8 { 2 } else { 1 }
    }

    /// Shared memory of [`Reader::query`].
    pub fn query_bytes(&self) -> u64 {
        512 * self.shape.qk_dim / 32 * self.halves() as u64
    }

    /// The group's query as fragments. All threads of the block must come here; a barrier of the block follows inside.
    pub fn query<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>) -> Query<'c> {
        let (group, dim, halves) = (group(self.shape), self.shape.qk_dim, self.halves());
        let (g, t) = e.lane_pair();
        let width = e.mul_const(item.kv_head, group * dim);
        let base = e.at(e.operand("q"), e.wide(e.add(e.mul_const(item.row, e.stride("q")), width)));
        let piece = |j: u64, half: usize| {
            let head = e.min(e.add_const(g, 8 * half as i64), e.int(group - 1));
            let at = e.add(e.mul_const(head, dim), e.add_const(e.mul_const(t, 8), 32 * j as i64));
            e.load_as_chunk(base, at)
        };
        let shared = e.shared(self.query_bytes() / 4);
        e.when(e.lt(e.thread(), e.int(WARP)), |e| {
            let pieces = (0..dim / 32 * halves as u64).map(|i| piece(i / halves as u64, i as usize % halves));
            for (i, words) in pieces.enumerate() {
                e.store_words(shared, e.add_const(e.mul_const(e.thread(), 4), 128 * i as i64), &words);
            }
        });
        e.barrier();
        Query(shared)
    }

    /// Chunks `[half]` of query columns `32 j ..`.
    fn query_chunks<'c>(&self, e: &Emit<'c>, q: Query<'c>, j: u64) -> Vec<Chunk<'c>> {
        let lane = e.mul_const(e.lane(), 4);
        let at = |half: usize| e.add_const(lane, 128 * (j as usize * self.halves() + half) as i64);
        (0..self.halves()).map(|half| e.load4(q.0, at(half))).collect()
    }

    /// A softmax of nothing yet.
    pub fn nothing<'c>(&self, e: &Emit<'c>) -> State<'c> {
        State {
            max: (0..self.halves()).map(|_| e.float_var(f32::NEG_INFINITY)).collect(),
            sum: (0..self.halves()).map(|_| e.float_var(0.0)).collect(),
            acc: (0..self.shape.v_dim / 8).map(|_| (0..4).map(|_| e.float_var(0.0)).collect()).collect(),
        }
    }

    /// Bytes of what [`Reader::stage`] copies.
    pub fn stage_bytes(&self) -> u64 {
        copied_bytes(&self.cache)
    }

    /// Starts copies of the item's KV head of a page to shared memory at `to`, which `full` counts. One thread.
    pub fn stage<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, logical: Int<'c>, to: Int<'c>, full: Int<'c>) {
        let physical = physical_page(e, &self.cache, item.sequence, logical);
        let page = page_address(e, &self.cache, self.operand, physical);
        let pages = HeadPages::new(e, self.cache, item.kv_head);
        e.barrier_expect(full, self.stage_bytes());
        pages.copy(e, page, to, full);
    }

    /// Takes in halves `first`, `first + step` of the page `logical`, which was copied to `page`; tokens before `from` are not
    /// visible. `page_max` is of those halves.
    #[allow(clippy::too_many_arguments, reason = "a page, its halves, and the state they go into")]
    pub fn page<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        q: Query<'c>,
        (page, logical, from): (Ptr<'c>, Int<'c>, Int<'c>),
        (first, step): (Int<'c>, u64),
        state: &State<'c>,
        page_max: Option<PageMax<'_, 'c>>,
    ) {
        let start = e.mul_const(logical, self.cache.page);
        let lo = e.max(e.sub(from, start), e.int(0));
        let hi = e.min(e.sub(e.add_const(item.position, 1), start), e.int(self.cache.page));
        let best: Vec<Var<'c>> = state.max.iter().map(|_| e.float_var(f32::NEG_INFINITY)).collect();
        // A loop that stays one: both halves at once would not fit the registers.
        e.each(first, e.int(2), step, |e, half| {
            self.half(e, q, page, half, (lo, hi), state, &best);
        });
        let Some(page_max) = page_max else { return };
        let (g, t) = e.lane_pair();
        for (half, best) in best.iter().enumerate() {
            let row = e.add_const(g, 8 * half as i64);
            let mine = e.and(e.eq(t, e.int(0)), e.lt(row, e.int(group(self.shape))));
            e.when(mine, |e| page_max(e, logical, row, e.get_float(*best)));
        }
    }

    /// Takes in 32 tokens of a page.
    #[allow(clippy::too_many_arguments, reason = "half a page, its span, and the state it goes into")]
    fn half<'c>(
        &self,
        e: &Emit<'c>,
        q: Query<'c>,
        page: Ptr<'c>,
        half: Int<'c>,
        (lo, hi): (Int<'c>, Int<'c>),
        state: &State<'c>,
        best: &[Var<'c>],
    ) {
        let (g, t) = e.lane_pair();
        let (pair, odd) = e.div_rem(g, 2);
        // K: token 8 (g / 2) + 2 j + g % 2 of the half is row j's; its number modulo eight swizzles the chunk.
        let places: Vec<[Int<'c>; 2]> = (0..4)
            .map(|j| {
                let low = e.add_const(odd, 2 * j);
                let row = e.add(e.mul_const(half, 32), e.add(e.mul_const(pair, 8), low));
                if self.cache.codec.scaled() {
                    // In eights of codes, of which a row has as many as a bf16 row has pieces.
                    return [e.add(e.mul_const(row, 8), t); 2];
                }
                [0, 4].map(|first| Swizzle::words(e, row, e.add_const(t, first)))
            })
            .collect();
        let scores: Vec<Vec<Var<'c>>> = (0..4).map(|_| (0..4).map(|_| e.float_var(0.0)).collect()).collect();
        let zero = e.int(0);
        let expander = Expander::of(&self.cache);
        for j in 0..self.shape.qk_dim / 32 {
            let q = self.query_chunks(e, q, j);
            for (scores, at) in scores.iter().zip(&places) {
                let key = match expander {
                    Some(expander) => expander.eight(e, page, at[0], j),
                    None => {
                        let at = e.add_const(at[(j % 2) as usize], (j / 2 * TILE_BYTES / 4) as i64);
                        e.load4(page, at)
                    }
                };
                Fragment { low: q[0], high: q.get(1).copied() }.multiply(e, scores, key);
            }
        }
        let p = self.softmax(e, (page, half), (lo, hi), &scores, state, best);
        let partial = e.or(e.lt(zero, lo), e.lt(hi, e.int(self.cache.page)));
        let tokens = e.add(e.mul_const(t, 8), e.mul_const(half, 32));
        let inside = |token: Int<'c>| e.and(e.ge(token, lo), e.lt(token, hi));
        // What is masked may be no number: nothing times that would still be none.
        let masks = |e: &Emit<'c>| -> Vec<Int<'c>> {
            let mask = |i: i64| {
                let [a, b] = [0, 1].map(|odd| inside(e.add_const(tokens, 2 * i + odd)));
                e.or(e.pick(a, e.int(0xffff), zero), e.pick(b, e.int(0xffff_0000), zero))
            };
            (0..4).map(mask).collect()
        };
        let add = |e: &Emit<'c>, masks: Option<Vec<Int<'c>>>| {
            for (m, acc) in (0..).zip(&state.acc) {
                let v = self.values(e, page, half, m);
                let word = |i: usize| masks.as_ref().map_or(v[i], |masks| e.and(v[i], masks[i]));
                for (step, p) in p.iter().enumerate() {
                    e.mma(acc, *p, [word(2 * step), word(2 * step + 1)]);
                }
            }
        };
        e.either(partial, |e| add(e, Some(masks(e))), |e| add(e, None));
    }

    /// The chunk of column tile `m` of V.
    fn values<'c>(&self, e: &Emit<'c>, page: Ptr<'c>, half: Int<'c>, m: u64) -> Chunk<'c> {
        let (g, t) = e.lane_pair();
        let piece = e.add(t, e.mul_const(half, 4));
        if let Some(expander) = Expander::of(&self.cache) {
            let first = e.byte_offset(page, e.int(self.cache.k_offset(1)));
            return expander.eight(e, first, e.add(e.mul_const(e.add_const(g, 8 * m as i64), 8), piece), 0);
        }
        let at = Swizzle::words(e, g, piece);
        e.load4(page, e.add_const(at, (key_bytes(&self.cache) / 4 + m * 256) as i64))
    }

    /// Masks and scales the scores, moves the state to the new maximum, and gives P as fragments of two steps.
    fn softmax<'c>(
        &self,
        e: &Emit<'c>,
        (page, half): (Ptr<'c>, Int<'c>),
        (lo, hi): (Int<'c>, Int<'c>),
        scores: &[Vec<Var<'c>>],
        state: &State<'c>,
        best: &[Var<'c>],
    ) -> [[Int<'c>; 4]; 2] {
        let t = e.lane_pair().1;
        let scale = e.float(LOG2_E / (self.shape.qk_dim as f32).sqrt());
        let none = e.float(f32::NEG_INFINITY);
        let zero = e.float(0.0);
        let tokens = e.add(e.mul_const(t, 8), e.mul_const(half, 32));
        let visible: Vec<Int<'c>> = (0..8)
            .map(|i| {
                let token = e.add_const(tokens, i);
                e.and(e.ge(token, lo), e.lt(token, hi))
            })
            .collect();
        // Codes are multiplied without their scales, which are those of tokens.
        let scales = self.cache.codec.scaled().then(|| Codes::of_copy(e, &self.cache, page)).map(|codes| {
            [codes.key_scales, codes.value_scales].map(|from| -> Vec<Float<'c>> {
                let four = |first| e.load4(from, e.add_const(tokens, first)).map(|bits| e.widen(bits));
                [four(0), four(4)].concat()
            })
        });
        // p[half][token]
        let mut p: Vec<Vec<Float<'c>>> = Vec::new();
        for (rows, best) in best.iter().enumerate() {
            let masked: Vec<Float<'c>> = (0..8)
                .map(|i| {
                    let score = e.get_float(scores[i / 2][2 * rows + i % 2]);
                    let score = scales.as_ref().map_or(score, |[keys, _]| e.fmul(score, keys[i]));
                    e.pick_float(visible[i], e.fmul(score, scale), none)
                })
                .collect();
            let most = masked.iter().fold(none, |most, x| e.fmax(most, *x));
            let most = [1, 2].iter().fold(most, |most, mask| e.fmax(most, e.shuffle(most, *mask)));
            e.set(*best, e.fmax(e.get_float(*best), most).into());
            let old = e.get_float(state.max[rows]);
            let new = e.fmax(old, most);
            // Nothing visible yet: every exponential is of minus infinity all the same.
            let origin = e.pick_float(e.above(new, none), new, zero);
            let shrink = e.exp2(e.fsub(old, origin));
            let row: Vec<Float<'c>> = masked.iter().map(|x| e.exp2(e.fsub(*x, origin))).collect();
            let added = row.iter().fold(zero, |sum, x| e.fadd(sum, *x));
            e.set(state.max[rows], new.into());
            e.set(state.sum[rows], e.fma(e.get_float(state.sum[rows]), shrink, added).into());
            for acc in &state.acc {
                for acc in &acc[2 * rows..2 * rows + 2] {
                    e.set(*acc, e.fmul(e.get_float(*acc), shrink).into());
                }
            }
            // What is masked has a scale that may be no number.
            let zero_where_masked = |i: usize, x| e.pick_float(visible[i], x, zero);
            p.push(match &scales {
                Some([_, values]) => row
                    .iter()
                    .zip(values)
                    .enumerate()
                    .map(|(i, (x, v))| zero_where_masked(i, e.fmul(*x, *v)))
                    .collect(),
                None => row,
            });
        }
        [0, 4].map(|first| {
            let word = |rows: usize, i: usize| match p.get(rows) {
                Some(p) => e.pack_bf16(p[first + i], p[first + i + 1]),
                None => e.int(0),
            };
            [word(0, 0), word(1, 0), word(0, 2), word(1, 2)]
        })
    }
}
