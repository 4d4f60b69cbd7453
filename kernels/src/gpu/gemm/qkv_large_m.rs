//! `QkvAppend` of many rows, which lie in tiles or were packed before: projections, RoPE and append in one function.
//!
//! ```text
//! tile: 256 (or 192) outputs of q, k or v: whole heads of q and k, so that a lane has both elements of a pair that RoPE turns
//!   q      rotated in registers, then written as other results are
//!   k, v   to their pages from registers: a lane has two dims of a row
//!   gates  written as other results are
//! ```
//! For ops that have [such tiles](crate::tiles::qkv_tile). Reference: `reference::linear::qkv_append`.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::ops::QkvAppend;
use hyc_plan::{KvCodec, KvOrder};

use super::large_m::store;
use super::matrices::{Product, To};
use super::projections::gates;
use super::rope::{grown, steps};
use super::wgmma::{Finish, Sums, Tile};
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Int, Ptr, Var};
use crate::gpu::paged_kv::{key_index, page_of, value_index};

/// One of the two rows of a lane.
struct Row<'c> {
    row: Int<'c>,
    inside: Int<'c>,
    position: Int<'c>,
}

/// The page of each row, and the row's place in it.
type Pages<'c> = [(Ptr<'c>, Int<'c>); 2];

/// How the tiles of an op end.
pub struct Ends<'a> {
    op: &'a QkvAppend,
    /// The product, whose results go where the queries do.
    pub query: Product,
    /// The same of each gate's logits.
    gates: Vec<Product>,
}

impl<'a> Ends<'a> {
    /// Those of `query`, which has all matrices.
    pub fn new(k: &Kernel<'_, '_>, op: &'a QkvAppend, query: Product) -> Ends<'a> {
        let to = |(_, name)| Product { to: To::operand(k, name), ..query.clone() };
        Ends { op, gates: gates(op).map(to).collect(), query }
    }

    /// Looks up the rows' positions, and says how a tile ends.
    pub fn begin<'f, 'c: 'f>(
        &'f self,
        e: &Emit<'c>,
        (tile, first, staging): (Tile<'c>, Int<'c>, Ptr<'c>),
    ) -> Finish<'f, 'c> {
        let c = self.op;
        let table = steps(e, c.rope);
        let g = e.lane_pair().0;
        let rows = [0, 8].map(|half| {
            let row = e.add_const(e.add(first, g), half);
            let inside = e.lt(row, tile.rows);
            let row = e.max(e.min(row, e.add_const(tile.rows, -1)), e.int(0));
            Row { row, inside, position: e.load_int(e.list(offset_of!(StepContext, positions)), row) }
        });
        Box::new(move |e, sums| {
            let s = tile.section;
            let page = |row: &Row<'c>| page_of(e, &e.cache("cache"), row.row, row.position);
            let pages: Option<Pages<'c>> = c.own_kv.then(|| [page(&rows[0]), page(&rows[1])]);
            (sums.ready)(e);
            let sums = sums.of;
            let width = 2 * sums.len() as u64;
            let left = e.sub(s.out, e.mul_const(s.block, width));
            let rotates = if c.own_kv { 2 } else { 1 };
            e.when(e.lt(s.number, e.int(rotates)), |e| rotate(e, c, table, &rows, sums));
            let write = |e: &Emit<'c>, p: &Product| {
                store(e, p, (tile, first, staging), &Sums { of: sums, ready: &|_| {} });
            };
            let number = |n: u64| e.eq(s.number, e.int(n));
            e.when(number(0), |e| write(e, &self.query));
            if let Some(pages) = pages {
                let at = (s.block, left);
                e.when(number(1), |e| keys(e, c.shape.qk_dim, at, (&rows, &pages), sums));
                e.when(number(2), |e| values(e, c.shape.v_dim, at, (&rows, &pages), sums));
            }
            for (n, gate) in (if c.own_kv { 3 } else { 1 }..).zip(&self.gates) {
                e.when(number(n), |e| write(e, gate));
            }
        })
    }
}

