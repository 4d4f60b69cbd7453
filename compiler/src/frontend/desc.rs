//! The typed model description that every front end ends in.

use std::path::PathBuf;

use hyc_kernels::Activations;
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::SamplingDefaults;
use hyc_plan::{KvCodec, RopeScaling, RouterRule, TargetKind};

use super::quantise::Formats;

/// A HySparse model, checked: every value is possible and fits the others.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDesc {
    /// Name; also the artefact's file name.
    pub name: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Vocabulary entries.
    pub vocab: usize,
    /// eps of every RMSNorm.
    pub norm_eps: f64,
    /// The output projection is the embedding table.
    pub tie_embeddings: bool,
    /// Tokens per block of a selection and per page of a KV cache.
    pub block: usize,
    /// The layers, each by itself.
    pub layers: Vec<LayerDesc>,
    /// Weight files.
    pub weights: WeightsDesc,
    /// The tokenizer, and what the model wants of its text.
    pub tokenizer: TokenizerDesc,
    /// How tokens are chosen where nobody says otherwise; `None`: greedily.
    pub sampling: Option<SamplingDefaults>,
    /// What must hold of it on a text.
    pub eval: Option<EvalGates>,
    /// What it is compiled for.
    pub target: TargetDesc,
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerDesc {
    /// Attention part.
    pub attention: AttentionDesc,
    /// Feed-forward part.
    pub ffn: Ffn,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionDesc {
    /// What the queries see.
    pub kind: AttentionKind,
    /// Query heads.
    pub heads: usize,
    /// KV heads; divides `heads`. Of a sparse layer: as many as its oracle has.
    pub kv_heads: usize,
    /// Elements of a query or key.
    pub qk_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Rotary embedding; `None`: queries and keys know no positions (NoPE, Kazemnejad et al., 2305.19466).
    pub rope: Option<Rope>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// RMSNorm over each head of q and k before RoPE.
    pub qk_norm: bool,
    /// Gate on each branch.
    pub gate: Gate,
    /// Whether each branch has a sink, one logit per query head.
    pub sink: bool,
}

impl AttentionDesc {
    /// Whether the layer has keys and values of its own.
    pub fn has_own_kv(&self) -> bool {
        match self.kind {
            AttentionKind::Full { .. } | AttentionKind::Window { .. } => true,
            AttentionKind::Sparse { kv: SparseKv::Own, .. } => true,
            AttentionKind::Sparse { kv: SparseKv::Shared, window, .. } => window.is_some(),
            AttentionKind::Sparse { kv: SparseKv::SharedBoth, .. } => false,
        }
    }

    /// Tokens that its window sees, where it has one.
    pub fn window(&self) -> Option<usize> {
        match self.kind {
            AttentionKind::Full { .. } => None,
            AttentionKind::Sparse { window, .. } => window,
            AttentionKind::Window { window } => Some(window),
        }
    }
}

/// What the queries of a layer see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKind {
    /// All tokens.
    Full {
        /// Tokens that it selects for the sparse layers up to the next that selects, a multiple of the block; `None`:
        /// it is no oracle.
        top_k: Option<usize>,
    },
    /// What the nearest oracle before it selected, and perhaps a window (HySparse 2602.03560).
    Sparse {
        /// Tokens selected: the oracle's number.
        top_k: usize,
        /// Whose K, V the branches read. What is the oracle's has the layer's `kv_heads`, `qk_dim` and `v_dim`.
        kv: SparseKv,
        /// Tokens that the window branch sees; `None`: there is no such branch.
        window: Option<usize>,
    },
    /// The last tokens alone.
    Window {
        /// So many, the query's own among them.
        window: usize,
    },
}

/// Rotate-half RoPE.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base.
    pub theta: f64,
    /// Rotated dims of each head, even, at most qk_dim.
    pub dims: usize,
    /// How the frequencies are changed for longer contexts.
    pub scaling: Option<RopeScaling>,
}

/// Feed-forward part of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ffn {
    /// SwiGLU.
    Dense {
        /// Width.
        ffn: usize,
    },
    /// Routed SwiGLU experts and one shared expert.
    Moe {
        /// Experts.
        experts: usize,
        /// Experts per token.
        active: usize,
        /// Width of an expert.
        expert_ffn: usize,
        /// Width of the shared expert; 0: none.
        shared_ffn: usize,
        /// How experts are chosen and weighed.
        rule: RouterRule,
    },
}

/// Width of the output gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// No gates.
    None,
    /// One logit per head.
    Head,
    /// One logit per element.
    Elementwise,
}

/// Whose K, V the branches of a sparse layer read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseKv {
    /// Selected branch: the oracle's; window: the layer's own.
    Shared,
    /// Both the layer's own, kept whole.
    Own,
    /// Both the oracle's.
    SharedBoth,
}

/// Element type of matrices in the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDtype {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
}

impl WeightDtype {
    /// What the KV caches of a model of such weights store where it says nothing of them.
    pub fn kv(self) -> KvCodec {
        match self {
            WeightDtype::F32 => KvCodec::F32,
            WeightDtype::Bf16 => KvCodec::Bf16,
        }
    }
}

/// Weight files.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsDesc {
    /// safetensors files.
    pub files: Vec<PathBuf>,
    /// Element type in the artefact.
    pub dtype: WeightDtype,
    /// Of which matrices it is another.
    pub formats: Formats,
    /// From the names in the files to the model's.
    pub names: crate::source::Names,
}

/// The tokenizer and what the model wants of its text. What is `None` is for the files beside the tokenizer to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerDesc {
    /// tokenizer.json.
    pub file: Option<PathBuf>,
    /// The token that begins a text.
    pub bos: Option<TokenName>,
    /// Tokens that end a text.
    pub eos: Option<Vec<TokenName>>,
    /// What is added to a prompt.
    pub add_special: AddSpecial,
    /// What makes a prompt of a conversation.
    pub chat_template: Option<TemplateSource>,
}

impl TokenizerDesc {
    /// A tokenizer file alone.
    pub fn of(file: PathBuf) -> TokenizerDesc {
        TokenizerDesc { file: Some(file), ..TokenizerDesc::default() }
    }

    /// Whether anything but the file is said.
    pub fn says_something(&self) -> bool {
        TokenizerDesc { file: None, ..self.clone() } != TokenizerDesc::default()
    }
}

/// A token by its number or by its spelling in the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// Number.
    Id(u32),
    /// Spelling; an empty one is no token.
    Text(String),
}

impl TokenName {
    /// Whether it says that there is none.
    pub fn is_none(&self) -> bool {
        matches!(self, TokenName::Text(text) if text.is_empty())
    }
}

/// Which special tokens a prompt gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddSpecial {
    /// Those of the tokenizer's post-processor, and those that its neighbours ask for.
    #[default]
    Auto,
    /// The same, and `bos` in any case.
    Always,
    /// None.
    Never,
}

/// Where a chat template is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSource {
    /// Here; an empty one is none.
    Text(String),
    /// In a file.
    File(PathBuf),
}

/// What the model is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDesc {
    /// What it is compiled for.
    pub kind: TargetKind,
    /// What a GPU's products read, where it is said.
    pub activations: Option<Activations>,
    /// Most tokens of a sequence.
    pub max_context: usize,
    /// Most sequences in a step.
    pub max_batch: usize,
    /// Most tokens in a step.
    pub chunk: usize,
    /// Most rows of logits in a step.
    pub max_outputs: usize,
    /// What growing KV caches store; windows store [`WeightDtype::kv`] where this has scales.
    pub kv_dtype: KvCodec,
}
