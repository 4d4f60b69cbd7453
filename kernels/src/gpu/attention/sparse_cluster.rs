//! `SparseAttention` and `HybridAttention` of few rows: a cluster of eight blocks a (token, KV head).
//!
//! ```text
//! before the inputs   block r of the cluster takes every eighth page of each branch, a warp one at a time. A warp's first page
//!                     is copied to shared memory where this step writes nothing in it; what is selected is a guess
//! behind them         a guess that was wrong is copied anew; each warp's softmax
//! block               the states of a branch's warps become one, an eighth of which each block of the cluster gets
//! cluster             each block sums its elements over the eight states of each branch, gated, and writes them
//! ```
//! The launch before is a product, and weights of the next are on their way meanwhile: each look into memory takes 2 to 3 us. Only
//! queries, gates and the newest page are left to be looked up behind it. A selection is written launches before; whether that is
//! through cannot be known before the inputs are there, so that the list is read again then. Where it is another, the guess has
//! cost a copy; what was copied by the same list is right, since nobody writes settled pages.
//!
//! Wants clusters: sm_90. Reference: `reference::attention`.

use hyc_plan::{AttnShape, Extent};

use super::branch::{Branch, Slots};
use super::combine::Partials;
use super::limits::CLUSTER;
use super::rows::store_output;
use super::staged::{Supply, Turns};
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, WARP};
use crate::gpu::paged_kv::physical_page;
use crate::gpu::work_item::{WorkItem, group};

/// Blocks of a cluster.
const BLOCKS: u64 = 8;
/// Most warps of a block, and most of its shared memory.
const MOST_WARPS: u64 = 8;
const SHARED: u64 = 220 << 10;

/// Most rows that it is usual for: those whose blocks are on the multiprocessors at once, with room for the next launch's.
pub fn usual_rows(shape: AttnShape, multiprocessors: u64) -> u64 {
    multiprocessors / (BLOCKS * shape.kv_heads)
}

/// What a block's warps are for, and where its shared memory has what.
struct Layout {
    /// First warp of each branch and the one behind its last.
    teams: Vec<(u64, u64)>,
    warps: u64,
    /// Bytes of a warp's page.
    stage: u64,
    /// Elements of a branch that one block of the cluster sums, and words of what it gets for that.
    share: u64,
    inbox: u64,
}

impl Layout {
    fn new(shape: AttnShape, branches: &[Branch], reader: &Reader) -> Layout {
        let (heads, stage) = (group(shape), reader.stage_bytes());
        // Elements go four at a time.
        let share = (heads * shape.v_dim / 4).div_ceil(BLOCKS) * 4;
        let inbox = BLOCKS * (share + 2 * heads);
        let mut sizes: Vec<u64> =
            branches.iter().map(|branch| branch.most_pages(&reader.cache).div_ceil(BLOCKS)).collect();
        let bytes = |warps: u64| warps * stage + 4 * branches.len() as u64 * inbox + SHARED_SLACK;
        let most = (1..=MOST_WARPS).rev().find(|warps| bytes(*warps) <= SHARED).unwrap_or(1);
        while sizes.iter().sum::<u64>() > most {
            let Some(largest) = sizes.iter_mut().max().filter(|largest| **largest > 1) else { break };
            *largest -= 1;
        }
        let mut warps = 0;
        let teams = sizes.iter().map(|size| {
            warps += size;
            (warps - size, warps)
        });
        Layout { teams: teams.collect(), warps, stage, share, inbox }
    }

    fn shared_bytes(&self) -> u64 {
        self.warps * self.stage + 4 * self.teams.len() as u64 * self.inbox + SHARED_SLACK
    }

    fn threads(&self) -> u64 {
        self.warps * WARP
    }
}

/// The branches of one attention, on one layout.
struct Cluster<'a> {
    shape: AttnShape,
    branches: &'a [Branch],
    readers: &'a [Reader],
    layout: Layout,
}

/// What each block of the cluster has sent to this one, of one branch.
struct Inbox<'c> {
    /// `[block][share]` sums before their maximum; `[block][group]` that, and sums of exponentials.
    sums: Ptr<'c>,
    max: Ptr<'c>,
    sum: Ptr<'c>,
}

/// What an element waits for that is known before the sums are: its place, and sink and gate of each branch.
struct Wanted<'c> {
    /// Which of the block's elements; whether there is such a one.
    own: Int<'c>,
    there: Int<'c>,
    place: (Int<'c>, Int<'c>),
    branches: Vec<(Option<Float<'c>>, Option<Float<'c>>)>,
}

