//! What each op wants of its operands, results and attributes.

use crate::graph::{Graph, OpId};
use crate::op::Op;
use crate::plan::{CachePolicy, Elem, Epilogue, GateMode};
use crate::types::{CacheType, Dim, SelectionType, Sym, Type};

/// Operands and results of an op.
pub fn arity(op: &Op) -> (usize, usize) {
    let n = usize::from;
    match *op {
        Op::Weight {}
        | Op::Cache { .. }
        | Op::PriorSelection {}
        | Op::ChainSelection {}
        | Op::ChainCache {} => (0, 1),
        Op::KvShare {}
        | Op::Embed {}
        | Op::Rope { .. }
        | Op::BlockMax { .. }
        | Op::GroupMax { .. }
        | Op::TopK { .. }
        | Op::GatherRows {} => (1, 1),
        Op::RmsNorm { .. } | Op::Linear {} | Op::Gate { .. } | Op::Add {} | Op::SiluMul {} => (2, 1),
        Op::Append {} => (3, 1),
        Op::Attention { sink, scores, .. } => (2 + n(sink), 1 + n(scores)),
        Op::WindowAttention { sink, .. } => (2 + n(sink), 1),
        Op::SparseAttention { sink, .. } => (3 + n(sink), 1),
        Op::OracleAttention { sink, .. } => (2 + n(sink), 2),
        Op::HybridAttention { gate, .. } => (if gate == GateMode::None { 6 } else { 8 }, 1),
        Op::Router { .. } => (1, 2),
        Op::ExpertsUp {} => (4, 1),
        Op::ExpertsDown { residual } => (4 + n(residual), 1),
        Op::Output {} => (1, 0),
        Op::FusedLinear { norm, epilogue } => (2 + n(norm.is_some()) + n(epilogue != Epilogue::Store), 1),
        Op::QkvAppend { norm, qk_norm, own_kv, .. } => {
            let norms = if qk_norm.is_some() { 1 + n(own_kv) } else { 0 };
            (2 + n(norm.is_some()) + norms + if own_kv { 3 } else { 0 }, 1 + n(own_kv))
        }
    }
}

