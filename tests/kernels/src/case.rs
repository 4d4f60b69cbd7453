//! One thing to check.

use std::collections::BTreeSet;

use hyc_plan::sample::{ONE, SampleParams, Seen};
use hyc_plan::sampling::MAX_PENALTY_WINDOW;
use hyc_plan::*;
use serde::{Deserialize, Serialize};

use crate::{Batch, Rng};

/// What stands in the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Random numbers.
    Random,
    /// Equal keys everywhere: all blocks tie, and the lower ones must win.
    EqualKeys,
    /// Logits near 8,192 of either sign, and numbers of so few bits that f32 has them exactly: see `large.rs`.
    LargeLogits,
    /// Every row chooses the same experts.
    SameExperts,
    /// The rows of a sequence select the same blocks.
    SameBlocks,
    /// Neighbouring rows select none of each other's blocks, where there are enough.
    OwnBlocks,
    /// Random logits, and how each row is sampled.
    Sampled(Filter),
    /// Few different logits, -0 among them; the filters take turns. Of a router few whole ones.
    TiedLogits,
    /// A logit that is no finite number in every third row, from the first on; the filters take turns.
    BadLogits,
    /// Keys and values that are zeros, very large or small, ties between codes, and some that are no numbers; they take turns.
    OddVectors,
    /// Of a product's rows each 32 inputs are zeros, very small or large, or have one that is large; they take turns.
    UnevenRows,
}

/// How a row of logits is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "as the sampling options are called")]
pub enum Filter {
    Greedy,
    Temperature,
    TopK,
    TopP,
    MinP,
    All,
    /// Penalties, with any of the others; a fourth of the rows has none.
    Penalties,
}

impl Filter {
    /// All of them.
    pub const ALL: [Filter; 7] = [
        Filter::Greedy,
        Filter::Temperature,
        Filter::TopK,
        Filter::TopP,
        Filter::MinP,
        Filter::All,
        Filter::Penalties,
    ];

    /// Random parameters; a draw is now and then the least or the greatest.
    fn params(self, rng: &mut Rng, vocab: u64, seen: &mut Vec<Seen>) -> SampleParams {
        let penalties = match self {
            Filter::Penalties | Filter::All => penalties(rng, vocab, seen),
            _ => SampleParams::default(),
        };
        let filter = match self {
            Filter::Penalties => Filter::ALL[rng.below(6) as usize],
            filter => filter,
        };
        let has = |one: Filter| filter == one || filter == Filter::All;
        if filter == Filter::Greedy {
            return penalties;
        }
        let temperature = 0.25 + rng.below(1000) as f32 / 400.0;
        let top_k = [1, 2, 1 + vocab / 2, vocab, vocab + 1][rng.below(5) as usize];
        let top_p = [0.0, 0.1, 0.5, 0.9, 0.999][rng.below(5) as usize];
        let least = [1, ONE / 1000, ONE / 10, ONE][rng.below(4) as usize];
        let draw = [0, u64::MAX, rng.bits(), rng.bits(), rng.bits()][rng.below(5) as usize];
        SampleParams {
            scale: std::f32::consts::LOG2_E / temperature,
            top_k: if has(Filter::TopK) { top_k as u32 } else { 0 },
            top_p: if has(Filter::TopP) { top_p } else { 1.0 },
            least: if has(Filter::MinP) { least } else { 0 },
            draw,
            ..penalties
        }
    }
}

/// Random penalties, and what they look at: nothing now and then, few tokens, many, as many as there can be; the first
/// and the last id now and then among them.
fn penalties(rng: &mut Rng, vocab: u64, seen: &mut Vec<Seen>) -> SampleParams {
    let most = vocab.min(u64::from(MAX_PENALTY_WINDOW));
    let count = [0, 1 + rng.below(most), most.min(1 + rng.below(20)), most][rng.below(4) as usize];
    // Floyd's sample: each set of so many ids is as likely as any other.
    let mut ids = BTreeSet::new();
    for last in vocab - count..vocab {
        let id = rng.below(last + 1);
        ids.insert(if ids.contains(&id) { last } else { id });
    }
    if count > 0 && rng.below(2) == 0 {
        ids.pop_first();
        ids.insert(0);
    }
    if count > 1 && rng.below(2) == 0 {
        ids.pop_last();
        ids.insert(vocab - 1);
    }
    let first_seen = seen.len() as u32;
    let times = |rng: &mut Rng| [0, 1, 2, rng.below(5000), 0x0100_0001][rng.below(5) as usize] as u32;
    seen.extend(ids.into_iter().map(|id| Seen { id: id as u32, generated: times(rng) }));
    SampleParams {
        first_seen,
        seen: count as u32,
        repeat: [1.0, 1.1, 1.0 + rng.below(1000) as f32 / 500.0, 0.5, 0.01, 100.0][rng.below(6) as usize],
        presence: [0.0, 0.3, rng.below(4000) as f32 / 1000.0 - 2.0][rng.below(3) as usize],
        frequency: [0.0, 0.1, rng.below(4000) as f32 / 1000.0 - 2.0][rng.below(3) as usize],
        ..SampleParams::default()
    }
}

