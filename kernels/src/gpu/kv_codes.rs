//! KV caches of 8-bit codes: how a step's keys and values become codes, and pages of codes bf16 tiles.
//!
//! ```text
//! a KV head of a page    codes of keys [qk_dim / 64][token][64], of values [v_dim][64 tokens], 64 bytes a row; f32 scales of the
//!                        keys' tokens, of the values' tokens
//! in shared memory       bf16 tiles as a page of bf16 has them: what multiplies does not know of codes
//! ```
//! A number is rounded to bf16 as good as once: its code is exact in bf16, and its scale two bf16. Reference: `KvCodec::encode`.

use hyc_plan::{CacheSpec, KvCodec};

use super::function::{Function, Kernel};
use super::isa::{Chunk, Emit, Float, Int, Ptr, WARP};
use super::paged_kv::{HeadPages, key_index, page_base, value_index};
use super::tile::{Swizzle, bytes, split};
use super::work_item::WorkItem;

/// Bytes of a row of codes, and its pieces of 16.
const ROW: u64 = 64;
const PIECES: u64 = 4;
/// Pieces that a thread looks up at once.
const BATCH: u64 = 4;

/// Where a KV head's codes and scales of a page are, in global or in shared memory.
#[derive(Clone, Copy)]
pub struct Codes<'c> {
    pub keys: Ptr<'c>,
    pub values: Ptr<'c>,
    pub key_scales: Ptr<'c>,
    pub value_scales: Ptr<'c>,
}

impl<'c> Codes<'c> {
    /// Of a KV head of a page in its pool.
    pub fn of_page(e: &Emit<'c>, cache: &CacheSpec, page: Ptr<'c>, kv_head: Int<'c>) -> Codes<'c> {
        let (keys, values, scales) = HeadPages::new(e, *cache, kv_head).parts(e, page);
        Codes::new(e, cache, (keys, values), scales.unwrap_or(page))
    }

    /// The same where [`HeadPages::copy`] has put them.
    pub fn of_copy(e: &Emit<'c>, cache: &CacheSpec, copy: Ptr<'c>) -> Codes<'c> {
        let keys = cache.k_offset(1);
        let values = e.byte_offset(copy, e.int(keys));
        let scales = e.byte_offset(copy, e.int(keys + cache.page * cache.v_pad()));
        Codes::new(e, cache, (copy, values), scales)
    }

    /// The values' scales stand behind the keys'.
    fn new(
        e: &Emit<'c>,
        cache: &CacheSpec,
        (keys, values): (Ptr<'c>, Ptr<'c>),
        key_scales: Ptr<'c>,
    ) -> Codes<'c> {
        let value_scales = e.byte_offset(key_scales, e.int(4 * cache.page));
        Codes { keys, values, key_scales, value_scales }
    }
}

/// A codec of codes.
#[derive(Clone, Copy)]
pub struct Expander {
    fp8: bool,
}

