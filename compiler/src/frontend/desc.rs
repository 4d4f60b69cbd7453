//! The typed model description that every front end ends in.

use std::path::PathBuf;

use hyc_plan::TargetKind;
use hyc_plan::sampling::SamplingDefaults;

/// A HySparse model, checked: every value is possible and fits the others.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelDesc {
    /// Name; also the artefact's file name.
    pub name: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a query or key.
    pub qk_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Vocabulary entries.
    pub vocab: usize,
    /// eps of every RMSNorm.
    pub norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// RMSNorm over each head of q and k before RoPE.
    pub qk_norm: bool,
    /// The output projection is the embedding table.
    pub tie_embeddings: bool,
    /// Feed-forward part of every layer.
    pub ffn: Ffn,
    /// Attention part.
    pub attention: AttentionDesc,
    /// Weight files.
    pub weights: WeightsDesc,
    /// The tokenizer, and what the model wants of its text.
    pub tokenizer: TokenizerDesc,
    /// How tokens are chosen where nobody says otherwise; `None`: greedily.
    pub sampling: Option<SamplingDefaults>,
    /// What it is compiled for.
    pub target: TargetDesc,
}

/// Rotate-half RoPE.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base.
    pub theta: f64,
    /// Rotated dims of each head, even, at most qk_dim.
    pub dims: usize,
}

/// Feed-forward part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        /// Experts a token.
        active: usize,
        /// Width of an expert.
        expert_ffn: usize,
        /// Width of the shared expert; 0: none.
        shared_ffn: usize,
    },
}

/// Which family of the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Full layers select for the sparse layers after them.
    HySparse,
    /// Full attention in every layer.
    Full,
    /// Sparse layers have the window branch alone.
    Swa,
}

/// What a layer's attention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Full attention, an oracle where sparse layers follow.
    Full,
    /// Selected blocks and window.
    Sparse,
}

/// Width of the output gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// No gates.
    None,
    /// One logit a head.
    Head,
    /// One logit an element.
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

/// Attention of all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionDesc {
    /// Family.
    pub kind: Kind,
    /// One entry a layer.
    pub layers: Vec<LayerKind>,
    /// Tokens a block and a page.
    pub block: usize,
    /// Tokens selected, a multiple of `block`.
    pub top_k: usize,
    /// Tokens the window sees.
    pub window: usize,
    /// Gates of sparse layers (and of full layers with `full_gate`).
    pub gate: Gate,
    /// Caches of sparse layers.
    pub sparse_kv: SparseKv,
    /// Whether sparse layers have a window branch.
    pub window_branch: bool,
    /// Output gate on full layers.
    pub full_gate: bool,
    /// Sink on full layers.
    pub full_sink: bool,
}

/// Element type of matrices in the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDtype {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
}

/// Weight files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsDesc {
    /// safetensors files.
    pub files: Vec<PathBuf>,
    /// Element type in the artefact.
    pub dtype: WeightDtype,
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
    /// Most tokens of a sequence.
    pub max_context: usize,
    /// Most sequences in a step.
    pub max_batch: usize,
    /// Most tokens in a step.
    pub chunk: usize,
    /// Most rows of logits in a step.
    pub max_outputs: usize,
    /// Element type of the KV caches.
    pub kv_dtype: WeightDtype,
}
