//! Elements of an item's row: gates that are read and results that are written, in f32 rows or in bf16 tiles.

use hyc_plan::AttnShape;

use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::tile::TiledRows;
use crate::gpu::tile::rows::turn;
use crate::gpu::work_item::{WorkItem, group};

/// An element of an item's row of a tensor, f32 or in tiles.
pub fn load_column<'c>(e: &Emit<'c>, name: &'static str, item: WorkItem<'c>, column: Int<'c>) -> Float<'c> {
    if e.in_tiles(name) {
        return TiledRows::Operand(name).load(e, item.row, column, e.stride(name));
    }
    let row = e.mul_const(e.wide(item.row), e.stride(name));
    e.load(e.operand(name), e.add(row, e.wide(column)))
}

/// The column of (head of the group, element) among a row's results.
pub fn output_column<'c>(
    e: &Emit<'c>,
    shape: AttnShape,
    item: WorkItem<'c>,
    (h, element): (Int<'c>, Int<'c>),
) -> Int<'c> {
    let head = e.add(e.mul_const(item.kv_head, group(shape)), h);
    e.add(e.mul_const(head, shape.v_dim), element)
}

/// Where it lies in f32 rows.
fn output_at<'c>(e: &Emit<'c>, item: WorkItem<'c>, column: Int<'c>) -> Ptr<'c> {
    let at = e.add(e.mul_const(e.wide(item.row), e.stride("out")), e.wide(column));
    e.at(e.operand("out"), at)
}

/// Stores the output's (head of the group, element) of an item.
pub fn store_output<'c>(
    e: &Emit<'c>,
    shape: AttnShape,
    item: WorkItem<'c>,
    place: (Int<'c>, Int<'c>),
    y: Float<'c>,
) {
    let column = output_column(e, shape, item, place);
    if e.in_tiles("out") {
        return TiledRows::Operand("out").store(e, (item.row, column), e.stride("out"), y);
    }
    e.store(output_at(e, item, column), e.int(0), y.into());
}

/// Stores elements `first + 8 m + 2 t, + 1` of a head of the group, m = 0, 1, ..., of each lane t of a quad, where there is
/// such a row. Whole warps come here.
pub fn store_pairs<'c>(
    e: &Emit<'c>,
    shape: AttnShape,
    item: WorkItem<'c>,
    (h, first, there): (Int<'c>, u64, Int<'c>),
    pairs: &[[Float<'c>; 2]],
) {
    let t = e.lane_pair().1;
    let column = output_column(e, shape, item, (h, e.int(first)));
    if !e.in_tiles("out") {
        e.when(there, |e| {
            let to = output_at(e, item, e.add(column, e.mul_const(t, 2)));
            for (m, pair) in pairs.iter().enumerate() {
                e.store_words(to, e.int(8 * m as u64), &pair.map(|y| e.bits(y)));
            }
        });
        return;
    }
    let (rows, width) = (TiledRows::Operand("out"), e.stride("out"));
    let words: Vec<Int<'c>> = pairs.iter().map(|[low, high]| e.pack_bf16(*low, *high)).collect();
    let (fours, rest) = words.as_chunks::<4>();
    let piece = |m: usize| e.add_const(e.div_rem(column, 8).0, m as i64);
    let turned: Vec<[Int<'c>; 4]> = fours.iter().map(|four| turn(e, *four)).collect();
    e.when(there, |e| {
        for (i, words) in turned.iter().enumerate() {
            e.store_words(rows.piece(e, item.row, e.add(piece(4 * i), t), width), e.int(0), words);
        }
        for (i, word) in rest.iter().enumerate() {
            let to = rows.piece(e, item.row, piece(4 * fours.len() + i), width);
            e.store(to, t, (*word).into());
        }
    });
}
