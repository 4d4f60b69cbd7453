//! A step of a slice: its tasks, which stages of them a block has, and where their weights lie.

use std::rc::Rc;

use hyc_plan::ops::{ExpertsDown, ExpertsUp, Linear, QkvAppend};
use hyc_plan::{Epilogue, KernelSpec, Part as Step, StepOp};

use super::super::choice::Choice;
use super::super::feed::WARPS;
use super::super::matrices::{Inputs, Matrix, Product, To};
use super::super::projections::Part as Projected;
use super::super::qkv::parts;
use super::super::qkv_small_m::Place;
use super::super::stored::Stored;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::tile::TiledRows;
use crate::operands::Operands;
use crate::slices::OUTPUTS;

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
    /// The operand that is its row.
    pub row: &'static str,
    /// Whose weights are those of experts that are chosen before.
    pub experts: Option<Experts>,
    pub end: End,
}

/// Experts: of up a strip is of one of them, of down its inputs are of one after the other.
#[derive(Clone, Copy)]
pub struct Experts {
    choice: Choice,
    ffn: u64,
    /// Outputs of down.
    down: Option<u64>,
}

impl Part {
    /// Step `number` of the slice; `first`: the launch's operand that is its first.
    pub fn new((spec, step): &(KernelSpec, Step), first: usize, number: u64) -> Result<Part, String> {
        let operands = Rc::new(Operands::new(spec));
        let experts = |choice, ffn, down| Some(Experts { choice, ffn, down });
        let (in_features, norm, experts, end) = match spec.op {
            StepOp::Linear(op) => (op.in_features, op.norm, None, End::Linear(product(&operands, &op))),
            StepOp::QkvAppend(op) => (op.in_features, op.norm, None, End::Qkv(Box::new(op), parts(&op))),
            StepOp::ExpertsUp(op) => {
                let ExpertsUp { experts: all, active, in_features, ffn, shared } = op;
                let matrix = Matrix { name: "gate", out: op.columns(), column: 0 };
                let product = Product { up: Some("up"), ..plain(&operands, (matrix, "h"), in_features) };
                let experts = experts(Choice { experts: all, active, shared }, ffn, None);
                (in_features, None, experts, End::Linear(product))
            }
            StepOp::ExpertsDown(op) => {
                let ExpertsDown { experts: all, active, out_features, ffn, shared } = op;
                let matrix = Matrix { name: "down", out: out_features, column: 0 };
                let product = plain(&operands, (matrix, "out"), op.columns());
                let product = Product { plus: Some("residual"), ..product };
                let experts = experts(Choice { experts: all, active, shared }, ffn, Some(out_features));
                (op.columns(), None, experts, End::Linear(product))
            }
            other => return Err(format!("`{}` is in no slice", other.name())),
        };
        let (weights, weight) = match &end {
            End::Linear(product) => (product.weights(), product.matrices[0].name),
            End::Qkv(..) => (1, "wq"),
        };
        let stored = Stored::of(operands.format(weight));
        let row = if experts.is_some_and(|experts| experts.down.is_some()) { "h" } else { "x" };
        let tiled = operands.in_tiles(row);
        let step = step.clone();
        Ok(Part {
            operands,
            first,
            number,
            step,
            in_features,
            stored,
            norm,
            tiled,
            weights,
            row,
            experts,
            end,
        })
    }

    /// Experts that a strip's inputs are of, one after the other; 1 where they are all of one.
    fn chunks(&self) -> u64 {
        self.summed().map_or(1, Choice::count)
    }

    /// Whether a strip sums experts by their shares.
    pub fn sums_experts(&self) -> bool {
        self.summed().is_some()
    }

    /// Those experts.
    fn summed(&self) -> Option<Choice> {
        self.experts.filter(|experts| experts.down.is_some()).map(|experts| experts.choice)
    }

