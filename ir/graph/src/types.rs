//! Types of graph values.

use std::fmt;

use hyc_plan::{CachePolicy, Codec, Elem, KvCodec, ListShape, SelectShape};

/// A count that only a step knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sym {
    /// Rows of a step.
    Tokens,
    /// Tokens that a sequence's caches hold.
    Context,
    /// Sequences of a step.
    Batch,
    /// Rows whose logits are wanted.
    Outputs,
}

/// One dimension of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when compiling.
    Const(u64),
    /// Known in a step.
    Sym(Sym),
    /// `ceil(sym / n)`: blocks of a context; n > 0.
    CeilDiv(Sym, u64),
}

/// A KV cache's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheType {
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
    /// What keys and values are stored as.
    pub codec: KvCodec,
    /// Tokens per page.
    pub page: u64,
    /// What it keeps.
    pub policy: CachePolicy,
    /// The page map through which positions are found; caches with one map share their page tables.
    pub map: String,
}

/// A selection's type: `kv_heads x blocks` indices per token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SelectionType {
    /// KV heads, block and count.
    pub shape: SelectShape,
    /// The page map whose blocks the indices name.
    pub map: String,
}

/// The page lists of a selection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListsType {
    /// The selection.
    pub selection: SelectionType,
    /// How rows share lists.
    pub lists: ListShape,
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// Activations: the first dimension is `tokens` or `outputs`.
    Tensor {
        /// f32 or i32; bf16 in tiles ([`tensor`](hyc_plan::tensor)).
        elem: Elem,
        /// Shape.
        dims: Vec<Dim>,
    },
    /// A constant from the weight files.
    Weight {
        /// How its numbers are stored.
        codec: Codec,
        /// Shape in the source.
        dims: Vec<u64>,
    },
    /// A version of a KV cache.
    Cache(CacheType),
    /// Selected blocks.
    Selection(SelectionType),
    /// Page lists of selected blocks.
    Lists(ListsType),
}

/// What is said of a kind of type.
#[derive(Debug, PartialEq, Eq)]
pub struct TypeWords {
    /// What its text begins with.
    pub name: &'static str,
    /// How it is written.
    pub syntax: &'static str,
    /// One of them.
    pub example: &'static str,
    /// What it is.
    pub meaning: &'static str,
}

const TENSOR: TypeWords = TypeWords {
    name: "tensor",
    syntax: "tensor<DIM x ... x ELEM>",
    example: "tensor<tokens x 2048 x f32>",
    meaning: "Activations. The first dimension is `tokens` (the rows of a step) or `outputs` (the rows whose logits are \
              wanted), the last one of scores `context` or, of blocks of 64, `context/64`. Elements are f32; i32 for \
              chosen experts; bf16 where the rows lie in tiles of 64 x 64 for tensor cores, as their products' weights do.",
};
const WEIGHT: TypeWords = TypeWords {
    name: "weight",
    syntax: "weight<N x ... x CODEC>",
    example: "weight<512 x 2048 x bf16>",
    meaning: "A tensor of the weight files, with the shape that it has there: a product's matrix is `[outputs, inputs]`. \
              The codec is what it becomes in the artefact: f32, bf16, or int8(G), int4(G) and fp8(G) with a scale per G elements, int4z(G) with a least value too.",
};
const CACHE: TypeWords = TypeWords {
    name: "cache",
    syntax: "cache<KV_HEADS x QK_DIM+V_DIM x CODEC, page TOKENS, POLICY, map NAME>",
    example: "cache<4 x 128+128 x bf16, page 64, growing, map pages>",
    meaning: "A version of a KV cache. It is `growing`, or a `ring(WINDOW, PAGES)` that keeps what a window of that many \
              tokens sees. Caches with one page map share their page tables. The codec is f32, bf16, or of a cache that grows int8 or \
              fp8, with a scale for each token and KV head of the keys and one of the values.",
};
const SELECTION: TypeWords = TypeWords {
    name: "selection",
    syntax: "selection<KV_HEADS x BLOCKS, block TOKENS, map NAME>",
    example: "selection<4 x 16, block 64, map pages>",
    meaning: "Selected blocks: for each token and KV head so many indices of blocks of that page map, the best one first.",
};
const LISTS: TypeWords = TypeWords {
    name: "lists",
    syntax: "lists<KV_HEADS x BLOCKS, block TOKENS, tile ROWS, least ROWS, map NAME>",
    example: "lists<4 x 16, block 64, tile 48, least 512, map pages>",
    meaning: "The page lists of a selection of that shape, one for each KV head and tile of so many neighbouring rows. There is \
              nothing in them in a step of fewer rows than the least.",
};

/// What is said of every kind of type.
pub const TYPES: [&TypeWords; 5] = [&TENSOR, &WEIGHT, &CACHE, &SELECTION, &LISTS];

impl Type {
    /// What is said of types of this kind.
    pub fn words(&self) -> &'static TypeWords {
        match self {
            Type::Tensor { .. } => &TENSOR,
            Type::Weight { .. } => &WEIGHT,
            Type::Cache(_) => &CACHE,
            Type::Selection(_) => &SELECTION,
            Type::Lists(_) => &LISTS,
        }
    }

    /// An f32 tensor `[rows, width]`.
    pub fn rows(rows: Sym, width: u64) -> Type {
        Type::Tensor { elem: Elem::F32, dims: vec![Dim::Sym(rows), Dim::Const(width)] }
    }

    /// The width of a `[rows, width]` tensor.
    pub fn width(&self) -> Option<u64> {
        match self {
            Type::Tensor { dims, .. } => match dims[..] {
                [Dim::Sym(_), Dim::Const(width)] => Some(width),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sym::Tokens => "tokens",
            Sym::Context => "context",
            Sym::Batch => "batch",
            Sym::Outputs => "outputs",
        })
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Sym(sym) => write!(f, "{sym}"),
            Dim::CeilDiv(sym, n) => write!(f, "{sym}/{n}"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor { elem, dims } => {
                f.write_str("tensor<")?;
                dims.iter().try_for_each(|dim| write!(f, "{dim} x "))?;
                write!(f, "{elem}>")
            }
            Type::Weight { codec, dims } => {
                f.write_str("weight<")?;
                dims.iter().try_for_each(|dim| write!(f, "{dim} x "))?;
                write!(f, "{codec}>")
            }
            Type::Cache(c) => {
                write!(
                    f,
                    "cache<{} x {}+{} x {}, page {}, ",
                    c.kv_heads, c.qk_dim, c.v_dim, c.codec, c.page
                )?;
                match c.policy {
                    CachePolicy::Growing => f.write_str("growing")?,
                    CachePolicy::Ring { window, pages } => write!(f, "ring({window}, {pages})")?,
                }
                write!(f, ", map {}>", c.map)
            }
            Type::Lists(ListsType { selection: SelectionType { shape, map }, lists }) => {
                write!(f, "lists<{} x {}, block {}, ", shape.kv_heads, shape.blocks, shape.block)?;
                write!(f, "tile {}, least {}, map {map}>", lists.tile, lists.least)
            }
            Type::Selection(SelectionType { shape, map }) => {
                write!(
                    f,
                    "selection<{} x {}, block {}, map {map}>",
                    shape.kv_heads, shape.blocks, shape.block
                )
            }
        }
    }
}
