//! Products of eight rows whose k tiles a warp has in registers, strip by strip of 16 outputs: rows are looked up once a block, and not
//! once a strip.
//!
//! ```text
//! block: strips b, b + blocks, ...; a warp's ring goes on from strip to strip
//!   strip: warp w k tiles w, w + 8, ...; sums through one of two places, a barrier; half of the block ends it, a thread a result
//! ```

use std::cell::RefCell;

use hyc_plan::Extent;

use super::feed::{Feed, Shape, THREADS, WARPS};
use super::kept::Factors;
use super::pack_rows::k_tiles;
use super::small_m::{held_rows, lane_pieces};
use super::stored::Stored;
use super::stream::{own_strip, own_strips};
use crate::gpu::isa::{Chunk, Emit, Float, Int, Ptr, SHARED_SLACK};
use crate::gpu::tile::pipeline::{Fill, WarpRing};

/// Stages of a warp, and blocks of a multiprocessor: six stages take as long, three blocks longer.
const STAGES: u64 = 4;
const BLOCKS: u64 = 2;
const STORED: Stored = Stored::Tiles;
/// Results of a strip, a thread each.
const RESULTS: u64 = 8 * 16;

/// What is streamed.
#[derive(Clone, Copy)]
pub struct RowsStream {
    shape: Shape,
    strips: u64,
    blocks: u64,
}

/// Where a strip's first eight outputs lie, and its second.
pub type Halves<'c> = [Ptr<'c>; 2];

impl RowsStream {
    /// Of so many strips by rows of this shape; `None` where rows are not in registers, or blocks of a strip each are few.
    pub fn new(shape: Shape, strips: u64, multiprocessors: u64) -> Option<RowsStream> {
        let blocks = BLOCKS * multiprocessors;
        let held = shape.feed == Feed::Registers && shape.stored == STORED;
        let whole = k_tiles(shape.in_features).is_multiple_of(WARPS);
        (held && whole && strips > blocks).then_some(RowsStream { shape, strips, blocks })
    }

    pub fn grid(self) -> Extent {
        Extent::fixed(self.blocks)
    }

    fn sums_at(self) -> u64 {
        WARPS * STAGES * STORED.bytes()
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u64 {
        self.sums_at() + 2 * 4 * WARPS * RESULTS + SHARED_SLACK
    }

    /// A thread's result of each strip that its half of the block ends: (row, output).
    pub fn result<'c>(self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        e.div_rem(e.and(e.thread(), e.int(RESULTS - 1)), 16)
    }

    /// The body of the function, by the rows at `tiles`. `place`: of a strip. `end`: a strip, and the thread's result; whole warps come to it.
    pub fn run<'c>(
        self,
        e: &Emit<'c>,
        tiles: Ptr<'c>,
        place: &dyn Fn(&Emit<'c>, Int<'c>) -> Halves<'c>,
        end: &dyn Fn(&Emit<'c>, Int<'c>, Float<'c>),
    ) {
        let spans = k_tiles(self.shape.in_features);
        let ring = WarpRing::new(e, WARPS, STAGES, STORED.bytes());
        let (warp, (g, t)) = (e.div_rem(e.thread(), 32).0, e.lane_pair());
        let of = (self.strips, self.blocks);
        let count = own_strips(e, of);
        let strip = |e: &Emit<'c>, turn| own_strip(e, of, turn);
        let weights = |e: &Emit<'c>, unit: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let (turn, span) = e.div_rem(unit, spans);
            let at = e.mul_const(e.wide(span), STORED.next());
            let [near, far] = place(e, strip(e, turn));
            STORED.copy(e, (near, Some(far)), at, (to, full));
        };
        let held: RefCell<Vec<[Chunk<'c>; 2]>> = RefCell::default();
        let then = |e: &Emit<'c>| {
            held.replace(held_rows(e, self.shape, tiles, (warp, WARPS), lane_pieces(e, (g, t))));
        };
        let nothing = |_: &Emit<'c>, _, _, _| {};
        let fill =
            Fill { bytes: STORED.bytes(), weights: &weights, inputs: &nothing, early: true, then: &then };
        let units = e.mul_const(count, spans);
        ring.begin(e, (warp, WARPS, units), &fill);
        let (held, sums) = (held.take(), Factors::sums(e));
        let sums_at = e.byte_offset(e.dynamic_shared(), e.int(self.sums_at()));
        e.each(e.int(0), count, 1, |e, turn| {
            Factors::clear(e, &sums);
            let first = e.add(e.mul_const(turn, spans), warp);
            for (i, x) in (0..).zip(held) {
                Factors::Tile(x).multiply(e, ring.full(e), &sums);
                ring.used(e, (e.add_const(first, i * WARPS as i64), WARPS, units), &fill);
            }
            // In one of two places, so that the next strip's sums wait for nobody who reads these.
            let parity = e.and(turn, e.int(1));
            let parts = e.at(sums_at, e.mul_const(parity, WARPS * RESULTS));
            for (i, sum) in (0..).zip(&sums) {
                let row = e.add_const(e.mul_const(t, 2), i % 2);
                let at = e.add(e.mul_const(row, 16), e.add_const(g, 8 * (i / 2)));
                e.store(parts, e.add(e.mul_const(warp, RESULTS), at), e.get(*sum));
            }
            e.barrier();
            let (half, own) = e.div_rem(e.thread(), RESULTS);
            e.when(e.eq(half, parity), |e| {
                let of_warp = |w: u64| e.load(parts, e.add_const(own, (w * RESULTS) as i64));
                end(e, strip(e, turn), (0..WARPS).fold(e.float(0.0), |sum, w| e.fadd(sum, of_warp(w))));
            });
        });
    }
}

const _: () = assert!(THREADS == 2 * RESULTS);
