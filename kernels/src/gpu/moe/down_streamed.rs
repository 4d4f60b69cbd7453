//! `ExpertsDown` of few rows in bf16 tiles, strip by strip of 16 outputs.
//!
//! ```text
//! block: its share of the strips, rows one behind the other; a warp's ring goes on from strip to strip
//!   the choices of its rows as far as they are known, by which weights are on their way
//!   behind the inputs: the choices again, and where they are others, the rings anew; what up made to shared memory
//!   strip: warp w k tiles w, w + 8, ... of all chosen experts, one behind the other; sums by shares; one warp ends it
//! ```
//! Blocks have equally many strips but for one, so that nobody is late, and their memory is on its way until the last one. Shared memory:
//! rings, two rows of what up made, sums. Reference: `reference::moe`.

use hyc_plan::{Extent, TILE};

use super::dispatch::BY_ROW;
use super::grouped_gemm::BY_ROW_ROWS;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::gemm::choice::Choice;
use crate::gpu::gemm::feed::{THREADS, WARPS};
use crate::gpu::gemm::kept::{Factors, KeptRow, Source};
use crate::gpu::gemm::pack_rows::k_tiles;
use crate::gpu::gemm::stored::Stored;
use crate::gpu::gemm::stream::{Strips, There};
use crate::gpu::isa::{Emit, Float, Int, Ptr, SHARED_SLACK};
use crate::gpu::tile::TiledRows;
use crate::gpu::tile::pipeline::{Fill, WarpRing};
use crate::gpu::work_item::row_count;

/// Rows that a block has strips of, at most: there are no fewer blocks than rows, so that it has no more strips than a row.
const ROWS: u64 = 2;
/// Shared memory of a block.
const SHARED: u64 = 224 << 10;
/// Stages of a warp, at most and at least. Of more there is no room beside a block of up.
const STAGES: u64 = 8;
const LEAST_STAGES: u64 = 3;
const STORED: Stored = Stored::Tiles;

/// Bytes of a row's products of up, of so many k tiles.
fn kept_bytes(spans: u64) -> u64 {
    KeptRow::bytes(STORED, spans * TILE)
}

/// Stages of a warp beside rows of so many k tiles; none where there is no room.
fn stages(spans: u64) -> u64 {
    let other = ROWS * kept_bytes(spans) + Strips::bytes(1) + SHARED_SLACK;
    (SHARED.saturating_sub(other) / (WARPS * STORED.bytes())).min(STAGES)
}

/// Whether there is room for rows of so many k tiles.
pub fn fits(spans: u64) -> bool {
    stages(spans) >= LEAST_STAGES
}

/// Adds the function. `rows`: what up made, a row's experts side by side from whole k tiles on.
pub fn add<'c>(k: &mut Kernel<'c, '_>, choice: Choice, (ffn, out): (u64, u64), rows: TiledRows) {
    let (spec, slots, strips) = (k.spec, choice.count(), out.div_ceil(16));
    let spans = slots * k_tiles(ffn);
    let (width, kept, stages) = (spans * TILE, kept_bytes(spans), stages(spans));
    let blocks = k.multiprocessors.max(BY_ROW_ROWS).min(strips * spec.max_rows);
    let kept_at = WARPS * stages * STORED.bytes();
    let sums_at = kept_at + ROWS * kept;
    let name = part(BY_ROW);
    let function = Function::new(&name, [Extent::fixed(blocks), Extent::fixed(1)], THREADS)
        .of(&[BY_ROW])
        .shared_bytes(sums_at + Strips::bytes(1) + SHARED_SLACK);
    k.function(function.waits_itself(), |e| {
        let at = |offset: u64| e.byte_offset(e.dynamic_shared(), e.int(offset));
        let ring = WarpRing::new(e, WARPS, stages, STORED.bytes());
        let all = e.mul_const(row_count(e, spec), strips);
        let from = |block: Int<'c>| e.div_rem(e.mul(all, block), blocks).0;
        let (first, last) = (from(e.block_x()), from(e.add_const(e.block_x(), 1)));
        let count = e.sub(last, first);
        let first_row = e.div_rem(first, strips).0;
        let last_row = e.div_rem(e.add_const(e.max(last, e.int(1)), -1), strips).0;
        let choices = Choices::new(e, choice, (first_row, last_row));
        choices.guess(e);

        let weights = |e: &Emit<'c>, unit: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let (turn, span) = e.div_rem(unit, spans);
            let (row, strip) = e.div_rem(e.add(first, turn), strips);
            let (slot, tile) = e.div_rem(span, k_tiles(ffn));
            let matrix = choice.matrix(e, ("down", STORED), choices.expert(e, row, slot), (out, ffn));
            let at = e.add(STORED.strip(e, strip, ffn), e.mul_const(e.wide(tile), STORED.next()));
            STORED.copy(e, (matrix, None), at, (to, full));
        };
        // A row of the block as it is kept.
        let kept_row = |e: &Emit<'c>, row: Int<'c>| {
            let before = e.mul_const(e.sub(row, first_row), kept);
            KeptRow::new((STORED, width), row, e.byte_offset(at(kept_at), e.wide(before)))
        };
        let then = |e: &Emit<'c>| {
            choices.settle(e);
            for i in 0..ROWS {
                let row = e.add_const(first_row, i as i64);
                e.when(e.ge(last_row, row), |e| {
                    let source = Source::Tiles(rows.row(e, row, width));
                    kept_row(e, row).keep(e, (e.thread(), THREADS), &source);
                });
            }
            e.barrier();
        };
        let warp = e.div_rem(e.thread(), 32).0;
        let units = (warp, WARPS, e.mul_const(count, spans));
        let nothing = |_: &Emit<'c>, _, _, _| {};
        let fill =
            Fill { bytes: STORED.bytes(), weights: &weights, inputs: &nothing, early: true, then: &then };
        ring.begin(e, units, &fill);
        e.when(choices.were_others(e), |e| {
            ring.pass(e, units);
            ring.begin(e, units, &Fill { early: false, then: &|_| {}, ..fill });
        });

        let (sums, parts) = ([Factors::sums(e)], Factors::sums(e));
        let multiply = |e: &Emit<'c>, turn: Int<'c>, span: Int<'c>, weights: There<'_, 'c>| {
            let row = e.div_rem(e.add(first, turn), strips).0;
            let x = kept_row(e, row).factors(e, span);
            let share = choices.share(e, row, e.div_rem(span, k_tiles(ffn)).0);
            x.multiply_share(e, weights(e), (&sums[0], &parts), share);
        };
        let streamed = Strips { count, spans, sums: &sums, parts: at(sums_at) };
        streamed.run(e, (&ring, &fill), &multiply, &|e, turn, output, results| {
            let (row, strip) = e.div_rem(e.add(first, turn), strips);
            let column = e.add(e.mul_const(strip, 16), output);
            e.when(e.and(e.lt(output, e.int(16)), e.lt(column, e.int(out))), |e| {
                let of = |name: &str| e.row(name, row);
                let value = e.fadd(results[0], e.load(of("residual"), column));
                e.store(of("out"), column, value.into());
            });
        });
    });
}

