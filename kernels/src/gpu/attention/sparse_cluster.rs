//! `SparseAttention` and `HybridAttention` of few rows: a cluster of four blocks a (token, KV head).
//!
//! ```text
//! pages of all branches   block r of the cluster takes every fourth, a warp one at a time
//! block                   the states of a branch's warps become one, in shared memory
//! cluster                 each block sums a quarter of the elements over the four states of each branch, and writes them
//! ```
//! One block alone would wait for its multiprocessor's inlet: 16 pages of 32 KiB are 9 us at 60 B/ns, and some 20 pages over four
//! multiprocessors are a page a warp. Shared memory: states of eight warps, and those of the block,
//! `[branch][group][v_dim + 2]`. Wants clusters: sm_90. Reference: `reference::attention`.

use hyc_plan::AttnShape;

use super::branch::{Branch, Source};
use super::limits::CLUSTER;
use super::rows::store_output;
use super::warp_mma::Reader;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK, WARP};
use crate::gpu::work_item::{WorkItem, group};

/// Blocks of a cluster.
const BLOCKS: u64 = 4;
/// Warps of a block, and those of them that take the window's pages where there are two branches.
const WARPS: u64 = 8;
const WINDOW_WARPS: u64 = 2;

/// Most rows that it is usual for: those whose blocks take half of the multiprocessors, of which a cluster wants four together.
pub fn usual_rows(shape: AttnShape, multiprocessors: u64) -> u64 {
    multiprocessors / (2 * BLOCKS * shape.kv_heads)
}

/// The branches of one attention, and the state of each in the block's shared memory.
struct Cluster<'a, 'c> {
    shape: AttnShape,
    branches: &'a [Branch],
    readers: &'a [Reader],
    /// `[branch][group][v_dim + 2]`: the sum of exponentials times values, their reference, the sum of exponentials.
    states: Ptr<'c>,
}

/// Adds the function of [`CLUSTER`].
pub fn launch<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, branches: &[Branch]) {
    let reader =
        |branch: &Branch| Reader { shape, cache: k.cache(branch.cache), operand: branch.cache, warps: WARPS };
    let readers: Vec<Reader> = branches.iter().map(reader).collect();
    let Some(first) = readers.first() else { return };
    let states = 4 * branches.len() as u64 * group(shape) * (shape.v_dim + 2);
    let shared = first.partials_bytes() + states + SHARED_SLACK;
    let grid = [k.rows(shape.kv_heads * BLOCKS, 1), hyc_plan::Extent::fixed(1)];
    let (part, variants) = (part(CLUSTER), [CLUSTER]);
    let function = Function::new(&part, grid, WARPS * WARP)
        .of(&variants)
        .shared_bytes(shared)
        .clusters(BLOCKS)
        .waits_itself();
    k.function(function, |e| {
        // Behind the warps' states.
        let states = e.byte_offset(e.dynamic_shared(), e.long(first.partials_bytes()));
        Cluster { shape, branches, readers: &readers, states }.body(e, first);
    });
}

