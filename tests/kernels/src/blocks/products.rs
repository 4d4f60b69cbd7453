//! Tensor cores.

use hyc_plan::pack;
use hyc_plan::{Codec, Elem, Format, Layout};

use super::{Block, Want, random_bf16, random_words, words};
use crate::Rng;

pub fn block(name: &str, rng: &mut Rng) -> Option<Block> {
    Some(match name {
        "mma" => mma(rng),
        "mma of bytes" => mma_of_bytes(rng),
        "mma of tiles" => mma_of_tiles(rng),
        "wgmma 64" => wgmma(rng, 64, 0.0),
        "wgmma 128" | "wgmma_start 128" => wgmma(rng, 128, 0.0),
        "wgmma 256" | "wgmma_start 256" => wgmma(rng, 256, 0.0),
        "wgmma 64 added" => wgmma(rng, 64, 1.5),
        "wgmma_registers_start 64" => wgmma_registers(rng, 64, 1.5),
        "wgmma_registers_start 128" | "wgmma_registers_start 128 added" => wgmma_registers(rng, 128, 1.5),
        "wgmma_registers_start 128 begun" => wgmma_registers(rng, 128, 0.0),
        _ => return None,
    })
}

/// A matrix of numbers that bf16 holds.
struct Matrix {
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    fn random(rng: &mut Rng, rows: usize, cols: usize) -> Matrix {
        Matrix { cols, data: random_bf16(rng, (rows * cols) as u64) }
    }

    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    fn stored(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// One row after the other.
    fn plain(&self) -> Vec<u32> {
        let mut bytes = Vec::new();
        pack::pack_row(Elem::Bf16, &self.data, &mut bytes);
        Matrix::stored(&bytes)
    }

    /// Tiles of 64 x 64.
    fn tiles(&self) -> Vec<u32> {
        let layout =
            Layout::Tiles { count: 1, out_features: self.rows() as u64, in_features: self.cols as u64 };
        Matrix::stored(&pack::pack(Format { codec: Codec::Bf16, layout }, &self.data))
    }

    /// `first + self other^T` of the first `rows` and `cols` rows of both. Sums of exact products in f32, whatever
    /// their order and rounding.
    fn times(&self, rows: usize, other: &Matrix, cols: usize, first: impl Fn(usize) -> f32) -> Vec<Want> {
        let (left, right) = (self.data.chunks(self.cols), other.data.chunks(other.cols));
        let right: Vec<&[f32]> = right.take(cols).collect();
        let places = left.take(rows).flat_map(|row| right.iter().map(move |col| (row, *col)));
        let product = |(at, (row, col)): (usize, (&[f32], &[f32]))| {
            let products = || row.iter().zip(col).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let first = f64::from(first(at));
            let size = products().map(f64::abs).sum::<f64>() + first.abs();
            Want::Near(first + products().sum::<f64>(), 1e-5 * size + 1e-9)
        };
        places.enumerate().map(product).collect()
    }
}

fn mma(rng: &mut Rng) -> Block {
    let (a, b) = (Matrix::random(rng, 16, 16), Matrix::random(rng, 8, 16));
    let c: Vec<f32> = (0..128).map(|_| rng.normal()).collect();
    let want = a.times(16, &b, 8, |at| c[at]);
    Block { inputs: vec![a.plain(), b.plain(), words(&c)], want: vec![want] }
}

fn mma_of_bytes(rng: &mut Rng) -> Block {
    let (a, b, c) = (random_words(rng, 128), random_words(rng, 64), random_words(rng, 128));
    let rows = |words: &[u32]| -> Vec<Vec<i32>> {
        let bytes = words.chunks(8).map(|row| row.iter().flat_map(|word| word.to_le_bytes()));
        bytes.map(|row| row.map(|byte| i32::from(byte as i8)).collect()).collect()
    };
    let (left, right) = (rows(&a), rows(&b));
    let dot = |row: &[i32], col: &[i32]| row.iter().zip(col).map(|(a, b)| a * b).sum::<i32>();
    let products = left.iter().flat_map(|row| right.iter().map(|col| dot(row, col)));
    // Sums wrap.
    let want = products.zip(&c).map(|(dot, c)| Want::Int((dot as u32).wrapping_add(*c))).collect();
    Block { inputs: vec![a, b, c], want: vec![want] }
}

fn mma_of_tiles(rng: &mut Rng) -> Block {
    let (a, b) = (Matrix::random(rng, 64, 64), Matrix::random(rng, 64, 64));
    Block { inputs: vec![a.tiles(), b.tiles()], want: vec![a.times(16, &b, 8, |_| 0.0)] }
}

/// Columns of both, as in the probe.
const K: usize = 3 * 64;

fn wgmma(rng: &mut Rng, n: usize, first: f32) -> Block {
    let (a, b) = (Matrix::random(rng, 64, K), Matrix::random(rng, n, K));
    Block { inputs: vec![a.tiles(), b.tiles()], want: vec![a.times(64, &b, n, |_| first)] }
}

fn wgmma_registers(rng: &mut Rng, n: usize, first: f32) -> Block {
    let (a, b) = (Matrix::random(rng, 64, 64), Matrix::random(rng, n, 64));
    Block { inputs: vec![a.plain(), b.tiles()], want: vec![a.times(64, &b, n, |_| first)] }
}