/// A fault's rule and sentence.
type Fault = (&'static str, String);

fn fault(message: impl Into<String>) -> Fault {
    ("type", message.into())
}

/// Reports what is wrong with an op whose arity is right.
pub fn check(graph: &Graph, id: OpId, report: &mut dyn FnMut(&'static str, String)) {
    let op = View { graph, id };
    if let Err((rule, message)) = attributes(&graph.op(id).op).and_then(|()| op.types()) {
        report(rule, message);
    }
}

fn attributes(op: &Op) -> Result<(), Fault> {
    for (key, value) in op.attrs() {
        let bad = match (key, &value) {
            ("eps" | "norm" | "qk_norm" | "theta", crate::Attr::Float(x)) => !crate::is_positive_f32(*x),
            ("owner", _) => false,
            (_, crate::Attr::Int(n)) => *n == 0 || *n > 1 << 40,
            _ => false,
        };
        if bad {
            return Err(("attribute", format!("`{key} = {value:?}` is not possible")));
        }
    }
    if let Op::Gate { mode: GateMode::None, .. } = op {
        return Err(("attribute", "a gate's mode is head or elementwise".to_string()));
    }
    Ok(())
}

struct View<'g> {
    graph: &'g Graph,
    id: OpId,
}

impl<'g> View<'g> {
    fn operand(&self, i: usize) -> &'g Type {
        self.graph.ty(self.graph.op(self.id).operands[i])
    }

    fn result(&self, i: usize) -> &'g Type {
        self.graph.ty(self.graph.op(self.id).results[i])
    }

    /// Rows and width of an f32 operand.
    fn row(&self, i: usize) -> Result<(Sym, u64), Fault> {
        match self.operand(i) {
            Type::Tensor { elem: Elem::F32, dims } => match dims[..] {
                [Dim::Sym(rows), Dim::Const(width)] if width > 0 => Ok((rows, width)),
                _ => {
                    Err(fault(format!("operand {i} must be rows of constant width, is {}", self.operand(i))))
                }
            },
            other => Err(fault(format!("operand {i} must be an f32 tensor, is {other}"))),
        }
    }

    fn want_width(&self, i: usize, want: Option<u64>) -> Result<(), Fault> {
        let (_, width) = self.row(i)?;
        match want {
            Some(want) if want == width => Ok(()),
            Some(want) => Err(fault(format!("operand {i} has width {width}, needs {want}"))),
            None => Err(fault("sizes overflow")),
        }
    }

    fn want_result(&self, i: usize, want: &Type) -> Result<(), Fault> {
        match self.result(i) {
            found if found == want => Ok(()),
            found => Err(fault(format!("result {i} is {found}, must be {want}"))),
        }
    }

    fn weight(&self, i: usize) -> Result<&'g [u64], Fault> {
        match self.operand(i) {
            Type::Weight { elem: Elem::F32 | Elem::Bf16, dims } if !dims.is_empty() && !dims.contains(&0) => {
                Ok(dims)
            }
            other => Err(fault(format!("operand {i} must be a weight, is {other}"))),
        }
    }

    fn want_weight(&self, i: usize, want: &[u64]) -> Result<(), Fault> {
        match self.weight(i)? {
            dims if dims == want => Ok(()),
            dims => Err(fault(format!("operand {i} is a weight of shape {dims:?}, needs {want:?}"))),
        }
    }

    /// A vector of that length, in f32 as norms and sinks always are.
    fn want_vector(&self, i: usize, len: u64) -> Result<(), Fault> {
        self.want_weight(i, &[len])?;
        match self.operand(i) {
            Type::Weight { elem: Elem::F32, .. } => Ok(()),
            _ => Err(fault(format!("operand {i} must be f32: norm weights and sinks are"))),
        }
    }

    fn cache(&self, ty: &'g Type, place: &str) -> Result<&'g CacheType, Fault> {
        let Type::Cache(cache) = ty else { return Err(fault(format!("{place} must be a cache, is {ty}"))) };
        let sizes = [cache.kv_heads, cache.qk_dim, cache.v_dim, cache.page];
        let possible = sizes.iter().all(|n| (1..1 << 24).contains(n)) && cache.elem != Elem::I32;
        if possible { Ok(cache) } else { Err(fault(format!("{place} is an impossible {ty}"))) }
    }

    fn selection(&self, ty: &'g Type, place: &str) -> Result<&'g SelectionType, Fault> {
        match ty {
            Type::Selection(s)
                if [s.shape.kv_heads, s.shape.block, s.shape.blocks]
                    .iter()
                    .all(|n| (1..1 << 24).contains(n)) =>
            {
                Ok(s)
            }
            other => Err(fault(format!("{place} must be a selection, is {other}"))),
        }
    }

    /// The attention over cache operand `at`, with an optional sink; checks q, sink and the first result.
    fn attention(&self, heads: u64, at: usize, sink: Option<usize>) -> Result<&'g CacheType, Fault> {
        let cache = self.cache(self.operand(at), &format!("operand {at}"))?;
        if heads % cache.kv_heads != 0 {
            return Err(("attribute", format!("{heads} heads over {} KV heads", cache.kv_heads)));
        }
        self.want_width(0, heads.checked_mul(cache.qk_dim))?;
        if let Some(i) = sink {
            self.want_vector(i, heads)?;
        }
        let (rows, _) = self.row(0)?;
        let width = heads.checked_mul(cache.v_dim).ok_or_else(|| fault("sizes overflow"))?;
        self.want_result(0, &Type::rows(rows, width))?;
        Ok(cache)
    }

    fn scores(&self, ty: &Type) -> Result<(u64, Dim), Fault> {
        match ty {
            Type::Tensor { elem: Elem::F32, dims } => match dims[..] {
                [Dim::Sym(Sym::Tokens), Dim::Const(heads), last] if heads > 0 => Ok((heads, last)),
                _ => Err(fault(format!("scores are [tokens, heads, n], not {ty}"))),
            },
            _ => Err(fault(format!("scores are an f32 tensor, not {ty}"))),
        }
    }

    fn same(&self, i: usize, want: &Type) -> Result<(), Fault> {
        match self.operand(i) {
            found if found == want => Ok(()),
            found => Err(fault(format!("operand {i} is {found}, must be {want}"))),
        }
    }

    fn types(&self) -> Result<(), Fault> {
        match self.graph.op(self.id).op.clone() {
            Op::Weight {} => match self.result(0) {
                Type::Weight { elem: Elem::F32 | Elem::Bf16, dims }
                    if !dims.is_empty() && dims.iter().all(|dim| (1..1 << 32).contains(dim)) =>
                {
                    Ok(())
                }
                other => Err(fault(format!("a weight of impossible type {other}"))),
            },
            Op::Cache { .. } | Op::ChainCache {} => self.cache(self.result(0), "the result").map(|_| ()),
            Op::PriorSelection {} | Op::ChainSelection {} => {
                self.selection(self.result(0), "the result").map(|_| ())
            }
            Op::KvShare {} => {
                self.cache(self.operand(0), "operand 0")?;
                self.want_result(0, self.operand(0))
            }
            Op::Embed {} => match self.weight(0)? {
                [_, hidden] => self.want_result(0, &Type::rows(Sym::Tokens, *hidden)),
                _ => Err(fault("the table must be a matrix")),
            },
            Op::RmsNorm { .. } => {
                let (rows, width) = self.row(0)?;
                let len = self.weight(1)?[0];
                self.want_vector(1, len)?;
                if width % len != 0 {
                    return Err(fault(format!("a norm of {len} elements does not divide rows of {width}")));
                }
                self.want_result(0, &Type::rows(rows, width))
            }
            Op::Linear {} => self.linear(None, Epilogue::Store),
            Op::FusedLinear { norm, epilogue } => self.linear(norm, epilogue),
            Op::QkvAppend { heads, kv_heads, norm, qk_norm, dims, own_kv, .. } => {
                self.qkv(heads, kv_heads, norm.is_some(), qk_norm.is_some(), dims, own_kv)
            }
            Op::Rope { heads, dims, .. } => {
                let (rows, width) = self.row(0)?;
                if width % heads != 0 || dims % 2 != 0 || dims > width / heads {
                    return Err((
                        "attribute",
                        format!("{dims} rotated dims in {heads} heads of a row of {width}"),
                    ));
                }
                self.want_result(0, &Type::rows(rows, width))
            }
            Op::Append {} => {
                let cache = self.cache(self.operand(0), "operand 0")?;
                self.want_width(1, cache.kv_heads.checked_mul(cache.qk_dim))?;
                self.want_width(2, cache.kv_heads.checked_mul(cache.v_dim))?;
                self.want_result(0, self.operand(0))
            }
            Op::Attention { heads, sink, scores } => {
                self.attention(heads, 1, sink.then_some(2))?;
                match scores.then(|| self.scores(self.result(1))).transpose()? {
                    Some((n, Dim::Sym(Sym::Context))) if n == heads => Ok(()),
                    None => Ok(()),
                    _ => {
                        Err(fault(format!("result 1 is {}, not [tokens, {heads}, context]", self.result(1))))
                    }
                }
            }
            Op::BlockMax { block } => {
                let (heads, last) = self.scores(self.operand(0))?;
                if last != Dim::Sym(Sym::Context) {
                    return Err(fault("block maxima are taken over the context"));
                }
                let dims = vec![Dim::Sym(Sym::Tokens), Dim::Const(heads), Dim::CeilDiv(Sym::Context, block)];
                self.want_result(0, &Type::Tensor { elem: Elem::F32, dims })
            }
            Op::GroupMax { kv_heads } => {
                let (heads, last) = self.scores(self.operand(0))?;
                if heads % kv_heads != 0 {
                    return Err(("attribute", format!("{heads} heads in {kv_heads} groups")));
                }
                let dims = vec![Dim::Sym(Sym::Tokens), Dim::Const(kv_heads), last];
                self.want_result(0, &Type::Tensor { elem: Elem::F32, dims })
            }
            Op::TopK { blocks } => {
                let (kv_heads, last) = self.scores(self.operand(0))?;
                let s = self.selection(self.result(0), "the result")?.shape;
                if (s.kv_heads, s.blocks, Dim::CeilDiv(Sym::Context, s.block)) != (kv_heads, blocks, last) {
                    return Err(fault(format!("{} does not fit {}", self.result(0), self.operand(0))));
                }
                Ok(())
            }
            Op::WindowAttention { heads, sink, .. } => {
                self.attention(heads, 1, sink.then_some(2)).map(|_| ())
            }
            Op::SparseAttention { heads, sink } => {
                self.selection(self.operand(2), "operand 2")?;
                self.attention(heads, 1, sink.then_some(3)).map(|_| ())
            }
            Op::OracleAttention { heads, sink, blocks } => {
                let cache = self.attention(heads, 1, sink.then_some(2))?;
                let s = self.selection(self.result(1), "result 1")?;
                if (s.shape.kv_heads, s.shape.blocks) != (cache.kv_heads, blocks) {
                    return Err(fault(format!("{} does not fit the attention", self.result(1))));
                }
                if s.shape.block != cache.page || s.map != cache.map {
                    return Err(fault(format!(
                        "{} is not over the pages of {}",
                        self.result(1),
                        self.operand(1)
                    )));
                }
                Ok(())
            }
            Op::HybridAttention { heads, gate, .. } => self.hybrid(heads, gate),
            Op::Gate { heads, mode } => {
                let (rows, width) = self.row(0)?;
                if width % heads != 0 {
                    return Err(("attribute", format!("{heads} heads in a row of {width}")));
                }
                self.want_width(1, Some(if mode == GateMode::Head { heads } else { width }))?;
                self.want_result(0, &Type::rows(rows, width))
            }
            Op::Add {} | Op::SiluMul {} => {
                let (rows, width) = self.row(0)?;
                self.same(1, self.operand(0))?;
                self.want_result(0, &Type::rows(rows, width))
            }
            Op::Router { active } => {
                let (rows, experts) = self.row(0)?;
                if active > experts {
                    return Err(("attribute", format!("{active} of {experts} experts")));
                }
                let index = Type::Tensor { elem: Elem::I32, dims: vec![Dim::Sym(rows), Dim::Const(active)] };
                self.want_result(0, &index)?;
                self.want_result(1, &Type::rows(rows, active))
            }
            Op::ExpertsUp {} => {
                let (rows, inn) = self.row(0)?;
                let [experts, ffn, _] = *self.weight(2)? else {
                    return Err(fault("experts are [experts, ffn, in]"));
                };
                let active = self.index(1, rows)?;
                self.want_weight(2, &[experts, ffn, inn])?;
                self.want_weight(3, &[experts, ffn, inn])?;
                let width = active.checked_mul(ffn).ok_or_else(|| fault("sizes overflow"))?;
                self.want_result(0, &Type::rows(rows, width))
            }
            Op::ExpertsDown { residual } => {
                let (rows, _) = self.row(0)?;
                let [_, out, ffn] = *self.weight(3)? else {
                    return Err(fault("experts are [experts, out, ffn]"));
                };
                let active = self.index(1, rows)?;
                self.want_width(0, active.checked_mul(ffn))?;
                self.want_width(2, Some(active))?;
                if residual {
                    self.same(4, &Type::rows(rows, out))?;
                }
                self.want_result(0, &Type::rows(rows, out))
            }
            Op::GatherRows {} => {
                let (rows, width) = self.row(0)?;
                if rows != Sym::Tokens {
                    return Err(fault("rows are gathered from those of the step's tokens"));
                }
                self.want_result(0, &Type::rows(Sym::Outputs, width))
            }
            Op::Output {} => match self.row(0)? {
                (Sym::Outputs, _) => Ok(()),
                _ => Err(fault("the output has one row for each wanted row of logits")),
            },
        }
    }

    /// Width of the expert indices in operand `i`.
    fn index(&self, i: usize, rows: Sym) -> Result<u64, Fault> {
        match self.operand(i) {
            Type::Tensor { elem: Elem::I32, dims } => match dims[..] {
                [Dim::Sym(r), Dim::Const(width)] if r == rows && width > 0 => Ok(width),
                _ => Err(fault(format!("operand {i} must be [tokens, active]"))),
            },
            other => Err(fault(format!("operand {i} must be an i32 tensor, is {other}"))),
        }
    }

    fn linear(&self, norm: Option<f64>, epilogue: Epilogue) -> Result<(), Fault> {
        let (rows, inn) = self.row(0)?;
        let at = 1 + usize::from(norm.is_some());
        if norm.is_some() {
            self.want_vector(1, inn)?;
        }
        let [out, _] = *self.weight(at)? else { return Err(fault("a linear's weight is a matrix")) };
        self.want_weight(at, &[out, inn])?;
        match epilogue {
            Epilogue::Store => {}
            Epilogue::Residual => self.same(at + 1, &Type::rows(rows, out))?,
            Epilogue::SwiGlu => self.want_weight(at + 1, &[out, inn])?,
        }
        self.want_result(0, &Type::rows(rows, out))
    }

    fn qkv(&self, heads: u64, kv: u64, norm: bool, qk_norm: bool, dims: u64, own: bool) -> Result<(), Fault> {
        let (rows, inn) = self.row(0)?;
        let wq = 1 + usize::from(norm);
        if norm {
            self.want_vector(1, inn)?;
        }
        let [out, _] = *self.weight(wq)? else { return Err(fault("a projection is a matrix")) };
        let qk_dim = out / heads;
        if out % heads != 0 || heads % kv != 0 || dims % 2 != 0 || dims > qk_dim {
            return Err((
                "attribute",
                format!("{heads} heads, {kv} KV heads, {dims} rotated dims of {out} features"),
            ));
        }
        self.want_weight(wq, &[out, inn])?;
        self.want_result(0, &Type::rows(rows, out))?;
        let mut next = wq + 1;
        if own {
            let last = self.graph.op(self.id).operands.len() - 1;
            let cache = self.cache(self.operand(last), "the last operand")?;
            if (cache.kv_heads, cache.qk_dim) != (kv, qk_dim) {
                return Err(fault(format!("{} does not fit the projections", self.operand(last))));
            }
            self.want_weight(wq + 1, &[kv * qk_dim, inn])?;
            self.want_weight(wq + 2, &[kv * cache.v_dim, inn])?;
            self.want_result(1, self.operand(last))?;
            next = wq + 3;
        }
        for i in 0..if qk_norm { 1 + usize::from(own) } else { 0 } {
            self.want_vector(next + i, qk_dim)?;
        }
        Ok(())
    }

    fn hybrid(&self, heads: u64, gate: GateMode) -> Result<(), Fault> {
        let shared = self.attention(heads, 1, Some(3))?;
        self.selection(self.operand(2), "operand 2")?;
        let own = self.cache(self.operand(4), "operand 4")?;
        if (own.kv_heads, own.qk_dim, own.v_dim) != (shared.kv_heads, shared.qk_dim, shared.v_dim) {
            return Err(fault(format!("{} and {} differ", self.operand(1), self.operand(4))));
        }
        self.want_vector(5, heads)?;
        let width = match gate {
            GateMode::None => return Ok(()),
            GateMode::Head => heads,
            GateMode::Elementwise => heads * shared.v_dim,
        };
        self.want_width(6, Some(width))?;
        self.want_width(7, Some(width))
    }
}

/// Whether a ring lets this op read it.
pub fn ring_reader(op: &Op, operand: usize, policy: CachePolicy) -> bool {
    let CachePolicy::Ring { window: kept, .. } = policy else { return true };
    match op {
        Op::Append {} | Op::QkvAppend { .. } => true,
        Op::WindowAttention { window, .. } => *window <= kept,
        Op::HybridAttention { window, .. } => operand == 4 && *window <= kept,
        _ => false,
    }
}
