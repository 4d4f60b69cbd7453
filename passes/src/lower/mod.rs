//! A graph op as a Plan step: its [`StepOp`], and its operands in the order of the step's signature.
//!
//! Every op is listed: those that no step stands for are refused, each with what to do. Nothing is chosen
//! here but the order of a weight's elements; [`products`] does that for the ops that multiply matrices.

use hyc_ir::plan::{AttnShape, Elem, Epilogue, GateMode, Layout, RopeSpec, SelectShape, StepOp};
use hyc_ir::{CacheType, Dim, Graph, Op, OpData, OpId, Sym, Type, ValueId};

use products::Projections;

use crate::error::PassError;

mod products;

const PASS: &str = "select-kernels";

/// A step before it has numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// What to compute.
    pub op: StepOp,
    /// Reads, then writes.
    pub operands: Vec<ValueId>,
    /// Layouts that the step asks of its weights.
    pub layouts: Vec<(ValueId, Layout)>,
}

struct Ctx<'g> {
    graph: &'g Graph,
    id: OpId,
    data: &'g OpData,
    tiles: bool,
}

/// The step of an op; `None` for ops that only name values.
/// With `tiles`, bf16 matrices are wanted as tensor cores read them.
pub fn lower(graph: &Graph, id: OpId, tiles: bool) -> Result<Option<Lowered>, PassError> {
    let c = Ctx { graph, id, data: graph.op(id), tiles };
    c.check_rows()?;
    let step = match c.data.op.clone() {
        Op::Weight {} | Op::Cache { .. } | Op::Output {} => return Ok(None),
        Op::Embed {} => c.embed(),
        Op::RmsNorm { eps } => {
            let len = c.weight_dims(1)?[0];
            let op = StepOp::RmsNorm { groups: c.width(c.result(0))? / len.max(1), width: len, eps };
            c.step(op, &[0, 1], vec![(c.operand(1), Layout::Vector { len })])
        }
        Op::Linear {} => c.linear(None, Epilogue::Store),
        Op::FusedLinear { norm, epilogue } => c.linear(norm, epilogue),
        Op::QkvAppend { heads, kv_heads, norm, qk_norm, theta, dims, own_kv } => {
            let rope = RopeSpec { theta, dims };
            c.qkv(&Projections { heads, kv_heads, norm, qk_norm, rope, own_kv })
        }
        Op::Rope { heads, theta, dims } => {
            let dim = c.width(c.result(0))? / heads.max(1);
            c.step(StepOp::Rope { heads, dim, rope: RopeSpec { theta, dims } }, &[0], vec![])
        }
        Op::Append {} => {
            let cache = c.cache(0)?;
            let op = StepOp::Append { kv_heads: cache.kv_heads, qk_dim: cache.qk_dim, v_dim: cache.v_dim };
            c.step(op, &[1, 2], vec![])
        }
        Op::Add {} => c.step(StepOp::Add { width: c.width(c.result(0))? }, &[0, 1], vec![]),
        Op::SiluMul {} => c.step(StepOp::SiluMul { width: c.width(c.result(0))? }, &[0, 1], vec![]),
        Op::Gate { heads, mode } => {
            let v_dim = c.width(c.result(0))? / heads.max(1);
            c.step(StepOp::Gate { heads, v_dim, mode }, &[0, 1], vec![])
        }
        Op::Attention { heads, sink, scores: false } => {
            c.attention(sink, 2, StepOp::FullAttention { shape: c.shape(heads)?, sink })
        }
        Op::OracleAttention { heads, sink, .. } => {
            let Type::Selection(selection) = graph.ty(c.result(1)) else {
                return Err(c.refuse("no selection"));
            };
            let op = StepOp::OracleAttention { shape: c.shape(heads)?, sink, select: selection.shape };
            c.attention(sink, 2, op)
        }
        Op::WindowAttention { heads, window, sink } => {
            c.attention(sink, 2, StepOp::WindowAttention { shape: c.shape(heads)?, window, sink })
        }
        Op::SparseAttention { heads, sink } => {
            let op = StepOp::SparseAttention { shape: c.shape(heads)?, select: c.selection(2)?, sink };
            c.attention(sink, 3, op)
        }
        Op::HybridAttention { heads, window, gate } => c.hybrid(heads, window, gate),
        Op::Router { active } => {
            let experts = c.width(c.operand(0))?;
            c.step(StepOp::Router { experts, active }, &[0], vec![])
        }
        Op::ExpertsUp {} => c.experts_up(),
        Op::ExpertsDown { residual: true } => c.experts_down(),
        Op::GatherRows {} => c.step(StepOp::GatherRows { width: c.width(c.result(0))? }, &[0], vec![]),
        Op::Attention { .. } | Op::BlockMax { .. } | Op::GroupMax { .. } | Op::TopK { .. } => {
            return Err(c.refuse("attention probabilities in memory").help(
                "let no other op use the probabilities or their maxima, so that fuse-topk makes one oracle_attention",
            ));
        }
        Op::KvShare {} => {
            return Err(c
                .refuse("a copy of a cache")
                .help("plan-kv could not alias it: the owner appends again before the copy is last read"));
        }
        Op::ExpertsDown { residual: false } => {
            return Err(c.refuse("experts without a residual").help("add their sum to the residual stream"));
        }
        Op::PriorSelection {} | Op::ChainSelection {} | Op::ChainCache {} => {
            return Err(c.refuse("an open reference").help("run detect-chains first"));
        }
    };
    step.map(Some)
}

