//! What is asked for beside a checkpoint.

/// What is asked for beside the checkpoint.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's name; without it that of the folder.
    pub name: Option<String>,
    /// Most tokens of a sequence; without it as many as the checkpoint says.
    pub context: Option<u64>,
    /// Element type of matrices in the artefact, `bf16` or `f32`; without it f32 for f32 and f16, bf16 for bf16.
    pub dtype: Option<String>,
    /// `cpu`, or a GPU.
    pub target: Option<String>,
    /// Leaves the tokenizer out.
    pub no_tokenizer: bool,
    /// Tokens of a page, and of a block of the selection.
    pub block: u64,
    /// Oracle layers and the sparse ones after each, in place of full attention in every layer.
    pub selection: Option<Selection>,
}

/// Layers that select, in a checkpoint that was trained without.
#[derive(Debug, Clone)]
pub struct Selection {
    /// As `pattern` of `[attention]`.
    pub pattern: String,
    /// Tokens that a query selects.
    pub top_k: u64,
}
