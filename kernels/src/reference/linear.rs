//! Matrix products and what is fused around them.

use std::ops::Range;

use hyc_plan::ops::{Linear, QkvAppend, gates};
use hyc_plan::{AttnShape, Codec, Epilogue, pack};

use super::pointwise::{normalise, rotate, sigmoid};
use super::view::{Views, dot};
use crate::slices::OUTPUTS;

/// The rows of `x` with their numbers, normalised where there is a fused norm, and of e4m3 where a step has so many rows.
fn inputs(v: &Views, in_features: u64, norm: Option<f64>, fp8_rows: Option<u64>) -> Vec<(u64, Vec<f64>)> {
    let (x, norm) = (v.tensor("x"), norm.map(|eps| (eps, v.weight("norm"))));
    let input = |row: u64| match &norm {
        Some((eps, weight)) => normalise(&x.row(row, in_features), *eps, |i| weight.get(0, i)),
        None => x.row(row, in_features),
    };
    let fp8 = fp8_rows.is_some_and(|least| v.all_rows() >= least);
    let rounded = |row: Vec<f64>| if fp8 { in_e4m3(&row) } else { row };
    v.rows().map(|row| (row, rounded(input(row)))).collect()
}

/// A row as bf16, and then as a group of `Codec::Fp8`; one with what is no finite number has no scale, and no numbers.
fn in_e4m3(row: &[f64]) -> Vec<f64> {
    let codec = Codec::Fp8 { group: u32::MAX };
    let row: Vec<f32> = row.iter().map(|x| pack::bf16_to_f32(pack::f32_to_bf16(*x as f32))).collect();
    if !row.iter().all(|x| x.is_finite()) {
        return vec![f64::NAN; row.len()];
    }
    let mut codes = Vec::with_capacity(row.len());
    let shared = codec.encode(&row, &mut codes);
    codes.iter().map(|code| f64::from(codec.decode(&[*code], shared))).collect()
}

/// The outputs `cols` of a product.
pub fn linear(v: &Views, c: &Linear, cols: Range<u64>) {
    let (weight, to) = (v.weight("weight"), v.tensor("out"));
    let inputs = inputs(v, c.in_features, c.norm, c.fp8_rows);
    for col in cols {
        let w = weight.row(col, c.in_features as usize);
        let products = inputs.iter().map(|(row, x)| (*row, x, dot(&w, x)));
        match c.epilogue {
            Epilogue::Store => products.for_each(|(row, _, y)| to.set(row, col, y)),
            Epilogue::Residual => {
                let residual = v.tensor("residual");
                products.for_each(|(row, _, y)| to.set(row, col, y + residual.get(row, col)));
            }
            Epilogue::SwiGlu => {
                let up = v.weight("up").row(col, c.in_features as usize);
                products.for_each(|(row, x, y)| to.set(row, col, y * sigmoid(y) * dot(&up, x)));
            }
        }
    }
}

/// What `QkvAppend` projects to.
struct Projection {
    weight: &'static str,
    /// The name of its norm where it is rotated.
    norm: Option<&'static str>,
    heads: u64,
    dim: u64,
    to: To,
}

