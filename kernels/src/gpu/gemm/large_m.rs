//! Products of many rows by weights one below the other: the tiles of [`wgmma`](super::wgmma), and how they are stored.
//!
//! ```text
//! order: down the rows of 16 row blocks, then along the outputs: a wave reads few outputs, and those rows again and again
//! ```

use hyc_plan::Epilogue;
use hyc_plan::ops::Linear;

use super::epilogue::{Columns, Line, Values, lanes_rows, write};
use super::matrices::{Product, Rows, blocks, section};
use super::pack_rows::BLOCK_ROWS;
use super::wgmma::{Begin, Job, Sums, Tile, WIDE, wgmma};
use crate::gpu::function::{Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, Var};
use crate::gpu::work_item::row_count;

/// Row blocks that are gone down before the next outputs.
const GROUP: u64 = 16;

/// Adds the function of a variant, whose tiles have `width` outputs and are stored where the product's results go.
pub fn large_m(k: &mut Kernel<'_, '_>, variant: &str, width: u64, p: &Product) {
    large_m_with(k, variant, width, p, &|_, tile, row, staging| {
        Box::new(move |e, sums| store(e, p, (tile, row, staging), sums))
    });
}

/// Most rows of the op that make no more wide tiles than half the multiprocessors.
pub fn narrow_rows(op: &Linear, multiprocessors: u64) -> u64 {
    let each = if op.epilogue == Epilogue::SwiGlu { WIDE / 2 } else { WIDE };
    multiprocessors / 2 / op.out_features.div_ceil(each) * BLOCK_ROWS
}

/// Outputs that a tile has of each weight.
fn each(p: &Product, width: u64) -> u64 {
    if p.up.is_some() { width / 2 } else { width }
}

/// The same with an end of its own.
pub fn large_m_with<'c>(
    k: &mut Kernel<'c, '_>,
    variant: &str,
    width: u64,
    p: &Product,
    begin: Begin<'_, '_, 'c>,
) {
    let spec = k.spec;
    let each = each(p, width);
    let columns = blocks(p, each);
    let row_blocks =
        |e: &Emit<'c>, rows: Int<'c>| e.div_rem(e.add_const(rows, BLOCK_ROWS as i64 - 1), BLOCK_ROWS).0;
    let tile = |e: &Emit<'c>, index: Int<'c>| {
        let rows = row_count(e, spec);
        let (row, column) = place(e, index, row_blocks(e, rows), columns);
        let row = e.mul_const(row, BLOCK_ROWS);
        Tile {
            section: section(e, p, column, each),
            up: p.up.map(|up| e.operand(up)),
            outputs: column,
            row,
            rows,
            place: e.int(0),
        }
    };
    let count = |e: &Emit<'c>| e.mul_const(row_blocks(e, row_count(e, spec)), columns);
    let job = Job {
        in_features: p.in_features,
        rows_at: p.rows_at,
        width,
        half_tiles: false,
        count: &count,
        tile: &tile,
        begin,
    };
    wgmma(k, &part(variant), &[variant], &job);
}

/// Row block and block of outputs of tile `index`.
fn place<'c>(e: &Emit<'c>, index: Int<'c>, row_blocks: Int<'c>, columns: u64) -> (Int<'c>, Int<'c>) {
    let (group, rest) = e.div_rem(index, GROUP * columns);
    let first = e.mul_const(group, GROUP);
    let here = e.min(e.sub(row_blocks, first), e.int(GROUP));
    let column = e.quotient(rest, here);
    (e.add(first, e.sub(rest, e.mul(column, here))), column)
}

/// Stores the 16 rows of a warp from `row` on.
pub fn store<'c>(
    e: &Emit<'c>,
    p: &Product,
    (tile, row, staging): (Tile<'c>, Int<'c>, Ptr<'c>),
    sums: &Sums<'_, 'c>,
) {
    let two = p.up.is_some();
    let each = each(p, 2 * sums.of.len() as u64);
    let inside = e.mul_const(tile.section.block, each);
    let first = e.add(tile.section.column, inside);
    let strides = [Some(p.to), p.plus.map(Rows::Operand)].into_iter().flatten().map(|rows| rows.stride(e));
    let aligned = strides.chain(p.matrices.iter().map(|m| m.column)).all(|n| n.is_multiple_of(4));
    let whole = p.matrices.iter().all(|m| m.out.is_multiple_of(each));
    let columns = Columns { count: each, left: e.sub(tile.section.out, inside), whole, aligned };
    let lines = lanes_rows(e).map(|r| {
        let row = e.add(row, r);
        let clamped = e.max(e.min(row, e.add_const(tile.rows, -1)), e.int(0));
        let at = |rows: Rows| rows.at(e, clamped, first);
        Line { inside: e.lt(row, tile.rows), to: at(p.to), plus: p.plus.map(Rows::Operand).map(at) }
    });
    let values = Values { ready: sums.ready, get: &|e, i| value(e, sums.of, i, two) };
    write(e, staging, &columns, &values, &lines);
}

/// Element `i` of a lane's results, of one or two weights.
pub fn value<'c>(e: &Emit<'c>, sums: &[Var<'c>], i: usize, two: bool) -> Float<'c> {
    let sum = e.get_float(sums[i]);
    if two { e.fmul(e.silu(sum), e.get_float(sums[i + sums.len() / 2])) } else { sum }
}
