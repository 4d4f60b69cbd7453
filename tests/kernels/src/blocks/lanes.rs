//! What one thread or warp does in registers.

use hyc_plan::pack::{bf16_to_f32, f32_to_bf16};

use super::{Block, Want, random_words, words};
use crate::Rng;

pub fn block(name: &str, rng: &mut Rng) -> Option<Block> {
    Some(match name {
        "warp_sum warp_max" => reductions(rng),
        "redux" => redux(rng),
        "bf16" => bf16(rng),
        "load_half" => load_half(rng),
        "load4 store_words load_chunk" => vectors(rng),
        "store_matrices_turned" => matrices(rng),
        "exp exp2" => exponentials(rng),
        "ln log2 inverse_sqrt" => logarithms(rng),
        "sigmoid silu" => sigmoids(rng),
        "sin_cos_turns sin_cos_steps" => rotations(rng),
        _ => return None,
    })
}

fn normals(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.normal()).collect()
}

/// Sums over the lanes whose numbers differ in the bits of `masks`, in the butterfly's order.
fn butterfly(values: &[f32], masks: &[usize], combine: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    masks.iter().fold(values.to_vec(), |values, mask| {
        (0..values.len()).map(|lane| combine(values[lane], values[lane ^ mask])).collect()
    })
}

fn reductions(rng: &mut Rng) -> Block {
    let x = normals(rng, 64);
    let all = [16, 8, 4, 2, 1];
    let found = [
        butterfly(&x, &all, |a, b| a + b),
        butterfly(&x, &[1, 2], |a, b| a + b),
        butterfly(&x, &all, f32::max),
    ];
    let want = found.concat().into_iter().map(Want::Float).collect();
    Block { inputs: vec![words(&x)], want: vec![want] }
}

fn redux(rng: &mut Rng) -> Block {
    let mut x = random_words(rng, 64);
    // One warp has both ends of what there is.
    (x[7], x[20]) = (0, u32::MAX);
    let warps = |best: fn(&[u32]) -> Option<u32>| {
        x.chunks(32).flat_map(move |warp| vec![Want::Int(best(warp).unwrap_or(0)); 32]).collect::<Vec<_>>()
    };
    let most = warps(|warp| warp.iter().copied().max());
    let least = warps(|warp| warp.iter().copied().min());
    Block { inputs: vec![x.clone()], want: vec![[most, least].concat()] }
}

/// Ties to either side, ends of the range, numbers below the normal ones, none at all; else any bits.
const EDGES: [u32; 22] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_8001,
    0x3f80_7fff,
    0xbf81_8000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f7f_7fff,
    1,
    0x8000,
    0x1_8000,
    0x8000_8001,
    0x007f_ffff,
    0x0080_0000,
];

fn bf16(rng: &mut Rng) -> Block {
    let mut x = random_words(rng, 256);
    x[..EDGES.len()].copy_from_slice(&EDGES);
    let floats: Vec<f32> = x.iter().map(|bits| f32::from_bits(*bits)).collect();
    let pairs: Vec<Want> = floats.chunks(2).map(|pair| Want::Bf16(pair[0], pair[1])).collect();
    let back: Vec<Want> = floats.iter().map(|x| Want::Float(bf16_to_f32(f32_to_bf16(*x)))).collect();
    Block { inputs: vec![x], want: vec![pairs.clone(), pairs, back.clone(), back] }
}

fn load_half(rng: &mut Rng) -> Block {
    let halves: Vec<u16> = (0..256).map(|_| f32_to_bf16(rng.normal())).collect();
    let packed = halves.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
    let floats = normals(rng, 256);
    // Word j of eight lanes of bf16 holds lanes j and 4 + j.
    let lanes = |of: &dyn Fn(usize, usize) -> f32| -> Vec<Want> {
        (0..8)
            .flat_map(|n| (0..32).map(move |thread| (thread, n)))
            .map(|(i, n)| Want::Float(of(i, n)))
            .collect()
    };
    let narrow = lanes(&|thread, n| bf16_to_f32(halves[8 * thread + 2 * (n % 4) + n / 4]));
    let wide = lanes(&|thread, n| floats[8 * thread + n]);
    Block { inputs: vec![packed, words(&floats)], want: vec![narrow, wide] }
}

fn vectors(rng: &mut Rng) -> Block {
    let x = random_words(rng, 65 * 4);
    let fours = || x.chunks(4).take(64);
    let reversed = fours().flat_map(|four| four.iter().rev().map(|word| Want::Int(*word)));
    let ends = fours().flat_map(|four| [Want::Int(four[0]), Want::Int(four[3])]);
    let behind = x[4..].iter().map(|word| Want::Int(*word));
    let want = vec![reversed.collect(), ends.collect(), behind.collect()];
    Block { inputs: vec![x], want }
}

