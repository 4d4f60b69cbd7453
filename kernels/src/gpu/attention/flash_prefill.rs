//! Prefill over a whole context on `wgmma`: `FullAttention` and `OracleAttention` of many rows.
//!
//! ```text
//! item: (tile of tokens, KV head). Rows of the tile are (token, head of the group): G heads of 64 / G tokens are the 64
//! rows of a warp group. A block takes items in turn and has three warp groups:
//!   0, 1   multiply, 64 rows each
//!   2      a warp that keeps rings of keys and of values full with bulk copies, and three that select
//!
//! Where the cache is codes, a warp group makes bf16 tiles of them in place of the copies (`flash_expand`), and a step has one page.
//!
//! a step has two pages, 128 keys (one where values are wider than 128: registers). A warp group:
//!   start  S = Q K^T of step j + 1     Q, K from shared memory: pages lie there as in the cache, both under one descriptor
//!   start  O += P V of step j          P from registers
//!   wait for S, softmax of step j + 1 while O is under way
//!   wait for O, P of step j + 1
//! Both products are started in turns of the two warp groups: one's softmax lies under the other's products.
//! ```
//! Registers at d 128: S 64, P 32, O 64. Shared memory: Q 32 KB, two stages of K 32 KB and of V 32 KB. Floors at 128 keys:
//! 4 * 128 rows * 128 keys * d operations at the tensor cores' rate; 512 d bytes from the second cache, 128 operations a byte.
//!
//! A page is one selection block: the maxima of a row over a step's pages go to scratch on their way, and the row's sum
//! to shared memory when it is known. From both, spare warps choose (HySparse 2602.03560, equation 3, in logs: see
//! [`Heads`](crate::gpu::select::Heads)). Tiles that hold several sequences are gone through once for each. Tiling: Dao,
//! 2307.08691; the overlap: Shah et al., 2407.08608. Reference: `reference::attention::full`.

use std::f32::consts::LOG2_E;
use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::{AttnShape, Extent, SelectShape};

use super::flash_expand::HALF;
use super::flash_select::{Buffers, FIRST_SELECTOR};
use super::flash_softmax::{Growth, State, scale};
use super::flash_tile::{CONSUMERS, Flash, GROUPS, Place, ROWS, Segment, Stages, TILE_ROWS};
use super::limits::FLASH;
use super::rows::store_pairs;
use crate::gpu::function::{Function, Kernel};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK};
use crate::gpu::kv_codes::Expander;
use crate::gpu::paged_kv::physical_page;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::tile::{SharedTile, Swizzle, TILE_BYTES, clear_from};
use crate::gpu::work_item::{WorkItem, group};

/// Shared memory that a block may have, less what is not the rings' or the queries'.
const SHARED: u64 = 220 << 10;
const THREADS: u64 = CONSUMERS + 128;
/// Registers of a thread that multiplies, and of one that does not: those of 384 threads with 168 each.
const REGISTERS: (u64, u64) = (224, 56);
const REGISTERS_SELECTING: (u64, u64) = (208, 88);
/// The same where a further warp group makes bf16 of codes, and of that one's threads.
const REGISTERS_OF_CODES: (u64, u64) = (208, 88);
const REGISTERS_OF_CODES_SELECTING: (u64, u64, u64) = (176, 88, 72);
/// The first of a named barrier for each warp group's own threads, and of one for each group's turn.
const OWN: u64 = 1;
const TURN: u64 = 3;

/// Rows of the step that a block takes at once: they share one reading of keys and values.
pub fn rows_of_a_block(shape: AttnShape) -> u64 {
    (TILE_ROWS / group(shape)).max(1)
}

/// Adds the function of [`FLASH`].
pub fn prefill<'c>(k: &mut Kernel<'c, '_>, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    if !k.wants(FLASH) {
        return;
    }
    let spec = k.spec;
    let (cache, multiprocessors) = (k.cache("cache"), k.multiprocessors);
    let pages = if shape.v_dim > 128 || cache.codec.scaled() { 1 } else { 2 };
    let blocks = spec.max_context.div_ceil(cache.page).next_multiple_of(pages);
    let tables = if select.is_some() { k.scratch(2 * 4 * multiprocessors * blocks * TILE_ROWS) } else { 0 };
    let mut f = Flash { spec, shape, cache, sink, select, tables, blocks, pages, stages: 0, multiprocessors };
    f.stages = ((SHARED - f.query_bytes()) / f.stage_bytes()).clamp(2, 4);
    let shared = f.query_bytes() + f.stages * f.stage_bytes() + SHARED_SLACK;
    let grid = [Extent::fixed(multiprocessors), Extent::fixed(1)];
    let threads = if cache.codec.scaled() { f.expanders() + 128 } else { THREADS };
    k.function(Function::new("_prefill", grid, threads).of(&[FLASH]).shared_bytes(shared), |e| f.body(e));
}

