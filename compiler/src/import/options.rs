//! What is asked for beside a checkpoint.

/// What is asked for beside the checkpoint.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's name; without it that of the folder.
    pub name: Option<String>,
    /// Most tokens of a sequence; without it as many as the checkpoint says.
    pub context: Option<u64>,
    /// Element type of matrices in the artefact, `bf16` or `f32`; without it f32 for f32 and f16, bf16 for bf16. Or `stored`: a GGUF
    /// file's matrices of Q4_0, Q4_1 and Q8_0 stay as they are, and the others have what they have without it.
    pub dtype: Option<String>,
    /// `cpu`, or a GPU.
    pub target: Option<String>,
    /// Leaves the tokenizer out.
    pub no_tokenizer: bool,
    /// Tokens of a page, and of a block of the selection; without it 64, or what the checkpoint says.
    pub block: Option<u64>,
    /// Full layers and what the others see, in place of full attention in every layer.
    pub selection: Option<Selection>,
}

/// Layers that are not full, in a checkpoint that was trained without.
#[derive(Debug, Clone)]
pub struct Selection {
    /// As `pattern` of `[attention]`, or as `full`: layers between commas.
    pub pattern: String,
    /// What the others see.
    pub seen: Seen,
}

/// What a layer sees that is not full.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// So many tokens that the full layer before it selects.
    TopK(u64),
    /// The last tokens, so many.
    Window(u64),
}
