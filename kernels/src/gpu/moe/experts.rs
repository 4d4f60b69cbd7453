//! `ExpertsUp` and `ExpertsDown`; in panels as `panel` has them, in bf16 tiles:
//!
//! ```text
//! by_row     block: 16 outputs of one (row, chosen expert); down: of one row, a warp an expert, or as `down_streamed` has it
//! grouped    dispatch, gather, grouped; combine (down): the weighted sum over a row's choices, plus the residual; products are
//!            bf16 in between where outputs are whole tiles
//! ```
//! Reference: `reference::moe`.

use hyc_plan::ops::{ExpertsDown, ExpertsUp};
use hyc_plan::tensor::can_tile;
use hyc_plan::{Extent, Layout, TILE};

use super::dispatch::{BY_ROW, GROUPED, dispatch, gather};
use super::down_streamed;
use super::grouped_gemm::{BY_ROW_ROWS, Grouped, To, grouped, tile_pairs};
use super::panel;
use crate::gpu::function::{Function, Kernel, NO_PRODUCT, part};
use crate::gpu::gemm::choice::Choice;
use crate::gpu::gemm::feed::{Feed, Shape, THREADS, WARPS};
use crate::gpu::gemm::pack_rows::{Packed, k_tiles, pack, packed_bytes};
use crate::gpu::gemm::product::pack_x_of;
use crate::gpu::gemm::small_m::{Strip, StripRows, reduce};
use crate::gpu::gemm::stored::Stored;
use crate::gpu::isa::{Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::{TILE_BYTES, TiledRows};

/// Blocks of a multiprocessor where weights are strips, of which there are more than two for each; the next launch's begin beside them.
const AT_ONCE: u64 = 3;
/// Most warps of a block that sums a row's experts.
const MOST_WARPS: u64 = 12;

/// `ExpertsUp`.
pub fn up(k: &mut Kernel<'_, '_>, op: ExpertsUp) {
    let ExpertsUp { experts, active, in_features, ffn, shared } = op;
    match k.layout("gate") {
        Layout::Tiles { .. } | Layout::Strips { .. } => {
            tiled_up(k, Choice { experts, active, shared }, (in_features, ffn));
        }
        layout @ Layout::Panels { .. } => {
            panel::up(k, layout.panels(), (in_features, ffn), Choice { experts, active, shared })
        }
        Layout::Rows { .. } | Layout::Vector { .. } => k.refuse(NO_PRODUCT),
    }
}

/// `ExpertsDown`.
pub fn down(k: &mut Kernel<'_, '_>, op: ExpertsDown) {
    let ExpertsDown { experts, active, out_features: out, ffn, shared } = op;
    match k.layout("down") {
        Layout::Tiles { .. } | Layout::Strips { .. } => {
            tiled_down(k, Choice { experts, active, shared }, (ffn, out));
        }
        layout @ Layout::Panels { .. } => panel::down(k, layout.panels(), active, ffn, out),
        Layout::Rows { .. } | Layout::Vector { .. } => k.refuse(NO_PRODUCT),
    }
}

/// Most rows that are computed one by one.
fn rows_one_by_one(k: &Kernel<'_, '_>) -> u64 {
    BY_ROW_ROWS.min(k.spec.max_rows)
}

/// `ExpertsUp` of experts in tiles or strips.
fn tiled_up<'c>(k: &mut Kernel<'c, '_>, choice: Choice, (in_features, ffn): (u64, u64)) {
    let active = choice.count();
    let stored = Stored::of(k.format("gate"));
    let rows_at = pack_x_of(k, in_features, None, (&[BY_ROW], rows_one_by_one(k)));
    let grid = [Extent::fixed(ffn.div_ceil(16)), k.rows(active, 1)];
    let shape = Shape::of_row((2, stored), Feed::Whole, in_features);
    let shape = if stored == Stored::Tiles { shape.of_thirds() } else { shape };
    let name = part(BY_ROW);
    let function = Function::new(&name, grid, THREADS).of(&[BY_ROW]).shared_bytes(shape.shared_bytes());
    let function = if stored == Stored::Tiles { function } else { function.at_once(AT_ONCE) };
    // `down` guesses the choice, which is there once this waits no more.
    k.function(function.late(), |e| {
        let ring = shape.ring(e);
        let (row, turn) = e.div_rem(e.block_y(), active);
        // Nobody chooses a shared expert: its weights are on their way while the choice is not known yet.
        let (slot, chosen) = match choice.shared {
            true => {
                let chosen = e.lt(e.int(0), turn);
                (e.pick(chosen, e.add_const(turn, -1), e.int(choice.active)), chosen)
            }
            false => (turn, e.holds()),
        };
        let expert = e.var(e.int(choice.experts).into());
        e.when(chosen, |e| {
            e.wait_for_inputs();
            e.set(expert, choice.expert(e, row, slot).into());
        });
        let expert = e.get(expert).into_int_value();
        let warp = e.div_rem(e.thread(), 32).0;
        let matrices =
            ["gate", "up"].map(|name| choice.matrix(e, (name, stored), expert, (ffn, in_features)));
        let rows = (rows_at.row(e, shape.first(e, row), in_features), row);
        let strip = Strip { early: true, ..strip(e, &matrices, e.block_x(), rows, (warp, WARPS), shape) };
        let sums = strip.sums_then(e, &ring, &|e| e.let_dependents_start());
        let gate = reduce(e, &sums[0], shape)[0];
        e.barrier();
        let up = reduce(e, &sums[1], shape)[0];
        // Of the eight columns one is the row's; where it is kept, all are.
        let (column, output) = e.div_rem(e.thread(), 16);
        let output = e.add(e.mul_const(e.block_x(), 16), output);
        let mine = e.eq(column, e.and(row, e.int(7)));
        e.when(e.and(mine, e.lt(output, e.int(ffn))), |e| {
            let (column, y) = (e.add(e.mul_const(slot, ffn), output), e.fmul(e.silu(gate), up));
            if e.in_tiles("h") {
                return TiledRows::Operand("h").store(e, (row, column), e.stride("h"), y);
            }
            e.store(e.row("h", row), column, y.into());
        });
    });
    if !k.wants(GROUPED) {
        return;
    }
    let d = dispatch(k, choice, tile_pairs(k, stored, choice));
    let sorted = gather(k, &d, "x", in_features, (false, stored != Stored::Tiles));
    let aligned = ffn.is_multiple_of(4);
    let products = Grouped { in_features, out: ffn, weight: "gate", up: Some("up"), sorted, stored, aligned };
    let (in_tiles, width) = (k.in_tiles("h"), active * ffn);
    let column = |e: &Emit<'c>, pair: Int<'c>| {
        let (row, slot) = e.div_rem(pair, active);
        (row, e.mul_const(slot, ffn))
    };
    let place = |e: &Emit<'c>, pair: Int<'c>| {
        let (row, column) = column(e, pair);
        e.at(e.row("h", row), column)
    };
    let to = if in_tiles { To::Tiles(TiledRows::Operand("h"), width, &column) } else { To::Rows(&place) };
    grouped(k, &d, &products, &to);
}