impl Flash<'_> {
    fn body<'c>(&self, e: &Emit<'c>) {
        let memory = e.dynamic_shared();
        let buffers = Buffers::new(e, self, THREADS);
        let keys_at = e.add_const(e.shared_address(memory), self.query_bytes() as i64);
        let expander = Expander::of(&self.cache);
        let ring = |e: &Emit<'c>| match expander {
            Some(_) => Ring::between(e, self.stages, (HALF, GROUPS)),
            None => Ring::new(e, self.stages, GROUPS),
        };
        let stages = Stages {
            keys: ring(e),
            keys_at,
            values: ring(e),
            values_at: e.add_const(keys_at, (self.stages * self.key_bytes()) as i64),
        };
        let schedule = self.schedule(e);
        let (more, fewer) = match (self.select.is_some(), expander.is_some()) {
            (true, false) => REGISTERS_SELECTING,
            (false, false) => REGISTERS,
            (true, true) => (REGISTERS_OF_CODES_SELECTING.0, REGISTERS_OF_CODES_SELECTING.1),
            (false, true) => REGISTERS_OF_CODES,
        };
        let expand = |e: &Emit<'c>, expander: Expander| {
            self.items(e, schedule, &|e, segment| self.expand(e, (expander, memory), &stages, &segment));
        };
        e.either(
            e.lt(e.thread(), e.int(CONSUMERS)),
            |e| {
                e.take_registers(more);
                let place = Place::new(e);
                // The second group gives the first its first turn.
                e.when(e.eq(place.part, e.int(1)), |e| e.named_arrive(e.int(TURN), CONSUMERS));
                self.items(e, schedule, &|e, segment| {
                    self.attend(e, &stages, memory, &buffers, &place, &segment);
                });
            },
            |e| {
                let select = |e: &Emit<'c>, select: SelectShape| {
                    e.when(e.ge(e.thread(), e.int(FIRST_SELECTOR)), |e| {
                        self.start_selecting(e, &buffers);
                        self.items(e, schedule, &|e, segment| {
                            self.select_segment(e, select, &buffers, &segment);
                        });
                    });
                };
                match (expander, self.select) {
                    (None, selection) => {
                        e.give_registers(fewer);
                        e.when(e.eq(e.thread(), e.int(CONSUMERS)), |e| {
                            self.items(e, schedule, &|e, segment| self.copy(e, &stages, &segment));
                        });
                        selection.inspect(|selection| select(e, *selection));
                    }
                    (Some(expander), None) => {
                        e.give_registers(fewer);
                        expand(e, expander);
                    }
                    (Some(expander), Some(selection)) => e.either(
                        e.lt(e.thread(), e.int(self.expanders())),
                        |e| {
                            e.give_registers(fewer);
                            select(e, selection);
                        },
                        |e| {
                            e.give_registers(REGISTERS_OF_CODES_SELECTING.2);
                            expand(e, expander);
                        },
                    ),
                }
            },
        );
    }

    /// The producer: every page of the segment as it lies, keys as `[qk_dim / 64][page of the step]`. The last step
    /// has its last page twice where there is no second.
    fn copy<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, of: &Segment<'c>) {
        let keys = e.wide(e.mul_const(of.kv_head, 2 * self.cache.k_offset(1)));
        let values = e.wide(e.mul_const(of.kv_head, 2 * self.cache.page * self.cache.v_pad()));
        let values = e.add_const(values, 2 * self.cache.v_offset(0) as i64);
        let last = e.add_const(of.pages, -1);
        e.each(e.int(0), of.pages, self.pages, |e, first| {
            let pages: Vec<Ptr<'c>> = (0..self.pages)
                .map(|i| {
                    let page = e.min(e.add_const(first, i as i64), last);
                    let physical = e.wide(physical_page(e, &self.cache, of.sequence, page));
                    e.byte_offset(e.operand("cache"), e.mul_const(physical, self.cache.page_bytes()))
                })
                .collect();
            stages.keys.produce(e, self.key_bytes(), |e, stage, full| {
                let to = e.add(stages.keys_at, e.mul_const(stage, self.key_bytes()));
                for (i, page) in (0..).zip(&pages) {
                    for tile in 0..self.shape.qk_dim / 64 {
                        let to = e.add_const(to, ((tile * self.pages + i) * TILE_BYTES) as i64);
                        let from = e.add_const(keys, (tile * TILE_BYTES) as i64);
                        e.bulk_copy(to, e.byte_offset(*page, from), TILE_BYTES, full);
                    }
                }
            });
            stages.values.produce(e, self.pages * self.value_bytes(), |e, stage, full| {
                let to = e.add(stages.values_at, e.mul_const(stage, self.pages * self.value_bytes()));
                for (i, page) in (0..).zip(&pages) {
                    let to = e.add_const(to, (i * self.value_bytes()) as i64);
                    e.bulk_copy(to, e.byte_offset(*page, values), self.value_bytes(), full);
                }
            });
        });
    }

    /// Queries of a warp group as swizzled rows of bf16: `[qk_dim / 64][128 rows][64]`.
    fn load_queries<'c>(&self, e: &Emit<'c>, to: SharedTile<'c>, part: Int<'c>, of: &Segment<'c>) {
        let (group, dim) = (group(self.shape), self.shape.qk_dim);
        let own = e.add_const(part, OWN as i64);
        // The group's last product over the queries before is through in all of its warps.
        e.named_barrier(own, 128);
        let (sub, piece) = e.div_rem(e.and(e.thread(), e.int(127)), 8);
        e.each(sub, e.int(ROWS), 16, |e, i| {
            let row = e.add(e.mul_const(part, ROWS), i);
            let (token, head, _) = self.row(e, of, row);
            let head = e.add(e.mul_const(of.kv_head, group), head);
            let from = e.add(e.mul_const(e.wide(token), e.stride("q")), e.wide(e.mul_const(head, dim)));
            for tile in 0..dim / 64 {
                let at = e.add(from, e.wide(e.add_const(e.mul_const(piece, 8), 64 * tile as i64)));
                let words = e.load_as_chunk(e.operand("q"), at);
                to.store(e, row, (tile, piece), &words);
            }
        });
        e.async_fence();
        e.named_barrier(own, 128);
    }

    /// A warp group: one segment.
    fn attend<'c>(
        &self,
        e: &Emit<'c>,
        stages: &Stages<'c>,
        memory: Ptr<'c>,
        buffers: &Buffers<'c>,
        place: &Place<'c>,
        of: &Segment<'c>,
    ) {
        let queries = SharedTile::new(memory, TILE_ROWS);
        self.load_queries(e, queries, place.part, of);
        // The newest token that each row sees.
        let positions = place.rows.map(|row| {
            let token = self.row(e, of, row).0;
            e.load_int(e.list(offset_of!(StepContext, positions)), token)
        });
        let state = State::new(e, self.shape, self.step());
        let query = queries.descriptor(e, place.part);
        let table = self.select.map(|_| {
            buffers.wait_empty(e, place.part);
            self.own_maxima(e, buffers, place)
        });
        let softmax = |e: &Emit<'c>, page: Int<'c>| {
            let start = e.mul_const(page, self.cache.page);
            let beyond = e.lt(of.first, e.add_const(start, self.step() as i64 - 1));
            e.when(beyond, |e| state.mask(e, start, positions));
            self.softmax(
                e,
                &state,
                place.t,
                table.map(|(at, own)| (e.at(at, e.mul_const(page, group(self.shape))), own)),
            )
        };
        self.start_scores(e, stages, &state, query);
        e.wgmma_wait(&state.scores, 0);
        stages.keys.release(e, place.leader);
        softmax(e, e.int(0));
        state.pack(e);
        e.each(e.int(self.pages), of.pages, self.pages, |e, page| {
            e.named_barrier(e.add_const(place.part, TURN as i64), CONSUMERS);
            self.start_scores(e, stages, &state, query);
            let values = self.values(e, stages);
            self.start_outputs(e, &state, values);
            e.named_arrive(e.sub(e.int(TURN + 1), place.part), CONSUMERS);
            e.wgmma_wait(&state.scores, 1);
            stages.keys.release(e, place.leader);
            let growth = softmax(e, page);
            // O is waited for in both arms of a condition that knows the sums: so the exponentials stay ahead of it.
            let grown = growth.settled(e, &state);
            e.either(
                grown,
                |e| {
                    e.wgmma_wait(&state.acc, 0);
                    state.shrink(e, &growth);
                },
                |e| e.wgmma_wait(&state.acc, 0),
            );
            stages.values.release(e, place.leader);
            state.pack(e);
        });
        let values = self.values(e, stages);
        // Behind the newest token are places that nothing was written to.
        let step = e.mul_const(e.div_rem(of.last, self.step()).0, self.step());
        let written = e.add_const(e.sub(of.last, step), 1);
        e.when(e.lt(written, e.int(self.step())), |e| self.clear(e, values, written, place.part));
        self.start_outputs(e, &state, values);
        e.wgmma_wait(&state.acc, 0);
        stages.values.release(e, place.leader);
        self.finish(e, &state, place, of, buffers);
        if let Some(select) = self.select {
            self.hand_over(e, select, buffers, of);
        }
    }

    /// Starts S of the next step, when its keys are there.
    fn start_scores<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>, state: &State<'c>, query: Int<'c>) {
        let stage = stages.keys.full(e);
        let keys = e.add(stages.keys_at, e.mul_const(stage, self.key_bytes()));
        let steps: Vec<(u64, u64)> = (0..self.shape.qk_dim / 16)
            .map(|i| (i / 4, i % 4 * 32))
            .map(|(tile, at)| (tile * GROUPS * TILE_BYTES + at, tile * self.pages * TILE_BYTES + at))
            .collect();
        e.wgmma_start(&state.scores, query, e.descriptor(keys), &steps, false);
    }

    /// The next step's values, when they are there.
    fn values<'c>(&self, e: &Emit<'c>, stages: &Stages<'c>) -> Int<'c> {
        let stage = stages.values.full(e);
        e.add(stages.values_at, e.mul_const(stage, self.pages * self.value_bytes()))
    }

    /// Starts O += P V.
    fn start_outputs<'c>(&self, e: &Emit<'c>, state: &State<'c>, values: Int<'c>) {
        let steps: Vec<u64> = (0..4 * self.pages).map(|i| i / 4 * self.value_bytes() + i % 4 * 32).collect();
        e.wgmma_registers_start((&state.acc, None), &state.fragments(e), e.descriptor(values), &steps);
    }

    /// Where the lane's part of a step's page maxima goes, from page 0 on, and whether it has one: lane t has page t / 2 of
    /// the step and row t % 2.
    fn own_maxima<'c>(&self, e: &Emit<'c>, buffers: &Buffers<'c>, place: &Place<'c>) -> (Ptr<'c>, Int<'c>) {
        let (page, half) = e.div_rem(place.t, 2);
        let (part, inside) = e.div_rem(e.pick(e.eq(half, e.int(0)), place.rows[0], place.rows[1]), ROWS);
        let (token, head) = e.div_rem(inside, group(self.shape));
        let own = e.and(e.lt(token, e.int(self.tokens())), e.lt(page, e.int(self.pages)));
        let token = e.add(e.mul_const(part, self.tokens()), token);
        let row = e.add(self.table_row(e, token, page), e.wide(head));
        (e.at(self.table(e, buffers.in_hand(e)), row), own)
    }

    /// Scores become exponentials; the maxima of the step's pages go to `table`, the lane's place, where it has one.
    fn softmax<'c>(
        &self,
        e: &Emit<'c>,
        state: &State<'c>,
        t: Int<'c>,
        table: Option<(Ptr<'c>, Int<'c>)>,
    ) -> Growth<'c> {
        let quad = |x: Float<'c>| [1, 2].iter().fold(x, |most, mask| e.fmax(most, e.shuffle(most, *mask)));
        let mut maxima = state.page_maxima(e, self.pages);
        if let Some((table, own)) = table {
            maxima = maxima.into_iter().map(|page| page.map(quad)).collect();
            let flat = maxima.as_flattened();
            let lane = |kept: Float<'c>, i: usize| e.pick_float(e.eq(t, e.int(i as u64)), flat[i], kept);
            let most = (1..flat.len()).fold(flat[0], lane);
            e.when(own, |e| e.store(table, e.int(0), most.into()));
        }
        let most = |half: usize| maxima.iter().map(|page| page[half]).reduce(|a, b| e.fmax(a, b));
        let most = [0, 1].map(|half| most(half).unwrap_or(e.float(f32::NEG_INFINITY)));
        if table.is_some() {
            for (kept, most) in state.most.iter().zip(most) {
                e.set(*kept, e.fmax(e.get_float(*kept), most).into());
            }
            return state.exponentials(e, scale(e, self.shape), most);
        }
        state.exponentials(e, scale(e, self.shape), most.map(quad))
    }

    /// Zeroes the columns from `written` on of a step's values: what stands there may be no number. Each warp group
    /// does it by itself, and both the same.
    fn clear<'c>(&self, e: &Emit<'c>, values: Int<'c>, written: Int<'c>, part: Int<'c>) {
        let thread = e.and(e.thread(), e.int(127));
        e.each(thread, e.int(self.pages * self.shape.v_dim * 8), 128, |e, i| {
            let (page, inside) = e.div_rem(i, self.shape.v_dim * 8);
            let (row, chunk) = e.div_rem(inside, 8);
            let first = e.mul_const(e.add(e.mul_const(page, 8), chunk), 8);
            e.when(e.lt(written, e.add_const(first, 8)), |e| {
                let at = e.add(values, e.mul_const(page, self.value_bytes()));
                let at = e.add(at, Swizzle::bytes(e, row, chunk));
                clear_from(e, at, first, written);
            });
        });
        e.async_fence();
        e.named_barrier(e.add_const(part, OWN as i64), 128);
    }

    /// Writes the outputs of the segment's rows, and to shared memory what a selection compares heads by.
    fn finish<'c>(
        &self,
        e: &Emit<'c>,
        state: &State<'c>,
        place: &Place<'c>,
        of: &Segment<'c>,
        buffers: &Buffers<'c>,
    ) {
        // Their places are looked up anew: the loop before has no registers for them.
        for (half, row) in place.rows.map(|row| e.opaque(row)).into_iter().enumerate() {
            let sum = [1, 2]
                .iter()
                .fold(e.get_float(state.sum[half]), |sum, mask| e.fadd(sum, e.shuffle(sum, *mask)));
            let (token, head, own) = self.row(e, of, row);
            let reference = e.get_float(state.reference[half]);
            let most = e.fmul(e.get_float(state.most[half]), scale(e, self.shape));
            let base = if self.select.is_some() { most } else { reference };
            let global = e.add(e.mul_const(of.kv_head, group(self.shape)), head);
            let sink = self.sink.then(|| e.fmul(e.load(e.operand("sink"), global), e.float(LOG2_E)));
            // The larger of the logits and the sink, under which nothing overflows.
            let top = sink.map_or(base, |sink| e.fmax(base, sink));
            let shrink = e.exp2(e.fsub(reference, top));
            let sum = e.fmul(sum, shrink);
            let sum = sink.map_or(sum, |sink| e.fadd(sum, e.exp2(e.fsub(sink, top))));
            if self.select.is_some() {
                let noted = e.add(row, e.mul_const(buffers.in_hand(e), TILE_ROWS));
                e.when(e.eq(place.t, e.int(0)), |e| {
                    buffers.heads.note(e, noted, most, top, e.log2(sum));
                });
            }
            let factor = e.fdiv(shrink, sum);
            let item = WorkItem { row: token, kv_head: of.kv_head, position: token, sequence: token };
            for first in (0..self.shape.v_dim).step_by(32) {
                let pairs: Vec<[Float<'c>; 2]> = (first / 8..(first + 32).min(self.shape.v_dim) / 8)
                    .map(|m| 4 * m as usize + 2 * half)
                    .map(|at| [at, at + 1].map(|at| e.fmul(e.get_float(state.acc[at]), factor)))
                    .collect();
                store_pairs(e, self.shape, item, (head, first, own), &pairs);
            }
        }
    }
}
