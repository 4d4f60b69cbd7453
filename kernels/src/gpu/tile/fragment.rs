//! Operands of `mma.sync` as the lanes of a warp hold them.

use crate::gpu::isa::{Chunk, Emit, Var};

/// 16 rows by 32 columns of bf16: a lane has columns 8t .. 8t + 8 of rows g and g + 8, a load each.
///
/// The order of columns inside a product is free as long as both operands have the same: words 0 and 1 of a piece are the
/// lane's pairs of one step of 16 columns, words 2 and 3 of the next.
#[derive(Clone, Copy)]
pub struct Fragment<'c> {
    /// Row g.
    pub low: Chunk<'c>,
    /// Row g + 8; zeros without it.
    pub high: Option<Chunk<'c>>,
}

impl<'c> Fragment<'c> {
    /// `sums += self b` by 8 rows of `b`, of which a lane has columns 8t .. 8t + 8 of row g: two steps.
    pub fn multiply(&self, e: &Emit<'c>, sums: &[Var<'c>], b: Chunk<'c>) {
        let zero = e.int(0);
        for i in [0, 2] {
            let high = |i: usize| self.high.map_or(zero, |high| high[i]);
            e.mma(sums, [self.low[i], high(i), self.low[i + 1], high(i + 1)], [b[i], b[i + 1]]);
        }
    }
}