/// Where that is stored.
#[derive(Clone, Copy)]
enum To {
    Rows(&'static str),
    Keys,
    Values,
}

/// All of it, in the order of the tasks.
fn projections(c: &QkvAppend) -> Vec<Projection> {
    let AttnShape { heads, kv_heads, qk_dim, v_dim } = c.shape;
    let rotated = |weight, norm, heads, to| Projection { weight, norm: Some(norm), heads, dim: qk_dim, to };
    let plain = |weight, heads, to| Projection { weight, norm: None, heads, dim: v_dim, to };
    let mut all = vec![rotated("wq", "q_norm", heads, To::Rows("q"))];
    if c.own_kv {
        all.push(rotated("wk", "k_norm", kv_heads, To::Keys));
        all.push(plain("wv", kv_heads, To::Values));
    }
    all.extend(gates(c.gates).map(|(weight, logits)| plain(weight, heads, To::Rows(logits))));
    all
}

/// These dims of one head; where it is rotated, with each its pair. A head with a norm is given whole.
fn head(v: &Views, c: &QkvAppend, p: &Projection, (h, dims): (u64, &[u64]), inputs: &[(u64, Vec<f64>)]) {
    let weight = v.weight(p.weight);
    let weights: Vec<_> = dims.iter().map(|d| weight.row(h * p.dim + d, c.in_features as usize)).collect();
    for (row, x) in inputs {
        let mut y = vec![0.0; p.dim as usize];
        dims.iter().zip(&weights).for_each(|(d, w)| y[*d as usize] = dot(w, x));
        if let Some(norm) = p.norm {
            if let Some(eps) = c.qk_norm {
                let weight = v.weight(norm);
                y = normalise(&y, eps, |i| weight.get(0, i));
            }
            rotate(&mut y, v.position(*row), c.rope);
        }
        let (sequence, position) = (v.sequence(*row), v.position(*row));
        let results = dims.iter().map(|d| (*d, y[*d as usize]));
        match p.to {
            To::Rows(name) => {
                let to = v.tensor(name);
                results.for_each(|(d, y)| to.set(*row, h * p.dim + d, y));
            }
            To::Keys => {
                let cache = v.cache("cache");
                results.for_each(|(d, k)| cache.set_key(sequence, position, h, d, k));
            }
            To::Values => {
                let cache = v.cache("cache");
                results.for_each(|(d, x)| cache.set_value(sequence, position, h, d, x));
            }
        }
    }
}

pub fn qkv_append(v: &Views, c: &QkvAppend) {
    let inputs = inputs(v, c.in_features, c.norm, c.fp8_rows);
    for p in projections(c) {
        let dims: Vec<u64> = (0..p.dim).collect();
        (0..p.heads).for_each(|h| head(v, c, &p, (h, &dims), &inputs));
    }
}

/// Strip `task` of all projections, [`OUTPUTS`] each: of q and k half of it lies half a head further, so that it has whole pairs.
pub fn qkv_strip(v: &Views, c: &QkvAppend, task: u64) {
    let mut strip = task;
    for p in projections(c) {
        let of_head = p.dim / OUTPUTS;
        if strip < p.heads * of_head {
            let (h, strip) = (strip / of_head, strip % of_head);
            let (half, far) = if p.norm.is_some() { (8, p.dim / 2) } else { (16, 8) };
            let first = strip * half;
            let dims: Vec<u64> = (first..first + 8).chain(first + far..first + far + 8).collect();
            return head(v, c, &p, (h, &dims), &inputs(v, c.in_features, c.norm, c.fp8_rows));
        }
        strip -= p.heads * of_head;
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::null;

    use hyc_plan::abi::StepContext;
    use hyc_plan::{Elem, Format, KernelSpec, Layout, OperandSpec, Rows, StepOp};

    use super::*;

    const WIDTH: u64 = 4;

    /// Rows of the product with the unit matrix, of `rows`, in f32.
    fn product(rows: &[[f32; WIDTH as usize]], fp8_rows: Option<u64>) -> Vec<f32> {
        let (mut x, count) = (rows.concat(), rows.len() as u64);
        let mut unit: Vec<f32> = (0..WIDTH * WIDTH).map(|i| f32::from(i % (WIDTH + 1) == 0)).collect();
        let mut out = vec![0f32; x.len()];
        let tensor = OperandSpec::Tensor { elem: Elem::F32, width: WIDTH, stride: WIDTH };
        let layout = Layout::Rows { rows: WIDTH, cols: WIDTH };
        let spec = KernelSpec {
            op: StepOp::Linear(Linear {
                in_features: WIDTH,
                out_features: WIDTH,
                norm: None,
                epilogue: Epilogue::Store,
                fp8_rows,
            }),
            operands: vec![tensor, OperandSpec::Weight(Format { codec: Codec::F32, layout }), tensor],
            rows: Rows::Tokens,
            max_rows: count,
            max_context: 1,
        };
        let context = StepContext {
            tokens: count,
            batch: 1,
            outputs: 0,
            max_pages: 0,
            token_ids: null(),
            positions: null(),
            sequence: null(),
            page_table: null(),
            ring_slot: null(),
            out_rows: null(),
            sampling: null(),
            seen_count: 0,
            seen: null(),
        };
        let operands = [&mut x, &mut unit, &mut out].map(|of| of.as_mut_ptr().cast::<u8>());
        // SAFETY: three blocks of the sizes that the spec gives; a product looks nothing up in the context's tables.
        unsafe { super::super::run(&spec, &context, &operands) };
        out
    }

    #[test]
    fn rows_are_of_e4m3_in_steps_of_so_many() {
        // The first row is 1/128 times numbers that e4m3 has. Of the second, 100 lies between 96 and 104, and the last is too small.
        let rows = [[3.5, -1.0, 0.0, 0.015625], [448.0, 100.0, 1.0, 0.0001]];
        let fp8 = product(&rows, Some(2));
        assert_eq!(fp8[..4], rows[0]);
        assert_eq!(fp8[4..], [448.0, 96.0, 1.0, 0.0]);
        for fewer in [None, Some(3)] {
            assert_eq!(product(&rows, fewer), rows.concat(), "{fewer:?}");
        }
    }

    #[test]
    fn a_row_with_what_is_no_number_has_none() {
        for wrong in [f32::NAN, f32::INFINITY, f32::MAX] {
            let fp8 = product(&[[1.0, wrong, 0.0, 2.0], [7.0, 0.0, 0.0, 0.0]], Some(1));
            assert!(fp8[..4].iter().all(|y| y.is_nan()), "{wrong}: {fp8:?}");
            assert_eq!(fp8[4..], [7.0, 0.0, 0.0, 0.0]);
        }
    }
}
