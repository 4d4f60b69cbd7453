//! `ExpertsUp` and `ExpertsDown`; in panels as `panel` has them, in bf16 tiles:
//!
//! ```text
//! by_row     block: 16 outputs of one (row, chosen expert); down: of one row, a warp an expert
//! grouped    dispatch, pack, grouped; combine (down): the weighted sum over a row's choices, plus the residual
//! ```
//! Reference: `reference::moe`.

use hyc_plan::{Extent, Layout};

use super::dispatch::{BY_ROW, GROUPED, dispatch, gather};
use super::grouped_gemm::{BY_ROW_ROWS, Grouped, grouped, matrix};
use super::panel;
use super::router::chosen;
use crate::gpu::function::{Function, Kernel, NO_PRODUCT, part};
use crate::gpu::gemm::pack_rows::{Packed, k_tiles, pack, packed_bytes, packed_row, strip_offset};
use crate::gpu::gemm::small_m::{Strip, THREADS, WARPS, reduce, strip_ring, strip_shared};
use crate::gpu::isa::{Emit, Int, Ptr, Var};

/// `ExpertsUp`.
pub fn up(k: &mut Kernel<'_, '_>, in_features: u64, ffn: u64, active: u64) {
    match k.layout("gate") {
        Layout::Tiles { count, .. } => tiled_up(k, count, in_features, ffn, active),
        layout @ Layout::Panels { .. } => panel::up(k, layout.panels(), in_features, ffn, active),
        Layout::Rows { .. } | Layout::Vector { .. } => k.refuse(NO_PRODUCT),
    }
}

/// `ExpertsDown`.
pub fn down(k: &mut Kernel<'_, '_>, active: u64, ffn: u64, out: u64) {
    match k.layout("down") {
        Layout::Tiles { count, .. } => tiled_down(k, count, active, ffn, out),
        layout @ Layout::Panels { .. } => panel::down(k, layout.panels(), active, ffn, out),
        Layout::Rows { .. } | Layout::Vector { .. } => k.refuse(NO_PRODUCT),
    }
}

/// `ExpertsUp` of `experts` experts in tiles.
fn tiled_up(k: &mut Kernel<'_, '_>, experts: u64, in_features: u64, ffn: u64, active: u64) {
    let spec = k.spec;
    let few = BY_ROW_ROWS.min(spec.max_rows);
    let rows_at = k.scratch(packed_bytes(few, in_features));
    let rows = Packed {
        part: "_pack",
        grid: k.rows(1, 1),
        in_features,
        norm: None,
        to: rows_at,
        variants: &[BY_ROW],
    };
    pack(k, &rows, &|e, row| (e.at(e.operand("x"), e.mul_const(e.wide(row), e.stride("x"))), row));
    let grid = [Extent::fixed(ffn.div_ceil(16)), k.rows(active, 1)];
    k.function(
        Function::new(&part(BY_ROW), grid, THREADS).of(&[BY_ROW]).shared_bytes(strip_shared(2, 1)),
        |e| {
            let ring = strip_ring(e, 2, 1);
            let (row, slot) = e.div_rem(e.block_y(), active);
            let expert = chosen(e, row, slot);
            let warp = e.div_rem(e.thread(), 32).0;
            let matrices = ["gate", "up"].map(|name| matrix(e, name, expert, ffn, in_features));
            let strip = strip(e, &matrices, e.block_x(), (rows_at, row), (warp, WARPS), in_features);
            let sums = strip.sums(e, &ring);
            let parts = e.shared(WARPS * 128);
            let gate = reduce(e, &sums[0], parts, WARPS)[0];
            e.barrier();
            let up = reduce(e, &sums[1], parts, WARPS)[0];
            let (mine, output) = own(e, row);
            e.when(e.and(mine, e.lt(output, e.int(ffn))), |e| {
                let at = e.add(e.mul_const(row, e.stride("h")), e.add(e.mul_const(slot, ffn), output));
                e.store(e.operand("h"), at, e.fmul(e.silu(gate), up).into());
            });
        },
    );
    if !k.wants(GROUPED) {
        return;
    }
    let d = dispatch(k, experts, active);
    let sorted_at = gather(k, &d, "x", in_features, false);
    let aligned = ffn.is_multiple_of(4);
    let products = Grouped { in_features, out: ffn, weight: "gate", up: Some("up"), sorted_at, aligned };
    grouped(k, &d, &products, &|e, pair| {
        let (row, slot) = e.div_rem(pair, active);
        e.at(e.row("h", row), e.mul_const(slot, ffn))
    });
}