impl<'g> Ctx<'g> {
    fn refuse(&self, what: &str) -> PassError {
        PassError::at(PASS, self.graph, self.id, format!("no kernel for this: {what}"))
    }

    /// What looks at positions or caches has one row a token of the step: gathered rows have neither.
    fn check_rows(&self) -> Result<(), PassError> {
        let by_token = matches!(
            self.data.op,
            Op::Rope { .. }
                | Op::Append {}
                | Op::QkvAppend { .. }
                | Op::Attention { .. }
                | Op::OracleAttention { .. }
                | Op::WindowAttention { .. }
                | Op::SparseAttention { .. }
                | Op::HybridAttention { .. }
        );
        let gathered = |value: &ValueId| match self.graph.ty(*value) {
            Type::Tensor { dims, .. } => dims.first() != Some(&Dim::Sym(Sym::Tokens)),
            _ => false,
        };
        if by_token && self.data.operands.iter().chain(&self.data.results).any(gathered) {
            return Err(self
                .refuse("rows that are not the step's tokens")
                .help("only norms, products and pointwise ops may follow gather_rows"));
        }
        Ok(())
    }

    fn operand(&self, i: usize) -> ValueId {
        self.data.operands[i]
    }

    fn result(&self, i: usize) -> ValueId {
        self.data.results[i]
    }

    fn width(&self, value: ValueId) -> Result<u64, PassError> {
        self.graph.ty(value).width().ok_or_else(|| self.refuse("a tensor that is not rows of constant width"))
    }

    fn weight_dims(&self, i: usize) -> Result<&'g [u64], PassError> {
        match self.graph.ty(self.operand(i)) {
            Type::Weight { dims, .. } => Ok(dims),
            _ => Err(self.refuse("a weight that is computed")),
        }
    }

    fn cache(&self, i: usize) -> Result<&'g CacheType, PassError> {
        match self.graph.ty(self.operand(i)) {
            Type::Cache(cache) => Ok(cache),
            _ => Err(self.refuse("no cache")),
        }
    }

    fn selection(&self, i: usize) -> Result<SelectShape, PassError> {
        match self.graph.ty(self.operand(i)) {
            Type::Selection(selection) => Ok(selection.shape),
            _ => Err(self.refuse("no selection")),
        }
    }

    fn shape(&self, heads: u64) -> Result<AttnShape, PassError> {
        let cache = self.cache(1)?;
        Ok(AttnShape { heads, kv_heads: cache.kv_heads, qk_dim: cache.qk_dim, v_dim: cache.v_dim })
    }

    /// The step with some of the op's operands as reads and all results as writes.
    fn step(
        &self,
        op: StepOp,
        reads: &[usize],
        layouts: Vec<(ValueId, Layout)>,
    ) -> Result<Lowered, PassError> {
        let mut operands: Vec<ValueId> = reads.iter().map(|i| self.operand(*i)).collect();
        operands.extend(&self.data.results);
        Ok(Lowered { op, operands, layouts })
    }

    fn panels(&self, i: usize, group: Option<u64>) -> Result<(ValueId, Layout), PassError> {
        let elem = match self.graph.ty(self.operand(i)) {
            Type::Weight { elem, .. } => *elem,
            _ => Elem::F32,
        };
        let layout = match *self.weight_dims(i)? {
            [out, inn] if self.tiles && elem == Elem::Bf16 => Layout::Tiles { count: 1, out, inn },
            [count, out, inn] if self.tiles && elem == Elem::Bf16 => Layout::Tiles { count, out, inn },
            [out, inn] => Layout::Panels { count: 1, out, inn, group: group.unwrap_or(out) },
            [count, out, inn] => Layout::Panels { count, out, inn, group: group.unwrap_or(out) },
            _ => return Err(self.refuse("a weight that is no matrix")),
        };
        Ok((self.operand(i), layout))
    }

    fn vector(&self, i: usize) -> Result<(ValueId, Layout), PassError> {
        Ok((self.operand(i), Layout::Vector { len: self.weight_dims(i)?[0] }))
    }

    /// An attention whose optional sink is operand `sink_at`.
    fn attention(&self, sink: bool, sink_at: usize, op: StepOp) -> Result<Lowered, PassError> {
        let layouts = if sink { vec![self.vector(sink_at)?] } else { vec![] };
        let reads: Vec<usize> = (0..self.data.operands.len()).collect();
        self.step(op, &reads, layouts)
    }

    fn hybrid(&self, heads: u64, window: u64, gate: GateMode) -> Result<Lowered, PassError> {
        let op =
            StepOp::HybridAttention { shape: self.shape(heads)?, select: self.selection(2)?, window, gate };
        let reads: Vec<usize> = (0..self.data.operands.len()).collect();
        self.step(op, &reads, vec![self.vector(3)?, self.vector(5)?])
    }
}
