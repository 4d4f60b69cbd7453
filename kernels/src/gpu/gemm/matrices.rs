//! The weights of one product, one below the other, and the blocks of outputs that they make.

use super::fp8_rows::Fp8Rows;
use super::stored::Stored;
use crate::gpu::function::Kernel;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::tile::TiledRows;

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

/// Rows of f32 in device memory: results, or what is added to them.
#[derive(Clone, Copy)]
pub enum Rows {
    /// Those of an operand.
    Operand(&'static str),
    /// Those at `at` in scratch, `stride` elements from each other; both in 4-byte elements.
    Scratch { at: u64, stride: u64 },
}

impl Rows {
    /// Elements from row to row.
    pub fn stride(self, e: &Emit<'_>) -> u64 {
        match self {
            Rows::Operand(name) => e.stride(name),
            Rows::Scratch { stride, .. } => stride,
        }
    }

    /// The address of (row, column).
    pub fn at<'c>(self, e: &Emit<'c>, row: Int<'c>, column: Int<'c>) -> Ptr<'c> {
        let base = match self {
            Rows::Operand(name) => e.operand(name),
            Rows::Scratch { at, .. } => e.at(e.scratch(), e.int(at)),
        };
        e.at(base, e.add(e.mul_const(e.wide(row), self.stride(e)), e.wide(column)))
    }
}

/// Where results go.
#[derive(Clone, Copy)]
pub enum To {
    /// To f32 rows.
    Rows(Rows),
    /// To the bf16 tiles of an operand, with nothing added.
    Tiles(&'static str),
}

impl To {
    /// An operand as it lies.
    pub fn operand(k: &Kernel<'_, '_>, name: &'static str) -> To {
        To::lying(k.in_tiles(name), name)
    }

    /// An operand that lies in tiles or in rows.
    pub fn lying(tiled: bool, name: &'static str) -> To {
        if tiled { To::Tiles(name) } else { To::Rows(Rows::Operand(name)) }
    }

    /// Stores one result.
    pub fn store<'c>(self, e: &Emit<'c>, row: Int<'c>, column: Int<'c>, value: Float<'c>) {
        match self {
            To::Rows(rows) => e.store(rows.at(e, row, column), e.int(0), value.into()),
            To::Tiles(name) => TiledRows::Operand(name).store(e, (row, column), e.stride(name), value),
        }
    }
}

/// The rows of the operand `x`, and how a product reads them.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// In tiles: as they lie, or packed by a launch before.
    pub tiles: TiledRows,
    /// As they lie in f32, where one row is read so.
    pub raw: Option<RawRows>,
    /// As e4m3 beside that, for the variants of many rows.
    pub fp8: Option<Fp8Rows>,
}

/// Rows of f32 in the operand `x`.
#[derive(Clone, Copy)]
pub struct RawRows {
    /// eps of their RMSNorm, whose weight is the operand `norm`.
    pub norm: Option<f64>,
}

/// `y = [W0; W1; ...] x`, or with `up` `y = silu(W0 x) * (up x)`; then `y + plus`.
#[derive(Clone)]
pub struct Product {
    /// Input features.
    pub in_features: u64,
    /// The matrices, one below the other, and how they lie.
    pub matrices: Vec<Matrix>,
    pub stored: Stored,
    /// A second weight, of the first one's shape.
    pub up: Option<&'static str>,
    pub inputs: Inputs,
    /// Where the results go: columns among all.
    pub to: To,
    /// What is added.
    pub plus: Option<&'static str>,
}

impl Product {
    /// How many weights it has: the first, and perhaps a second.
    pub fn weights(&self) -> u64 {
        1 + u64::from(self.up.is_some())
    }

    /// Stores one result.
    pub fn store<'c>(&self, e: &Emit<'c>, row: Int<'c>, column: Int<'c>, value: Float<'c>) {
        let plus = self.plus.map(|name| e.load(Rows::Operand(name).at(e, row, column), e.int(0)));
        let value = plus.map_or(value, |plus| e.fadd(value, plus));
        self.to.store(e, row, column, value);
    }
}

/// What a block of outputs is of.
#[derive(Clone, Copy)]
pub struct Section<'c> {
    /// The matrix: its number, its operand, its outputs, its first column among all.
    pub number: Int<'c>,
    pub matrix: Ptr<'c>,
    pub out: Int<'c>,
    pub column: Int<'c>,
    /// The block's number in it.
    pub block: Int<'c>,
}

/// The section of block `index` of `each` outputs.
pub fn section<'c>(e: &Emit<'c>, p: &Product, index: Int<'c>, each: u64) -> Section<'c> {
    let first = p.matrices[0];
    let (matrix, out, column) = (e.operand(first.name), e.int(first.out), e.int(first.column));
    let mut s = Section { number: e.int(0), matrix, out, column, block: index };
    let mut begin = 0;
    for (number, pair) in (1..).zip(p.matrices.windows(2)) {
        begin += pair[0].out.div_ceil(each);
        let here = e.ge(index, e.int(begin));
        s = Section {
            number: e.pick(here, e.int(number), s.number),
            matrix: e.pick_ptr(here, e.operand(pair[1].name), s.matrix),
            out: e.pick(here, e.int(pair[1].out), s.out),
            column: e.pick(here, e.int(pair[1].column), s.column),
            block: e.pick(here, e.add_const(index, -(begin as i64)), s.block),
        };
    }
    s
}

/// Blocks of `each` outputs over all matrices.
pub fn blocks(p: &Product, each: u64) -> u64 {
    p.matrices.iter().map(|m| m.out.div_ceil(each)).sum()
}