impl Fill {
    /// How output row `row` is sampled.
    fn filter(self, row: u64) -> Filter {
        match self {
            Fill::Sampled(filter) => filter,
            _ => Filter::ALL[(row % Filter::ALL.len() as u64) as usize],
        }
    }

    /// What is added to an expert's sigmoid where it is chosen. With ties it is a multiple of 1/4: sums with sigmoids of
    /// whole numbers are the same or far apart.
    pub(crate) fn choice_bias(self, rng: &mut Rng) -> f32 {
        match self {
            Fill::TiedLogits => rng.normal().round() / 4.0,
            _ => rng.normal() * 0.2,
        }
    }

    /// Input `col` of row `row` of a product, of [`Fill::UnevenRows`].
    pub(crate) fn uneven(rng: &mut Rng, (row, col): (u64, u64)) -> f32 {
        let x = rng.normal();
        match (row + col / 32) % 5 {
            0 => 0.0,
            1 => x * 1e-35,
            2 => x * 300.0,
            3 if col % 32 == 7 => x * 1e4,
            _ => x,
        }
    }

    /// Logit `col` of row `row`.
    pub(crate) fn logit(self, rng: &mut Rng, (row, col): (u64, u64), vocab: u64) -> f32 {
        let x = rng.normal() * 4.0;
        match self {
            Fill::TiedLogits => x.round(),
            // The place moves with the row.
            Fill::BadLogits if row % 3 == 0 && col == (row * 31 + vocab - 1) % vocab => {
                [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][(row / 3 % 3) as usize]
            }
            _ => x,
        }
    }
}

/// A kernel and the step to run it on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The row of the table that it belongs to.
    pub family: String,
    /// The kernel.
    pub spec: KernelSpec,
    /// (Tokens before, rows) of each sequence.
    pub sequences: Vec<(u64, u64)>,
    /// The inputs.
    pub fill: Fill,
    /// Whether it is quick enough for a run under a sanitizer.
    pub small: bool,
    /// Largest relative error where all arithmetic is in f32.
    pub f32_error: f64,
}

/// Whether a kernel reads or writes memory that is laid out for tensor cores, whose inputs are rounded to bf16.
pub fn tiled(spec: &KernelSpec) -> bool {
    spec.operands.iter().any(|operand| match operand {
        OperandSpec::Weight(Format { layout: Layout::Tiles { .. } | Layout::Strips { .. }, .. }) => true,
        OperandSpec::Cache(cache) => cache.order == KvOrder::Tiles,
        _ => false,
    })
}

impl Case {
    /// Whether a selection must be the reference's to the letter: scores that tie do so exactly, and others are apart.
    pub fn selects_exactly(&self) -> bool {
        match (self.fill, self.spec.op) {
            (Fill::EqualKeys, _) | (Fill::TiedLogits, StepOp::Router(_)) => true,
            (Fill::LargeLogits, StepOp::OracleAttention(ops::OracleAttention { shape, .. })) => {
                shape.heads == shape.kv_heads
            }
            _ => false,
        }
    }

