//! One panel of a matrix product, for any number of rows: the inner loop of every linear.
//!
//! ```text
//!            k ->                    16 outputs: four f32x4
//! rows  x: [ r0 ......... ]     panel: [k][16]        tiles of 10 rows x 1 vector, then 2 x 4, then 1 x 4
//!          [ r1 ......... ]
//! ```
//! Each output is one chain of multiply-adds over k in order, whatever the tile: a row's result does not
//! depend on how many rows came with it, so logits are the same bits for any chunk of a prompt. Where a codec's groups scale
//! their sums, it is one chain a group, and one of the groups.

use cranelift_codegen::ir::Value;
use cranelift_frontend::Variable;
use hyc_plan::Codec;
use hyc_plan::pack::Panel;

use super::codes::Group;
use super::emit::Emit;

/// The constants of a product.
#[derive(Clone, Copy)]
pub struct Product {
    codec: Codec,
    in_features: u64,
    x_stride: u64,
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
    /// With the weight of this name, of rows of `in_features` numbers that are `x_stride` bytes apart.
    pub fn of(e: &Emit<'_>, weight: &str, in_features: u64, x_stride: u64) -> Product {
        Product { codec: e.format(weight).codec, in_features, x_stride }
    }

    fn panel(&self) -> Panel {
        Panel::of(self.codec, self.in_features)
    }

    /// Bytes of a panel.
    pub fn panel_bytes(&self) -> u64 {
        self.panel().bytes()
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
        let order = self.panel();
        let group = |e: &mut Emit<'_>, [x, w]: [Value; 2], inputs: u64| {
            let group = Group::load(e, self.codec, w, vectors.clone());
            let own: Option<Vec<Variable>> =
                group.scales().map(|_| sums.iter().map(|_| e.zero4_var()).collect());
            let parts = own.as_ref().unwrap_or(&sums);
            let step = |e: &mut Emit<'_>, [x, w]: [Value; 2], k: u64| {
                let factors = group.factors(e, w, k);
                for row in 0..rows {
                    let x = e.load_fixed_splat(x, (row * self.x_stride + 4 * k) as i32);
                    for (part, factor) in parts[(row * wide) as usize..].iter().zip(&factors) {
                        // The first is overwritten: what nothing else reads.
                        let [a, b] = if rows == 1 { [*factor, x] } else { [x, *factor] };
                        e.accumulate(*part, a, b);
                    }
                }
            };
            let codes = e.add_const(w, order.shared_bytes() as i64);
            let pairs = [(x, 4 * UNROLL), (codes, UNROLL * order.input_bytes())];
            let rest = e.walk(inputs / UNROLL, pairs, |e, at| (0..UNROLL).for_each(|k| step(e, at, k)));
            let [x, codes] = rest;
            e.walk(inputs % UNROLL, [(x, 4), (codes, order.input_bytes())], |e, at| step(e, at, 0));
            for (i, (part, sum)) in parts.iter().zip(&sums).enumerate() {
                if let Some(scales) = group.scales() {
                    let part = e.get(*part);
                    e.accumulate(*sum, part, scales[i % wide as usize]);
                }
            }
        };
        let (whole, last) = (order.group(), self.in_features % order.group());
        let pairs = [(x, 4 * whole), (panel, order.group_bytes(whole))];
        let at = e.walk(self.in_features / whole, pairs, |e, at| group(e, at, whole));
        if last > 0 {
            group(e, at, last);
        }
        for row in 0..rows {
            for v in 0..wide {
                let sum = e.get(sums[(row * wide + v) as usize]);
                let row = e.add_const(first, row as i64);
                sink(e, Quad { row, vector: vectors.start + v, sum });
            }
        }
    }
}
