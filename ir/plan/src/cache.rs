//! What is constant about a KV cache, and where its elements lie.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::align::{TILE, V_ALIGN, round_up};
use crate::codec::Codec;
use crate::elem::Elem;
use crate::pack::swizzle;
use crate::shared::Shared;

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

impl CachePolicy {
    /// A ring for readers of `window` tokens and steps of `chunk` rows, in pages of `page` tokens: wherever the step begins in a
    /// page, the window before its first row and all its rows are in different places.
    pub fn ring(window: u64, chunk: u64, page: u64) -> CachePolicy {
        let pages = window.saturating_add(chunk).div_ceil(page.max(1)).saturating_add(1);
        CachePolicy::Ring { window, pages }
    }
}

/// What the keys and values of a cache are stored as.
///
/// Codes of 8 bits have a scale, an f32: one for each token and KV head of the keys, and one of the values, beside them in the
/// page. A number is its code times its scale. A scale for a whole page would have to grow with each louder token, and the codes
/// that are there be rounded anew: what a cache holds would then depend on how its tokens were split into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCodec {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// [`Codec::Int8`], a head's vector being the group.
    Int8,
    /// [`Codec::Fp8`], a head's vector being the group.
    Fp8,
}

impl KvCodec {
    /// Bytes of a code.
    pub const fn bytes(self) -> u64 {
        match self {
            KvCodec::F32 => 4,
            KvCodec::Bf16 => 2,
            KvCodec::Int8 | KvCodec::Fp8 => 1,
        }
    }

    /// The element type of numbers that stand by themselves; `None` where they are codes with a scale.
    pub const fn elem(self) -> Option<Elem> {
        match self {
            KvCodec::F32 => Some(Elem::F32),
            KvCodec::Bf16 => Some(Elem::Bf16),
            KvCodec::Int8 | KvCodec::Fp8 => None,
        }
    }

    /// Whether numbers are codes with a scale.
    pub const fn scaled(self) -> bool {
        self.elem().is_none()
    }

    /// The element type where kernels take caches without scales alone, as their back end sees to; f32 for the others.
    pub fn plain(self) -> Elem {
        self.elem().unwrap_or(Elem::F32)
    }

    /// Appends the codes of a head's key or value to `out`, [`KvCodec::bytes`] each, and returns their scale: 1 where they have none.
    /// A vector of zeros has the scale 0. A scale that no number has, NaN, is that of a vector in which a number is not
    /// finite; its codes are 0.
    pub fn encode(self, vector: &[f32], out: &mut Vec<u8>) -> f32 {
        if self.scaled() && !vector.iter().all(|x| x.is_finite()) {
            out.resize(out.len() + vector.len(), 0);
            return f32::NAN;
        }
        self.codec().encode(vector, out).scale
    }

    /// The number of a code, the first of `bytes`, whose scale is `scale`. Panics where they are too few.
    pub fn decode(self, bytes: &[u8], scale: f32) -> f32 {
        self.codec().decode(bytes, Shared::scaled(scale))
    }

    /// The codec whose group is a whole vector. What it does with a group goes by the group that it is given.
    const fn codec(self) -> Codec {
        match self {
            KvCodec::F32 => Codec::F32,
            KvCodec::Bf16 => Codec::Bf16,
            KvCodec::Int8 => Codec::Int8 { group: 1 },
            KvCodec::Fp8 => Codec::Fp8 { group: 1 },
        }
    }
}

impl fmt::Display for KvCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvCodec::F32 => "f32",
            KvCodec::Bf16 => "bf16",
            KvCodec::Int8 => "int8",
            KvCodec::Fp8 => "fp8",
        })
    }
}

/// How keys and values lie in a page; [`crate::abi`] says it in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvOrder {
    /// K by dim, V by token: a vector of a processor runs along tokens in the one and along dims in the other.
    #[default]
    Columns,
    /// Tiles: K by token, V by dim, as tensor cores read them; those of bf16 are swizzled.
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
    /// What keys and values are stored as; `elem` where it is serialised, by which tables of measurements find kernels.
    #[serde(rename = "elem")]
    pub codec: KvCodec,
    /// Tokens per page.
    pub page: u64,
    /// Growing or ring.
    pub policy: CachePolicy,
    /// How its pages are stored.
    pub order: KvOrder,
}