    /// Which of those stage `group` of a strip is of, and which of its own.
    pub fn chunk<'c>(&self, e: &Emit<'c>, group: Int<'c>) -> (Int<'c>, Int<'c>) {
        match self.chunks() {
            1 => (e.int(0), group),
            chunks => e.div_rem(group, self.groups() / chunks),
        }
    }

    /// What one warp multiplies at once, of which one weight of a strip has so many, of each expert.
    pub fn units(&self) -> u64 {
        self.stored.stages(self.in_features / self.chunks())
    }

    /// Stages of one weight of a strip.
    pub fn groups(&self) -> u64 {
        self.chunks() * self.units().div_ceil(WARPS)
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

    /// A strip's first unit of each weight, in pieces of so many bytes; `chunk`: of which of its experts.
    pub fn rows<'c>(&self, e: &Emit<'c>, strip: Int<'c>, chunk: Int<'c>) -> (Vec<Vec<Ptr<'c>>>, u64) {
        match &self.end {
            End::Linear(product) => {
                let names = [Some(product.matrices[0].name), product.up].into_iter().flatten();
                let matrices: Vec<(Ptr<'c>, Int<'c>)> = match self.experts {
                    None => {
                        let at = self.stored.strip(e, strip, self.in_features);
                        names.map(|name| (e.operand(name), at)).collect()
                    }
                    Some(experts) => experts.rows(e, self, names, (strip, chunk)),
                };
                let rows = |(matrix, at)| vec![e.byte_offset(matrix, at)];
                (matrices.into_iter().map(rows).collect(), self.stored.bytes())
            }
            End::Qkv(_, parts) => {
                let place = Place::new(e, parts, 8, || strip);
                let rows = place.dims.map(|dim| place.row(e, self.stored, dim, self.in_features));
                (vec![rows.to_vec()], self.stored.bytes() / 2)
            }
        }
    }

    /// What the sums of a stage count, where that is not once: an expert's share.
    pub fn share_of<'c>(&self, e: &Emit<'c>, chunk: Int<'c>) -> Option<Float<'c>> {
        self.summed().map(|choice| choice.share(e, e.int(0), chunk))
    }
}

impl Experts {
    /// The matrices of a strip's expert, and where in them it begins.
    fn rows<'c>(
        self,
        e: &Emit<'c>,
        part: &Part,
        names: impl Iterator<Item = &'static str>,
        (strip, chunk): (Int<'c>, Int<'c>),
    ) -> Vec<(Ptr<'c>, Int<'c>)> {
        let Experts { choice, ffn, down } = self;
        let ((slot, strip), shape) = match down {
            Some(out) => ((chunk, strip), (out, ffn)),
            None => (e.div_rem(strip, ffn / OUTPUTS), (ffn, part.in_features)),
        };
        let expert = choice.expert(e, e.int(0), slot);
        let at = part.stored.strip(e, strip, shape.1);
        names.map(|name| (choice.matrix(e, (name, part.stored), expert, shape), at)).collect()
    }
}

/// `y = W x` of an op, whose row is read as it lies.
fn product(operands: &Operands, op: &Linear) -> Product {
    let matrix = Matrix { name: "weight", out: op.out_features, column: 0 };
    Product {
        up: (op.epilogue == Epilogue::SwiGlu).then_some("up"),
        plus: (op.epilogue == Epilogue::Residual).then_some("residual"),
        ..plain(operands, (matrix, "out"), op.in_features)
    }
}

/// The same of a matrix, to `out`.
fn plain(operands: &Operands, (matrix, out): (Matrix, &'static str), in_features: u64) -> Product {
    Product {
        in_features,
        stored: Stored::of(operands.format(matrix.name)),
        matrices: vec![matrix],
        up: None,
        inputs: Inputs { tiles: TiledRows::Operand("x"), raw: None, fp8: None },
        to: To::lying(operands.in_tiles(out), out),
        plus: None,
    }
}
