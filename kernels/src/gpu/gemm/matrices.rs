//! The weights of one product, one below the other, and the blocks of outputs that they make.

use crate::gpu::isa::{Emit, Float, Int, Ptr};

/// One weight operand of a product.
#[derive(Clone, Copy)]
pub struct Matrix {
    /// Its name.
    pub name: &'static str,
    /// Outputs.
    pub out: u64,
    /// First column of its results among those of all matrices.
    pub column: u64,
}

/// `y = [W0; W1; ...] x`, or with `up` `y = silu(W0 x) * (up x)`.
pub struct Product {
    /// Input features.
    pub in_features: u64,
    /// The matrices, one below the other.
    pub matrices: Vec<Matrix>,
    /// A second weight, of the first one's shape.
    pub up: Option<&'static str>,
    /// The packed rows: offset in scratch, in 4-byte elements.
    pub rows_at: u64,
}

/// Takes one result: (row, column among all, value).
pub type Store<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>);

/// The matrix that block `index` of `each` outputs is of: its operand, the block's number in it, its outputs and its
/// first column.
pub fn section<'c>(
    e: &Emit<'c>,
    p: &Product,
    index: Int<'c>,
    each: u64,
) -> (Ptr<'c>, Int<'c>, Int<'c>, Int<'c>) {
    let first = p.matrices[0];
    let (mut matrix, mut local) = (e.operand(first.name), index);
    let (mut out, mut column) = (e.int(first.out), e.int(first.column));
    let mut begin = 0;
    for pair in p.matrices.windows(2) {
        begin += pair[0].out.div_ceil(each);
        let here = e.ge(index, e.int(begin));
        matrix = e.pick_ptr(here, e.operand(pair[1].name), matrix);
        local = e.pick(here, e.add_const(index, -(begin as i64)), local);
        out = e.pick(here, e.int(pair[1].out), out);
        column = e.pick(here, e.int(pair[1].column), column);
    }
    (matrix, local, out, column)
}

/// Blocks of `each` outputs over all matrices.
pub fn blocks(p: &Product, each: u64) -> u64 {
    p.matrices.iter().map(|m| m.out.div_ceil(each)).sum()
}
