//! The sums of a warp of [`wgmma_strips`](super) over all k tiles.

use hyc_plan::SPAN;

use super::{Job, ManyRows};
use crate::gpu::gemm::fp8_rows::Fp8Rows;
use crate::gpu::gemm::fragments::{Run, Step, tiles_of_a_run};
use crate::gpu::gemm::stored::Record;
use crate::gpu::isa::{Emit, Int, Ptr, Var};
use crate::gpu::tile::pipeline::Ring;

/// Bytes of a step of a product in a row of a k tile: 16 inputs of bf16, 32 of e4m3.
const STEPS: [u64; 4] = [0, 32, 64, 96];

/// A warp's sums of products, which are added to or take the place of what was there. `first`: its tile's first row among all.
pub fn multiply<'c>(
    e: &Emit<'c>,
    job: &Job<'_, '_, 'c>,
    (rows, memory): (&Ring<'c>, Int<'c>),
    (weights, records): (&Ring<'c>, Ptr<'c>),
    sums: &[Var<'c>],
    first: &dyn Fn(&Emit<'c>) -> Int<'c>,
) {
    // The stage that the products under way read.
    let last = e.var(e.minus_one().into());
    let more = job.overwrites().then(|| e.var(e.no().into()));
    let release = |e: &Emit<'c>| {
        let last = e.get(last).into_int_value();
        rows.release_stage(e, last, e.and(rows.speaks(e), e.ge(last, e.int(0))));
    };
    let product = |e: &Emit<'c>, steps: &[Step<'c>]| {
        let stage = rows.full(e);
        let right = e.descriptor(e.add(memory, e.mul_const(stage, job.rows_bytes())));
        let added = more.map(|more| e.get(more).into_int_value());
        match job.rows {
            ManyRows::Bf16(_) | ManyRows::ByLanes(_) => {
                e.wgmma_registers_start((sums, added), steps, right, &STEPS);
            }
            ManyRows::Fp8(_) => e.wgmma_fp8_start((sums, added), steps, right, &STEPS),
        }
        more.inspect(|more| e.set(*more, e.holds().into()));
        e.wgmma_wait(sums, 1);
        release(e);
        e.set(last, stage.into());
        rows.advance(e);
    };
    // The scales of a lane's outputs, which all records of a row of e4m3 have.
    let scales = [0, 1].map(|_| e.float_var(0.0));
    let span = |e: &Emit<'c>, count: u64| {
        let stage = weights.full(e);
        let at = e.byte_offset(records, e.mul_const(stage, job.warps * job.record_bytes()));
        let record = Record::new(e, job.codec, at);
        let shares = record.shares(e);
        // A product that has begun has read the registers that its record was loaded to, so that the loads are through: an arrival by
        // itself waits for none.
        let read = |e: &Emit<'c>| {
            e.warp_barrier();
            weights.release(e, e.eq(e.lane(), e.int(0)));
        };
        match job.rows {
            ManyRows::Bf16(_) | ManyRows::ByLanes(_) => {
                let each = tiles_of_a_run(job.codec);
                for first in (0..count).step_by(each as usize) {
                    let run = match job.rows {
                        ManyRows::ByLanes(_) => Run::Own(record.chunks(e, first / each)),
                        _ => record.run(e, first / each),
                    };
                    for tile in first..count.min(first + each) {
                        product(e, &record.steps(e, (&run, tile), &shares));
                        // A tile's words are of all of a run's loads.
                        if tile == first && first + each >= count {
                            read(e);
                        }
                    }
                }
            }
            ManyRows::Fp8(_) => {
                for (scale, shares) in scales.iter().zip(&shares) {
                    e.set(*scale, shares.of[0].0.into());
                }
                for tile in 0..count {
                    product(e, &record.codes(e, tile));
                    if tile + 1 == count {
                        read(e);
                    }
                }
            }
        }
    };
    let (tiles, each) = (job.rows.k_tiles(job.in_features), SPAN / job.rows.inputs());
    let settle = |e: &Emit<'c>| {
        e.wgmma_wait(sums, 0);
        release(e);
        e.set(last, e.minus_one().into());
    };
    e.each(e.int(0), e.int(tiles / each), 1, |e, _| span(e, each));
    if !tiles.is_multiple_of(each) {
        // What a loop has under way, ptxas does not follow out of it, and has all products behind it wait for each other.
        settle(e);
        span(e, tiles % each);
    }
    settle(e);
    if let ManyRows::Fp8(rows) = job.rows {
        scale(e, rows, first(e), scales, sums);
    }
}

/// Makes sums of codes those of numbers: each is of one output and of one row.
fn scale<'c>(e: &Emit<'c>, rows: Fp8Rows, first: Int<'c>, outputs: [Var<'c>; 2], sums: &[Var<'c>]) {
    let outputs = outputs.map(|scale| e.get_float(scale));
    let first = e.add(first, e.mul_const(e.lane_pair().1, 2));
    for (sums, row) in sums.chunks(4).zip((0..).step_by(8)) {
        let of_rows = rows.scales(e, e.add_const(first, row));
        for (i, sum) in sums.iter().enumerate() {
            let scaled = e.fmul(e.fmul(e.get_float(*sum), outputs[i / 2]), of_rows[i % 2]);
            e.set(*sum, scaled.into());
        }
    }
}
