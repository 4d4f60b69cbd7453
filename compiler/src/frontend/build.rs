//! The graph of a model description: every layer on its own, nothing fused, nothing shared.
//!
//! What is emitted for each kind of layer is the mathematics of the papers op by op; which oracle a sparse
//! layer listens to, which cache is an alias and what runs in one kernel is left to the passes.

use hyc_ir::{CacheType, Dim, Graph, Header, Op, OpData, SelectionType, Sym, Type, ValueId, op};
use hyc_plan::{CachePolicy, Codec, Elem, GateMode, RouterRule, SelectShape};

use super::desc::{AttentionDesc, AttentionKind, Ffn, Gate, ModelDesc, Rope, SparseKv, WeightDtype};

/// The page map that all growing caches share.
const PAGES: &str = "pages";

/// The unfused graph of `desc`. The description must be valid, as every front end leaves it.
pub fn build_graph(desc: &ModelDesc) -> Graph {
    let header = Header {
        name: desc.name.clone(),
        layers: desc.layers.len() as u64,
        hidden: desc.hidden as u64,
        vocab: desc.vocab as u64,
        named: None,
        max_context: desc.target.max_context as u64,
        max_batch: desc.target.max_batch as u64,
        chunk: desc.target.chunk as u64,
        max_outputs: desc.target.max_outputs as u64,
        target: desc.target.kind,
    };
    let mut b = Builder { graph: Graph::new(header), desc, layer: None };
    let mut x = b.embed();
    for (number, layer) in desc.layers.iter().enumerate() {
        b.layer = Some(number as u32);
        x = b.attention_block(x, &layer.attention);
        x = b.ffn_block(x, layer.ffn);
    }
    b.layer = None;
    b.logits(x);
    b.graph
}

struct Builder<'a> {
    graph: Graph,
    desc: &'a ModelDesc,
    layer: Option<u32>,
}

fn codec(dtype: WeightDtype) -> Codec {
    match dtype {
        WeightDtype::F32 => Codec::F32,
        WeightDtype::Bf16 => Codec::Bf16,
    }
}

/// What the attention branches of one layer start from.
struct Branch<'a> {
    a: &'a AttentionDesc,
    q: ValueId,
    /// The normalised layer input, which gates are projected from.
    h: ValueId,
}

