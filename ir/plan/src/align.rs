//! What sizes are rounded to, and what they are at most.

/// Rows of arena tensors start at multiples of this many elements.
pub const ROW_ALIGN: u64 = 16;
/// Output features per weight panel; see [`Layout::Panels`](crate::Layout::Panels).
pub const PANEL: u64 = 16;
/// Rows and columns of a tile of a tiled weight or cache: a row of 64 bf16 is 128 bytes, the width of the
/// tensor cores' widest swizzle.
pub const TILE: u64 = 64;
/// Output features of a record of [`Layout::Strips`](crate::Layout::Strips): the rows of an
/// `mma` operand.
pub const STRIP: u64 = 16;
/// Its input features: so many that its copy is worth a request.
pub const SPAN: u64 = 256;
/// The V rows of a cache page are padded to this many elements.
pub const V_ALIGN: u64 = 8;

/// No tensor, page or arena, nor all weights together, has more elements or bytes than this: 1 PiB, of which sums of many
/// still fit.
pub const MAX_BYTES: u64 = 1 << 50;

/// `n` rounded up to a multiple of `to`.
pub const fn round_up(n: u64, to: u64) -> u64 {
    n.div_ceil(to) * to
}
