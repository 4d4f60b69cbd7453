//! `SparseAttention`, `WindowAttention` and `HybridAttention` of few rows: a cluster of eight, four, two blocks or one a (token,
//! KV head), or as many blocks apart.
//!
//! ```text
//! before the inputs   of eight blocks, block r takes every eighth page of each branch, one or two warps a page at a time. Their
//!                     first page is copied to shared memory where this step writes nothing in it; what is selected is a guess
//! behind them         a guess that was wrong is copied anew; each warp's softmax
//! block               the states of a branch's warps become one, an equal share of which each block of the cluster gets
//! cluster             each block sums its share over the blocks' states of each branch, gated, and writes it
//! apart               states to scratch; the last block to leave one sums them all, gated, and writes that
//! ```
//! Clusters want so many free multiprocessors side by side, which they find where few others are busy.
//!
//! The launch before is a product, and weights of the next are on their way meanwhile: each look into memory takes 2 to 3 us. Only
//! queries, gates and the newest page are left to be looked up behind it. A selection is written launches before; whether that is
//! through cannot be known before the inputs are there, so that the list is read again then. Where it is another, the guess has
//! cost a copy; what was copied by the same list is right, since nobody writes settled pages.
//!
//! Wants clusters: sm_90. Reference: `reference::attention`.

use hyc_plan::{AttnShape, Extent};

use super::branch::{Branch, Slots};
use super::cluster_layout::{Exchange, Layout, rounds};
use super::combine::Partials;
use super::limits::{CLUSTERS, PARTS, PARTS_ROWS};
use super::rows::store_output;
use super::staged::{Supply, Turns};
use super::states::{States, arrive};
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, WARP};
use crate::gpu::work_item::{WorkItem, group};

/// Elements by fours that a thread looks up together.
const TOGETHER: u64 = 2;

/// Most rows that clusters of so many blocks are usual for: those whose blocks are on the multiprocessors at once.
pub fn usual_rows(shape: AttnShape, blocks: u64, multiprocessors: u64) -> u64 {
    if blocks == 1 { u64::MAX } else { multiprocessors / (blocks * shape.kv_heads) }
}

/// The branches of one attention, on one layout.
struct Cluster<'a> {
    shape: AttnShape,
    branches: &'a [Branch],
    readers: &'a [Reader],
    layout: Layout,
    /// Of blocks that are apart.
    states: Option<States>,
}

/// What each block of the cluster has sent to this one, of one branch.
struct Inbox<'c> {
    /// `[block][share]` sums before their maximum; `[block][group]` that, and sums of exponentials.
    sums: Ptr<'c>,
    max: Ptr<'c>,
    sum: Ptr<'c>,
}

/// Sink and gate of each branch for an element.
type Factors<'c> = Vec<[Option<Float<'c>>; 2]>;

/// Adds the functions of [`CLUSTERS`] and [`PARTS`].
pub fn launches(k: &mut Kernel<'_, '_>, shape: AttnShape, branches: &[Branch]) {
    for (variant, blocks) in CLUSTERS {
        launch(k, shape, (variant, blocks, Exchange::Cluster), branches);
    }
    if k.wants(PARTS.0) {
        launch(k, shape, (PARTS.0, PARTS.1, Exchange::Scratch), branches);
    }
}

fn launch(
    k: &mut Kernel<'_, '_>,
    shape: AttnShape,
    (variant, blocks, exchange): (&str, u64, Exchange),
    branches: &[Branch],
) {
    let reader =
        |branch: &Branch, warps| Reader { shape, cache: k.cache(branch.cache), operand: branch.cache, warps };
    let Some(first) = branches.first() else { return };
    // A place takes a page of either branch.
    let stage = branches.iter().map(|branch| reader(branch, 1).stage_bytes()).max().unwrap_or(0);
    let layout = Layout::new(shape, (blocks, exchange), branches, (&reader(first, 1), stage));
    let readers: Vec<Reader> = branches.iter().map(|branch| reader(branch, layout.warps())).collect();
    let states = (exchange == Exchange::Scratch).then(|| {
        let items = PARTS_ROWS.min(k.spec.max_rows) * shape.kv_heads;
        States::new(k, readers[0], items * blocks * branches.len() as u64)
    });
    let grid = [k.rows(shape.kv_heads * blocks, 1), Extent::fixed(1)];
    let (part, variants) = (part(variant), [variant]);
    let function = Function::new(&part, grid, layout.threads())
        .of(&variants)
        .shared_bytes(layout.shared_bytes())
        .clusters(if states.is_some() { 1 } else { blocks })
        .waits_itself();
    k.function(function, |e| Cluster { shape, branches, readers: &readers, layout, states }.body(e));
}

