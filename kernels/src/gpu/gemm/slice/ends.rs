//! What follows the sums of a slice's strips: what is added, SwiGLU, RoPE, the store.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::ops::QkvAppend;

use super::super::matrices::{Product, To};
use super::super::projections::{Part as Projected, gates};
use super::super::qkv_small_m::{Place, Spot, finish};
use super::super::rope::angles;
use super::part::{End, Part};
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::paged_kv::page_of;
use crate::slices::OUTPUTS;

/// What follows the sums of a part's strips, with what is the same for all of them.
pub enum Ends<'a, 'c> {
    Linear(&'a Product),
    Qkv(&'a QkvAppend, &'a [Projected], Row<'c>),
}

/// What projections know of their row.
#[derive(Clone, Copy)]
pub struct Row<'c> {
    /// RoPE's turns.
    table: Ptr<'c>,
    position: Int<'c>,
    /// The page of the position, and its place in it, where keys and values are appended.
    page: Option<(Ptr<'c>, Int<'c>)>,
}

/// What is added to a lane's output, where it is.
pub type Plus<'c> = Option<Float<'c>>;

impl<'a, 'c> Ends<'a, 'c> {
    /// Looks up what all strips of the part need.
    pub fn new(e: &Emit<'c>, part: &'a Part) -> Ends<'a, 'c> {
        match &part.end {
            End::Linear(product) => Ends::Linear(product),
            End::Qkv(op, parts) => {
                let position = e.load_int(e.list(offset_of!(StepContext, positions)), e.int(0));
                let page = op.own_kv.then(|| page_of(e, &e.cache("cache"), e.int(0), position));
                Ends::Qkv(op, parts, Row { table: angles(e, op.rope), position, page })
            }
        }
    }

    /// The column of a lane's output of a strip, and whether there is one.
    fn column(e: &Emit<'c>, product: &Product, (strip, lane): (Int<'c>, Int<'c>)) -> (Int<'c>, Int<'c>) {
        let output = e.and(lane, e.int(OUTPUTS - 1));
        let column = e.add(e.mul_const(strip, OUTPUTS), output);
        let inside = e.and(e.lt(lane, e.int(OUTPUTS)), e.lt(column, e.int(product.matrices[0].out)));
        (column, inside)
    }

    /// What is added to a lane's output, read before its sums are there.
    pub fn plus(&self, e: &Emit<'c>, of: (Int<'c>, Int<'c>)) -> Plus<'c> {
        let Ends::Linear(product) = self else { return None };
        let (column, inside) = Ends::column(e, product, of);
        let column = e.pick(inside, column, e.int(0));
        product.plus.map(|name| e.load(e.operand(name), column))
    }

    /// Stores a lane's output: of a strip, with its sum and what is added.
    pub fn store(&self, e: &Emit<'c>, of: (Int<'c>, Int<'c>), sum: Float<'c>, plus: Plus<'c>) {
        match self {
            Ends::Qkv(op, parts, Row { table, position, page }) => {
                let (strip, lane) = of;
                let place = Place::new(e, parts, 8, || strip);
                let logits: Vec<To> = gates(op).map(|(_, name)| To::lying(e.in_tiles(name), name)).collect();
                let (inside, output) = (e.lt(lane, e.int(OUTPUTS)), e.and(lane, e.int(OUTPUTS - 1)));
                let (is_far, at) = place.half(e, output);
                let turn = place.turn(e, (op, *table), *position, at);
                let spot = Spot { row: e.int(0), inside, is_far, at, turn, page: &|_| *page };
                finish(e, (op, &logits), &place, &spot, (sum, e.shuffle(sum, 8)));
            }
            Ends::Linear(product) => {
                let value = match product.up {
                    Some(_) => e.fmul(e.silu(sum), e.shuffle(sum, 16)),
                    None => sum,
                };
                let value = plus.map_or(value, |plus| e.fadd(value, plus));
                let (column, inside) = Ends::column(e, product, of);
                e.when(inside, |e| product.to.store(e, e.int(0), column, value));
            }
        }
    }
}