/// The choices of a block's rows, and their shares, in shared memory: `[row][slot]`.
struct Choices<'c> {
    choice: Choice,
    first_row: Int<'c>,
    last_row: Int<'c>,
    experts: Ptr<'c>,
    shares: Ptr<'c>,
    /// Whether the choices were others than guessed.
    others: Ptr<'c>,
}

impl<'c> Choices<'c> {
    fn new(e: &Emit<'c>, choice: Choice, (first_row, last_row): (Int<'c>, Int<'c>)) -> Choices<'c> {
        let places = ROWS * choice.count();
        let (experts, shares, others) = (e.shared(places), e.shared(places), e.shared(1));
        Choices { choice, first_row, last_row, experts, shares, others }
    }

    /// This thread's places.
    fn each(&self, e: &Emit<'c>, body: impl FnOnce(&Emit<'c>, Int<'c>, (Int<'c>, Int<'c>))) {
        let slots = self.choice.count();
        e.each(e.thread(), e.int(ROWS * slots), THREADS, |e, place| {
            let (row, slot) = e.div_rem(place, slots);
            body(e, place, (e.min(e.add(self.first_row, row), self.last_row), slot));
        });
    }

    /// As far as they are known: the router is launches before, its choice is as good as there.
    fn guess(&self, e: &Emit<'c>) {
        e.when(e.eq(e.thread(), e.int(0)), |e| e.store(self.others, e.int(0), e.int(0).into()));
        self.each(e, |e, place, (row, slot)| {
            let guess = self.choice.expert_anew(e, row, slot);
            let inside = e.lt_unsigned(guess, e.int(self.choice.all()));
            e.store(self.experts, place, e.pick(inside, guess, e.int(0)).into());
        });
        e.barrier();
    }

    /// Behind the inputs; a barrier follows.
    fn settle(&self, e: &Emit<'c>) {
        // Everybody has started copies by the guess.
        e.barrier();
        self.each(e, |e, place, (row, slot)| {
            let expert = self.choice.expert_anew(e, row, slot);
            e.when(e.not(e.eq(expert, e.load_int(self.experts, place))), |e| {
                e.store(self.experts, place, expert.into());
                e.fetch_or(self.others, e.int(0), e.int(1));
            });
            e.store(self.shares, place, self.choice.share(e, row, slot).into());
        });
    }

    fn were_others(&self, e: &Emit<'c>) -> Int<'c> {
        e.eq(e.load_int(self.others, e.int(0)), e.int(1))
    }

    fn place(&self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
        e.add(e.mul_const(e.sub(row, self.first_row), self.choice.count()), slot)
    }

    fn expert(&self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
        e.load_int(self.experts, self.place(e, row, slot))
    }

    fn share(&self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Float<'c> {
        e.load(self.shares, self.place(e, row, slot))
    }
}