impl<'c> Cluster<'_, 'c> {
    fn body(&self, e: &Emit<'c>, first: &Reader) {
        let item = WorkItem::new(e, e.div_rem(e.block_x(), BLOCKS).0, self.shape.kv_heads);
        let rank = e.cluster_rank();
        // What the step's context alone says is looked up before the inputs are there.
        let early =
            self.branches.iter().zip(self.readers).map(|(branch, r)| {
                matches!(branch.source, Source::Window(_)).then(|| branch.pages(e, r, item))
            });
        let early: Vec<_> = early.collect();
        e.wait_for_inputs();
        let q = first.query(e, item);
        let partials = first.partials(e);
        let listed = self.branches.iter().zip(self.readers).zip(early);
        let listed = listed.map(|((branch, r), early)| early.unwrap_or_else(|| branch.pages(e, r, item)));
        let listed: Vec<_> = listed.collect();
        let warp = e.div_rem(e.thread(), WARP).0;
        for ((r, pages), (begin, end)) in self.readers.iter().zip(&listed).zip(self.warps()) {
            e.when(e.and(e.ge(warp, e.int(begin)), e.lt(warp, e.int(end))), |e| {
                let own = e.mul_const(e.add_const(warp, -(begin as i64)), BLOCKS);
                let state = r.run_from(e, item, &q, pages, (e.add(own, rank), BLOCKS * (end - begin)), None);
                r.leave_partial(e, &state, &partials);
            });
        }
        e.barrier();
        let (heads, v_dim) = (group(self.shape), self.shape.v_dim);
        for (number, (begin, end)) in (0..).zip(self.warps()) {
            e.each(e.thread(), e.int(heads * v_dim), WARPS * WARP, |e, i| {
                let (h, element) = e.div_rem(i, v_dim);
                let places: Vec<Int<'c>> = (begin..end).map(|w| e.add_const(h, (w * heads) as i64)).collect();
                let (most, sum, factors) = first.closed(e, &places, (partials.max, partials.sum), None);
                let total = places.iter().zip(&factors).fold(e.float(0.0), |total, (at, factor)| {
                    let at = e.add(e.mul_const(*at, v_dim), element);
                    e.fma(e.load(partials.acc, at), *factor, total)
                });
                let state = self.state(e, number, h);
                e.store(state, element, total.into());
                e.when(e.eq(element, e.int(0)), |e| {
                    e.store(state, e.int(v_dim), most.into());
                    e.store(state, e.int(v_dim + 1), sum.into());
                });
            });
        }
        e.cluster_barrier();
        let mine = e.add(e.mul_const(rank, WARPS * WARP), e.thread());
        e.each(mine, e.int(heads * v_dim), BLOCKS * WARPS * WARP, |e, i| {
            let (h, element) = e.div_rem(i, v_dim);
            let parts = (0..).zip(self.branches).map(|(number, branch)| {
                let y = self.summed(e, first, item, (number, branch), (h, element));
                branch.gated(e, self.shape, item, (h, element), y)
            });
            let y = parts.reduce(|a, b| e.fadd(a, b)).unwrap_or(e.float(0.0));
            store_output(e, self.shape, item, (h, element), y);
        });
        // Nobody's shared memory goes while others read it.
        e.cluster_barrier();
    }

    /// The warps of each branch.
    fn warps(&self) -> Vec<(u64, u64)> {
        match self.branches.len() {
            1 => vec![(0, WARPS)],
            _ => vec![(0, WARPS - WINDOW_WARPS), (WARPS - WINDOW_WARPS, WARPS)],
        }
    }

    /// The block's state of a head of a branch.
    fn state(&self, e: &Emit<'c>, number: u64, h: Int<'c>) -> Ptr<'c> {
        let (heads, each) = (group(self.shape), self.shape.v_dim + 2);
        e.at(self.states, e.add_const(e.mul_const(h, each), (number * heads * each) as i64))
    }

    /// One element of a branch over the whole cluster, with its sink.
    fn summed(
        &self,
        e: &Emit<'c>,
        r: &Reader,
        item: WorkItem<'c>,
        (number, branch): (u64, &Branch),
        (h, element): (Int<'c>, Int<'c>),
    ) -> Float<'c> {
        let (state, v_dim) = (self.state(e, number, h), self.shape.v_dim);
        let of_all = |at: Int<'c>| -> Vec<Float<'c>> {
            let address = e.shared_address(e.at(state, at));
            (0..BLOCKS).map(|block| e.load_of_block(address, e.int(block))).collect()
        };
        let (most, sums, totals) = (of_all(e.int(v_dim)), of_all(e.int(v_dim + 1)), of_all(element));
        let sink = r.sink(e, item, branch.sink, h);
        let none = e.float(f32::NEG_INFINITY);
        let origin = most.iter().fold(sink.unwrap_or(none), |a, b| e.fmax(a, *b));
        let extra = sink.map_or(e.float(0.0), |sink| e.exp2(e.fsub(sink, origin)));
        let factors: Vec<Float<'c>> = most.iter().map(|most| e.exp2(e.fsub(*most, origin))).collect();
        let weighted = |of: &[Float<'c>], first| {
            of.iter().zip(&factors).fold(first, |sum, (x, factor)| e.fma(*x, *factor, sum))
        };
        e.fdiv(weighted(&totals, e.float(0.0)), weighted(&sums, extra))
    }
}
