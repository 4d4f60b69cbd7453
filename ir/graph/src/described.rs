//! What each graph op says of its operands and results.

use hyc_plan::ops::gates;
use hyc_plan::{Epilogue, GateMode, Reach, RouterRule, Scores};

use crate::op::*;
use crate::roles::{Described, Gives, List, Over, Roles, Takes, Version};

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

/// The page lists of `sel`, where they are read.
fn lists(has: bool) -> Option<(&'static str, Takes)> {
    has.then_some(("lists", Takes::PageLists { of: "sel" }))
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
    Bias { "x": Takes::Tensor, "weight": Takes::Weight } => { "out": Gives::Tensor }
    Rope { "x": Takes::Tensor } => { "out": Gives::Tensor }
    GatherRows { "x": Takes::Tensor } => { "out": Gives::Tensor }
    Append { "cache": Takes::Append, "k": Takes::Tensor, "v": Takes::Tensor } => {
        "cache": Gives::Cache(Version::After("cache"))
    }
    QuantiseKv { "cache": Takes::Append, "from": Takes::Cache(Reach::Own) } => {
        "cache": Gives::Cache(Version::After("cache"))
    }
    BlockMax { "scores": Takes::Scores } => { "scores": Gives::Scores(Over::Scores("scores")) }
    GroupMax { "scores": Takes::Scores } => { "scores": Gives::Scores(Over::Scores("scores")) }
    TopK { "scores": Takes::Scores } => { "sel": Gives::Selection(Over::Scores("scores")) }
    Gate { "x": Takes::Tensor, "gate": Takes::Tensor } => { "out": Gives::Tensor }
    Add { "a": Takes::Tensor, "b": Takes::Tensor } => { "out": Gives::Tensor }
    SiluMul { "a": Takes::Tensor, "b": Takes::Tensor } => { "out": Gives::Tensor }
    PageLists { "cache": Takes::Cache(Reach::Nothing), "sel": Takes::Selection { over: "cache" } } => {
        "lists": Gives::PageLists("sel")
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
        list.extend(lists(self.lists));
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
        list.extend(lists(self.lists));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("out", Gives::Tensor)])
    }
}

impl Router {
    /// A router of a rule.
    pub fn new(active: u64, rule: RouterRule) -> Router {
        let RouterRule { scores, bias, whole, scale } = rule;
        let sigmoid = scores == Scores::Sigmoid;
        Router { active, sigmoid, bias, whole, scale: Some(scale).filter(|scale| *scale != 1.0) }
    }

    /// Its rule.
    pub fn rule(&self) -> RouterRule {
        let Router { sigmoid, bias, whole, scale, .. } = *self;
        let scores = if sigmoid { Scores::Sigmoid } else { Scores::Softmax };
        RouterRule { scores, bias, whole, scale: scale.unwrap_or(1.0) }
    }
}

impl Described for Router {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([("logits", Takes::Tensor)]);
        list.extend(self.bias.then_some(("bias", Takes::Weight)));
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("index", Gives::Experts), ("weight", Gives::Tensor)])
    }
}

impl Described for ExpertsUp {
    fn takes(&self) -> List<Takes> {
        let mut list = takes([
            ("x", Takes::Tensor),
            ("index", Takes::Experts),
            ("gate", Takes::Weight),
            ("up", Takes::Weight),
        ]);
        list.extend(
            ["shared_gate", "shared_up"].into_iter().filter(|_| self.shared).map(|n| (n, Takes::Weight)),
        );
        list
    }

    fn gives(&self) -> List<Gives> {
        gives([("h", Gives::Tensor)])
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
        list.extend(self.shared.then_some(("shared_down", Takes::Weight)));
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
        list.extend(gates(self.gates.unwrap_or(0)).map(|(weight, _)| (weight, Takes::Weight)));
        list.extend(self.own_kv.then_some(("cache", Takes::Append)));
        list
    }

    fn gives(&self) -> List<Gives> {
        let mut list = gives([("q", Gives::Tensor)]);
        list.extend(gates(self.gates.unwrap_or(0)).map(|(_, logits)| (logits, Gives::Tensor)));
        list.extend(self.own_kv.then_some(("cache", Gives::Cache(Version::After("cache")))));
        list
    }
}