    /// Unique among the cases.
    pub fn name(&self) -> String {
        let fill = match self.fill {
            Fill::Random => "",
            Fill::EqualKeys => " equal-keys",
            Fill::LargeLogits => " large-logits",
            Fill::SameExperts => " same-experts",
            Fill::SameBlocks => " same-blocks",
            Fill::OwnBlocks => " own-blocks",
            Fill::Sampled(Filter::Greedy) => " greedy",
            Fill::Sampled(Filter::Temperature) => " temperature",
            Fill::Sampled(Filter::TopK) => " top-k",
            Fill::Sampled(Filter::TopP) => " top-p",
            Fill::Sampled(Filter::MinP) => " min-p",
            Fill::Sampled(Filter::All) => " all-filters",
            Fill::Sampled(Filter::Penalties) => " penalties",
            Fill::TiedLogits => " tied-logits",
            Fill::BadLogits => " bad-logits",
            Fill::OddVectors => " odd-vectors",
            Fill::UnevenRows => " uneven-rows",
        };
        format!("{}{fill} {}", label(&self.spec), runs(&self.sequences))
    }

    /// The step's batch.
    pub fn batch(&self, rng: &mut Rng) -> Batch {
        let page = self.spec.operands.iter().find_map(|operand| match operand {
            OperandSpec::Cache(cache) => Some(cache.page),
            _ => None,
        });
        let vocab = match self.spec.op {
            StepOp::Embed(ops::Embed { vocab, .. }) => vocab,
            _ => 50,
        };
        let mut batch = Batch::new(rng, page.unwrap_or(8), &self.sequences, vocab);
        if let StepOp::Sample(ops::Sample { vocab, .. }) = self.spec.op {
            let rows = 0..batch.outputs();
            let seen = &mut batch.seen;
            batch.sampling = rows.map(|row| self.fill.filter(row).params(rng, vocab, seen)).collect();
        }
        batch
    }
}

/// `[(5,1) 3x(9,2)]`.
fn runs(sequences: &[(u64, u64)]) -> String {
    let parts = sequences.chunk_by(|a, b| a == b).map(|run| match run {
        [(past, rows)] => format!("({past},{rows})"),
        _ => format!("{}x({},{})", run.len(), run[0].0, run[0].1),
    });
    format!("[{}]", parts.collect::<Vec<_>>().join(" "))
}

fn shape(s: &AttnShape) -> String {
    let dims = if s.qk_dim == s.v_dim { s.qk_dim.to_string() } else { format!("{}/{}", s.qk_dim, s.v_dim) };
    format!("{}/{} d{dims}", s.heads, s.kv_heads)
}

fn flag(on: bool, name: &str) -> String {
    if on { format!(" {name}") } else { String::new() }
}

/// From how many rows on they are multiplied as e4m3.
fn in_fp8(least: Option<u64>) -> String {
    least.map(|least| format!(" fp8_rows{least}")).unwrap_or_default()
}