/// `ExpertsDown` of experts in tiles or strips.
fn tiled_down<'c>(k: &mut Kernel<'c, '_>, choice: Choice, (ffn, out): (u64, u64)) {
    let (stored, active) = (Stored::of(k.format("down")), choice.count());
    let rows_at = if k.in_tiles("h") { TiledRows::Operand("h") } else { pack_choices(k, active, ffn) };
    if stored == Stored::Tiles && down_streamed::fits(active * k_tiles(ffn)) {
        down_streamed::add(k, choice, (ffn, out), rows_at);
    } else {
        down_by_warps(k, choice, (ffn, out), rows_at);
    }
    if k.wants(GROUPED) {
        down_grouped(k, choice, (ffn, out));
    }
}

/// The function of few rows whose choices a warp each multiplies by.
fn down_by_warps<'c>(k: &mut Kernel<'c, '_>, choice: Choice, (ffn, out): (u64, u64), rows_at: TiledRows) {
    let (stored, active) = (Stored::of(k.format("down")), choice.count());
    let grid = [Extent::fixed(out.div_ceil(16)), k.rows(1, 1)];
    // A warp an expert, where one or two more make that true.
    let warps = if (WARPS..=MOST_WARPS).contains(&active) { active } else { WARPS };
    let shape = Shape::of_row((1, stored), Feed::Own, ffn).of_warps(warps);
    let name = part(BY_ROW);
    let function = Function::new(&name, grid, 32 * warps).of(&[BY_ROW]).shared_bytes(shape.shared_bytes());
    let function = if stored == Stored::Tiles { function } else { function.at_once(AT_ONCE) };
    k.function(function.waits_itself(), |e| {
        let ring = shape.ring(e);
        let (row, warp) = (e.block_y(), e.div_rem(e.thread(), 32).0);
        // The product of a choice. In its first turn a warp does not know yet whether it is of the right expert.
        let strip_of = |e: &Emit<'c>, slot: Int<'c>, expert: Int<'c>, begin: Option<Int<'c>>| {
            let before = e.wide(e.mul_const(slot, k_tiles(ffn) * TILE_BYTES));
            let rows =
                e.byte_offset(rows_at.row(e, shape.first(e, row), active * k_tiles(ffn) * TILE), before);
            let matrix = choice.matrix(e, ("down", stored), expert, (out, ffn));
            let first = begin.unwrap_or(e.int(0));
            let strip = strip(e, &[matrix], e.block_x(), (rows, row), (first, 1), shape);
            Strip { early: begin.is_some(), ..strip }
        };
        let totals: Vec<Var<'c>> = (0..4).map(|_| e.float_var(0.0)).collect();
        let add = |e: &Emit<'c>,
                   strip: &Strip<'c>,
                   sums: &[Vec<Vec<Var<'c>>>],
                   share: Float<'c>,
                   counts: Int<'c>| {
            // Of the eight columns one is the choice's; where its row is kept, all are.
            let column = e.and(strip.rows.row, e.int(7));
            for (i, (total, sum)) in totals.iter().zip(&sums[0][0]).enumerate() {
                let here = e.eq(e.add_const(e.mul_const(e.lane_pair().1, 2), i as i64 % 2), column);
                let sum = e.pick_float(e.and(counts, here), e.get_float(*sum), e.float(0.0));
                e.accumulate(*total, share, sum);
            }
        };
        // The router is launches before: its choice is as good as there. It is read again behind the inputs, and where it is
        // another one, the warp begins anew.
        let there = e.lt(warp, e.int(active));
        let slot = e.min(warp, e.int(active - 1));
        let guess = e.uniform(choice.expert_anew(e, row, slot));
        let guess = e.pick(e.lt_unsigned(guess, e.int(choice.all())), guess, e.int(0));
        let output = e.add(e.mul_const(e.block_x(), 16), e.thread());
        let (expert, own_share, residual) = (e.var(guess.into()), e.float_var(0.0), e.float_var(0.0));
        let at = |name: &str, output| e.add(e.mul_const(row, e.stride(name)), output);
        let begin = e.pick(there, e.int(0), e.int(stored.stages(ffn)));
        let guessed = strip_of(e, slot, guess, Some(begin));
        let sums = guessed.sums_then(e, &ring, &|e| {
            e.set(expert, choice.expert_anew(e, row, slot).into());
            e.set(own_share, choice.share(e, row, slot).into());
            let inside = e.min(output, e.int(out - 1));
            e.set(residual, e.load(e.operand("residual"), at("residual", inside)).into());
        });
        let right = e.eq(e.get(expert).into_int_value(), guess);
        add(e, &guessed, &sums, e.get_float(own_share), e.and(there, right));
        let next = e.pick(right, e.add_const(warp, warps as i64), warp);
        e.each(next, e.int(active), warps, |e, slot| {
            let strip = strip_of(e, slot, choice.expert(e, row, slot), None);
            add(e, &strip, &strip.sums(e, &ring), choice.share(e, row, slot), e.holds());
        });
        // The columns' sum becomes the first column.
        for pair in totals.chunks(2) {
            let sum = e.fadd(e.get_float(pair[0]), e.get_float(pair[1]));
            e.set(pair[0], e.warp_sum(sum, &[1, 2]).into());
        }
        let sum = reduce(e, &[totals], shape)[0];
        e.when(e.and(e.lt(e.thread(), e.int(16)), e.lt(output, e.int(out))), |e| {
            e.store(e.operand("out"), at("out", output), e.fadd(sum, e.get_float(residual)).into());
        });
    });
}