/// What codes of a row are multiplied by.
enum Scales<'c> {
    /// A token's scale is that of a row, 64 rows again and again.
    OfRows(Ptr<'c>),
    /// Those of each pair of a piece's codes.
    OfPairs([[Int<'c>; 2]; 8]),
}

impl Expander {
    /// Where pages of this cache are codes.
    pub fn of(cache: &CacheSpec) -> Option<Expander> {
        cache.codec.scaled().then_some(Expander { fp8: cache.codec == KvCodec::Fp8 })
    }

    /// Keys in bf16 tiles at `to`, by so many threads. `rows`: rows of codes, 64 of them a tile, a token each.
    pub fn keys<'c>(
        self,
        e: &Emit<'c>,
        (from, to): (Codes<'c>, Ptr<'c>),
        rows: u64,
        threads: (Int<'c>, u64),
    ) {
        self.rows(e, (from.keys, to), rows, threads, &Scales::OfRows(from.key_scales));
    }

    /// Values in bf16 tiles at `to`. `rows`: rows of codes, a dim each.
    pub fn values<'c>(
        self,
        e: &Emit<'c>,
        (from, to): (Codes<'c>, Ptr<'c>),
        rows: u64,
        threads: (Int<'c>, u64),
    ) {
        // A thread has the same tokens of each of its rows.
        let piece = e.and(threads.0, e.int(PIECES - 1));
        let fours = [0, 1, 2, 3].map(|four| {
            let at = e.add_const(e.mul_const(piece, 16), 4 * four);
            e.load4(from.value_scales, at).map(|bits| split(e, e.widen(bits)))
        });
        // Two tokens' scales, high and low, in a word each.
        let pairs = std::array::from_fn(|i| {
            let [a, b] = [0, 1].map(|odd| fours[i / 2][2 * (i % 2) + odd]);
            [0, 1].map(|part: usize| e.or(e.and(a[part], e.int(0xffff)), e.and(b[part], e.int(0xffff_0000))))
        });
        self.rows(e, (from.values, to), rows, threads, &Scales::OfPairs(pairs));
    }

    /// Rows of codes as rows of tiles.
    fn rows<'c>(
        self,
        e: &Emit<'c>,
        (from, to): (Ptr<'c>, Ptr<'c>),
        rows: u64,
        (thread, threads): (Int<'c>, u64),
        scales: &Scales<'c>,
    ) {
        let all = PIECES * rows;
        let batch = BATCH.min(all.div_ceil(threads));
        let whole = all.is_multiple_of(batch * threads);
        e.each(thread, e.int(all), batch * threads, |e, first| {
            // All are looked up before the first is needed.
            let looked: Vec<_> = (0..batch)
                .map(|n| {
                    let i = e.add_const(first, (n * threads) as i64);
                    let at = if whole { i } else { e.min(i, e.int(all - 1)) };
                    let scale = match scales {
                        Scales::OfRows(scales) => {
                            Some(e.load(*scales, e.and(e.div_rem(at, PIECES).0, e.int(ROW - 1))))
                        }
                        Scales::OfPairs(_) => None,
                    };
                    (i, e.load4(from, e.mul_const(at, 4)), scale)
                })
                .collect();
            for (i, codes, scale) in looked {
                let scales = match (scales, scale) {
                    (Scales::OfPairs(pairs), _) => *pairs,
                    (Scales::OfRows(_), scale) => [split(e, scale.unwrap_or(e.float(0.0))); 8],
                };
                let (row, piece) = e.div_rem(i, PIECES);
                let store = |e: &Emit<'c>| {
                    for (half, words) in self.numbers(e, codes, &scales).iter().enumerate() {
                        let at = Swizzle::words(e, row, e.add_const(e.mul_const(piece, 2), half as i64));
                        e.store_words(to, at, words);
                    }
                };
                if whole { store(e) } else { e.when(e.lt(i, e.int(all)), store) }
            }
        });
    }

    /// Sixteen codes as numbers, a pair a word.
    fn numbers<'c>(self, e: &Emit<'c>, codes: Chunk<'c>, scales: &[[Int<'c>; 2]; 8]) -> [Chunk<'c>; 2] {
        let zero = e.int(0x8000_8000);
        let pairs = codes.map(|word| bytes(e, self.fp8, e.exchange_inner_bytes(word)));
        let number = |i: usize| {
            let (codes, [high, low]) = (pairs[i / 2][i % 2], scales[i]);
            e.fma_bf16(codes, high, e.fma_bf16(codes, low, zero))
        };
        [0, 4].map(|first| std::array::from_fn(|i| number(first + i)))
    }

    /// Eight codes as bf16 before their scales: eight `at` of a page's rows, `plus` rows of tiles of 32 codes further.
    pub fn eight<'c>(self, e: &Emit<'c>, page: Ptr<'c>, at: Int<'c>, plus: u64) -> Chunk<'c> {
        let bytes_on = plus / 2 * ROW * ROW + plus % 2 * 32;
        let at = e.add_const(e.mul_const(at, 8), bytes_on as i64);
        let [a, b] =
            e.load2(e.byte_offset(page, at)).map(|word| bytes(e, self.fp8, e.exchange_inner_bytes(word)));
        [a[0], a[1], b[0], b[1]]
    }

    /// A code as the number that it is before its scale.
    pub fn number<'c>(self, e: &Emit<'c>, code: Int<'c>) -> Float<'c> {
        let pair = bytes(e, self.fp8, code)[0];
        e.widen(e.shift_left(pair, 16))
    }

    /// The code of a number that is scaled.
    fn code<'c>(self, e: &Emit<'c>, x: Float<'c>) -> Int<'c> {
        let most = e.float(self.most());
        let x = e.fmin(e.fmax(x, e.fsub(e.float(0.0), most)), most);
        if self.fp8 { e.e4m3(x) } else { e.whole(x) }
    }

    fn most(self) -> f32 {
        if self.fp8 { 448.0 } else { 127.0 }
    }
}

