//! A graph op as a Plan step: what it computes. Its operands and the layouts of its weights follow from the roles of both
//! ops, which have the same names.
//!
//! Every op is listed: those that no step stands for are refused, each with what to do.

use hyc_ir::roles::Roles;
use hyc_ir::{CacheType, Dim, Graph, Op, OpData, OpId, Sym, Type, ValueId, op};
use hyc_plan::{AttnShape, Backend, Epilogue, Kind, Layout, ListShape, RopeSpec, SelectShape, StepOp, ops};

use crate::error::PassError;

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
    roles: Roles,
    backend: &'g dyn Backend,
}

/// The step of an op; `None` for ops that only name values.
pub fn lower<'g>(graph: &'g Graph, id: OpId, backend: &'g dyn Backend) -> Result<Option<Lowered>, PassError> {
    let data = graph.op(id);
    let c = Ctx { graph, id, data, roles: data.op.roles(), backend };
    let out = || c.width(c.result("out")?);
    let op = match data.op {
        Op::Weight(op::Weight {}) | Op::Cache(_) | Op::Output(op::Output {}) => return Ok(None),
        Op::Embed(op::Embed {}) => {
            let [vocab, hidden] = c.matrix("table")?;
            StepOp::Embed(ops::Embed { vocab, hidden })
        }
        Op::RmsNorm(op::RmsNorm { eps }) => {
            let width = c.dims("weight")?[0];
            StepOp::RmsNorm(ops::RmsNorm { groups: out()? / width.max(1), width, eps })
        }
        Op::Linear(op::Linear {}) => c.linear(None, Epilogue::Store, None)?,
        Op::FusedLinear(op::FusedLinear { norm, epilogue, fp8_rows }) => {
            c.linear(norm, epilogue, fp8_rows)?
        }
        Op::QkvAppend(op::QkvAppend {
            heads,
            kv_heads,
            norm,
            qk_norm,
            theta,
            dims,
            scaling,
            own_kv,
            gates,
            fp8_rows,
        }) => {
            if own_kv {
                c.plain_cache("cache")?;
            }
            let qk_dim = c.width(c.result("q")?)? / heads.max(1);
            let v_dim = match (own_kv, gates) {
                (true, _) => c.dims("wv")?[0] / kv_heads.max(1),
                (false, Some(_)) => c.dims(ops::GATES[0].0)?[0] / heads.max(1),
                (false, None) => qk_dim,
            };
            StepOp::QkvAppend(ops::QkvAppend {
                in_features: c.width(c.operand("x")?)?,
                shape: AttnShape { heads, kv_heads, qk_dim, v_dim },
                norm,
                qk_norm,
                rope: RopeSpec { theta, dims, scaling },
                own_kv,
                gates: gates.unwrap_or(0),
                fp8_rows,
            })
        }
        Op::Rope(op::Rope { heads, theta, dims, scaling }) => StepOp::Rope(ops::Rope {
            heads,
            dim: out()? / heads.max(1),
            rope: RopeSpec { theta, dims, scaling },
        }),
        Op::Append(op::Append {}) => {
            let CacheType { kv_heads, qk_dim, v_dim, .. } = *c.plain_cache("cache")?;
            StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim })
        }
        Op::QuantiseKv(op::QuantiseKv {}) => {
            let CacheType { kv_heads, qk_dim, v_dim, .. } = *c.cache("cache")?;
            StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, qk_dim, v_dim })
        }
        Op::Add(op::Add {}) => StepOp::Add(ops::Add { width: out()? }),
        Op::Bias(op::Bias {}) => StepOp::Bias(ops::Bias { width: out()? }),
        Op::SiluMul(op::SiluMul {}) => StepOp::SiluMul(ops::SiluMul { width: out()? }),
        Op::Gate(op::Gate { heads, mode }) => {
            StepOp::Gate(ops::Gate { heads, v_dim: out()? / heads.max(1), mode })
        }
        Op::Attention(op::Attention { heads, sink, scores: false }) => {
            StepOp::FullAttention(ops::FullAttention { shape: c.shape(heads, "cache")?, sink })
        }
        Op::OracleAttention(op::OracleAttention { heads, sink, .. }) => {
            let select = c.selection(c.result("sel")?)?;
            StepOp::OracleAttention(ops::OracleAttention { shape: c.shape(heads, "cache")?, sink, select })
        }
        Op::WindowAttention(op::WindowAttention { heads, window, sink }) => {
            StepOp::WindowAttention(ops::WindowAttention { shape: c.shape(heads, "cache")?, window, sink })
        }
        Op::SparseAttention(op::SparseAttention { heads, sink, lists }) => {
            let (shape, select) = (c.shape(heads, "cache")?, c.selection(c.operand("sel")?)?);
            let lists = lists.then(|| c.lists(c.operand("lists")?)).transpose()?;
            StepOp::SparseAttention(ops::SparseAttention { shape, select, sink, lists })
        }
        Op::PageLists(op::PageLists {}) => {
            let (cache, select) = (c.cache("cache")?, c.selection(c.operand("sel")?)?);
            let lists = c.lists(c.result("lists")?)?;
            StepOp::PageLists(ops::PageLists { select, qk_dim: cache.qk_dim, v_dim: cache.v_dim, lists })
        }
        Op::HybridAttention(op::HybridAttention { heads, window, gate, lists }) => {
            let select = c.selection(c.operand("sel")?)?;
            let lists = lists.then(|| c.lists(c.operand("lists")?)).transpose()?;
            StepOp::HybridAttention(ops::HybridAttention {
                shape: c.shape(heads, "shared")?,
                select,
                window,
                gate,
                lists,
            })
        }
        Op::Router(op) => {
            let experts = c.width(c.operand("logits")?)?;
            StepOp::Router(ops::Router { experts, active: op.active, rule: op.rule() })
        }
        Op::ExpertsUp(op::ExpertsUp { shared }) => {
            let [experts, ffn, in_features] = c.matrices("gate")?;
            StepOp::ExpertsUp(ops::ExpertsUp {
                experts,
                active: c.width(c.operand("index")?)?,
                in_features,
                ffn,
                shared,
            })
        }
        Op::ExpertsDown(op::ExpertsDown { residual: true, shared }) => {
            let [experts, out, ffn] = c.matrices("down")?;
            StepOp::ExpertsDown(ops::ExpertsDown {
                experts,
                active: c.width(c.operand("index")?)?,
                out_features: out,
                ffn,
                shared,
            })
        }
        Op::GatherRows(op::GatherRows {}) => StepOp::GatherRows(ops::GatherRows { width: out()? }),
        Op::Attention(_) | Op::BlockMax(_) | Op::GroupMax(_) | Op::TopK(_) => {
            return Err(c.refuse("attention probabilities in memory").help(
                "let no other op use the probabilities or their maxima, so that fuse-topk makes one oracle_attention",
            ));
        }
        Op::KvShare(op::KvShare {}) => {
            return Err(c
                .refuse("a copy of a cache")
                .help("plan-kv could not alias it: the owner appends again before the copy is last read"));
        }
        Op::ExpertsDown(op::ExpertsDown { residual: false, .. }) => {
            return Err(c.refuse("experts without a residual").help("add their sum to the residual stream"));
        }
        Op::PriorSelection(op::PriorSelection {})
        | Op::ChainSelection(op::ChainSelection {})
        | Op::ChainCache(op::ChainCache {}) => {
            return Err(c.refuse("an open reference").help("run detect-chains first"));
        }
    };
    c.step(op).map(Some)
}

