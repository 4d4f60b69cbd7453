//! `QkvAppend` of many rows by strips: projections, RoPE and append in one function, on the tiles of
//! [`wgmma_strips`](super::wgmma_strips).
//!
//! ```text
//! q, k   a warp has eight elements of a head's first half and their partners: a lane both elements of a pair, for all of its rows
//!   q    rotated in registers, then written as other results are
//! k, v   eight elements of a row at a time to its page
//! gates  written as other results are
//! ```
//! For ops that [end in registers](crate::tiles::ends_in_registers). Reference: `reference::linear::qkv_append`.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::ops::QkvAppend;
use hyc_plan::{Codec, KvCodec, KvOrder};

use super::matrices::{Product, To};
use super::product::MANY_ROWS_OF_STRIPS;
use super::projections::gates;
use super::rope::{grown, steps};
use super::turned::{Turned, packed};
use super::wgmma::Tile;
use super::wgmma_strips::{Turns, finish, strips_large_m_with};
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::paged_kv::{key_index, page_of, value_index};

/// Adds the functions. `query`: the product, of all matrices, whose results go where the queries do.
pub fn launches<'c>(k: &mut Kernel<'c, '_>, op: &QkvAppend, query: &Product, codec: Codec) {
    let to = |(_, name)| Product { to: To::operand(k, name), ..query.clone() };
    let gates: Vec<Product> = gates(op).map(to).collect();
    let turns = Turns { dim: op.shape.qk_dim, matrices: if op.own_kv { 2 } else { 1 } };
    for tile in MANY_ROWS_OF_STRIPS {
        strips_large_m_with(k, tile, (query, codec), Some(turns), &|_: &Emit<'c>, tile, first| {
            let gates = &gates;
            Box::new(move |e, sums| {
                let section = tile.section.number;
                let number = |n: u64| e.eq(section, e.int(n));
                let all = (&tile, first, sums);
                e.when(e.lt(section, e.int(turns.matrices)), |e| rotate(e, op, all));
                e.when(number(0), |e| finish(e, query, &tile, first, sums));
                if op.own_kv {
                    e.when(number(1), |e| append(e, op.shape.qk_dim, all, keys));
                    e.when(number(2), |e| append(e, op.shape.v_dim, all, values));
                }
                for (n, gate) in (if op.own_kv { 3 } else { 1 }..).zip(gates) {
                    e.when(number(n), |e| finish(e, gate, &tile, first, sums));
                }
            })
        });
    }
}

/// A warp's sums of a tile, from an output of the section on.
type Sums<'a, 'c> = (&'a Tile<'c>, Int<'c>, &'a Turned<'a, 'c>);

/// Row `i` of a tile, or the step's last, and whether it is one; its position.
fn row_of<'c>(e: &Emit<'c>, tile: &Tile<'c>, i: Int<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
    let (row, inside) = tile.row_of(e, i);
    (row, inside, e.load_int(e.list(offset_of!(StepContext, positions)), row))
}

/// Rotates heads.
fn rotate<'c>(e: &Emit<'c>, op: &QkvAppend, (tile, first, sums): Sums<'_, 'c>) {
    let (g, t) = e.lane_pair();
    let pair = e.add(e.div_rem(first, op.shape.qk_dim).1, g);
    let step = e.load_long(steps(e, op.rope), pair);
    for (j, of) in sums.of.chunks(4).enumerate() {
        // There are registers for the positions of few rows at once.
        if j % 4 == 0 {
            e.warp_barrier();
        }
        for odd in [0, 1] {
            let i = e.add_const(e.mul_const(t, 2), (8 * j + odd) as i64);
            let (_, _, position) = row_of(e, tile, i);
            let (sin, cos) = grown(e, op.rope, e.sin_cos_steps(step, position));
            let (a, b) = (e.get_float(of[odd]), e.get_float(of[2 + odd]));
            e.set(of[odd], e.fsub(e.fmul(a, cos), e.fmul(b, sin)).into());
            e.set(of[2 + odd], e.fadd(e.fmul(b, cos), e.fmul(a, sin)).into());
        }
    }
}

/// A row's page with its place, and the head and element of the first of eight.
struct Spot<'c> {
    page: Ptr<'c>,
    place: Int<'c>,
    head: Int<'c>,
    d: Int<'c>,
}

/// Stores eight neighbouring elements.
type Store<'c> = fn(&Emit<'c>, &Spot<'c>, &[Float<'c>]);

/// Appends elements of heads of `dim`.
fn append<'c>(e: &Emit<'c>, dim: u64, (tile, first, sums): Sums<'_, 'c>, store: Store<'c>) {
    let cache = e.cache("cache");
    sums.write_eights(e, &|e, (row, output, there), eight| {
        let (row, inside, position) = row_of(e, tile, row);
        let (page, place) = page_of(e, &cache, row, position);
        let (head, d) = e.div_rem(e.add(first, sums.column(e, output)), dim);
        e.when(e.and(inside, there), |e| store(e, &Spot { page, place, head, d }, eight));
    });
}

fn keys<'c>(e: &Emit<'c>, at: &Spot<'c>, eight: &[Float<'c>]) {
    let cache = e.cache("cache");
    let index = |i: i64| key_index(e, &cache, at.head, at.place, e.add_const(at.d, i));
    if cache.codec == KvCodec::Bf16 && cache.order == KvOrder::Tiles {
        // A piece of a swizzled row.
        return e.store_words(at.page, e.div_rem(index(0), 2).0, &packed(e, eight));
    }
    (0..).zip(eight).for_each(|(i, x)| e.store_elem(cache.codec.plain(), at.page, index(i), *x));
}

fn values<'c>(e: &Emit<'c>, at: &Spot<'c>, eight: &[Float<'c>]) {
    let cache = e.cache("cache");
    let index = |i: i64| value_index(e, &cache, at.head, at.place, e.add_const(at.d, i));
    (0..).zip(eight).for_each(|(i, x)| e.store_elem(cache.codec.plain(), at.page, index(i), *x));
}
