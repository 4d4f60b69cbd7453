//! What each op does with its operands: the one description that the verifier, memory planning, costs, dumps, kernels
//! and their tests go by. What an op does not say here it may not do.

use crate::step::{AttnShape, Epilogue, GateMode, SelectShape, StepOp};

/// What a step does with an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes all of the step's rows.
    Write,
    /// Writes a cache at each row's position; what stands there of other positions stays.
    Append,
}

/// How far back an op reads a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Not at all.
    Nothing,
    /// Every token up to the row's own.
    Context,
    /// The last tokens, the row's own included.
    Window(u64),
    /// The tokens of the blocks that the selection in the operand of this name lists.
    Selected(&'static str),
}

/// What an operand is. A width of `None` is one that no tensor has: the product of two sizes that overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32 rows of this width, of the step's own row count.
    Rows(Option<u64>),
    /// f32 rows of this width, one per token, whatever the step's rows are.
    TokenRows(u64),
    /// A token per row, i32.
    Token,
    /// `active` different experts of `experts` a row, i32.
    Experts {
        /// Experts that there are.
        experts: u64,
        /// Experts per row.
        active: u64,
    },
    /// Blocks of the tokens of a cache, best first, i32.
    Selection {
        /// Its shape.
        shape: SelectShape,
        /// The operand of the same step that is the cache: the one that the blocks are looked up in, or were ranked
        /// over.
        over: &'static str,
    },
    /// An f32 vector.
    Vector(u64),
    /// Matrices `[count][out, inn]` as a product reads them, in panels of `group` (of `out` where that is `None`) or in
    /// tiles.
    Matrices {
        /// Matrices.
        count: u64,
        /// Output features of each.
        out: Option<u64>,
        /// Input features.
        inn: u64,
        /// Output features that do not share a panel with others'.
        group: Option<u64>,
    },
    /// A table whose rows are looked up, in any layout.
    Table {
        /// Rows.
        rows: u64,
        /// Elements of a row.
        cols: u64,
    },
    /// A KV cache of this geometry.
    Cache {
        /// KV heads.
        kv_heads: u64,
        /// Elements of a key.
        qk_dim: u64,
        /// Elements of a value.
        v_dim: u64,
        /// How far back it is read.
        reach: Reach,
    },
}

/// One operand of an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Short name: `x`, `weight`, `cache`, `sel`, `out`, ...
    pub name: &'static str,
    /// What the step does with it.
    pub access: Access,
    /// What it is.
    pub kind: Kind,
}

impl Role {
    /// Whether the step writes it, all of it or some of it.
    pub fn writes(&self) -> bool {
        self.access != Access::Read
    }
}

fn read(name: &'static str, kind: Kind) -> Role {
    Role { name, access: Access::Read, kind }
}

fn write(name: &'static str, kind: Kind) -> Role {
    Role { name, access: Access::Write, kind }
}

fn append(name: &'static str, kv_heads: u64, qk_dim: u64, v_dim: u64) -> Role {
    Role {
        name,
        access: Access::Append,
        kind: Kind::Cache { kv_heads, qk_dim, v_dim, reach: Reach::Nothing },
    }
}

fn rows(width: u64) -> Kind {
    Kind::Rows(Some(width))
}

/// Rows of `count` slices of `width`.
fn slices(count: u64, width: u64) -> Kind {
    Kind::Rows(count.checked_mul(width))
}

fn matrix(out: u64, inn: u64) -> Kind {
    matrices(1, out, inn)
}

fn matrices(count: u64, out: u64, inn: u64) -> Kind {
    Kind::Matrices { count, out: Some(out), inn, group: None }
}

/// The projection to `heads` heads of `dim`.
fn projection(heads: u64, dim: u64, inn: u64) -> Kind {
    Kind::Matrices { count: 1, out: heads.checked_mul(dim), inn, group: Some(dim) }
}

impl AttnShape {
    fn cache(&self, name: &'static str, reach: Reach) -> Role {
        let kind = Kind::Cache { kv_heads: self.kv_heads, qk_dim: self.qk_dim, v_dim: self.v_dim, reach };
        read(name, kind)
    }

    fn q(&self) -> Role {
        read("q", slices(self.heads, self.qk_dim))
    }

    fn sink(&self, name: &'static str) -> Role {
        read(name, Kind::Vector(self.heads))
    }

    fn out(&self) -> Role {
        write("out", slices(self.heads, self.v_dim))
    }

    /// q, the cache, the sink where there is one.
    fn attends(&self, reach: Reach, sink: bool) -> Vec<Role> {
        let mut roles = vec![self.q(), self.cache("cache", reach)];
        roles.extend(sink.then(|| self.sink("sink")));
        roles
    }

