//! A step of a slice: its tasks, which stages of them a block has, and where their weights lie.

use std::rc::Rc;

use hyc_plan::ops::{Linear, QkvAppend};
use hyc_plan::{Epilogue, KernelSpec, Part as Step, StepOp};

use super::super::feed::WARPS;
use super::super::matrices::{Inputs, Matrix, Product, To};
use super::super::projections::Part as Projected;
use super::super::qkv::parts;
use super::super::qkv_small_m::Place;
use super::super::stored::Stored;
use crate::gpu::isa::{Emit, Int, Ptr};
use crate::gpu::tile::TiledRows;
use crate::operands::Operands;

/// What follows a strip's sums.
pub enum End {
    Linear(Product),
    Qkv(Box<QkvAppend>, Vec<Projected>),
}

/// One step of the slice.
pub struct Part {
    pub operands: Rc<Operands>,
    /// Which of the launch's operands is its first.
    pub first: usize,
    pub number: u64,
    pub step: Step,
    pub in_features: u64,
    /// How its weights lie.
    pub stored: Stored,
    /// eps of the row's norm.
    pub norm: Option<f64>,
    /// Whether the row lies in tiles.
    pub tiled: bool,
    /// Weights of a strip: one, or that of a gate beside it.
    pub weights: u64,
    pub end: End,
}

impl Part {
    /// Step `number` of the slice; `first`: the launch's operand that is its first.
    pub fn new((spec, step): &(KernelSpec, Step), first: usize, number: u64) -> Result<Part, String> {
        let operands = Rc::new(Operands::new(spec));
        let (in_features, norm, weights, end) = match spec.op {
            StepOp::Linear(op) => {
                let product = product(&operands, &op);
                (op.in_features, op.norm, product.weights(), End::Linear(product))
            }
            StepOp::QkvAppend(op) => (op.in_features, op.norm, 1, End::Qkv(Box::new(op), parts(&op))),
            other => return Err(format!("`{}` is in no slice", other.name())),
        };
        let weight = if let End::Qkv(..) = end { "wq" } else { "weight" };
        let stored = Stored::of(operands.format(weight));
        let tiled = operands.in_tiles("x");
        let step = step.clone();
        Ok(Part { operands, first, number, step, in_features, stored, norm, tiled, weights, end })
    }

    /// What one warp multiplies at once, of which one weight of a strip has so many.
    pub fn units(&self) -> u64 {
        self.stored.stages(self.in_features)
    }

    /// Stages of one weight of a strip.
    pub fn groups(&self) -> u64 {
        self.units().div_ceil(WARPS)
    }

    /// Bytes of a stage.
    pub fn stage_bytes(&self) -> u64 {
        WARPS * self.stored.bytes()
    }

    /// Stages of each weight that this block has: the first, and the one behind the last.
    pub fn share<'c>(&self, e: &Emit<'c>, blocks: u64) -> (Int<'c>, Int<'c>) {
        let (all, sharing) = (self.step.tasks * self.groups(), blocks.min(self.step.tasks));
        let block = e.min(e.block_x(), e.int(sharing));
        let bound = |block: Int<'c>| e.div_rem(e.mul_const(block, all), sharing).0;
        (bound(block), bound(e.min(e.add_const(block, 1), e.int(sharing))))
    }

    /// For each strip of a share: the strip, its first stage, and the one behind its last.
    pub fn strips<'c>(
        &self,
        e: &Emit<'c>,
        (begin, end): (Int<'c>, Int<'c>),
        body: impl FnOnce(&Emit<'c>, Int<'c>, (Int<'c>, Int<'c>)),
    ) {
        let at = e.var(begin.into());
        let now = |e: &Emit<'c>| e.get(at).into_int_value();
        e.during(
            |e| e.lt(now(e), end),
            |e| {
                let (strip, first) = e.div_rem(now(e), self.groups());
                let last = e.min(e.int(self.groups()), e.add(first, e.sub(end, now(e))));
                body(e, strip, (first, last));
                e.set(at, e.add(now(e), e.sub(last, first)).into());
            },
        );
    }

    /// A strip's first unit of each weight, in pieces of so many bytes.
    pub fn rows<'c>(&self, e: &Emit<'c>, strip: Int<'c>) -> (Vec<Vec<Ptr<'c>>>, u64) {
        match &self.end {
            End::Linear(product) => {
                let at = self.stored.strip(e, strip, self.in_features);
                let names = [Some(product.matrices[0].name), product.up];
                let rows = |name| vec![e.byte_offset(e.operand(name), at)];
                (names.into_iter().flatten().map(rows).collect(), self.stored.bytes())
            }
            End::Qkv(_, parts) => {
                let place = Place::new(e, parts, 8, || strip);
                let rows = place.dims.map(|dim| place.row(e, self.stored, dim, self.in_features));
                (vec![rows.to_vec()], self.stored.bytes() / 2)
            }
        }
    }
}

/// `y = W x` of an op, whose row is read as it lies.
fn product(operands: &Operands, op: &Linear) -> Product {
    Product {
        in_features: op.in_features,
        matrices: vec![Matrix { name: "weight", out: op.out_features, column: 0 }],
        stored: Stored::of(operands.format("weight")),
        up: (op.epilogue == Epilogue::SwiGlu).then_some("up"),
        inputs: Inputs { tiles: TiledRows::Operand("x"), raw: None, fp8: None },
        to: To::lying(operands.in_tiles("out"), "out"),
        plus: (op.epilogue == Epilogue::Residual).then_some("residual"),
    }
}