/// The functions of many rows.
fn down_grouped<'c>(k: &mut Kernel<'c, '_>, choice: Choice, (ffn, out): (u64, u64)) {
    let (spec, stored, active) = (k.spec, Stored::of(k.format("down")), choice.count());
    let d = dispatch(k, choice, tile_pairs(k, stored, choice));
    let sorted = gather(k, &d, "h", ffn, (true, stored != Stored::Tiles));
    let aligned = out.is_multiple_of(4);
    let of_pairs = Grouped { in_features: ffn, out, weight: "down", up: None, sorted, stored, aligned };
    if !can_tile(out) {
        let products = k.scratch(4 * spec.max_rows * active * out);
        let pair = |e: &Emit<'c>, pair: Int<'c>| {
            e.at(e.at(e.scratch(), e.int(products)), e.mul_const(e.wide(pair), out))
        };
        grouped(k, &d, &of_pairs, &To::Rows(&pair));
        return combine(k, (choice, out), &|e, row, output| {
            let row = e.at(e.at(e.scratch(), e.int(products)), e.mul_const(e.wide(row), active * out));
            let product = |slot| vec![e.load(row, e.add_const(output, (slot * out) as i64))];
            (0..active).map(product).collect()
        });
    }
    // Products are rounded: a half of the way through memory.
    let products = TiledRows::Scratch(k.scratch(packed_bytes(spec.max_rows * active, out)));
    grouped(k, &d, &of_pairs, &To::Tiles(products, out, &|e, pair| (pair, e.int(0))));
    combine(k, (choice, out), &|e, row, output| {
        let product = |slot| {
            let pair = e.add_const(e.mul_const(row, active), slot as i64);
            let words = e.load4(products.piece(e, pair, e.div_rem(output, 8).0, out), e.int(0));
            let halves = |word| [e.shift_left(word, 16), e.and(word, e.int(0xffff_0000))];
            words.into_iter().flat_map(halves).map(|bits| e.widen(bits)).collect()
        };
        (0..active).map(product).collect()
    });
}