impl<'g> Ctx<'g> {
    fn refuse(&self, what: impl std::fmt::Display) -> PassError {
        PassError::at(PASS, self.graph, self.id, format!("no kernel for this: {what}"))
    }

    /// The step, whose operands are the op's of the same names.
    fn step(&self, op: StepOp) -> Result<Lowered, PassError> {
        self.check_rows(&op)?;
        let (mut operands, mut layouts) = (Vec::new(), Vec::new());
        for role in op.roles() {
            let value = if role.writes() { self.result(role.name)? } else { self.operand(role.name)? };
            operands.push(value);
            layouts.extend(self.layout(value, &role.kind)?.map(|layout| (value, layout)));
        }
        Ok(Lowered { op, operands, layouts })
    }

    /// What looks at positions or caches has one row per token of the step: gathered rows have neither.
    fn check_rows(&self, op: &StepOp) -> Result<(), PassError> {
        let gathered = |value: &ValueId| match self.graph.ty(*value) {
            Type::Tensor { dims, .. } => dims.first() != Some(&Dim::Sym(Sym::Tokens)),
            Type::Weight { .. } | Type::Cache(_) | Type::Selection(_) | Type::Lists(_) => false,
        };
        if op.is_by_token() && self.data.operands.iter().chain(&self.data.results).any(gathered) {
            return Err(self
                .refuse("rows that are not the step's tokens")
                .help("only norms, products and pointwise ops may follow gather_rows"));
        }
        Ok(())
    }