    /// The logits of a gate on each head's output.
    fn gate(&self, name: &'static str, mode: GateMode) -> Option<Role> {
        gate(mode, self.heads, self.v_dim).map(|kind| read(name, kind))
    }
}

/// Gate logits for `heads` heads of `v_dim`.
fn gate(mode: GateMode, heads: u64, v_dim: u64) -> Option<Kind> {
    match mode {
        GateMode::None => None,
        GateMode::Head => Some(rows(heads)),
        GateMode::Elementwise => Some(slices(heads, v_dim)),
    }
}

impl StepOp {
    /// The operands in order: reads first, then writes.
    pub fn roles(&self) -> Vec<Role> {
        match *self {
            StepOp::Embed { vocab, hidden } => {
                vec![read("table", Kind::Table { rows: vocab, cols: hidden }), write("out", rows(hidden))]
            }
            StepOp::RmsNorm { groups, width, .. } => vec![
                read("x", slices(groups, width)),
                read("weight", Kind::Vector(width)),
                write("out", slices(groups, width)),
            ],
            StepOp::Linear { inn, out, norm, epilogue } => {
                let mut roles = vec![read("x", rows(inn))];
                roles.extend(norm.map(|_| read("norm", Kind::Vector(inn))));
                roles.push(read("weight", matrix(out, inn)));
                roles.extend(match epilogue {
                    Epilogue::Store => None,
                    Epilogue::Residual => Some(read("residual", rows(out))),
                    Epilogue::SwiGlu => Some(read("up", matrix(out, inn))),
                });
                roles.push(write("out", rows(out)));
                roles
            }
            StepOp::QkvAppend { inn, shape, norm, qk_norm, own_kv, .. } => {
                let AttnShape { heads, kv_heads, qk_dim, v_dim } = shape;
                let mut roles = vec![read("x", rows(inn))];
                roles.extend(norm.map(|_| read("norm", Kind::Vector(inn))));
                roles.push(read("wq", projection(heads, qk_dim, inn)));
                if own_kv {
                    roles.push(read("wk", projection(kv_heads, qk_dim, inn)));
                    roles.push(read("wv", projection(kv_heads, v_dim, inn)));
                }
                if qk_norm.is_some() {
                    roles.push(read("q_norm", Kind::Vector(qk_dim)));
                    roles.extend(own_kv.then(|| read("k_norm", Kind::Vector(qk_dim))));
                }
                roles.push(write("q", slices(heads, qk_dim)));
                roles.extend(own_kv.then(|| append("cache", kv_heads, qk_dim, v_dim)));
                roles
            }
            StepOp::Rope { heads, dim, .. } => {
                vec![read("x", slices(heads, dim)), write("out", slices(heads, dim))]
            }
            StepOp::Append { kv_heads, qk_dim, v_dim } => vec![
                read("k", slices(kv_heads, qk_dim)),
                read("v", slices(kv_heads, v_dim)),
                append("cache", kv_heads, qk_dim, v_dim),
            ],
            StepOp::Add { width } | StepOp::SiluMul { width } => {
                vec![read("a", rows(width)), read("b", rows(width)), write("out", rows(width))]
            }
            StepOp::Gate { heads, v_dim, mode } => {
                let mut roles = vec![read("x", slices(heads, v_dim))];
                roles.extend(gate(mode, heads, v_dim).map(|kind| read("gate", kind)));
                roles.push(write("out", slices(heads, v_dim)));
                roles
            }
            StepOp::FullAttention { shape, sink } => {
                let mut roles = shape.attends(Reach::Context, sink);
                roles.push(shape.out());
                roles
            }
            StepOp::OracleAttention { shape, sink, select } => {
                let mut roles = shape.attends(Reach::Context, sink);
                roles.extend([shape.out(), write("sel", Kind::Selection { shape: select, over: "cache" })]);
                roles
            }
            StepOp::WindowAttention { shape, window, sink } => {
                let mut roles = shape.attends(Reach::Window(window), sink);
                roles.push(shape.out());
                roles
            }
            StepOp::SparseAttention { shape, select, sink } => {
                let mut roles = vec![
                    shape.q(),
                    shape.cache("cache", Reach::Selected("sel")),
                    read("sel", Kind::Selection { shape: select, over: "cache" }),
                ];
                roles.extend(sink.then(|| shape.sink("sink")));
                roles.push(shape.out());
                roles
            }
            StepOp::HybridAttention { shape, select, window, gate } => {
                let mut roles = vec![
                    shape.q(),
                    shape.cache("shared", Reach::Selected("sel")),
                    read("sel", Kind::Selection { shape: select, over: "shared" }),
                    shape.sink("sink_select"),
                    shape.cache("own", Reach::Window(window)),
                    shape.sink("sink_window"),
                ];
                roles.extend(["gate_select", "gate_window"].iter().filter_map(|name| shape.gate(name, gate)));
                roles.push(shape.out());
                roles
            }
            StepOp::Router { experts, active } => vec![
                read("logits", rows(experts)),
                write("index", Kind::Experts { experts, active }),
                write("weight", rows(active)),
            ],
            StepOp::ExpertsUp { experts, active, inn, ffn } => vec![
                read("x", rows(inn)),
                read("index", Kind::Experts { experts, active }),
                read("gate", matrices(experts, ffn, inn)),
                read("up", matrices(experts, ffn, inn)),
                write("h", slices(active, ffn)),
            ],
            StepOp::ExpertsDown { experts, active, out, ffn } => vec![
                read("h", slices(active, ffn)),
                read("index", Kind::Experts { experts, active }),
                read("weight", rows(active)),
                read("down", matrices(experts, out, ffn)),
                read("residual", rows(out)),
                write("out", rows(out)),
            ],
            StepOp::GatherRows { width } => {
                vec![read("x", Kind::TokenRows(width)), write("out", rows(width))]
            }
            StepOp::Sample { vocab } => vec![read("logits", rows(vocab)), write("token", Kind::Token)],
        }
    }