/// `QuantiseKv`. Block: one warp, a (token, KV head).
pub fn quantise<'c>(k: &mut Kernel<'c, '_>, kv_heads: u64) {
    let (from, cache) = (k.cache("from"), k.cache("cache"));
    let Some(expander) = Expander::of(&cache) else { return k.refuse("codes of a cache that has none") };
    let grid = [k.rows(kv_heads, 1), hyc_plan::Extent::fixed(1)];
    k.function(Function::new("", grid, WARP), |e| {
        let item = WorkItem::new(e, e.block_x(), kv_heads);
        let (logical, place) = e.div_rem(item.position, cache.page);
        let source = page_base(e, &from, "from", item.sequence, logical);
        let page = page_base(e, &cache, "cache", item.sequence, logical);
        let codes = Codes::of_page(e, &cache, page, item.kv_head);
        for (dims, values) in [(cache.qk_dim, false), (cache.v_dim, true)] {
            let index = |e: &Emit<'c>, of: &CacheSpec, d: Int<'c>| {
                if values {
                    value_index(e, of, item.kv_head, place, d)
                } else {
                    key_index(e, of, item.kv_head, place, d)
                }
            };
            let elem = from.codec.plain();
            let own: Vec<_> = (0..dims.div_ceil(WARP))
                .map(|i| {
                    let d = e.add_const(e.lane(), (WARP * i) as i64);
                    (d, e.load_elem(elem, source, index(e, &from, e.min(d, e.int(dims - 1)))))
                })
                .collect();
            let magnitude = |x| e.widen(e.and(e.bits(x), e.int(0x7fff_ffff)));
            let most = own.iter().fold(e.float(0.0), |most, (_, x)| e.fmax(most, magnitude(*x)));
            let most = e.warp_max(most);
            let infinite = e.float(f32::INFINITY);
            let bad =
                own.iter().fold(e.no(), |bad, (_, x)| e.or(bad, e.not(e.above(infinite, magnitude(*x)))));
            let bad = e.any(bad);
            // The largest numbers must not become infinities by a rounding.
            let scale = e.fdiv(most, e.float(expander.most()));
            let fits = e.above(infinite, e.fmul(scale, e.float(expander.most())));
            let less = e.widen(e.add_const(e.bits(scale), -1));
            let scale = e.pick_float(fits, scale, less);
            let none = e.or(bad, e.eq(e.flag(e.above(scale, e.float(0.0))), e.int(0)));
            for (d, x) in own {
                let code = e.pick(none, e.int(0), expander.code(e, e.fdiv(x, scale)));
                e.when(e.lt(d, e.int(dims)), |e| e.store_byte(page, index(e, &cache, d), code));
            }
            let scales = if values { codes.value_scales } else { codes.key_scales };
            let scale = e.pick_float(bad, e.float(f32::NAN), scale);
            e.when(e.eq(e.lane(), e.int(0)), |e| e.store(scales, place, scale.into()));
        }
    });
}