/// `ExpertsDown` of `experts` experts in tiles.
fn tiled_down(k: &mut Kernel<'_, '_>, experts: u64, active: u64, ffn: u64, out: u64) {
    let spec = k.spec;
    let few = BY_ROW_ROWS.min(spec.max_rows);
    let rows_at = k.scratch(packed_bytes(few * active, ffn));
    let rows = Packed {
        part: "_pack",
        grid: k.rows(active, 1),
        in_features: ffn,
        norm: None,
        to: rows_at,
        variants: &[BY_ROW],
    };
    pack(k, &rows, &|e, pair| {
        let (row, slot) = e.div_rem(pair, active);
        let at = e.add(e.mul_const(row, e.stride("h")), e.mul_const(slot, ffn));
        (e.at(e.operand("h"), e.wide(at)), pair)
    });
    let grid = [Extent::fixed(out.div_ceil(16)), k.rows(1, 1)];
    k.function(
        Function::new(&part(BY_ROW), grid, THREADS).of(&[BY_ROW]).shared_bytes(strip_shared(1, 1)),
        |e| {
            let ring = strip_ring(e, 1, 1);
            let row = e.block_y();
            let warp = e.div_rem(e.thread(), 32).0;
            let totals: Vec<Var<'_>> = (0..4).map(|_| e.float_var(0.0)).collect();
            e.each(warp, e.int(active), WARPS, |e, slot| {
                let expert = chosen(e, row, slot);
                let share = e.load(e.operand("weight"), e.add(e.mul_const(row, e.stride("weight")), slot));
                let packed = e.add(e.mul_const(row, active), slot);
                let matrix = matrix(e, "down", expert, out, ffn);
                let strip = strip(e, &[matrix], e.block_x(), (rows_at, packed), (e.int(0), 1), ffn);
                let sums = strip.sums(e, &ring);
                // The row is one of the eight: the others' columns are not for us.
                let column = e.and(packed, e.int(7));
                for (i, total) in totals.iter().enumerate() {
                    let here = e.eq(e.add_const(e.mul_const(e.lane_pair().1, 2), i as i64 % 2), column);
                    let sum = e.pick_float(here, e.get_float(sums[0][0][i]), e.float(0.0));
                    e.accumulate(*total, share, sum);
                }
            });
            // The columns' sum becomes the first column.
            for pair in totals.chunks(2) {
                let sum = e.fadd(e.get_float(pair[0]), e.get_float(pair[1]));
                e.set(pair[0], e.warp_sum(sum, &[1, 2]).into());
            }
            let sum = reduce(e, &[totals], e.shared(WARPS * 128), WARPS)[0];
            let output = e.add(e.mul_const(e.block_x(), 16), e.thread());
            e.when(e.and(e.lt(e.thread(), e.int(16)), e.lt(output, e.int(out))), |e| {
                let at = |name: &str| e.add(e.mul_const(row, e.stride(name)), output);
                let value = e.fadd(sum, e.load(e.operand("residual"), at("residual")));
                e.store(e.operand("out"), at("out"), value.into());
            });
        },
    );
    if !k.wants(GROUPED) {
        return;
    }
    let d = dispatch(k, experts, active);
    let sorted_at = gather(k, &d, "h", ffn, true);
    let products = k.scratch(4 * spec.max_rows * active * out);
    let aligned = out.is_multiple_of(4);
    let of_pairs = Grouped { in_features: ffn, out, weight: "down", up: None, sorted_at, aligned };
    grouped(k, &d, &of_pairs, &|e, pair| {
        e.at(e.at(e.scratch(), e.int(products)), e.mul_const(e.wide(pair), out))
    });
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("_combine", grid, THREADS).of(&[GROUPED]), |e| {
        let row = e.block_x();
        let at = |name: &str| e.at(e.operand(name), e.wide(e.mul_const(row, e.stride(name))));
        let (shares, residual, to) = (at("weight"), at("residual"), at("out"));
        let products = e.at(e.scratch(), e.int(products));
        let products = e.at(products, e.mul_const(e.wide(row), active * out));
        e.each(e.thread(), e.int(out), THREADS, |e, output| {
            let sum = (0..active).fold(e.load(residual, output), |sum, slot| {
                let product = e.load(products, e.add_const(output, (slot * out) as i64));
                e.fma(e.load(shares, e.int(slot)), product, sum)
            });
            e.store(to, output, sum.into());
        });
    });
}

/// The product of 16 outputs of each matrix by packed row `row` (and those of its eight), over k tiles `first`,
/// `first + step`, ...
fn strip<'c>(
    e: &Emit<'c>,
    matrices: &[Ptr<'c>],
    panel: Int<'c>,
    (rows_at, row): (u64, Int<'c>),
    (first, step): (Int<'c>, u64),
    in_features: u64,
) -> Strip<'c> {
    let at = strip_offset(e, panel, in_features);
    let eight = e.sub(row, e.and(row, e.int(7)));
    Strip {
        weights: matrices.iter().map(|matrix| e.byte_offset(*matrix, at)).collect(),
        far: None,
        rows: packed_row(e, rows_at, eight, in_features),
        eights: 1,
        first,
        step,
        tiles: k_tiles(in_features),
        early: false,
    }
}

/// Whether this thread has a result of [`reduce`] for packed row `row`, and for which output of the block's.
fn own<'c>(e: &Emit<'c>, row: Int<'c>) -> (Int<'c>, Int<'c>) {
    let (at, output) = e.div_rem(e.thread(), 16);
    (e.eq(at, e.and(row, e.int(7))), e.add(e.mul_const(e.block_x(), 16), output))
}