impl CacheSpec {
    /// Codes of a V row, padding included.
    pub fn v_pad(&self) -> u64 {
        round_up(self.v_dim, V_ALIGN)
    }

    /// Whether a cache of these constants can be stored in tiles: bf16 or codes of 8 bits, pages of 64 tokens,
    /// keys of whole tiles, values of whole swizzle atoms.
    pub fn can_tile(&self) -> bool {
        self.codec != KvCodec::F32 && self.page == TILE && self.qk_dim % TILE == 0 && self.v_dim % 16 == 0
    }

    /// Offset, in codes, of the K part of `kv_head` in its page.
    pub fn k_offset(&self, kv_head: u64) -> u64 {
        kv_head * self.qk_dim * self.page
    }

    /// Offset, in codes, of the V part of `kv_head` in its page.
    pub fn v_offset(&self, kv_head: u64) -> u64 {
        self.kv_heads * self.qk_dim * self.page + kv_head * self.page * self.v_pad()
    }

    /// Offset, in codes, of dim `dim` of the key of `kv_head` at token `place` of its page.
    pub fn key_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.k_offset(kv_head)
            + match self.order {
                KvOrder::Tiles => dim / TILE * TILE * self.page + self.in_tile(place, dim % TILE),
                KvOrder::Columns => dim * self.page + place,
            }
    }

    /// Offset, in codes, of dim `dim` of the value of `kv_head` at token `place` of its page.
    pub fn value_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.v_offset(kv_head)
            + match self.order {
                KvOrder::Tiles => self.in_tile(dim, place),
                KvOrder::Columns => place * self.v_pad() + dim,
            }
    }

    /// Offset, in codes, of (`row`, `col`) in rows of 64 of them.
    fn in_tile(&self, row: u64, col: u64) -> u64 {
        if self.codec.scaled() { row * TILE + col } else { swizzle(row, col) }
    }

    /// Codes of a page.
    pub fn page_elements(&self) -> u64 {
        self.kv_heads * self.page * (self.qk_dim + self.v_pad())
    }

    /// Offset, in bytes, of the scales of the keys of `kv_head` in its page, or of its values: an f32 for each token. There are none
    /// where [`KvCodec::scaled`] says so.
    pub fn scale_offset(&self, kv_head: u64, values: bool) -> u64 {
        self.code_bytes() + (2 * kv_head + u64::from(values)) * self.page * SCALE_BYTES
    }

    /// Bytes of a page's codes, and of the padding before its scales.
    fn code_bytes(&self) -> u64 {
        let bytes = self.page_elements() * self.codec.bytes();
        if self.codec.scaled() { round_up(bytes, SCALE_BYTES) } else { bytes }
    }

    /// Offset, in codes, of dim `dim` of the key of `kv_head` at token `place` of its page, or of its value.
    pub fn index(&self, kv_head: u64, place: u64, dim: u64, values: bool) -> u64 {
        if values { self.value_index(kv_head, place, dim) } else { self.key_index(kv_head, place, dim) }
    }

    /// The key of `kv_head` at token `place`, or its value, of the bytes of a page. Panics where they are too few.
    pub fn load(&self, page: &[u8], kv_head: u64, place: u64, values: bool) -> Vec<f32> {
        let scale = match self.codec.scaled() {
            true => Codec::F32.decode(&page[self.scale_at(kv_head, place, values)..], Shared::NONE),
            false => 1.0,
        };
        let dims = 0..if values { self.v_dim } else { self.qk_dim };
        let at = |dim| (self.index(kv_head, place, dim, values) * self.codec.bytes()) as usize;
        dims.map(|dim| self.codec.decode(&page[at(dim)..], scale)).collect()
    }

    /// Stores that key or value. Panics where the bytes are too few.
    pub fn store(&self, page: &mut [u8], kv_head: u64, place: u64, values: bool, vector: &[f32]) {
        let (bytes, mut codes) = (self.codec.bytes() as usize, Vec::new());
        let scale = self.codec.encode(vector, &mut codes);
        for (code, dim) in codes.chunks(bytes).zip(0..) {
            let at = self.index(kv_head, place, dim, values) as usize * bytes;
            page[at..at + bytes].copy_from_slice(code);
        }
        if self.codec.scaled() {
            let at = self.scale_at(kv_head, place, values);
            page[at..at + SCALE_BYTES as usize].copy_from_slice(&scale.to_le_bytes());
        }
    }

    fn scale_at(&self, kv_head: u64, place: u64, values: bool) -> usize {
        (self.scale_offset(kv_head, values) + place * SCALE_BYTES) as usize
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u64 {
        let scales = if self.codec.scaled() { 2 * self.kv_heads * self.page * SCALE_BYTES } else { 0 };
        self.code_bytes() + scales
    }

    /// Bytes of the keys and values of a token with their scales, without padding.
    pub fn token_bytes(&self) -> u64 {
        let scales = if self.codec.scaled() { 2 * SCALE_BYTES } else { 0 };
        self.kv_heads * ((self.qk_dim + self.v_dim) * self.codec.bytes() + scales)
    }
}

