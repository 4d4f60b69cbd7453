//! What each op wants of its operands, results and attributes.

use super::rule::{ATTRIBUTE, Fault, fault};
use super::view::View;
use crate::graph::{Graph, OpId};
use crate::op::{self, Op};
use crate::types::{CacheType, Dim, Sym, Type};
use hyc_plan::ops::{self, GATES};
use hyc_plan::{Elem, Epilogue, GateMode};

/// Reports what is wrong with an op whose arity is right.
pub fn check(graph: &Graph, id: OpId, report: &mut dyn FnMut(&'static str, String)) {
    let op = View { graph, id, roles: graph.op(id).op.roles() };
    if let Err((rule, message)) = attributes(&graph.op(id).op).and_then(|()| op.types()) {
        report(rule, message);
    }
}

fn attributes(op: &Op) -> Result<(), Fault> {
    for (key, value) in op.attrs() {
        let bad = match (key, &value) {
            ("eps" | "norm" | "qk_norm" | "theta" | "scale", crate::Attr::Float(x)) => {
                !hyc_plan::is_positive_f32(*x)
            }
            ("owner", _) => false,
            (_, crate::Attr::Int(n)) => *n == 0 || *n > 1 << 40,
            _ => false,
        };
        if bad {
            return Err((ATTRIBUTE, format!("`{key} = {value:?}` is not possible")));
        }
    }
    if let Op::Rope(op::Rope { scaling: Some(scaling), dims, .. })
    | Op::QkvAppend(op::QkvAppend { scaling: Some(scaling), dims, .. }) = op
        && !scaling.is_possible(*dims)
    {
        return Err((ATTRIBUTE, format!("`scaling = {:?}` is not possible", scaling.parts())));
    }
    if let Op::QkvAppend(op::QkvAppend { gates: Some(gates), .. }) = op
        && *gates > GATES.len() as u64
    {
        return Err((ATTRIBUTE, format!("`gates = {gates}` is not possible: two at most")));
    }
    if let Op::Router(op::Router { sigmoid: false, bias: true, .. }) = op {
        return Err((ATTRIBUTE, "`bias` without `sigmoid`: the choice of a softmax has none".to_string()));
    }
    if let Op::Gate(op::Gate { mode: GateMode::None, .. }) = op {
        return Err((ATTRIBUTE, "a gate's mode is head or elementwise".to_string()));
    }
    Ok(())
}

impl View<'_> {
    fn types(&self) -> Result<(), Fault> {
        match self.graph.op(self.id).op {
            Op::Weight(op::Weight {}) => match self.result("weight")? {
                Type::Weight { dims, .. }
                    if !dims.is_empty() && dims.iter().all(|dim| (1..1 << 32).contains(dim)) =>
                {
                    Ok(())
                }
                other => Err(fault(format!("a weight of impossible type {other}"))),
            },
            Op::Cache(op::Cache { ring, .. }) => {
                let cache = self.cache(self.result("cache")?, "result `cache`")?;
                match ring {
                    Some(ring) if ring.scaled() => {
                        Err((ATTRIBUTE, format!("`ring = {ring}`: rings store f32 or bf16")))
                    }
                    Some(_) if !cache.codec.scaled() => {
                        Err((ATTRIBUTE, format!("`ring` beside {}, which rings store too", cache.codec)))
                    }
                    None if cache.codec.scaled() => Err((
                        ATTRIBUTE,
                        format!("{} without `ring`: f32 or bf16, what rings store in its place", cache.codec),
                    )),
                    Some(_) | None => Ok(()),
                }
            }
            Op::ChainCache(op::ChainCache {}) => {
                self.cache(self.result("cache")?, "result `cache`").map(|_| ())
            }
            Op::PriorSelection(op::PriorSelection {}) | Op::ChainSelection(op::ChainSelection {}) => {
                self.selection_result("sel").map(|_| ())
            }
            Op::KvShare(op::KvShare {}) => {
                self.cache_operand("cache")?;
                self.want_result("cache", self.operand("cache")?)
            }
            Op::Embed(op::Embed {}) => match self.weight("table")? {
                [_, hidden] => self.want_result("out", &Type::rows(Sym::Tokens, *hidden)),
                _ => Err(fault("the table must be a matrix")),
            },
            Op::RmsNorm(_) => {
                let (rows, width) = self.row("x")?;
                let len = self.weight("weight")?[0];
                self.want_vector("weight", len)?;
                if width % len != 0 {
                    return Err(fault(format!("a norm of {len} elements does not divide rows of {width}")));
                }
                if len == width {
                    return self.want_rows_or_tiles("out", rows, width);
                }
                self.want_result("out", &Type::rows(rows, width))
            }
            Op::Linear(op::Linear {}) => self.linear(None, Epilogue::Store),
            Op::FusedLinear(op::FusedLinear { norm, epilogue, .. }) => self.linear(norm, epilogue),
            Op::QkvAppend(op) => self.qkv(&op),
            Op::Bias(op::Bias {}) => {
                let (rows, width) = self.row("x")?;
                self.want_vector("weight", width)?;
                self.want_result("out", &Type::rows(rows, width))
            }
            Op::Rope(op::Rope { heads, dims, .. }) => {
                let (rows, width) = self.row("x")?;
                if width % heads != 0 || dims % 2 != 0 || dims > width / heads {
                    return Err((
                        ATTRIBUTE,
                        format!("{dims} rotated dims in {heads} heads of a row of {width}"),
                    ));
                }
                self.want_result("out", &Type::rows(rows, width))
            }
            Op::Append(op::Append {}) => {
                let cache = self.cache_operand("cache")?;
                self.want_width("k", cache.kv_heads.checked_mul(cache.qk_dim))?;
                self.want_width("v", cache.kv_heads.checked_mul(cache.v_dim))?;
                self.want_result("cache", self.operand("cache")?)
            }
            Op::QuantiseKv(op::QuantiseKv {}) => {
                let (cache, from) = (self.cache_operand("cache")?, self.cache_operand("from")?);
                let sizes = |cache: &CacheType| (cache.kv_heads, cache.qk_dim, cache.v_dim);
                if !cache.codec.scaled() || from.codec.scaled() || sizes(cache) != sizes(from) {
                    let (cache, from) = (self.operand("cache")?, self.operand("from")?);
                    return Err(fault(format!("{from} does not become codes with scales in {cache}")));
                }
                self.want_result("cache", self.operand("cache")?)
            }
            Op::Attention(op::Attention { heads, sink, scores }) => {
                self.attention(heads, "cache", sink.then_some("sink"))?;
                match scores.then(|| self.scores(self.result("scores")?)).transpose()? {
                    Some((n, Dim::Sym(Sym::Context))) if n == heads => Ok(()),
                    None => Ok(()),
                    _ => {
                        let found = self.result("scores")?;
                        Err(fault(format!("result `scores` is {found}, not [tokens, {heads}, context]")))
                    }
                }
            }
            Op::BlockMax(op::BlockMax { block }) => {
                let (heads, last) = self.scores(self.operand("scores")?)?;
                if last != Dim::Sym(Sym::Context) {
                    return Err(fault("block maxima are taken over the context"));
                }
                let dims = vec![Dim::Sym(Sym::Tokens), Dim::Const(heads), Dim::CeilDiv(Sym::Context, block)];
                self.want_result("scores", &Type::Tensor { elem: Elem::F32, dims })
            }
            Op::GroupMax(op::GroupMax { kv_heads }) => {
                let (heads, last) = self.scores(self.operand("scores")?)?;
                if heads % kv_heads != 0 {
                    return Err((ATTRIBUTE, format!("{heads} heads in {kv_heads} groups")));
                }
                let dims = vec![Dim::Sym(Sym::Tokens), Dim::Const(kv_heads), last];
                self.want_result("scores", &Type::Tensor { elem: Elem::F32, dims })
            }
            Op::TopK(op::TopK { blocks }) => {
                let (kv_heads, last) = self.scores(self.operand("scores")?)?;
                let s = self.selection_result("sel")?.shape;
                if (s.kv_heads, s.blocks, Dim::CeilDiv(Sym::Context, s.block)) != (kv_heads, blocks, last) {
                    let (sel, scores) = (self.result("sel")?, self.operand("scores")?);
                    return Err(fault(format!("{sel} does not fit {scores}")));
                }
                Ok(())
            }
            Op::WindowAttention(op::WindowAttention { heads, sink, .. }) => {
                self.attention(heads, "cache", sink.then_some("sink")).map(|_| ())
            }
            Op::PageLists(op::PageLists {}) => {
                self.cache_operand("cache")?;
                self.fits_selection("result", "lists", self.result("lists")?)
            }
            Op::SparseAttention(op::SparseAttention { heads, sink, lists }) => {
                self.selection_operand("sel")?;
                if lists {
                    self.fits_selection("operand", "lists", self.operand("lists")?)?;
                }
                self.attention(heads, "cache", sink.then_some("sink")).map(|_| ())
            }
            Op::OracleAttention(op::OracleAttention { heads, sink, blocks }) => {
                let cache = self.attention(heads, "cache", sink.then_some("sink"))?;
                let (s, ty) = (self.selection_result("sel")?, self.result("sel")?);
                if (s.shape.kv_heads, s.shape.blocks) != (cache.kv_heads, blocks) {
                    return Err(fault(format!("{ty} does not fit the attention")));
                }
                if s.shape.block != cache.page || s.map != cache.map {
                    let cache = self.operand("cache")?;
                    return Err(fault(format!("{ty} is not over the pages of {cache}")));
                }
                Ok(())
            }
            Op::HybridAttention(op) => self.hybrid(op.heads, op.gate, op.lists),
            Op::Gate(op::Gate { heads, mode }) => {
                let (rows, width) = self.row("x")?;
                if width % heads != 0 {
                    return Err((ATTRIBUTE, format!("{heads} heads in a row of {width}")));
                }
                self.want_width("gate", Some(if mode == GateMode::Head { heads } else { width }))?;
                self.want_result("out", &Type::rows(rows, width))
            }
            Op::Add(op::Add {}) | Op::SiluMul(op::SiluMul {}) => {
                let (rows, width) = self.row("a")?;
                self.same("b", self.operand("a")?)?;
                self.want_result("out", &Type::rows(rows, width))
            }
            Op::Router(op::Router { active, bias, .. }) => {
                let (rows, experts) = self.row("logits")?;
                if bias {
                    self.want_vector("bias", experts)?;
                }
                if active > experts {
                    return Err((ATTRIBUTE, format!("{active} of {experts} experts")));
                }
                let index = Type::Tensor { elem: Elem::I32, dims: vec![Dim::Sym(rows), Dim::Const(active)] };
                self.want_result("index", &index)?;
                self.want_result("weight", &Type::rows(rows, active))
            }
            Op::ExpertsUp(op::ExpertsUp { shared }) => {
                let (rows, in_features) = self.row_or_tiles("x")?;
                let [experts, ffn, _] = *self.weight("gate")? else {
                    return Err(fault("experts are [experts, ffn, in]"));
                };
                let active = self.index("index", rows)?;
                self.want_weight("gate", &[experts, ffn, in_features])?;
                self.want_weight("up", &[experts, ffn, in_features])?;
                if shared {
                    self.want_weight("shared_gate", &[ffn, in_features])?;
                    self.want_weight("shared_up", &[ffn, in_features])?;
                }
                let width =
                    choices(active, shared).checked_mul(ffn).ok_or_else(|| fault("sizes overflow"))?;
                self.want_rows_or_tiles("h", rows, width)
            }
            Op::ExpertsDown(op::ExpertsDown { residual, shared }) => {
                let (rows, width) = self.row_or_tiles("h")?;
                let [_, out_features, ffn] = *self.weight("down")? else {
                    return Err(fault("experts are [experts, out, ffn]"));
                };
                let active = self.index("index", rows)?;
                self.fits_width("h", width, choices(active, shared).checked_mul(ffn))?;
                self.want_width("weight", Some(active))?;
                if shared {
                    self.want_weight("shared_down", &[out_features, ffn])?;
                }
                if residual {
                    self.same("residual", &Type::rows(rows, out_features))?;
                }
                self.want_result("out", &Type::rows(rows, out_features))
            }
            Op::GatherRows(op::GatherRows {}) => {
                let (rows, width) = self.row("x")?;
                if rows != Sym::Tokens {
                    return Err(fault("rows are gathered from those of the step's tokens"));
                }
                self.want_result("out", &Type::rows(Sym::Outputs, width))
            }
            Op::Output(op::Output {}) => match self.row("logits")? {
                (Sym::Outputs, _) => Ok(()),
                _ => Err(fault("the output has one row for each wanted row of logits")),
            },
        }
    }

    /// Width of expert indices.
    fn index(&self, name: &str, rows: Sym) -> Result<u64, Fault> {
        match self.operand(name)? {
            Type::Tensor { elem: Elem::I32, dims } => match dims[..] {
                [Dim::Sym(r), Dim::Const(width)] if r == rows && width > 0 => Ok(width),
                _ => Err(fault(format!("operand `{name}` must be [tokens, active]"))),
            },
            other => Err(fault(format!("operand `{name}` must be an i32 tensor, is {other}"))),
        }
    }

    fn linear(&self, norm: Option<f64>, epilogue: Epilogue) -> Result<(), Fault> {
        let (rows, in_features) = self.product_input(norm.is_some())?;
        if norm.is_some() {
            self.want_vector("norm", in_features)?;
        }
        let [out_features, _] = *self.weight("weight")? else {
            return Err(fault("a linear's weight is a matrix"));
        };
        self.want_weight("weight", &[out_features, in_features])?;
        match epilogue {
            Epilogue::Store => {}
            Epilogue::Residual => {
                self.same("residual", &Type::rows(rows, out_features))?;
                return self.want_result("out", &Type::rows(rows, out_features));
            }
            Epilogue::SwiGlu => self.want_weight("up", &[out_features, in_features])?,
        }
        self.want_rows_or_tiles("out", rows, out_features)
    }

    fn qkv(&self, op: &op::QkvAppend) -> Result<(), Fault> {
        let op::QkvAppend { heads, kv_heads: kv, norm, qk_norm, dims, own_kv: own, gates, .. } = *op;
        let (rows, in_features) = self.product_input(norm.is_some())?;
        if norm.is_some() {
            self.want_vector("norm", in_features)?;
        }
        let [out_features, _] = *self.weight("wq")? else { return Err(fault("a projection is a matrix")) };
        let qk_dim = out_features / heads;
        if out_features % heads != 0 || heads % kv != 0 || dims % 2 != 0 || dims > qk_dim {
            return Err((
                ATTRIBUTE,
                format!("{heads} heads, {kv} KV heads, {dims} rotated dims of {out_features} features"),
            ));
        }
        self.want_weight("wq", &[out_features, in_features])?;
        self.want_result("q", &Type::rows(rows, out_features))?;
        if own {
            let cache = self.cache_operand("cache")?;
            let ty = self.operand("cache")?;
            if (cache.kv_heads, cache.qk_dim) != (kv, qk_dim) {
                return Err(fault(format!("{ty} does not fit the projections")));
            }
            self.want_weight("wk", &[kv * qk_dim, in_features])?;
            self.want_weight("wv", &[kv * cache.v_dim, in_features])?;
            self.want_result("cache", ty)?;
        }
        if qk_norm.is_some() {
            self.want_vector("q_norm", qk_dim)?;
            if own {
                self.want_vector("k_norm", qk_dim)?;
            }
        }
        let mut v_dim = own.then(|| self.cache_operand("cache")).transpose()?.map(|cache| cache.v_dim);
        for (weight, logits) in ops::gates(gates.unwrap_or(0)) {
            let [width, _] = *self.weight(weight)? else { return Err(fault("a projection is a matrix")) };
            let dim = *v_dim.get_or_insert(width / heads);
            if heads.checked_mul(dim) != Some(width) {
                return Err((ATTRIBUTE, format!("a gate of {width} features for {heads} heads of {dim}")));
            }
            self.want_weight(weight, &[width, in_features])?;
            self.want_rows_or_tiles(logits, rows, width)?;
        }
        Ok(())
    }

    fn hybrid(&self, heads: u64, gate: GateMode, lists: bool) -> Result<(), Fault> {
        let shared = self.attention(heads, "shared", Some("sink_select"))?;
        self.selection_operand("sel")?;
        if lists {
            self.fits_selection("operand", "lists", self.operand("lists")?)?;
        }
        let own = self.cache_operand("own")?;
        if (own.kv_heads, own.qk_dim, own.v_dim) != (shared.kv_heads, shared.qk_dim, shared.v_dim) {
            return Err(fault(format!("{} and {} differ", self.operand("shared")?, self.operand("own")?)));
        }
        self.want_vector("sink_window", heads)?;
        let gates = ["gate_select", "gate_window"];
        match gate {
            GateMode::None => Ok(()),
            GateMode::Head => gates.iter().try_for_each(|name| self.want_width(name, Some(heads))),
            GateMode::Elementwise => gates.iter().try_for_each(|name| {
                let (_, width) = self.row_or_tiles(name)?;
                self.fits_width(name, width, heads.checked_mul(shared.v_dim))
            }),
        }
    }
}

/// Experts that a token has, a shared one included.
fn choices(active: u64, shared: bool) -> u64 {
    active.saturating_add(u64::from(shared))
}