/// Where element (row half, column parity) of columns `8 j ..` is among a lane's sums.
fn sum(j: u64, half: usize, parity: usize) -> usize {
    4 * j as usize + 2 * half + parity
}

/// Rotates all heads.
fn rotate<'c>(e: &Emit<'c>, c: &QkvAppend, table: Ptr<'c>, rows: &[Row<'c>; 2], sums: &[Var<'c>]) {
    let dim = c.shape.qk_dim;
    let t = e.lane_pair().1;
    for (j, parity) in (0..dim / 16).flat_map(|j| [(j, 0), (j, 1)]) {
        let pair = e.add_const(e.mul_const(t, 2), (8 * j as usize + parity) as i64);
        for (half, row) in rows.iter().enumerate() {
            let (sin, cos) = grown(e, c.rope, e.sin_cos_steps(e.load_long(table, pair), row.position));
            for head in 0..2 * sums.len() as u64 / dim {
                let near = sums[sum(head * dim / 8 + j, half, parity)];
                let far = sums[sum(head * dim / 8 + dim / 16 + j, half, parity)];
                let (a, b) = (e.get_float(near), e.get_float(far));
                e.set(near, e.fsub(e.fmul(a, cos), e.fmul(b, sin)).into());
                e.set(far, e.fadd(e.fmul(b, cos), e.fmul(a, sin)).into());
            }
        }
    }
}

/// Appends keys of heads of `dim`: those of block `block`, which has `left` columns.
fn keys<'c>(
    e: &Emit<'c>,
    dim: u64,
    (block, left): (Int<'c>, Int<'c>),
    (rows, pages): (&[Row<'c>; 2], &Pages<'c>),
    sums: &[Var<'c>],
) {
    let (cache, t) = (e.cache("cache"), e.lane_pair().1);
    let width = 2 * sums.len() as u64;
    let whole_words = cache.codec == KvCodec::Bf16 && cache.order == KvOrder::Tiles;
    for (half, (row, (page, place))) in rows.iter().zip(*pages).enumerate() {
        for j in 0..width / 8 {
            let head = e.add_const(e.mul_const(block, width / dim), (8 * j / dim) as i64);
            let d = e.add_const(e.mul_const(t, 2), (8 * j % dim) as i64);
            e.when(e.and(row.inside, e.lt(e.int(8 * j), left)), |e| {
                let pair = [0, 1].map(|parity| e.get_float(sums[sum(j, half, parity)]));
                let at = |parity| key_index(e, &cache, head, place, e.add_const(d, parity));
                if whole_words {
                    e.store(page, e.div_rem(at(0), 2).0, e.pack_bf16(pair[0], pair[1]).into());
                } else {
                    (0..).zip(pair).for_each(|(i, x)| e.store_elem(cache.codec.plain(), page, at(i), x));
                }
            });
        }
    }
}

/// The same of values.
fn values<'c>(
    e: &Emit<'c>,
    dim: u64,
    (block, left): (Int<'c>, Int<'c>),
    (rows, pages): (&[Row<'c>; 2], &Pages<'c>),
    sums: &[Var<'c>],
) {
    let (cache, t) = (e.cache("cache"), e.lane_pair().1);
    let width = 2 * sums.len() as u64;
    for j in 0..width / 8 {
        let (head, d) = e.div_rem(e.add_const(e.mul_const(block, width), 8 * j as i64), dim);
        let d = e.add(d, e.mul_const(t, 2));
        for (half, (row, (page, place))) in rows.iter().zip(*pages).enumerate() {
            e.when(e.and(row.inside, e.lt(e.int(8 * j), left)), |e| {
                for parity in [0, 1] {
                    let at = value_index(e, &cache, head, place, e.add_const(d, parity as i64));
                    e.store_elem(cache.codec.plain(), page, at, e.get_float(sums[sum(j, half, parity)]));
                }
            });
        }
    }
}