/// A kernel in a few words; specs that differ have labels that differ.
pub fn label(spec: &KernelSpec) -> String {
    let op = match spec.op {
        StepOp::Embed(ops::Embed { vocab, hidden }) => format!("embed {vocab}x{hidden}"),
        StepOp::RmsNorm(ops::RmsNorm { groups, width, .. }) => format!("rmsnorm {groups}x{width}"),
        StepOp::Linear(ops::Linear { in_features, out_features: out, norm, epilogue, fp8_rows }) => {
            let epilogue = match epilogue {
                Epilogue::Store => "",
                Epilogue::Residual => " residual",
                Epilogue::SwiGlu => " swiglu",
            };
            let norm = flag(norm.is_some(), "norm");
            format!("linear {out}x{in_features}{norm}{epilogue}{}", in_fp8(fp8_rows))
        }
        StepOp::QkvAppend(ops::QkvAppend {
            in_features,
            shape: s,
            norm,
            qk_norm,
            rope,
            own_kv,
            gates,
            fp8_rows,
        }) => {
            format!(
                "qkv {} in_features{in_features} rope{}{}{}{}{}{}",
                shape(&s),
                turned(rope),
                flag(norm.is_some(), "norm"),
                flag(qk_norm.is_some(), "qk-norm"),
                flag(!own_kv, "q-only"),
                ["", " gate", " gates"][gates.min(2) as usize],
                in_fp8(fp8_rows),
            )
        }
        StepOp::Rope(ops::Rope { heads, dim, rope }) => format!("rope {heads}x{dim} rope{}", turned(rope)),
        StepOp::Append(ops::Append { kv_heads, qk_dim, v_dim }) => {
            format!("append {kv_heads} d{qk_dim}/{v_dim}")
        }
        StepOp::QuantiseKv(ops::QuantiseKv { kv_heads, qk_dim, v_dim }) => {
            format!("quantise {kv_heads} d{qk_dim}/{v_dim}")
        }
        StepOp::Add(ops::Add { width }) => format!("add {width}"),
        StepOp::Bias(ops::Bias { width }) => format!("bias {width}"),
        StepOp::SiluMul(ops::SiluMul { width }) => format!("silu_mul {width}"),
        StepOp::Gate(ops::Gate { heads, v_dim, mode }) => format!("gate {heads}x{v_dim} {mode:?}"),
        StepOp::FullAttention(ops::FullAttention { shape: s, sink }) => {
            format!("full {}{}", shape(&s), flag(sink, "sink"))
        }
        StepOp::OracleAttention(ops::OracleAttention { shape: s, sink, select }) => {
            format!("oracle {} k{}{}", shape(&s), select.blocks, flag(sink, "sink"))
        }
        StepOp::WindowAttention(ops::WindowAttention { shape: s, window, sink }) => {
            format!("window {} w{window}{}", shape(&s), flag(sink, "sink"))
        }
        StepOp::SparseAttention(ops::SparseAttention { shape: s, select, sink, lists }) => {
            let (sink, lists) = (flag(sink, "sink"), flag(lists.is_some(), "lists"));
            format!("sparse {} k{}{sink}{lists}", shape(&s), select.blocks)
        }
        StepOp::HybridAttention(ops::HybridAttention { shape: s, select, window, gate, lists }) => {
            let lists = flag(lists.is_some(), "lists");
            format!("hybrid {} k{} w{window} gate-{gate:?}{lists}", shape(&s), select.blocks)
        }
        StepOp::PageLists(ops::PageLists { select, lists, .. }) => {
            let SelectShape { kv_heads, blocks, .. } = select;
            format!("page_lists {kv_heads} k{blocks} tile{} least{}", lists.tile, lists.least)
        }
        StepOp::Sample(ops::Sample { vocab, named }) => {
            format!("sample {}{vocab}", named.map(|named| format!("{named}of")).unwrap_or_default())
        }
        StepOp::Router(ops::Router { experts, active, rule }) => {
            let words: String = rule.words().iter().map(|word| format!(" {word}")).collect();
            format!("router {active}of{experts}{words}")
        }
        StepOp::ExpertsUp(ops::ExpertsUp { experts, active, in_features, ffn, shared }) => {
            format!("experts_up {active}of{experts}{} {ffn}x{in_features}", if shared { "+1" } else { "" })
        }
        StepOp::ExpertsDown(ops::ExpertsDown { experts, active, out_features: out, ffn, shared }) => {
            format!("experts_down {active}of{experts}{} {out}x{ffn}", if shared { "+1" } else { "" })
        }
        StepOp::GatherRows(ops::GatherRows { width }) => format!("gather {width}"),
    };
    let mut storage: Vec<String> = Vec::new();
    for operand in &spec.operands {
        let word = match operand {
            OperandSpec::Weight(Format { layout: Layout::Vector { .. }, .. })
            | OperandSpec::Tensor { elem: Elem::F32 | Elem::I32, .. } => {
                continue;
            }
            OperandSpec::Tensor { elem: Elem::Bf16, .. } => "bf16".into(),
            OperandSpec::Weight(Format { codec, layout }) => match layout {
                Layout::Tiles { .. } => "tiles".into(),
                Layout::Strips { .. } => format!("{codec}-strips"),
                Layout::Rows { .. } => format!("{codec}-rows"),
                Layout::Panels { .. } | Layout::Vector { .. } => format!("{codec}-panels"),
            },
            OperandSpec::Cache(cache) => {
                let policy = if cache.policy == CachePolicy::Growing { "growing" } else { "ring" };
                format!(
                    "{}{}-{policy}{}",
                    if cache.order == KvOrder::Tiles { "tiled-" } else { "" },
                    cache.codec,
                    cache.page
                )
            }
        };
        if storage.last() != Some(&word) {
            storage.push(word);
        }
    }
    format!("{op} {}", storage.join(" ")).trim_end().to_string()
}

/// Rotated dims, and how their frequencies are changed.
fn turned(rope: RopeSpec) -> String {
    let way = rope.scaling.map_or(String::new(), |scaling| format!("-{}", scaling.parts().0));
    format!("{}{way}", rope.dims)
}
