//! One panel of a matrix product, for any number of rows: the inner loop of every linear.
//!
//! ```text
//!            k ->                    16 outputs: four f32x4
//! rows  x: [ r0 ......... ]     panel: [k][16]        tiles of 10 rows x 1 vector, then 2 x 4, then 1 x 4
//!          [ r1 ......... ]
//! ```
//! Each output is one chain of multiply-adds over k in order, whatever the tile: a row's result does not
//! depend on how many rows came with it, so logits are the same bits for any chunk of a prompt.

use cranelift_codegen::ir::Value;
use cranelift_frontend::Variable;
use hyc_plan::Elem;
use hyc_plan::PANEL;

use super::emit::Emit;

/// The constants of a product.
#[derive(Clone, Copy)]
pub struct Product {
    /// Element type of the panel.
    pub elem: Elem,
    /// Input features.
    pub in_features: u64,
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

/// Rows of the tall tile: with one vector of weights and one of x, its sums fill the sixteen registers.
const TALL: u64 = 10;

/// k steps between two tests of the loop. Cranelift orders an unrolled body sum by sum, so more steps make
/// longer chains of dependent multiply-adds: two were the fastest on Zen 4.
const UNROLL: u64 = 2;

impl Product {
    /// Bytes from k to k + 1 of a panel.
    pub fn k_bytes(&self) -> u64 {
        PANEL * self.elem.bytes()
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> u64 {
        self.in_features * self.k_bytes()
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
        let rest = e.each(zero, rows, TALL as i64, |e, row| {
            for vector in 0..4 {
                self.tile(e, x, row, TALL, panel, vector..vector + 1, sink);
            }
        });
        let rest = e.each(rest, rows, 2, |e, row| self.tile(e, x, row, 2, panel, 0..4, sink));
        e.each(rest, rows, 1, |e, row| self.tile(e, x, row, 1, panel, 0..4, sink));
    }

    /// Multiplies one row of x, at its own address, with a panel.
    pub fn one_row(&self, e: &mut Emit<'_>, x: Value, panel: Value, sink: &dyn Fn(&mut Emit<'_>, Quad)) {
        let zero = e.int(0);
        self.tile(e, x, zero, 1, panel, 0..4, sink);
    }

    #[allow(clippy::too_many_arguments, reason = "a tile is a place in two matrices and two sizes")]
    fn tile(
        &self,
        e: &mut Emit<'_>,
        x: Value,
        first: Value,
        rows: u64,
        panel: Value,
        vectors: std::ops::Range<u64>,
        sink: &dyn Fn(&mut Emit<'_>, Quad),
    ) {
        let x = e.at(x, first, self.x_stride);
        let wide = vectors.end - vectors.start;
        let sums: Vec<Variable> = (0..rows * wide).map(|_| e.zero4_var()).collect();
        let step = |e: &mut Emit<'_>, x: Value, w: Value, k: u64| {
            let weights: Vec<Value> =
                vectors.clone().map(|v| e.load_quad(self.elem, w, (k * self.k_bytes()) as i32, v)).collect();
            for row in 0..rows {
                let x = e.load_fixed_splat(x, (row * self.x_stride + 4 * k) as i32);
                for (sum, weight) in sums[(row * wide) as usize..].iter().zip(&weights) {
                    e.accumulate(*sum, x, *weight);
                }
            }
        };
        let pairs = [(x, 4 * UNROLL), (panel, UNROLL * self.k_bytes())];
        let [x, w] =
            e.walk(self.in_features / UNROLL, pairs, |e, [x, w]| (0..UNROLL).for_each(|k| step(e, x, w, k)));
        e.walk(self.in_features % UNROLL, [(x, 4), (w, self.k_bytes())], |e, [x, w]| step(e, x, w, 0));
        for row in 0..rows {
            for v in 0..wide {
                let sum = e.get(sums[(row * wide + v) as usize]);
                let row = e.add_const(first, row as i64);
                sink(e, Quad { row, vector: vectors.start + v, sum });
            }
        }
    }
}