/// Adds the function of [`CLUSTER`].
pub fn launch<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, branches: &[Branch]) {
    let reader =
        |branch: &Branch, warps| Reader { shape, cache: k.cache(branch.cache), operand: branch.cache, warps };
    let Some(first) = branches.first() else { return };
    let layout = Layout::new(shape, branches, &reader(first, 1));
    let readers: Vec<Reader> = branches.iter().map(|branch| reader(branch, layout.warps)).collect();
    let grid = [k.rows(shape.kv_heads * BLOCKS, 1), Extent::fixed(1)];
    let (part, variants) = (part(CLUSTER), [CLUSTER]);
    let function = Function::new(&part, grid, layout.threads())
        .of(&variants)
        .shared_bytes(layout.shared_bytes())
        .clusters(BLOCKS)
        .waits_itself();
    k.function(function, |e| Cluster { shape, branches, readers: &readers, layout }.body(e));
}

impl Cluster<'_> {
    fn body<'c>(&self, e: &Emit<'c>) {
        let Some(first) = self.readers.first() else { return };
        let item = WorkItem::new(e, e.div_rem(e.block_x(), BLOCKS).0, self.shape.kv_heads);
        let rank = e.cluster_rank();
        let slots: Vec<Slots<'c>> =
            self.branches.iter().zip(self.readers).map(|(branch, r)| branch.slots(e, r, item)).collect();
        e.cluster_arrive();
        let turns = Turns::new(e, self.layout.warps, self.layout.stage);
        // First token that the warp's branch sees.
        let from = e.var(e.int(0).into());
        let logical = |e: &Emit<'c>, slot: Int<'c>| {
            let found = e.var(e.minus_one().into());
            self.by_branch(e, |e, number, _| e.set(found, slots[number].logical(e, slot).into()));
            e.get(found).into_int_value()
        };
        let copy = |e: &Emit<'c>, (_, logical): (Int<'c>, Int<'c>), to: Int<'c>, full: Int<'c>| {
            e.barrier_expect(full, self.layout.stage);
            self.by_branch(e, |e, number, _| {
                let r = &self.readers[number];
                r.stage(e, item, physical_page(e, &r.cache, item.sequence, logical), to, full);
            });
        };
        let supply = Supply { logical: &logical, copy: &copy };
        let bounds = [(); 3].map(|()| e.var(e.int(1).into()));
        self.by_branch(e, |e, number, own| {
            let (begin, end) = self.layout.teams[number];
            e.set(from, slots[number].from.into());
            let slot = e.add(e.mul_const(own, BLOCKS), rank);
            let step = e.int(BLOCKS * (end - begin));
            for (to, value) in bounds.iter().zip([slot, slots[number].count, step]) {
                e.set(*to, value.into());
            }
        });
        let [slot, end, step] = bounds.map(|var| e.get(var).into_int_value());
        turns.begin(e, (slot, end, step), item.settled(e, first.cache.page), &supply);
        e.wait_for_inputs();
        let q = first.query(e, item);
        let wanted = self.wanted(e, item, rank);
        let state = first.nothing(e);
        turns.run(e, &supply, item.pages(e, first.cache.page), |e, place, logical| {
            let from = e.get(from).into_int_value();
            first.page(e, item, &q, (&first.staged(e, place), logical, from), &state, None);
        });
        // Behind all pages, in their place.
        e.barrier();
        let partials = first.partials(e);
        first.store_partial(e, &state, &partials);
        e.cluster_wait();
        self.send(e, first, &partials);
        e.cluster_barrier();
        for wanted in wanted {
            e.when(wanted.there, |e| self.finish(e, item, &wanted));
        }
    }

    /// Calls `body` with the number of the branch that the warp is for, and the warp's number among those.
    fn by_branch<'c>(&self, e: &Emit<'c>, body: impl Fn(&Emit<'c>, usize, Int<'c>)) {
        let warp = e.div_rem(e.thread(), WARP).0;
        for (number, (begin, end)) in self.layout.teams.iter().enumerate() {
            let inside = e.and(e.ge(warp, e.int(*begin)), e.lt(warp, e.int(*end)));
            e.when(inside, |e| body(e, number, e.add_const(warp, -(*begin as i64))));
        }
    }

    /// Looks up what the block's elements wait for: one a thread, or as many as there are.
    fn wanted<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, rank: Int<'c>) -> Vec<Wanted<'c>> {
        let (share, all) = (self.layout.share, group(self.shape) * self.shape.v_dim);
        let wanted = |round: u64| {
            let own = e.add_const(e.thread(), (round * self.layout.threads()) as i64);
            let at = e.add(e.mul_const(rank, share), own);
            let there = e.and(e.lt(own, e.int(share)), e.lt(at, e.int(all)));
            let place = e.div_rem(e.min(at, e.int(all - 1)), self.shape.v_dim);
            let of_branch = |(branch, r): (&Branch, &Reader)| {
                (r.sink(e, item, branch.sink, place.0), branch.gate(e, self.shape, item, place))
            };
            let branches = self.branches.iter().zip(self.readers).map(of_branch).collect();
            Wanted { own, there, place, branches }
        };
        (0..share.div_ceil(self.layout.threads())).map(wanted).collect()
    }

    fn inbox<'c>(&self, e: &Emit<'c>, number: usize) -> Inbox<'c> {
        let (heads, words) = (group(self.shape), number as u64 * self.layout.inbox);
        let base = e.byte_offset(e.dynamic_shared(), e.long(self.layout.warps * self.layout.stage));
        let at = |words| e.at(base, e.long(words));
        let max = words + BLOCKS * self.layout.share;
        Inbox { sums: at(words), max: at(max), sum: at(max + BLOCKS * heads) }
    }

    /// Sums the states of each branch's warps, and sends each block of the cluster its share.
    fn send<'c>(&self, e: &Emit<'c>, r: &Reader, from: &Partials<'c>) {
        let (heads, v_dim, threads) = (group(self.shape), self.shape.v_dim, self.layout.threads());
        let rank = e.cluster_rank();
        for (number, (begin, end)) in self.layout.teams.iter().enumerate() {
            let to = self.inbox(e, number);
            let places = |e: &Emit<'c>, h: Int<'c>| -> Vec<Int<'c>> {
                (*begin..*end).map(|warp| e.add_const(h, (warp * heads) as i64)).collect()
            };
            e.each(e.thread(), e.int(heads * v_dim / 4), threads, |e, four| {
                let (h, element) = e.div_rem(e.mul_const(four, 4), v_dim);
                let places = places(e, h);
                let (_, _, factors) = r.closed(e, &places, (from.max, from.sum), None);
                let totals = places.iter().zip(&factors).fold([e.float(0.0); 4], |totals, (at, factor)| {
                    let words = e.load4(from.acc, e.add(e.mul_const(*at, v_dim), element));
                    std::array::from_fn(|i| e.fma(e.widen(words[i]), *factor, totals[i]))
                });
                let (block, own) = e.div_rem(four, self.layout.share / 4);
                let at = e.add(e.mul_const(rank, self.layout.share), e.mul_const(own, 4));
                e.store_four_to_block(e.shared_address(e.at(to.sums, at)), block, totals.map(|x| e.bits(x)));
            });
            e.each(e.thread(), e.int(heads * BLOCKS), threads, |e, i| {
                let (h, block) = e.div_rem(i, BLOCKS);
                let (most, sum, _) = r.closed(e, &places(e, h), (from.max, from.sum), None);
                let at = e.add(e.mul_const(rank, heads), h);
                e.store_to_block(e.shared_address(e.at(to.max, at)), block, e.bits(most));
                e.store_to_block(e.shared_address(e.at(to.sum, at)), block, e.bits(sum));
            });
        }
    }

    /// One element over the whole cluster, both branches with sinks and gates, to its place.
    fn finish<'c>(&self, e: &Emit<'c>, item: WorkItem<'c>, wanted: &Wanted<'c>) {
        let heads = group(self.shape);
        let parts = wanted.branches.iter().enumerate().map(|(number, (sink, gate))| {
            let from = self.inbox(e, number);
            let of_all = |base: Ptr<'c>, each: u64, at: Int<'c>| -> Vec<Float<'c>> {
                (0..BLOCKS).map(|block| e.load(base, e.add_const(at, (block * each) as i64))).collect()
            };
            let most = of_all(from.max, heads, wanted.place.0);
            let sums = of_all(from.sum, heads, wanted.place.0);
            let totals = of_all(from.sums, self.layout.share, wanted.own);
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
        store_output(e, self.shape, item, wanted.place, y);
    }
}
