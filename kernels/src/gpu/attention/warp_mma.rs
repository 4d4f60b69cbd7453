//! Attention of one (token, KV head) a block on tensor cores, over tiled caches: decode, and sparse and window
//! layers of a prefill.
//!
//! ```text
//! S = Q K^T     A: the group's heads as rows (16, the rest repeats), in registers for good
//!               B: 32 tokens as 4 column tiles; column n of tile j is token 8 (n / 2) + 2 j + n % 2
//! O += P V      A: P, which then lies as the first product left it: a lane has tokens 8t .. 8t + 8
//!               B: V is stored [dim][token], so eight tokens of a dim are one 16-byte load
//! ```
//! K and V go from memory straight into fragments. Warps take pages in turn, each with a softmax of its own
//! (Milakov and Gimelshein, 1805.02867), in units of log2; their states are merged in shared memory. Decode over a
//! whole context also splits it over blocks, and a second function merges those (Dao et al., Flash-Decoding) and
//! selects (`split_kv_decode`). Reference: `reference::attention`.

use std::f32::consts::LOG2_E;

use hyc_plan::{AttnShape, CacheSpec};

use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, Var, WARP};
use crate::gpu::paged_kv::physical_page;
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

/// The pages of a branch, in shared memory: logical (or -1) and physical numbers.
pub struct Pages<'c> {
    logical: Ptr<'c>,
    physical: Ptr<'c>,
    count: Int<'c>,
    /// First token that is visible.
    from: Int<'c>,
}

impl<'c> Pages<'c> {
    /// The physical page of a slot that has one.
    pub fn physical(&self, e: &Emit<'c>, slot: Int<'c>) -> Int<'c> {
        e.load_int(self.physical, slot)
    }
}

/// One warp's softmax; `[half]` are rows g and g + 8.
pub struct State<'c> {
    pub max: Vec<Var<'c>>,
    pub sum: Vec<Var<'c>>,
    /// `[v_dim / 8][4]`
    pub acc: Vec<Vec<Var<'c>>>,
}

/// Where a page's keys and values of one KV head are read: `base` and, in bytes from it (i64), either.
pub struct Place<'c> {
    base: Ptr<'c>,
    keys: Int<'c>,
    values: Int<'c>,
    /// Whether that is shared memory.
    staged: bool,
}

impl<'c> Place<'c> {
    /// Sixteen bytes at byte `at` (i64) + `plus` from `base`.
    fn chunk(&self, e: &Emit<'c>, at: Int<'c>, plus: u64) -> Chunk<'c> {
        if self.staged {
            return e.load4(e.byte_offset(self.base, e.add_const(at, plus as i64)), e.int(0));
        }
        e.load_chunk(self.base, at, plus)
    }
}

/// Takes one (page, row of the group, largest scaled logit).
pub type PageMax<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>);

