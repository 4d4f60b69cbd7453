//! What each graph op does with its operands and what its results are: the one description that the verifier, the
//! passes and the text form go by. What an op does not say here it may not do.

use std::ops::{Deref, DerefMut};

use crate::op::*;
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

/// What every op says of its operands and results.
pub trait Described {
    /// The operands, in order.
    fn takes(&self) -> List<Takes>;

    /// The results, in order.
    fn gives(&self) -> List<Gives>;
}

impl Op {
    /// The operands and results.
    pub fn roles(&self) -> Roles {
        let op = self.described();
        Roles { takes: op.takes(), gives: op.gives() }
    }
}

fn takes<const N: usize>(roles: [(&'static str, Takes); N]) -> List<Takes> {
    List::of(Takes::Tensor, roles)
}

fn gives<const N: usize>(roles: [(&'static str, Gives); N]) -> List<Gives> {
    List::of(Gives::Tensor, roles)
}

/// A sink, where there is one.
fn sink(has: bool) -> Option<(&'static str, Takes)> {
    has.then_some(("sink", Takes::Weight))
}

/// Ops whose operands and results do not depend on their attributes.
macro_rules! described {
    ($($op:ident { $($takes:literal: $kind:expr),* } => { $($gives:literal: $result:expr),* })+) => {
        $(impl Described for $op {
            fn takes(&self) -> List<Takes> {
                takes([$(($takes, $kind)),*])
            }

            fn gives(&self) -> List<Gives> {
                gives([$(($gives, $result)),*])
            }
        })+
    };
}

described! {
    Weight {} => { "weight": Gives::Weight }
    Cache {} => { "cache": Gives::Cache(Version::State) }
    PriorSelection {} => { "sel": Gives::Selection(Over::EarlierStep) }
    ChainSelection {} => { "sel": Gives::Selection(Over::Open) }
    ChainCache {} => { "cache": Gives::Cache(Version::Open) }
    KvShare { "cache": Takes::Cache(Reach::Context) } => { "cache": Gives::Cache(Version::CopyOf("cache")) }
    Embed { "table": Takes::Weight } => { "out": Gives::Tensor }
    RmsNorm { "x": Takes::Tensor, "weight": Takes::Weight } => { "out": Gives::Tensor }
    Linear { "x": Takes::Tensor, "weight": Takes::Weight } => { "out": Gives::Tensor }
    Rope { "x": Takes::Tensor } => { "out": Gives::Tensor }
    GatherRows { "x": Takes::Tensor } => { "out": Gives::Tensor }
    Append { "cache": Takes::Append, "k": Takes::Tensor, "v": Takes::Tensor } => {
        "cache": Gives::Cache(Version::After("cache"))
    }
    BlockMax { "scores": Takes::Scores } => { "scores": Gives::Scores(Over::Scores("scores")) }
    GroupMax { "scores": Takes::Scores } => { "scores": Gives::Scores(Over::Scores("scores")) }
    TopK { "scores": Takes::Scores } => { "sel": Gives::Selection(Over::Scores("scores")) }
    Gate { "x": Takes::Tensor, "gate": Takes::Tensor } => { "out": Gives::Tensor }
    Add { "a": Takes::Tensor, "b": Takes::Tensor } => { "out": Gives::Tensor }
    SiluMul { "a": Takes::Tensor, "b": Takes::Tensor } => { "out": Gives::Tensor }
    Router { "logits": Takes::Tensor } => { "index": Gives::Experts, "weight": Gives::Tensor }
    ExpertsUp { "x": Takes::Tensor, "index": Takes::Experts, "gate": Takes::Weight, "up": Takes::Weight } => {
        "h": Gives::Tensor
    }
    Output { "logits": Takes::Tensor } => {}
}

impl Described for Attention {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("q", Takes::Tensor), ("cache", Takes::Cache(Reach::Context))]);
        list.extend(sink(self.sink));
        list
    }

    fn gives(&self) -> List<Gives> {
        let mut list = gives([("out", Gives::Tensor)]);
        list.extend(self.scores.then_some(("scores", Gives::Scores(Over::Cache("cache")))));
        list
    }
}

impl Described for OracleAttention {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("q", Takes::Tensor), ("cache", Takes::Cache(Reach::Context))]);
        list.extend(sink(self.sink));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor), ("sel", Gives::Selection(Over::Cache("cache")))])
    }
}

impl Described for WindowAttention {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("q", Takes::Tensor), ("cache", Takes::Cache(Reach::Window(self.window)))]);
        list.extend(sink(self.sink));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Described for SparseAttention {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([
            ("q", Takes::Tensor),
            ("cache", Takes::Cache(Reach::Selected("sel"))),
            ("sel", Takes::Selection { over: "cache" }),
        ]);
        list.extend(sink(self.sink));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Described for HybridAttention {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([
            ("q", Takes::Tensor),
            ("shared", Takes::Cache(Reach::Selected("sel"))),
            ("sel", Takes::Selection { over: "shared" }),
            ("sink_select", Takes::Weight),
            ("own", Takes::Cache(Reach::Window(self.window))),
            ("sink_window", Takes::Weight),
        ]);
        if self.gate != GateMode::None {
            list.extend([("gate_select", Takes::Tensor), ("gate_window", Takes::Tensor)]);
        }
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Described for ExpertsDown {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([
            ("h", Takes::Tensor),
            ("index", Takes::Experts),
            ("weight", Takes::Tensor),
            ("down", Takes::Weight),
        ]);
        list.extend(self.residual.then_some(("residual", Takes::Tensor)));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Described for FusedLinear {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("x", Takes::Tensor)]);
        list.extend(self.norm.map(|_| ("norm", Takes::Weight)));
        list.extend([("weight", Takes::Weight)]);
        list.extend(match self.epilogue {
            Epilogue::Store => None,
            Epilogue::Residual => Some(("residual", Takes::Tensor)),
            Epilogue::SwiGlu => Some(("up", Takes::Weight)),
        });
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Described for QkvAppend {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("x", Takes::Tensor)]);
        list.extend(self.norm.map(|_| ("norm", Takes::Weight)));
        list.extend([("wq", Takes::Weight)]);
        if self.own_kv {
            list.extend([("wk", Takes::Weight), ("wv", Takes::Weight)]);
        }
        if self.qk_norm.is_some() {
            list.extend([("q_norm", Takes::Weight)]);
            list.extend(self.own_kv.then_some(("k_norm", Takes::Weight)));
        }
        list.extend(self.own_kv.then_some(("cache", Takes::Append)));
        list
    }

    fn gives(&self) -> List<Gives> {
        let mut list = gives([("q", Gives::Tensor)]);
        list.extend(self.own_kv.then_some(("cache", Gives::Cache(Version::After("cache")))));
        list
    }
}