/// Bytes of a scale, an f32.
const SCALE_BYTES: u64 = 4;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn any_cache() -> impl Strategy<Value = CacheSpec> {
        let codec = prop::sample::select(vec![KvCodec::F32, KvCodec::Bf16, KvCodec::Int8, KvCodec::Fp8]);
        let odd = (1..40u64, 1..40u64, 1..20u64, Just(KvOrder::Columns));
        let tiles = (1..3u64, 1..5u64).prop_map(|(k, v)| (64 * k, 16 * v, TILE, KvOrder::Tiles));
        (1..4u64, codec, prop_oneof![odd, tiles]).prop_map(
            |(kv_heads, codec, (qk_dim, v_dim, page, order))| {
                let spec =
                    CacheSpec { kv_heads, qk_dim, v_dim, codec, page, policy: CachePolicy::Growing, order };
                let order =
                    if order == KvOrder::Tiles && !spec.can_tile() { KvOrder::Columns } else { order };
                CacheSpec { order, ..spec }
            },
        )
    }

    proptest! {
        /// Every byte of a code and of a scale is that one's alone, and lies in the page.
        #[test]
        fn every_number_of_a_page_has_a_place_of_its_own(spec in any_cache()) {
            let (code, mut places) = (spec.codec.bytes(), HashSet::new());
            let mut take = |at: u64, bytes: u64| (at..at + bytes).all(|at| at < spec.page_bytes() && places.insert(at));
            for head in 0..spec.kv_heads {
                for token in 0..spec.page {
                    for dim in 0..spec.qk_dim {
                        prop_assert!(take(spec.key_index(head, token, dim) * code, code));
                    }
                    for dim in 0..spec.v_dim {
                        prop_assert!(take(spec.value_index(head, token, dim) * code, code));
                    }
                    for values in [false, true].into_iter().filter(|_| spec.codec.scaled()) {
                        let at = spec.scale_offset(head, values) + 4 * token;
                        prop_assert!(at % 4 == 0 && take(at, 4));
                    }
                }
            }
            let padding = places.len() as u64 - spec.page * spec.token_bytes();
            prop_assert_eq!(padding, 0);
        }
    }

    #[test]
    fn a_vector_is_a_group_of_the_codec() {
        let vector: Vec<f32> = (0..70).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        for (codec, whole) in
            [(KvCodec::Int8, Codec::Int8 { group: 70 }), (KvCodec::Fp8, Codec::Fp8 { group: 70 })]
        {
            let (mut codes, mut wanted) = (vec![], vec![]);
            let shared = whole.encode(&vector, &mut wanted);
            assert_eq!(codec.encode(&vector, &mut codes), shared.scale);
            assert_eq!(codes, wanted);
            assert_eq!(codec.decode(&codes[3..], shared.scale), whole.decode(&codes[3..], shared));
            assert_eq!(
                (codec.encode(&[0.0; 3], &mut vec![]), codec.codec().code_bits()),
                (0.0, 8 * codec.bytes())
            );
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                codes.clear();
                assert!(codec.encode(&[1.0, wrong], &mut codes).is_nan());
                assert_eq!(codes, [0, 0]);
            }
        }
    }

    #[test]
    fn a_ring_has_room_for_a_window_and_a_chunk() {
        assert_eq!(CachePolicy::ring(1, 256, 64), CachePolicy::Ring { window: 1, pages: 6 });
        assert_eq!(
            CachePolicy::ring(u64::MAX, 2, 1),
            CachePolicy::Ring { window: u64::MAX, pages: u64::MAX }
        );
    }
}