/// Query fragments: `[qk_dim / 32][half]` chunks.
pub enum Query<'c> {
    /// For good.
    Registers(Vec<Vec<Chunk<'c>>>),
    /// `[qk_dim / 32][half][lane]`, the same for all warps, where they would not fit beside the rest.
    Shared(Ptr<'c>),
}

impl Reader {
    /// Column tiles of V that are loaded at a time: what the registers hold beside K and the sums.
    fn at_once(&self) -> usize {
        if self.shape.qk_dim + self.shape.v_dim > 256 { 4 } else { 8 }
    }

    pub fn halves(&self) -> usize {
        if group(self.shape) > 8 { 2 } else { 1 }
    }

    /// The group's query as fragments.
    pub fn query<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>) -> Query<'c> {
        let (group, dim) = (group(self.shape), self.shape.qk_dim);
        let (g, t) = e.lane_pair();
        let width = e.mul_const(item.kv_head, group * dim);
        let base = e.at(e.operand("q"), e.wide(e.add(e.mul_const(item.row, e.stride("q")), width)));
        let piece = |j: u64, half: usize| {
            let head = e.min(e.add_const(g, 8 * half as i64), e.int(group - 1));
            let at = e.add(e.mul_const(head, dim), e.add_const(e.mul_const(t, 8), 32 * j as i64));
            e.load_as_chunk(base, at)
        };
        let halves = self.halves();
        let pieces = dim / 32 * halves as u64;
        if pieces <= 8 {
            return Query::Registers(
                (0..dim / 32).map(|j| (0..halves).map(|half| piece(j, half)).collect()).collect(),
            );
        }
        let shared = e.shared(pieces * 128);
        e.when(e.lt(e.thread(), e.int(WARP)), |e| {
            for i in 0..pieces {
                let at = e.add_const(e.mul_const(e.thread(), 4), (128 * i) as i64);
                e.store_words(shared, at, &piece(i / halves as u64, i as usize % halves));
            }
        });
        e.barrier();
        Query::Shared(shared)
    }

    /// Chunks `[half]` of query columns `32 j ..`.
    fn query_chunks<'c>(&self, e: &Emit<'c>, q: &Query<'c>, j: usize) -> Vec<Chunk<'c>> {
        match q {
            Query::Registers(q) => q[j].clone(),
            Query::Shared(q) => {
                let lane = e.mul_const(e.and(e.thread(), e.int(WARP - 1)), 4);
                let at = |half: usize| e.add_const(lane, 128 * (j * self.halves() + half) as i64);
                (0..self.halves()).map(|half| e.load4(*q, at(half))).collect()
            }
        }
    }

    /// Looks up the physical pages of `count` slots (at most `most`); all threads of the block.
    pub fn pages<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        (count, most): (Int<'c>, u64),
        from: Int<'c>,
        logical: &dyn Fn(&Emit<'c>, Int<'c>) -> Int<'c>,
    ) -> Pages<'c> {
        let pages = Pages { logical: e.shared(most), physical: e.shared(most), count, from };
        e.each(e.thread(), count, self.warps * WARP, |e, i| {
            let page = logical(e, i);
            let seen = e.and(e.ge(page, e.int(0)), e.ge(item.position, e.mul_const(page, self.cache.page)));
            e.store(pages.logical, i, e.pick(seen, page, e.minus_one()).into());
            e.when(seen, |e| {
                e.store(pages.physical, i, physical_page(e, &self.cache, item.sequence, page).into());
            });
        });
        e.barrier();
        pages
    }

    /// The warp's share of the pages. `page_max` gets (page, row of the group, largest scaled logit), once each.
    pub fn run<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        q: &Query<'c>,
        pages: &Pages<'c>,
        page_max: Option<PageMax<'_, 'c>>,
    ) -> State<'c> {
        let state = self.nothing(e);
        e.each(e.div_rem(e.thread(), WARP).0, pages.count, self.warps, |e, i| {
            let logical = e.load_int(pages.logical, i);
            e.when(e.ge(logical, e.int(0)), |e| {
                let place = self.in_memory(e, item, e.load_int(pages.physical, i));
                self.page(e, item, q, (&place, logical, pages.from), &state, page_max);
            });
        });
        state
    }

    /// A softmax of nothing yet.
    pub fn nothing<'c>(&self, e: &Emit<'c>) -> State<'c> {
        State {
            max: (0..self.halves()).map(|_| e.float_var(f32::NEG_INFINITY)).collect(),
            sum: (0..self.halves()).map(|_| e.float_var(0.0)).collect(),
            acc: (0..self.shape.v_dim / 8).map(|_| (0..4).map(|_| e.float_var(0.0)).collect()).collect(),
        }
    }

    /// The item's KV head of a physical page.
    fn in_memory<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, physical: Int<'c>) -> Place<'c> {
        let cache = &self.cache;
        let base = e.mul_const(e.wide(physical), cache.page_bytes());
        let values = e.wide(e.mul_const(item.kv_head, 2 * cache.page * cache.v_pad()));
        Place {
            base: e.byte_offset(e.operand(self.operand), base),
            keys: e.wide(e.mul_const(item.kv_head, 2 * cache.k_offset(1))),
            values: e.add_const(values, 2 * cache.v_offset(0) as i64),
            staged: false,
        }
    }

    /// Bytes of a KV head of a page, keys and then values, where [`Reader::stage`] puts it.
    pub fn stage_bytes(&self) -> u64 {
        2 * self.cache.page * (self.cache.qk_dim + self.cache.v_pad())
    }

    /// Starts copies of the item's KV head of a physical page to shared memory at `to`, which `full` counts. One thread.
    pub fn stage<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, physical: Int<'c>, to: Int<'c>, full: Int<'c>) {
        let from = self.in_memory(e, item, physical);
        let keys = 2 * self.cache.k_offset(1);
        e.bulk_copy(to, e.byte_offset(from.base, from.keys), keys, full);
        let to = e.add_const(to, keys as i64);
        e.bulk_copy(to, e.byte_offset(from.base, from.values), self.stage_bytes() - keys, full);
    }

    /// A page that was copied to `base`.
    pub fn staged<'c>(&self, e: &Emit<'c>, base: Ptr<'c>) -> Place<'c> {
        Place { base, keys: e.long(0), values: e.long(2 * self.cache.k_offset(1)), staged: true }
    }

    /// Takes in the page `logical`, of which the tokens before `from` are not visible.
    pub fn page<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        q: &Query<'c>,
        (place, logical, from): (&Place<'c>, Int<'c>, Int<'c>),
        state: &State<'c>,
        page_max: Option<PageMax<'_, 'c>>,
    ) {
        let start = e.mul_const(logical, self.cache.page);
        let lo = e.max(e.sub(from, start), e.int(0));
        let hi = e.min(e.sub(e.add_const(item.position, 1), start), e.int(self.cache.page));
        let best: Vec<Var<'c>> = state.max.iter().map(|_| e.float_var(f32::NEG_INFINITY)).collect();
        // A loop that stays one: both halves at once would not fit the registers.
        e.each(e.int(0), e.int(2), 1, |e, half| {
            self.half(e, q, place, half, (lo, hi), state, &best);
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
        q: &Query<'c>,
        from: &Place<'c>,
        half: Int<'c>,
        (lo, hi): (Int<'c>, Int<'c>),
        state: &State<'c>,
        best: &[Var<'c>],
    ) {
        let (g, t) = e.lane_pair();
        let (pair, odd) = e.div_rem(g, 2);
        // K: token 8 (g / 2) + 2 j + g % 2 of the half is row j's; its number modulo eight swizzles the chunk.
        let keys = e.add(from.keys, e.wide(e.mul_const(half, 32 * 128)));
        let places: Vec<[Int<'c>; 2]> = (0..4)
            .map(|j| {
                let low = e.add_const(odd, 2 * j);
                let row = e.add(e.mul_const(pair, 8), low);
                [0, 4].map(|first| e.add(keys, e.wide(Swizzle::bytes(e, row, e.add_const(t, first)))))
            })
            .collect();
        let k: Vec<Vec<Chunk<'c>>> = places
            .iter()
            .map(|at| {
                let piece = |j: u64| from.chunk(e, at[(j % 2) as usize], j / 2 * TILE_BYTES);
                (0..self.shape.qk_dim / 32).map(piece).collect()
            })
            .collect();
        let scores: Vec<Vec<Var<'c>>> = (0..4).map(|_| (0..4).map(|_| e.float_var(0.0)).collect()).collect();
        let early = self.shape.qk_dim + self.shape.v_dim <= 256;
        let first = if early { self.values(e, from, half, 0) } else { vec![] };
        let zero = e.int(0);
        for j in 0..self.shape.qk_dim as usize / 32 {
            let q = self.query_chunks(e, q, j);
            for (scores, k) in scores.iter().zip(&k) {
                Fragment { low: q[0], high: q.get(1).copied() }.multiply(e, scores, k[j]);
            }
        }
        let p = self.softmax(e, half, (lo, hi), &scores, state, best);
        let partial = e.or(e.lt(zero, lo), e.lt(hi, e.int(self.cache.page)));
        let tokens = e.add(e.mul_const(t, 8), e.mul_const(half, 32));
        let inside = |token: Int<'c>| e.and(e.ge(token, lo), e.lt(token, hi));
        for m in (0..self.shape.v_dim / 8).step_by(self.at_once()) {
            let v = if m == 0 && early { first.clone() } else { self.values(e, from, half, m) };
            // What is masked may be no number: nothing times that would still be none.
            let v: Vec<Vec<Var<'c>>> =
                v.iter().map(|v| v.iter().map(|word| e.var((*word).into())).collect()).collect();
            e.when(partial, |e| {
                for i in 0..4 {
                    let (a, b) = (e.add_const(tokens, 2 * i), e.add_const(tokens, 2 * i + 1));
                    let low = e.pick(inside(a), e.int(0xffff), zero);
                    let mask = e.or(low, e.pick(inside(b), e.int(0xffff_0000), zero));
                    for v in &v {
                        let word = v[i as usize];
                        e.set(word, e.and(e.get(word).into_int_value(), mask).into());
                    }
                }
            });
            for (acc, v) in state.acc[m as usize..].iter().zip(&v) {
                let word = |i: usize| e.get(v[i]).into_int_value();
                for (step, p) in p.iter().enumerate() {
                    e.mma(acc, *p, [word(2 * step), word(2 * step + 1)]);
                }
            }
        }
    }

    /// Chunks of up to [`Reader::at_once`] column tiles of V from tile `m` on.
    fn values<'c>(&self, e: &Emit<'c>, from: &Place<'c>, half: Int<'c>, m: u64) -> Vec<Chunk<'c>> {
        let (g, t) = e.lane_pair();
        let row = Swizzle::bytes(e, g, e.add(t, e.mul_const(half, 4)));
        let at = e.add(from.values, e.wide(row));
        let last = (self.shape.v_dim / 8).min(m + self.at_once() as u64);
        (m..last).map(|m| from.chunk(e, at, m * 1024)).collect()
    }

    /// Masks and scales the scores, moves the state to the new maximum, and gives P as fragments of two steps.
    fn softmax<'c>(
        &self,
        e: &Emit<'c>,
        half: Int<'c>,
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
        // p[half][token]
        let mut p: Vec<Vec<Float<'c>>> = Vec::new();
        for (rows, best) in best.iter().enumerate() {
            let masked: Vec<Float<'c>> = (0..8)
                .map(|i| {
                    let score = e.get_float(scores[i / 2][2 * rows + i % 2]);
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
            p.push(row);
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