    /// The layout that a step asks of a weight, which is the back end's to say. A table that a product reads as well is
    /// read as the product has it.
    fn layout(&self, value: ValueId, kind: &Kind) -> Result<Option<Layout>, PassError> {
        let Type::Weight { codec, .. } = self.graph.ty(value) else { return Ok(None) };
        if let Kind::Table { .. } = kind {
            let mut users = self.graph.users(value);
            if !users.all(|(user, _)| self.graph.op(user).op == (Op::Embed(op::Embed {}))) {
                return Ok(None);
            }
        }
        let layout = self.backend.layout(kind, *codec);
        layout.map(Some).ok_or_else(|| self.refuse("a weight of this kind"))
    }

    /// A product with what is fused around it.
    fn linear(
        &self,
        norm: Option<f64>,
        epilogue: Epilogue,
        fp8_rows: Option<u64>,
    ) -> Result<StepOp, PassError> {
        let (in_features, out) = (self.width(self.operand("x")?)?, self.width(self.result("out")?)?);
        Ok(StepOp::Linear(ops::Linear { in_features, out_features: out, norm, epilogue, fp8_rows }))
    }

    fn operand(&self, name: &str) -> Result<ValueId, PassError> {
        let value = self.roles.takes.position(name).and_then(|at| self.data.operands.get(at));
        value.copied().ok_or_else(|| self.refuse(format!("without an operand `{name}`")))
    }

    fn result(&self, name: &str) -> Result<ValueId, PassError> {
        let value = self.roles.gives.position(name).and_then(|at| self.data.results.get(at));
        value.copied().ok_or_else(|| self.refuse(format!("without a result `{name}`")))
    }

    fn width(&self, value: ValueId) -> Result<u64, PassError> {
        self.graph.ty(value).width().ok_or_else(|| self.refuse("a tensor that is not rows of constant width"))
    }

    fn dims(&self, name: &str) -> Result<&'g [u64], PassError> {
        match self.graph.ty(self.operand(name)?) {
            Type::Weight { dims, .. } if !dims.is_empty() => Ok(dims),
            _ => Err(self.refuse("a weight that is computed")),
        }
    }

    fn matrix(&self, name: &str) -> Result<[u64; 2], PassError> {
        self.dims(name)?.try_into().map_err(|_| self.refuse(format!("a `{name}` that is no matrix")))
    }

    fn matrices(&self, name: &str) -> Result<[u64; 3], PassError> {
        self.dims(name)?.try_into().map_err(|_| self.refuse(format!("a `{name}` that is no matrices")))
    }

    fn cache(&self, name: &str) -> Result<&'g CacheType, PassError> {
        match self.graph.ty(self.operand(name)?) {
            Type::Cache(cache) => Ok(cache),
            _ => Err(self.refuse("no cache")),
        }
    }

    /// A cache that rows are appended to.
    fn plain_cache(&self, name: &str) -> Result<&'g CacheType, PassError> {
        let cache = self.cache(name)?;
        if cache.codec.scaled() {
            let what = format!("an append to a cache of {}", cache.codec);
            return Err(self
                .refuse(what)
                .help("run quantise-kv first, which appends to a ring and makes the codes from it"));
        }
        Ok(cache)
    }

    fn selection(&self, value: ValueId) -> Result<SelectShape, PassError> {
        match self.graph.ty(value) {
            Type::Selection(selection) => Ok(selection.shape),
            _ => Err(self.refuse("no selection")),
        }
    }

    fn lists(&self, value: ValueId) -> Result<ListShape, PassError> {
        match self.graph.ty(value) {
            Type::Lists(ty) => Ok(ty.lists),
            _ => Err(self.refuse("no page lists")),
        }
    }

    fn shape(&self, heads: u64, cache: &str) -> Result<AttnShape, PassError> {
        let cache = self.cache(cache)?;
        Ok(AttnShape { heads, kv_heads: cache.kv_heads, qk_dim: cache.qk_dim, v_dim: cache.v_dim })
    }
}
