//! What an op may do with its operands; each says it of its own ([`Op::roles`](crate::ops::Op::roles)). What it does not say
//! it may not do.

use crate::cache::KvCodec;
use crate::lists::ListShape;
use crate::shape::SelectShape;

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
    /// The row's own token alone.
    Own,
    /// The tokens of the blocks that the selection in the operand of this name lists.
    Selected(&'static str),
}

/// Which codecs a cache may have that an op reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All.
    Any,
    /// Those whose numbers stand by themselves.
    Plain,
    /// Those of codes with scales.
    Scaled,
}

impl Stored {
    /// Whether this is one of them.
    pub fn takes(self, codec: KvCodec) -> bool {
        match self {
            Stored::Any => true,
            Stored::Plain => !codec.scaled(),
            Stored::Scaled => codec.scaled(),
        }
    }
}

/// What an operand is. A width of `None` is one that no tensor has: the product of two sizes that overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32 rows of this width, of the step's own row count.
    Rows(Option<u64>),
    /// The same, or bf16 tiles: what products on tensor cores read, and what makes it.
    RowsOrTiles(Option<u64>),
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
    /// The page lists of a selection ([`lists`](crate::lists)), i32.
    PageLists {
        /// The selection's shape.
        select: SelectShape,
        /// How rows share them.
        lists: ListShape,
        /// The operand of the same step that is the selection: the one that they are made of, or that is read beside them.
        of: &'static str,
    },
    /// An f32 vector.
    Vector(u64),
    /// Matrices `[count][out_features, in_features]` as a product reads them, in panels of `group` (of `out` where that is `None`) or in
    /// tiles.
    Matrices {
        /// Matrices.
        count: u64,
        /// Output features of each.
        out_features: Option<u64>,
        /// Input features.
        in_features: u64,
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
        /// Which codecs it may have.
        stored: Stored,
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