    /// Whether the op's own sizes and numbers can be: heads that share out evenly, a window of some tokens, fewer chosen
    /// than there are, an eps above zero.
    pub fn is_possible(&self) -> bool {
        let shape = |s: &AttnShape| {
            let sizes = [s.heads, s.kv_heads, s.qk_dim, s.v_dim];
            sizes.iter().all(|n| (1..1 << 24).contains(n)) && s.heads % s.kv_heads == 0
        };
        let lists = |s: &AttnShape, select: &SelectShape| {
            shape(s) && select.kv_heads == s.kv_heads && select.blocks > 0
        };
        let rotates = |rope: &crate::step::RopeSpec, dim| {
            let numbers = rope.dims % 2 == 0 && (2..=dim).contains(&rope.dims);
            numbers && crate::elem::is_positive_f32(rope.theta)
        };
        let norms = |eps: &Option<f64>| eps.is_none_or(crate::elem::is_positive_f32);
        match self {
            StepOp::QkvAppend { shape: s, rope, norm, qk_norm, .. } => {
                shape(s) && rotates(rope, s.qk_dim) && norms(norm) && norms(qk_norm)
            }
            StepOp::RmsNorm { eps, .. } => crate::elem::is_positive_f32(*eps),
            StepOp::Linear { norm, .. } => norms(norm),
            StepOp::Rope { dim, rope, .. } => rotates(rope, *dim),
            StepOp::Gate { mode, .. } => *mode != GateMode::None,
            StepOp::FullAttention { shape: s, .. } => shape(s),
            StepOp::WindowAttention { shape: s, window, .. } => shape(s) && *window > 0,
            StepOp::OracleAttention { shape: s, select, .. }
            | StepOp::SparseAttention { shape: s, select, .. } => lists(s, select),
            StepOp::HybridAttention { shape: s, select, window, .. } => lists(s, select) && *window > 0,
            StepOp::Router { experts, active }
            | StepOp::ExpertsUp { experts, active, .. }
            | StepOp::ExpertsDown { experts, active, .. } => *active > 0 && active <= experts,
            StepOp::Embed { .. }
            | StepOp::Append { .. }
            | StepOp::Add { .. }
            | StepOp::SiluMul { .. }
            | StepOp::GatherRows { .. }
            | StepOp::Sample { .. } => true,
        }
    }

    /// Whether row i of the op is token i of the pass, whose id, position or sequence it looks up.
    pub fn is_by_token(&self) -> bool {
        match self {
            StepOp::Embed { .. }
            | StepOp::QkvAppend { .. }
            | StepOp::Rope { .. }
            | StepOp::Append { .. }
            | StepOp::FullAttention { .. }
            | StepOp::OracleAttention { .. }
            | StepOp::WindowAttention { .. }
            | StepOp::SparseAttention { .. }
            | StepOp::HybridAttention { .. } => true,
            StepOp::RmsNorm { .. }
            | StepOp::Linear { .. }
            | StepOp::Add { .. }
            | StepOp::SiluMul { .. }
            | StepOp::Gate { .. }
            | StepOp::Router { .. }
            | StepOp::ExpertsUp { .. }
            | StepOp::ExpertsDown { .. }
            | StepOp::GatherRows { .. }
            | StepOp::Sample { .. } => false,
        }
    }
}