/// Row g of matrix m: a half of word m of each of lanes 4 g .. 4 g + 4 a column. Lane `8 m + c` has column c.
fn matrices(rng: &mut Rng) -> Block {
    let x = random_words(rng, 32 * 4);
    let element = |m: usize, row: usize, column: usize| {
        let word = x[4 * (4 * row + column / 2) + m];
        (word >> (16 * (column % 2))) & 0xffff
    };
    let turned = (0..32 * 4).map(|i| {
        let (lane, row) = (i / 4, 2 * (i % 4));
        let [low, high] = [0, 1].map(|odd| element(lane / 8, row + odd, lane % 8));
        Want::Int(high << 16 | low)
    });
    Block { want: vec![turned.collect()], inputs: vec![x] }
}

/// Below every normal number.
const TINY: f64 = 1.2e-38;

/// Of each function of each x: its value, near; infinities exactly.
fn functions(x: Vec<f32>, list: &[&dyn Fn(f64) -> (f64, f64)]) -> Block {
    let one = |(value, error): (f64, f64)| match value.is_finite() {
        true => Want::Near(value, error),
        false => Want::Float(value as f32),
    };
    let want = list.iter().flat_map(|f| x.iter().map(|x| one(f(f64::from(*x))))).collect();
    Block { inputs: vec![words(&x)], want: vec![want] }
}

/// Between `low` and `high`.
fn between(rng: &mut Rng, (low, high): (f32, f32), count: usize) -> Vec<f32> {
    (0..count).map(|_| low + (high - low) * (rng.below(1 << 20) as f32 / (1 << 20) as f32)).collect()
}

/// e^x scales x first: an error that grows with x. Two units in the last place beside it.
fn exp_error(x: f64) -> f64 {
    3e-7 + 1.2e-7 * x.abs()
}

fn exponentials(rng: &mut Rng) -> Block {
    let mut x = between(rng, (-90.0, 88.0), 256);
    (x[0], x[1], x[2], x[3]) = (f32::NEG_INFINITY, 0.0, -140.0, 1.0);
    let zero = |x: f64| if x == f64::NEG_INFINITY { (0.0, 1e-45) } else { (f64::NAN, 0.0) };
    let exp = |x: f64| if x.is_finite() { (x.exp(), x.exp() * exp_error(x) + TINY) } else { zero(x) };
    let exp2 = |x: f64| if x.is_finite() { (x.exp2(), x.exp2() * 3e-7 + TINY) } else { zero(x) };
    functions(x, &[&exp, &exp2])
}

fn logarithms(rng: &mut Rng) -> Block {
    let mut x: Vec<f32> = between(rng, (-80.0, 80.0), 128).into_iter().map(f32::exp).collect();
    x.extend(between(rng, (0.4, 2.2), 128));
    (x[0], x[1], x[2]) = (0.0, 1.0, f32::INFINITY);
    let near = |value: f64, error: f64| (value, error * (1.0 + value.abs()));
    functions(
        x,
        &[&|x| near(x.ln(), 4e-7), &|x| near(x.log2(), 3e-7), &|x| {
            let value = 1.0 / x.sqrt();
            (value, 2.5e-7 * value + 1e-45)
        }],
    )
}

fn sigmoids(rng: &mut Rng) -> Block {
    let mut x = between(rng, (-95.0, 95.0), 128);
    x.extend(between(rng, (-6.0, 6.0), 128));
    x[0] = 0.0;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let error = |x: f64| 3e-7 + exp_error(x);
    functions(
        x,
        &[&|x| (sigmoid(x), sigmoid(x) * error(x) + TINY), &|x| {
            let value = x * sigmoid(x);
            (value, value.abs() * error(x) + 100.0 * TINY)
        }],
    )
}

/// As in the probe.
const TURNS: [f64; 4] = [0.159_154_943_091_895_35, 0.01, 1.25e-4, 7.0e-7];

fn rotations(rng: &mut Rng) -> Block {
    let positions: Vec<u32> = (0..256).map(|_| rng.below(1 << 20) as u32).collect();
    let angle = |(i, position): (usize, &u32)| {
        let turns = TURNS[i % 4] * f64::from(*position);
        (turns - turns.round()) * std::f64::consts::TAU
    };
    let angles: Vec<f64> = positions.iter().enumerate().map(angle).collect();
    let sin = angles.iter().map(|angle| Want::Near(angle.sin(), 2e-6));
    let cos = angles.iter().map(|angle| Want::Near(angle.cos(), 2e-6));
    let both: Vec<Want> = sin.chain(cos).collect();
    let want = both.repeat(2);
    Block { inputs: vec![positions], want: vec![want] }
}