/// Products of all of a row's choices, for some outputs from one on.
type Products<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>) -> Vec<Vec<Float<'c>>>;

/// Adds the function that sums a row's products by their shares, onto the residual.
fn combine<'c>(k: &mut Kernel<'c, '_>, (choice, out): (Choice, u64), products: Products<'_, 'c>) {
    let grid = [k.rows(1, 1), Extent::fixed(1)];
    k.function(Function::new("_combine", grid, THREADS).of(&[GROUPED]), |e| {
        let row = e.block_x();
        let at = |name: &str| e.at(e.operand(name), e.wide(e.mul_const(row, e.stride(name))));
        let (residual, to) = (at("residual"), at("out"));
        let shares: Vec<Float<'c>> =
            (0..choice.count()).map(|slot| choice.share(e, row, e.int(slot))).collect();
        let summed = |e: &Emit<'c>, products: &[Vec<Float<'c>>], i: usize, plus: Float<'c>| {
            shares.iter().zip(products).fold(plus, |sum, (share, product)| e.fma(*share, product[i], sum))
        };
        let each = if can_tile(out) { 8 } else { 1 };
        e.each(e.mul_const(e.thread(), each), e.int(out), each * THREADS, |e, output| {
            let products = products(e, row, output);
            if each == 1 {
                let sum = summed(e, &products, 0, e.load(residual, output));
                return e.store(to, output, sum.into());
            }
            for first in [0, 4] {
                let output = e.add_const(output, first);
                let plus = e.load4(residual, output);
                let sums =
                    [0, 1, 2, 3].map(|i| e.bits(summed(e, &products, first as usize + i, e.widen(plus[i]))));
                e.store_words(to, output, &sums);
            }
        });
    });
}

/// Adds the launch that packs a row's choices side by side, each from a whole k tile on, for [`BY_ROW`].
fn pack_choices(k: &mut Kernel<'_, '_>, active: u64, ffn: u64) -> TiledRows {
    let (width, pieces) = (active * k_tiles(ffn) * TILE, k_tiles(ffn) * TILE / 8);
    let to = TiledRows::Scratch(k.scratch(packed_bytes(rows_one_by_one(k), width)));
    let (grid, variants) = (k.rows(active, 1), &[BY_ROW][..]);
    let rows = Packed { part: "_pack", grid, in_features: ffn, width, norm: None, to, variants };
    pack(k, &rows, &|e, pair| {
        let (row, slot) = e.div_rem(pair, active);
        let at = e.add(e.mul_const(row, e.stride("h")), e.mul_const(slot, ffn));
        (e.at(e.operand("h"), e.wide(at)), row, e.mul_const(slot, pieces))
    });
    to
}

/// The product of 16 outputs of each matrix by the row at `rows`, of that number, over stages `first`, `first + step`, ...
fn strip<'c>(
    e: &Emit<'c>,
    matrices: &[Ptr<'c>],
    panel: Int<'c>,
    (rows, row): (Ptr<'c>, Int<'c>),
    (first, step): (Int<'c>, u64),
    shape: Shape,
) -> Strip<'c> {
    let at = shape.stored.strip(e, panel, shape.in_features);
    Strip {
        weights: matrices.iter().map(|matrix| e.byte_offset(*matrix, at)).collect(),
        far: None,
        rows: StripRows { tiles: rows, row, raw: None },
        shape,
        first,
        step,
        early: false,
    }
}
