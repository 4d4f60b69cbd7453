//! What is constant about a KV cache, and where its elements lie.

use serde::{Deserialize, Serialize};

use crate::align::{TILE, V_ALIGN, round_up};
use crate::elem::Elem;
use crate::pack::swizzle;

/// What a cache keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CachePolicy {
    /// Every token.
    Growing,
    /// The last `window` tokens before any row of a step: `pages` pages per sequence, reused in turn.
    Ring {
        /// Tokens that a reader may look back, itself included.
        window: u64,
        /// Pages per sequence: enough for the window and one chunk.
        pages: u64,
    },
}

/// How keys and values lie in a page; [`crate::abi`] says it in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvOrder {
    /// K by dim, V by token: a vector of a processor runs along tokens in the one and along dims in the other.
    #[default]
    Columns,
    /// Swizzled tiles: K by token, V by dim, as tensor cores read them.
    Tiles,
}

/// The constants of a KV cache; the layout of a page is told in [`crate::abi`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheSpec {
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
    /// f32 or bf16.
    pub elem: Elem,
    /// Tokens per page.
    pub page: u64,
    /// Growing or ring.
    pub policy: CachePolicy,
    /// How its pages are stored.
    pub order: KvOrder,
}

impl CacheSpec {
    /// Elements of a V row, padding included.
    pub fn v_pad(&self) -> u64 {
        round_up(self.v_dim, V_ALIGN)
    }

    /// Whether a cache of these constants can be stored in tiles: bf16, pages of 64 tokens,
    /// keys of whole tiles, values of whole swizzle atoms.
    pub fn can_tile(&self) -> bool {
        self.elem == Elem::Bf16 && self.page == TILE && self.qk_dim % TILE == 0 && self.v_dim % 16 == 0
    }

    /// Element offset of the K part of `kv_head` in its page.
    pub fn k_offset(&self, kv_head: u64) -> u64 {
        kv_head * self.qk_dim * self.page
    }

    /// Element offset of the V part of `kv_head` in its page.
    pub fn v_offset(&self, kv_head: u64) -> u64 {
        self.kv_heads * self.qk_dim * self.page + kv_head * self.page * self.v_pad()
    }

    /// Element offset of dim `dim` of the key of `kv_head` at token `place` of its page.
    pub fn key_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.k_offset(kv_head)
            + match self.order {
                KvOrder::Tiles => dim / TILE * TILE * self.page + swizzle(place, dim % TILE),
                KvOrder::Columns => dim * self.page + place,
            }
    }

    /// Element offset of dim `dim` of the value of `kv_head` at token `place` of its page.
    pub fn value_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.v_offset(kv_head)
            + match self.order {
                KvOrder::Tiles => swizzle(dim, place),
                KvOrder::Columns => place * self.v_pad() + dim,
            }
    }

    /// Elements of a page.
    pub fn page_elements(&self) -> u64 {
        self.kv_heads * self.page * (self.qk_dim + self.v_pad())
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u64 {
        self.page_elements() * self.elem.bytes()
    }
}
