//! What each graph op does with its operands and what its results are: the one description that the verifier, the
//! passes and the text form go by. What an op does not say here it may not do.

use std::ops::{Deref, DerefMut};

use crate::op::Op;
use hyc_plan::{Epilogue, GateMode, Reach};

/// What an operand is to the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A tensor of f32.
    Tensor,
    /// Chosen experts.
    Experts,
    /// A weight.
    Weight,
    /// Probabilities of an attention, or maxima of them.
    Scores,
    /// The version of a cache that is read, and how far back.
    Cache(Reach),
    /// The version of a cache that is appended to: the newest one.
    Append,
    /// A selection of blocks, looked up in the cache that the operand of this name is.
    Selection {
        /// That operand.
        over: &'static str,
    },
}

/// What a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// A tensor of f32.
    Tensor,
    /// Chosen experts.
    Experts,
    /// A weight.
    Weight,
    /// Probabilities of an attention, or maxima of them.
    Scores(Over),
    /// A version of a cache.
    Cache(Version),
    /// A selection of blocks.
    Selection(Over),
}

/// The cache that scores were computed over, or blocks ranked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The version in the operand of this name.
    Cache(&'static str),
    /// What the scores in the operand of this name were computed over.
    Scores(&'static str),
    /// One of an earlier step, which is gone.
    EarlierStep,
    /// Not known before `detect-chains` has run.
    Open,
}

/// Where a version of a cache comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The cache before this step.
    State,
    /// The version in the operand of this name, with this step's rows.
    After(&'static str),
    /// A copy of the version in the operand of this name.
    CopyOf(&'static str),
    /// Not known before `detect-chains` has run.
    Open,
}

/// An operand or a result with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role<K> {
    /// Short name, as in the text form: `x`, `cache`, `sel`, ...
    pub name: &'static str,
    /// What it is.
    pub kind: K,
}

/// Most operands of an op.
const MOST: usize = 8;

/// A short list: an op is asked for it once per use.
#[derive(Debug, Clone, Copy)]
pub struct List<K> {
    roles: [Role<K>; MOST],
    len: usize,
}

impl<K: Copy> List<K> {
    fn new(filler: K) -> List<K> {
        List { roles: [Role { name: "", kind: filler }; MOST], len: 0 }
    }

    fn of<const N: usize>(filler: K, roles: [(&'static str, K); N]) -> List<K> {
        let mut list = List::new(filler);
        list.extend(roles);
        list
    }

    fn extend(&mut self, roles: impl IntoIterator<Item = (&'static str, K)>) {
        for (name, kind) in roles {
            self.roles[self.len] = Role { name, kind };
            self.len += 1;
        }
    }

    /// Where the operand of that name stands.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.iter().position(|role| role.name == name)
    }
}

impl<K> Deref for List<K> {
    type Target = [Role<K>];

    fn deref(&self) -> &[Role<K>] {
        &self.roles[..self.len]
    }
}

impl<K> DerefMut for List<K> {
    fn deref_mut(&mut self) -> &mut [Role<K>] {
        &mut self.roles[..self.len]
    }
}

/// The operands and results of an op.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// The operands, in order.
    pub takes: List<Takes>,
    /// The results, in order.
    pub gives: List<Gives>,
}

impl Roles {
    /// Which operand is a cache that is appended to.
    pub fn append(&self) -> Option<usize> {
        self.takes.iter().position(|role| role.kind == Takes::Append)
    }
}

impl Op {
    /// The operands and results.
    pub fn roles(&self) -> Roles {
        Roles { takes: self.takes(), gives: self.gives() }
    }

    fn takes(&self) -> List<Takes> {
        use Takes::{Append, Cache, Experts, Scores, Selection, Tensor, Weight};
        let sink = |has: bool| has.then_some(("sink", Weight));
        let of = |roles: &[(&'static str, Takes)]| {
            let mut list = List::new(Tensor);
            list.extend(roles.iter().copied());
            list
        };
        match *self {
            Op::Weight {}
            | Op::Cache { .. }
            | Op::PriorSelection {}
            | Op::ChainSelection {}
            | Op::ChainCache {} => of(&[]),
            Op::KvShare {} => of(&[("cache", Cache(Reach::Context))]),
            Op::Embed {} => of(&[("table", Weight)]),
            Op::RmsNorm { .. } => of(&[("x", Tensor), ("weight", Weight)]),
            Op::Linear {} => of(&[("x", Tensor), ("weight", Weight)]),
            Op::Rope { .. } | Op::GatherRows {} => of(&[("x", Tensor)]),
            Op::Append {} => of(&[("cache", Append), ("k", Tensor), ("v", Tensor)]),
            Op::Attention { sink: has, .. } | Op::OracleAttention { sink: has, .. } => {
                let mut list = of(&[("q", Tensor), ("cache", Cache(Reach::Context))]);
                list.extend(sink(has));
                list
            }
            Op::BlockMax { .. } | Op::GroupMax { .. } | Op::TopK { .. } => of(&[("scores", Scores)]),
            Op::WindowAttention { window, sink: has, .. } => {
                let mut list = of(&[("q", Tensor), ("cache", Cache(Reach::Window(window)))]);
                list.extend(sink(has));
                list
            }
            Op::SparseAttention { sink: has, .. } => {
                let mut list = of(&[
                    ("q", Tensor),
                    ("cache", Cache(Reach::Selected("sel"))),
                    ("sel", Selection { over: "cache" }),
                ]);
                list.extend(sink(has));
                list
            }
            Op::HybridAttention { window, gate, .. } => {
                let mut list = of(&[
                    ("q", Tensor),
                    ("shared", Cache(Reach::Selected("sel"))),
                    ("sel", Selection { over: "shared" }),
                    ("sink_select", Weight),
                    ("own", Cache(Reach::Window(window))),
                    ("sink_window", Weight),
                ]);
                if gate != GateMode::None {
                    list.extend([("gate_select", Tensor), ("gate_window", Tensor)]);
                }
                list
            }
            Op::Gate { .. } => of(&[("x", Tensor), ("gate", Tensor)]),
            Op::Add {} | Op::SiluMul {} => of(&[("a", Tensor), ("b", Tensor)]),
            Op::Router { .. } => of(&[("logits", Tensor)]),
            Op::ExpertsUp {} => of(&[("x", Tensor), ("index", Experts), ("gate", Weight), ("up", Weight)]),
            Op::ExpertsDown { residual } => {
                let mut list = of(&[("h", Tensor), ("index", Experts), ("weight", Tensor), ("down", Weight)]);
                list.extend(residual.then_some(("residual", Tensor)));
                list
            }
            Op::Output {} => of(&[("logits", Tensor)]),
            Op::FusedLinear { norm, epilogue } => {
                let mut list = of(&[("x", Tensor)]);
                list.extend(norm.map(|_| ("norm", Weight)));
                list.extend([("weight", Weight)]);
                list.extend(match epilogue {
                    Epilogue::Store => None,
                    Epilogue::Residual => Some(("residual", Tensor)),
                    Epilogue::SwiGlu => Some(("up", Weight)),
                });
                list
            }
            Op::QkvAppend { norm, qk_norm, own_kv, .. } => {
                let mut list = of(&[("x", Tensor)]);
                list.extend(norm.map(|_| ("norm", Weight)));
                list.extend([("wq", Weight)]);
                if own_kv {
                    list.extend([("wk", Weight), ("wv", Weight)]);
                }
                if qk_norm.is_some() {
                    list.extend([("q_norm", Weight)]);
                    list.extend(own_kv.then_some(("k_norm", Weight)));
                }
                list.extend(own_kv.then_some(("cache", Append)));
                list
            }
        }
    }

    fn gives(&self) -> List<Gives> {
        use Gives::{Cache, Experts, Scores, Selection, Tensor, Weight};
        let out = [("out", Tensor)];
        match *self {
            Op::Weight {} => List::of(Tensor, [("weight", Weight)]),
            Op::Cache { .. } => List::of(Tensor, [("cache", Cache(Version::State))]),
            Op::PriorSelection {} => List::of(Tensor, [("sel", Selection(Over::EarlierStep))]),
            Op::ChainSelection {} => List::of(Tensor, [("sel", Selection(Over::Open))]),
            Op::ChainCache {} => List::of(Tensor, [("cache", Cache(Version::Open))]),
            Op::KvShare {} => List::of(Tensor, [("cache", Cache(Version::CopyOf("cache")))]),
            Op::Append {} => List::of(Tensor, [("cache", Cache(Version::After("cache")))]),
            Op::Attention { scores, .. } => {
                let mut list = List::of(Tensor, out);
                list.extend(scores.then_some(("scores", Scores(Over::Cache("cache")))));
                list
            }
            Op::OracleAttention { .. } => {
                List::of(Tensor, [("out", Tensor), ("sel", Selection(Over::Cache("cache")))])
            }
            Op::BlockMax { .. } | Op::GroupMax { .. } => {
                List::of(Tensor, [("scores", Scores(Over::Scores("scores")))])
            }
            Op::TopK { .. } => List::of(Tensor, [("sel", Selection(Over::Scores("scores")))]),
            Op::Router { .. } => List::of(Tensor, [("index", Experts), ("weight", Tensor)]),
            Op::ExpertsUp {} => List::of(Tensor, [("h", Tensor)]),
            Op::Output {} => List::new(Tensor),
            Op::QkvAppend { own_kv, .. } => {
                let mut list = List::of(Tensor, [("q", Tensor)]);
                list.extend(own_kv.then_some(("cache", Cache(Version::After("cache")))));
                list
            }
            Op::Embed {}
            | Op::RmsNorm { .. }
            | Op::Linear {}
            | Op::Rope { .. }
            | Op::WindowAttention { .. }
            | Op::SparseAttention { .. }
            | Op::HybridAttention { .. }
            | Op::Gate { .. }
            | Op::Add {}
            | Op::SiluMul {}
            | Op::ExpertsDown { .. }
            | Op::GatherRows {}
            | Op::FusedLinear { .. } => List::of(Tensor, out),
        }
    }
}
