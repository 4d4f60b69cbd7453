//! One panel of a matrix product, for any number of rows: the inner loop of every linear.
//!
//! ```text
//!            k ->                    16 outputs: two halves of two f32x4
//! rows  x: [ r0 ......... ]     panel: [k][16]        6 rows x 1 half, then 2 rows x 2 halves, then 1 x 2
//!          [ r1 ......... ]
//! ```
//! Each output is one chain of multiply-adds over k in order, whatever the tile: a row's result does not
//! depend on how many rows came with it, so logits are the same bits for any chunk of a prompt.

use cranelift_codegen::ir::Value;
use cranelift_frontend::Variable;
use hyc_ir::abi::PANEL;
use hyc_ir::plan::Elem;

use super::emit::Emit;

/// The constants of a product.
#[derive(Clone, Copy)]
pub struct Product {
    /// Element type of the panel.
    pub elem: Elem,
    /// Input features.
    pub inn: u64,
    /// Bytes from row to row of x.
    pub x_stride: u64,
}

/// Four outputs of one row: `vector` (0..4) of the panel's sixteen outputs.
pub struct Quad {
    /// Row.
    pub row: Value,
    /// Which four outputs.
    pub vector: u64,
    /// The sums.
    pub sum: Value,
}

/// k steps between two tests of the loop.
const UNROLL: u64 = 4;

impl Product {
    /// Bytes from k to k + 1 of a panel.
    pub fn k_bytes(&self) -> u64 {
        PANEL * self.elem.bytes()
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> u64 {
        self.inn * self.k_bytes()
    }

    /// Multiplies all rows `0..rows` of `x` with a panel; `sink` takes the sums.
    pub fn all_rows(
        &self,
        e: &mut Emit<'_>,
        x: Value,
        rows: Value,
        panel: Value,
        sink: &dyn Fn(&mut Emit<'_>, Quad),
    ) {
        let zero = e.int(0);
        let rest = e.each(zero, rows, 6, |e, row| {
            self.tile(e, x, row, 6, panel, 0..1, sink);
            self.tile(e, x, row, 6, panel, 1..2, sink);
        });
        let rest = e.each(rest, rows, 2, |e, row| self.tile(e, x, row, 2, panel, 0..2, sink));
        e.each(rest, rows, 1, |e, row| self.tile(e, x, row, 1, panel, 0..2, sink));
    }

    /// Multiplies one row of x, at its own address, with a panel.
    pub fn one_row(&self, e: &mut Emit<'_>, x: Value, panel: Value, sink: &dyn Fn(&mut Emit<'_>, Quad)) {
        let zero = e.int(0);
        self.tile(e, x, zero, 1, panel, 0..2, sink);
    }

    #[allow(clippy::too_many_arguments, reason = "a tile is a place in two matrices and two sizes")]
    fn tile(
        &self,
        e: &mut Emit<'_>,
        x: Value,
        first: Value,
        rows: u64,
        panel: Value,
        halves: std::ops::Range<u64>,
        sink: &dyn Fn(&mut Emit<'_>, Quad),
    ) {
        let x = e.at(x, first, self.x_stride);
        let vectors = 2 * (halves.end - halves.start);
        let sums: Vec<Variable> = (0..rows * vectors).map(|_| e.zero4_var()).collect();
        let half_bytes = (PANEL / 2 * self.elem.bytes()) as i32;
        let step = |e: &mut Emit<'_>, k: Value, offset: u64| {
            let x_at = e.at(x, k, 4);
            let w_at = e.at(panel, k, self.k_bytes());
            let mut weights = Vec::new();
            for half in halves.clone() {
                let offset = (offset * self.k_bytes()) as i32 + half as i32 * half_bytes;
                let (low, high) = e.load_half(self.elem, w_at, offset);
                weights.extend([low, high]);
            }
            for row in 0..rows {
                let x = e.load_splat(x_at, (row * self.x_stride + 4 * offset) as i32);
                for (weight, v) in weights.iter().zip(0..) {
                    e.accumulate(sums[(row * vectors + v) as usize], x, *weight);
                }
            }
        };
        let (zero, inn) = (e.int(0), e.int(self.inn as i64));
        let rest = e.each(zero, inn, UNROLL as i64, |e, k| (0..UNROLL).for_each(|i| step(e, k, i)));
        e.each(rest, inn, 1, |e, k| step(e, k, 0));
        for row in 0..rows {
            for v in 0..vectors {
                let sum = e.get(sums[(row * vectors + v) as usize]);
                let row = e.add_const(first, row as i64);
                sink(e, Quad { row, vector: 2 * halves.start + v, sum });
            }
        }
    }
}