impl Builder<'_> {
    fn op(&mut self, op: Op, operands: &[ValueId], results: &[(&str, Type)]) -> Vec<ValueId> {
        let results: Vec<ValueId> = results
            .iter()
            .map(|(name, ty)| {
                let name = match self.layer {
                    Some(layer) => format!("L{layer}.{name}"),
                    None => name.to_string(),
                };
                self.graph.new_value(&name, ty.clone())
            })
            .collect();
        self.graph.push(OpData {
            op,
            operands: operands.to_vec(),
            results: results.clone(),
            layer: self.layer,
            chain: None,
            line: None,
        });
        results
    }

    fn one(&mut self, op: Op, operands: &[ValueId], name: &str, ty: Type) -> ValueId {
        self.op(op, operands, &[(name, ty)])[0]
    }

    /// The weight of that full name; made at its first use.
    fn weight(&mut self, name: &str, dims: &[usize], codec: Codec) -> ValueId {
        if let Some(value) = self.graph.value(name) {
            return value;
        }
        let dims = dims.iter().map(|dim| *dim as u64).collect();
        let value = self.graph.new_value(name, Type::Weight { codec, dims });
        self.graph.push(OpData {
            op: Op::Weight(op::Weight {}),
            operands: vec![],
            results: vec![value],
            layer: self.layer,
            chain: None,
            line: None,
        });
        value
    }

    fn layer_name(&self, tail: &str) -> String {
        match self.layer {
            Some(layer) => format!("model.layers.{layer}.{tail}"),
            None => format!("model.{tail}"),
        }
    }

    fn matrix(&mut self, tail: &str, dims: &[usize]) -> ValueId {
        let name = self.layer_name(tail);
        self.named_matrix(&name, dims)
    }

    /// The same by its full name.
    fn named_matrix(&mut self, name: &str, dims: &[usize]) -> ValueId {
        let weights = &self.desc.weights;
        let codec = weights.formats.codec(name, dims, codec(weights.dtype));
        self.weight(name, dims, codec)
    }

    fn vector(&mut self, tail: &str, len: usize) -> ValueId {
        let name = self.layer_name(tail);
        self.weight(&name, &[len], Codec::F32)
    }

    fn tokens(&self, width: usize) -> Type {
        Type::rows(Sym::Tokens, width as u64)
    }

    fn embed(&mut self) -> ValueId {
        let table = self.matrix("embed_tokens.weight", &[self.desc.vocab, self.desc.hidden]);
        self.one(Op::Embed(op::Embed {}), &[table], "x", self.tokens(self.desc.hidden))
    }

    fn norm(&mut self, x: ValueId, tail: &str, len: usize, name: &str) -> ValueId {
        let weight = self.vector(tail, len);
        let ty = self.graph.ty(x).clone();
        self.one(Op::RmsNorm(op::RmsNorm { eps: self.desc.norm_eps }), &[x, weight], name, ty)
    }

    fn linear(
        &mut self,
        x: ValueId,
        tail: &str,
        in_features: usize,
        out_features: usize,
        name: &str,
    ) -> ValueId {
        let weight = self.matrix(tail, &[out_features, in_features]);
        self.one(Op::Linear(op::Linear {}), &[x, weight], name, self.tokens(out_features))
    }

    /// The projection to queries, keys or values, which `which` names.
    fn projection(&mut self, a: &AttentionDesc, h: ValueId, which: &str, width: usize) -> ValueId {
        let weight = format!("self_attn.{which}_proj.weight");
        let y = self.linear(h, &weight, self.desc.hidden, width, which);
        if !a.qkv_bias {
            return y;
        }
        let bias = self.vector(&format!("self_attn.{which}_proj.bias"), width);
        self.one(Op::Bias(op::Bias {}), &[y, bias], &format!("{which}_biased"), self.tokens(width))
    }

    fn add(&mut self, a: ValueId, b: ValueId, name: &str) -> ValueId {
        let ty = self.graph.ty(a).clone();
        self.one(Op::Add(op::Add {}), &[a, b], name, ty)
    }

    fn attention_block(&mut self, x: ValueId, a: &AttentionDesc) -> ValueId {
        let hidden = self.desc.hidden;
        let h = self.norm(x, "input_layernorm.weight", hidden, "h");
        let q = self.head_projection(a, h, "q", a.heads);
        let branch = Branch { a, q, h };
        let out = match a.kind {
            AttentionKind::Full { top_k } => self.full_attention(&branch, top_k),
            AttentionKind::Sparse { top_k, kv, window } => self.sparse_attention(&branch, top_k, kv, window),
            AttentionKind::Window { window } => {
                let own = self.own_cache(a, h);
                self.window_branch(&branch, own, window)
            }
        };
        let y = self.linear(out, "self_attn.o_proj.weight", a.heads * a.v_dim, hidden, "o");
        self.add(x, y, "x")
    }

    /// W_q or W_k with bias, QK-norm and RoPE, where the layer has them.
    fn head_projection(&mut self, a: &AttentionDesc, h: ValueId, which: &str, heads: usize) -> ValueId {
        let width = heads * a.qk_dim;
        let mut y = self.projection(a, h, which, width);
        if a.qk_norm {
            y = self.norm(y, &format!("self_attn.{which}_norm.weight"), a.qk_dim, &format!("{which}_normed"));
        }
        let Some(Rope { theta, dims, scaling }) = a.rope else { return y };
        let op = Op::Rope(op::Rope { heads: heads as u64, theta, dims: dims as u64, scaling });
        self.one(op, &[y], &format!("{which}_rot"), self.tokens(width))
    }

    /// k, v of this layer, appended to a cache of its own.
    fn own_cache(&mut self, a: &AttentionDesc, h: ValueId) -> ValueId {
        let k = self.head_projection(a, h, "k", a.kv_heads);
        let v = self.projection(a, h, "v", a.kv_heads * a.v_dim);
        let ty = self.cache_type(a);
        let owner = u64::from(self.layer.unwrap_or(0));
        let ring = self.desc.target.kv_dtype.scaled().then(|| self.desc.weights.dtype.kv());
        let before = self.one(Op::Cache(op::Cache { owner, ring }), &[], "cache", ty.clone());
        self.one(Op::Append(op::Append {}), &[before, k, v], "kv", ty)
    }

    fn cache_type(&self, a: &AttentionDesc) -> Type {
        Type::Cache(CacheType {
            kv_heads: a.kv_heads as u64,
            qk_dim: a.qk_dim as u64,
            v_dim: a.v_dim as u64,
            codec: self.desc.target.kv_dtype,
            page: self.desc.block as u64,
            policy: CachePolicy::Growing,
            map: PAGES.to_string(),
        })
    }

    fn select_shape(&self, a: &AttentionDesc, top_k: usize) -> SelectShape {
        let block = self.desc.block;
        SelectShape { kv_heads: a.kv_heads as u64, block: block as u64, blocks: (top_k / block) as u64 }
    }

    fn full_attention(&mut self, branch: &Branch, top_k: Option<usize>) -> ValueId {
        let a = branch.a;
        let cache = self.own_cache(a, branch.h);
        let mut operands = vec![branch.q, cache];
        operands.extend(self.sink(a, "sink"));
        let op =
            Op::Attention(op::Attention { heads: a.heads as u64, sink: a.sink, scores: top_k.is_some() });
        let out = ("attn", self.tokens(a.heads * a.v_dim));
        let result = match top_k {
            Some(top_k) => {
                let probs = ("probs", self.score_type(a.heads, Dim::Sym(Sym::Context)));
                let results = self.op(op, &operands, &[out, probs]);
                self.select(a, results[1], top_k);
                results[0]
            }
            None => self.op(op, &operands, &[out])[0],
        };
        self.gate(branch, result, "self_attn.gate.weight", "gate")
    }

    fn score_type(&self, heads: usize, last: Dim) -> Type {
        Type::Tensor { elem: Elem::F32, dims: vec![Dim::Sym(Sym::Tokens), Dim::Const(heads as u64), last] }
    }

    /// Block maxima, their maximum over the group, and the best blocks (HySparse 2602.03560, eq. 3).
    fn select(&mut self, a: &AttentionDesc, probs: ValueId, top_k: usize) -> ValueId {
        let shape = self.select_shape(a, top_k);
        let blocks = Dim::CeilDiv(Sym::Context, shape.block);
        let ty = self.score_type(a.heads, blocks);
        let block_max =
            self.one(Op::BlockMax(op::BlockMax { block: shape.block }), &[probs], "block_max", ty);
        let ty = self.score_type(a.kv_heads, blocks);
        let group_max =
            self.one(Op::GroupMax(op::GroupMax { kv_heads: shape.kv_heads }), &[block_max], "group_max", ty);
        let ty = Type::Selection(SelectionType { shape, map: PAGES.to_string() });
        self.one(Op::TopK(op::TopK { blocks: shape.blocks }), &[group_max], "sel", ty)
    }

    fn sparse_attention(
        &mut self,
        branch: &Branch,
        top_k: usize,
        kv: SparseKv,
        window: Option<usize>,
    ) -> ValueId {
        let a = branch.a;
        let own = a.has_own_kv().then(|| self.own_cache(a, branch.h));
        let shape = self.select_shape(a, top_k);
        let ty = Type::Selection(SelectionType { shape, map: PAGES.to_string() });
        let selection = self.one(Op::ChainSelection(op::ChainSelection {}), &[], "sel", ty);
        let cache = match (kv, own) {
            (SparseKv::Own, Some(own)) => own,
            _ => {
                let ty = self.cache_type(a);
                let shared = self.one(Op::ChainCache(op::ChainCache {}), &[], "oracle_kv", ty.clone());
                self.one(Op::KvShare(op::KvShare {}), &[shared], "shared_kv", ty)
            }
        };
        let mut operands = vec![branch.q, cache, selection];
        operands.extend(self.sink(a, "sink_select"));
        let op =
            Op::SparseAttention(op::SparseAttention { heads: a.heads as u64, sink: a.sink, lists: false });
        let selected = self.one(op, &operands, "selected", self.tokens(a.heads * a.v_dim));
        let selected = self.gate(branch, selected, "self_attn.gate_select.weight", "gate_select");
        let Some(window) = window else { return selected };
        let window = self.window_branch(branch, own.unwrap_or(cache), window);
        self.add(selected, window, "attn")
    }

    fn window_branch(&mut self, branch: &Branch, cache: ValueId, window: usize) -> ValueId {
        let a = branch.a;
        let mut operands = vec![branch.q, cache];
        operands.extend(self.sink(a, "sink_window"));
        let op = Op::WindowAttention(op::WindowAttention {
            heads: a.heads as u64,
            window: window as u64,
            sink: a.sink,
        });
        let seen = self.one(op, &operands, "window", self.tokens(a.heads * a.v_dim));
        self.gate(branch, seen, "self_attn.gate_window.weight", "gate_window")
    }

    /// The weight of a branch's sink, where the layer has them.
    fn sink(&mut self, a: &AttentionDesc, name: &str) -> Option<ValueId> {
        a.sink.then(|| self.vector(&format!("self_attn.{name}"), a.heads))
    }

    /// `x * sigmoid(W h)`, or x itself where the layer has no gates.
    fn gate(&mut self, branch: &Branch, x: ValueId, tail: &str, name: &str) -> ValueId {
        let a = branch.a;
        let (mode, width) = match a.gate {
            Gate::None => return x,
            Gate::Head => (GateMode::Head, a.heads),
            Gate::Elementwise => (GateMode::Elementwise, a.heads * a.v_dim),
        };
        let g = self.linear(branch.h, tail, self.desc.hidden, width, name);
        let ty = self.graph.ty(x).clone();
        self.one(Op::Gate(op::Gate { heads: a.heads as u64, mode }), &[x, g], &format!("{name}d"), ty)
    }

    fn ffn_block(&mut self, x: ValueId, ffn: Ffn) -> ValueId {
        let h = self.norm(x, "post_attention_layernorm.weight", self.desc.hidden, "h2");
        match ffn {
            Ffn::Dense { ffn } => {
                let y = self.swiglu(h, "mlp", ffn);
                self.add(x, y, "x")
            }
            Ffn::Moe { experts, active, expert_ffn, shared_ffn, rule } => {
                let routed = self.experts(h, (experts, active, expert_ffn), rule);
                let x = match shared_ffn {
                    0 => x,
                    ffn => {
                        let shared = self.swiglu(h, "mlp.shared_expert", ffn);
                        self.add(x, shared, "x_shared")
                    }
                };
                self.add(x, routed, "x")
            }
        }
    }

    fn swiglu(&mut self, h: ValueId, prefix: &str, ffn: usize) -> ValueId {
        let hidden = self.desc.hidden;
        let gate = self.linear(h, &format!("{prefix}.gate_proj.weight"), hidden, ffn, "ffn_gate");
        let up = self.linear(h, &format!("{prefix}.up_proj.weight"), hidden, ffn, "ffn_up");
        let mid = self.one(Op::SiluMul(op::SiluMul {}), &[gate, up], "ffn_mid", self.tokens(ffn));
        self.linear(mid, &format!("{prefix}.down_proj.weight"), ffn, hidden, "ffn")
    }

    fn experts(
        &mut self,
        h: ValueId,
        (experts, active, ffn): (usize, usize, usize),
        rule: RouterRule,
    ) -> ValueId {
        let hidden = self.desc.hidden;
        let logits = self.linear(h, "mlp.router.weight", hidden, experts, "router");
        let index =
            Type::Tensor { elem: Elem::I32, dims: vec![Dim::Sym(Sym::Tokens), Dim::Const(active as u64)] };
        let mut operands = vec![logits];
        operands.extend(rule.bias.then(|| self.vector("mlp.router.choice_bias", experts)));
        let results = [("expert", index), ("expert_weight", self.tokens(active))];
        let routed = self.op(Op::Router(op::Router::new(active as u64, rule)), &operands, &results);
        let gate = self.matrix("mlp.experts.gate_proj.weight", &[experts, ffn, hidden]);
        let up = self.matrix("mlp.experts.up_proj.weight", &[experts, ffn, hidden]);
        let down = self.matrix("mlp.experts.down_proj.weight", &[experts, hidden, ffn]);
        let ty = self.tokens(active * ffn);
        let mid = self.one(
            Op::ExpertsUp(op::ExpertsUp { shared: false }),
            &[h, routed[0], gate, up],
            "expert_mid",
            ty,
        );
        let ty = self.tokens(hidden);
        let op = Op::ExpertsDown(op::ExpertsDown { residual: false, shared: false });
        self.one(op, &[mid, routed[0], routed[1], down], "experts", ty)
    }

    fn logits(&mut self, x: ValueId) {
        let d = self.desc;
        let ty = Type::rows(Sym::Outputs, d.hidden as u64);
        let x = self.one(Op::GatherRows(op::GatherRows {}), &[x], "last", ty);
        let x = self.norm(x, "norm.weight", d.hidden, "last_normed");
        let head = if d.tie_embeddings {
            self.matrix("embed_tokens.weight", &[d.vocab, d.hidden])
        } else {
            self.named_matrix("lm_head.weight", &[d.vocab, d.hidden])
        };
        let ty = Type::rows(Sym::Outputs, d.vocab as u64);
        let logits = self.one(Op::Linear(op::Linear {}), &[x, head], "logits", ty);
        self.op(Op::Output(op::Output {}), &[logits], &[]);
    }
}
