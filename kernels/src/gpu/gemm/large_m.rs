//! Products of many rows by weights one below the other: the tiles of [`wgmma`](super::wgmma), and how they are stored.
//!
//! ```text
//! order: down the rows of 16 row blocks, then along the outputs: a wave reads few outputs, and those rows again and again
//! ```

use hyc_plan::Epilogue;
use hyc_plan::ops::Linear;

use super::epilogue::{Columns, Line, Values, lanes_rows, write};
use super::matrices::{Product, Rows, To, blocks, section};
use super::pack_rows::BLOCK_ROWS;
use super::wgmma::{Begin, Job, Sums, Tile, WIDE, wgmma};
use crate::gpu::function::{Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr, Var};
use crate::gpu::tile::TiledRows;
use crate::gpu::tile::rows::turn;
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
        rows: p.inputs.tiles,
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
    let to = match p.to {
        To::Rows(rows) => rows,
        To::Tiles(name) => {
            let targets = [0, 8].map(|half| {
                let row = e.add_const(e.add(row, e.lane_pair().0), half);
                (e.lt(row, tile.rows), row, first)
            });
            let to = (TiledRows::Operand(name), e.stride(name), e.sub(tile.section.out, inside));
            return store_tiles(e, to, &targets, two, sums);
        }
    };
    let strides = [Some(to), p.plus.map(Rows::Operand)].into_iter().flatten().map(|rows| rows.stride(e));
    let aligned = strides.chain(p.matrices.iter().map(|m| m.column)).all(|n| n.is_multiple_of(4));
    let whole = p.matrices.iter().all(|m| m.out.is_multiple_of(each));
    let columns = Columns { count: each, left: e.sub(tile.section.out, inside), whole, aligned };
    let lines = lanes_rows(e).map(|r| {
        let row = e.add(row, r);
        let clamped = e.max(e.min(row, e.add_const(tile.rows, -1)), e.int(0));
        let at = |rows: Rows| rows.at(e, clamped, first);
        Line { inside: e.lt(row, tile.rows), to: at(to), plus: p.plus.map(Rows::Operand).map(at) }
    });
    let values = Values { ready: sums.ready, get: &|e, i| value(e, sums.of, i, two) };
    write(e, staging, &columns, &values, &lines);
}

/// A row in tiles that results go to: whether there is one, its number, its first column.
pub type Target<'c> = (Int<'c>, Int<'c>, Int<'c>);

/// Stores the results of a lane's two rows in tiles of `width` columns, `left` of which they have: four pieces of a row at a
/// time, one by each lane of a quad.
pub fn store_tiles<'c>(
    e: &Emit<'c>,
    (rows, width, left): (TiledRows, u64, Int<'c>),
    targets: &[Target<'c>; 2],
    two: bool,
    sums: &Sums<'_, 'c>,
) {
    let count = if two { sums.of.len() / 2 } else { sums.of.len() };
    (sums.ready)(e);
    let t = e.lane_pair().1;
    for (half, (inside, row, first)) in targets.iter().enumerate() {
        for (four, columns) in (0..count).step_by(16).zip((0..).step_by(32)) {
            let words = [0, 4, 8, 12].map(|j| {
                let [low, high] = [0, 1].map(|i| value(e, sums.of, four + j + 2 * half + i, two));
                e.pack_bf16(low, high)
            });
            let words = turn(e, words);
            let column = e.add_const(e.mul_const(t, 8), columns);
            e.when(e.and(*inside, e.lt(column, left)), |e| {
                let piece = e.div_rem(e.add(*first, column), 8).0;
                e.store_words(rows.piece(e, *row, piece, width), e.int(0), &words);
            });
        }
    }
}

/// Element `i` of a lane's results, of one or two weights.
pub fn value<'c>(e: &Emit<'c>, sums: &[Var<'c>], i: usize, two: bool) -> Float<'c> {
    let sum = e.get_float(sums[i]);
    if two { e.fmul(e.silu(sum), e.get_float(sums[i + sums.len() / 2])) } else { sum }
}