impl Cluster<'_> {
    fn body<'c>(&self, e: &Emit<'c>) {
        let Some(first) = self.readers.first() else { return };
        let (index, rank) = e.div_rem(e.block_x(), self.layout.blocks);
        let item = WorkItem::new(e, index, self.shape.kv_heads);
        let slots: Vec<Slots<'c>> =
            self.branches.iter().zip(self.readers).map(|(branch, r)| branch.slots(e, r, item)).collect();
        let together = self.states.is_none();
        if together {
            e.cluster_arrive();
        }
        let turns = Turns::new(e, (self.layout.places, self.layout.sharers), self.layout.stage);
        // First token that the warp's branch sees.
        let from = e.var(e.int(0).into());
        let logical = |e: &Emit<'c>, slot: Int<'c>| {
            let found = e.var(e.minus_one().into());
            self.by_branch(e, |e, number, _| e.set(found, slots[number].logical(e, slot).into()));
            e.get(found).into_int_value()
        };
        let copy = |e: &Emit<'c>, page: Int<'c>, to: Int<'c>, full: Int<'c>| {
            self.by_branch(e, |e, number, _| self.readers[number].stage(e, item, page, to, full));
        };
        let supply = Supply { logical: &logical, copy: &copy };
        let bounds = [(); 3].map(|()| e.var(e.int(1).into()));
        self.by_branch(e, |e, number, own| {
            let (begin, end) = self.layout.teams[number];
            e.set(from, slots[number].from.into());
            let slot = e.add(e.mul_const(own, self.layout.blocks), rank);
            let step = e.int(self.layout.blocks * (end - begin));
            for (to, value) in bounds.iter().zip([slot, slots[number].count, step]) {
                e.set(*to, value.into());
            }
        });
        let [slot, end, step] = bounds.map(|var| e.get(var).into_int_value());
        turns.begin(e, (slot, end, step), item.settled(e, first.cache.page), &supply);
        e.wait_for_inputs();
        let q = first.query(e, item);
        let finish = together.then(|| self.prepare(e, item, rank));
        let state = first.nothing(e);
        turns.run(e, &supply, item.pages(e, first.cache.page), |e, place, logical| {
            let from = e.get(from).into_int_value();
            let halves = (turns.sharer, self.layout.sharers);
            let page =
                |e: &Emit<'c>, r: &Reader| r.page(e, item, q, (place, logical, from), halves, &state, None);
            // Branches whose pages are stored alike have one code.
            match self.readers.iter().all(|r| r.cache.codec == first.cache.codec) {
                true => page(e, first),
                false => self.by_branch(e, |e, number, _| page(e, &self.readers[number])),
            }
        });
        // Behind all pages, in their place.
        e.barrier();
        let partials = first.partials(e);
        first.store_partial(e, &state, &partials);
        if let Some(finish) = finish {
            e.cluster_wait();
            self.send(e, first, rank, &partials);
            e.cluster_barrier();
            finish(e);
        } else if let Some(states) = &self.states {
            self.close(e, states, (item, index, rank), &partials);
        }
    }

    /// Looks up what the block's elements wait for that is known before the sums are, and gives what finishes them.
    fn prepare<'s, 'c: 's>(
        &'s self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        rank: Int<'c>,
    ) -> impl FnOnce(&Emit<'c>) + use<'s, 'c> {
        let (threads, share) = (self.layout.threads(), self.layout.share);
        let rounds = rounds(self.layout.blocks, share, threads);
        let own = move |e: &Emit<'c>, round: u64| e.add_const(e.thread(), (round * threads) as i64);
        // In shared memory: registers are the sums'.
        let keep = |e: &Emit<'c>, value: Float<'c>| {
            let to = e.shared(threads);
            e.store(to, e.thread(), value.into());
            to
        };
        let kept = (0..rounds.unwrap_or(0)).map(|round| {
            let factors = self.factors(e, item, self.place(e, rank, own(e, round)).1);
            let of_branch =
                |[sink, gate]: [Option<Float<'c>>; 2]| [sink, gate].map(|x| x.map(|x| keep(e, x)));
            factors.into_iter().map(of_branch).collect::<Vec<_>>()
        });
        let kept: Vec<Vec<[Option<Ptr<'c>>; 2]>> = kept.collect();
        move |e| {
            let finish =
                |e: &Emit<'c>,
                 own: Int<'c>,
                 factors: &dyn Fn(&Emit<'c>, (Int<'c>, Int<'c>)) -> Factors<'c>| {
                    let (there, place) = self.place(e, rank, own);
                    e.when(there, |e| self.finish(e, item, (own, place), &factors(e, place)));
                };
            for (round, kept) in (0..).zip(&kept) {
                let load =
                    |e: &Emit<'c>, x: &[Option<Ptr<'c>>; 2]| x.map(|x| x.map(|x| e.load(x, e.thread())));
                finish(e, own(e, round), &|e, _| kept.iter().map(|x| load(e, x)).collect());
            }
            if rounds.is_none() {
                e.each(e.thread(), e.int(share), threads, |e, own| {
                    finish(e, own, &|e, place| self.factors(e, item, place));
                });
            }
        }
    }

    /// Whether there is element `own` of the block's share, and its (head of the group, element), or else the last one's.
    fn place<'c>(&self, e: &Emit<'c>, rank: Int<'c>, own: Int<'c>) -> (Int<'c>, (Int<'c>, Int<'c>)) {
        let (share, all) = (self.layout.share, group(self.shape) * self.shape.v_dim);
        let at = e.add(e.mul_const(rank, share), own);
        let there = e.and(e.lt(own, e.int(share)), e.lt(at, e.int(all)));
        (there, e.div_rem(e.min(at, e.int(all - 1)), self.shape.v_dim))
    }

    fn factors<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, place: (Int<'c>, Int<'c>)) -> Factors<'c> {
        let of_branch = |(branch, r): (&Branch, &Reader)| {
            [r.sink(e, item, branch.sink, place.0), branch.gate(e, self.shape, item, place)]
        };
        self.branches.iter().zip(self.readers).map(of_branch).collect()
    }

    /// Calls `body` with the number of the branch that the warp is for, and its place's number among those.
    fn by_branch<'c>(&self, e: &Emit<'c>, body: impl Fn(&Emit<'c>, usize, Int<'c>)) {
        let place = e.div_rem(e.thread(), self.layout.sharers * WARP).0;
        for (number, (begin, end)) in self.layout.teams.iter().enumerate() {
            let inside = e.and(e.ge(place, e.int(*begin)), e.lt(place, e.int(*end)));
            e.when(inside, |e| body(e, number, e.add_const(place, -(*begin as i64))));
        }
    }

    fn inbox<'c>(&self, e: &Emit<'c>, number: usize) -> Inbox<'c> {
        let (heads, words) = (group(self.shape), number as u64 * self.layout.inbox);
        let base = e.byte_offset(e.dynamic_shared(), e.long(self.layout.before));
        let at = |words| e.at(base, e.long(words));
        let max = words + self.layout.blocks * self.layout.share;
        Inbox { sums: at(words), max: at(max), sum: at(max + self.layout.blocks * heads) }
    }

    /// Sums the states of each branch's warps, and sends each block of the cluster its share.
    fn send<'c>(&self, e: &Emit<'c>, r: &Reader, rank: Int<'c>, from: &Partials<'c>) {
        let (heads, threads) = (group(self.shape), self.layout.threads());
        for (number, (begin, end)) in self.layout.teams.iter().enumerate() {
            let to = self.inbox(e, number);
            let warps = begin * self.layout.sharers..end * self.layout.sharers;
            r.sums(e, warps.clone(), from, |e, four, words| {
                let (block, own) = e.div_rem(four, self.layout.share / 4);
                let at = e.add(e.mul_const(rank, self.layout.share), e.mul_const(own, 4));
                e.store_four_to_block(e.shared_address(e.at(to.sums, at)), block, words);
            });
            e.each(e.thread(), e.int(heads * self.layout.blocks), threads, |e, i| {
                let (h, block) = e.div_rem(i, self.layout.blocks);
                let of = r.closed(e, h, warps, from);
                let at = e.add(e.mul_const(rank, heads), h);
                e.store_to_block(e.shared_address(e.at(to.max, at)), block, e.bits(of.max));
                e.store_to_block(e.shared_address(e.at(to.sum, at)), block, e.bits(of.sum));
            });
        }
    }

    /// The number of a branch's state of a block of an item.
    fn state<'c>(&self, e: &Emit<'c>, (index, block): (Int<'c>, Int<'c>), branch: u64) -> Int<'c> {
        let block = e.add(e.mul_const(index, self.layout.blocks), block);
        e.add_const(e.mul_const(block, self.branches.len() as u64), branch as i64)
    }

    /// Elements `element ..` of head `h` of an item's result.
    fn over_all<'c>(
        &self,
        e: &Emit<'c>,
        states: &States,
        (item, index): (WorkItem<'c>, Int<'c>),
        (h, element): (Int<'c>, Int<'c>),
    ) -> [Float<'c>; 4] {
        let blocks = self.layout.blocks;
        let mut y = [e.float(0.0); 4];
        for (n, (branch, r)) in (0..).zip(self.branches.iter().zip(self.readers)) {
            let place = |i: i64| (h, e.add_const(element, i));
            let gates = [0, 1, 2, 3].map(|i| branch.gate(e, self.shape, item, place(i)));
            let sink = r.sink(e, item, branch.sink, h);
            let number = |e: &Emit<'c>, block| self.state(e, (index, block), n);
            let sum = states.sum(e, (e.int(blocks), blocks), &number, (h, element));
            let factor = sum.closed(e, sink).2;
            for ((y, x), gate) in y.iter_mut().zip(sum.elements).zip(gates) {
                let x = e.fmul(x, factor);
                *y = e.fadd(*y, gate.map_or(x, |gate| e.fmul(x, gate)));
            }
        }
        y
    }

    /// Leaves the block's states in scratch; the last block of the item makes its result.
    fn close<'c>(
        &self,
        e: &Emit<'c>,
        states: &States,
        (item, index, rank): (WorkItem<'c>, Int<'c>, Int<'c>),
        from: &Partials<'c>,
    ) {
        for (branch, (begin, end)) in (0..).zip(&self.layout.teams) {
            let warps = begin * self.layout.sharers..end * self.layout.sharers;
            states.leave(e, self.state(e, (index, rank), branch), warps, from);
        }
        e.barrier();
        let last = arrive(e, e.shared(1), index, e.int(self.layout.blocks));
        e.when(e.eq(last, e.int(1)), |e| {
            let (fours, threads) = (group(self.shape) * self.shape.v_dim / 4, self.layout.threads());
            e.each(e.thread(), e.int(fours), TOGETHER * threads, |e, first| {
                let four = |i: u64| e.add_const(first, (i * threads) as i64);
                let results: Vec<_> = (0..TOGETHER)
                    .map(|i| {
                        let four = e.min(four(i), e.int(fours - 1));
                        let (h, element) = e.div_rem(e.mul_const(four, 4), self.shape.v_dim);
                        ((h, element), self.over_all(e, states, (item, index), (h, element)))
                    })
                    .collect();
                for (i, ((h, element), y)) in (0..).zip(results) {
                    e.when(e.lt(four(i), e.int(fours)), |e| {
                        for (i, y) in (0..).zip(y) {
                            store_output(e, self.shape, item, (h, e.add_const(element, i)), y);
                        }
                    });
                }
            });
        });
    }

    /// Element `own` of the block's share over the whole cluster, both branches with sinks and gates, to its place.
    fn finish<'c>(
        &self,
        e: &Emit<'c>,
        item: WorkItem<'c>,
        (own, place): (Int<'c>, (Int<'c>, Int<'c>)),
        factors: &Factors<'c>,
    ) {
        let heads = group(self.shape);
        let parts = factors.iter().enumerate().map(|(number, [sink, gate])| {
            let from = self.inbox(e, number);
            let of_all = |base: Ptr<'c>, each: u64, at: Int<'c>| -> Vec<Float<'c>> {
                (0..self.layout.blocks)
                    .map(|block| e.load(base, e.add_const(at, (block * each) as i64)))
                    .collect()
            };
            let most = of_all(from.max, heads, place.0);
            let sums = of_all(from.sum, heads, place.0);
            let totals = of_all(from.sums, self.layout.share, own);
            let origin = most.iter().fold(sink.unwrap_or(e.float(f32::NEG_INFINITY)), |a, b| e.fmax(a, *b));
            let extra = sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, origin)));
            let factors: Vec<Float<'c>> = most.iter().map(|most| e.exp2(e.fsub(*most, origin))).collect();
            let weighted = |of: &[Float<'c>], first| {
                of.iter().zip(&factors).fold(first, |sum, (x, factor)| e.fma(*x, *factor, sum))
            };
            let y = e.fdiv(weighted(&totals, e.float(0.0)), weighted(&sums, extra));
            gate.map_or(y, |gate| e.fmul(y, gate))
        });
        let y = parts.reduce(|a, b| e.fadd(a, b)).unwrap_or(e.float(0.0));
        store_output(e, self.shape, item, place, y);
    }
}
