//! Shared memory, barriers and rings.

use super::{Block, Want, random_words};
use crate::Rng;

pub fn block(name: &str, rng: &mut Rng) -> Option<Block> {
    Some(match name {
        "dynamic_shared" => dynamic_shared(rng),
        "named_barrier" => named_barrier(rng),
        "mask_shared fetch_add_one" => masks(rng),
        "ring" => ring(rng, 1),
        "ring of a pair" => ring(rng, 2),
        "warp_ring" | "warp_ring early" => warp_ring(rng),
        _ => return None,
    })
}

fn ints(words: impl IntoIterator<Item = u32>) -> Vec<Want> {
    words.into_iter().map(Want::Int).collect()
}

fn dynamic_shared(rng: &mut Rng) -> Block {
    let x = random_words(rng, 256);
    let reversed = x.iter().rev().copied();
    let other = x.iter().rev().map(|word| !word);
    let rest = [7, 0].into_iter().flat_map(|word| vec![word; 256]);
    let want = ints(reversed.chain(other).chain(rest));
    Block { inputs: vec![x], want: vec![want] }
}

fn named_barrier(rng: &mut Rng) -> Block {
    let x = random_words(rng, 256);
    let rounds = |words: &[u32], count: u32| {
        (0..count).fold(words.to_vec(), |words, round| {
            (0..128).map(|i| words[(i + 37) % 128].wrapping_add(round)).collect()
        })
    };
    let want = ints([rounds(&x[..128], 20), rounds(&x[128..], 17)].concat());
    Block { inputs: vec![x], want: vec![want] }
}

fn masks(rng: &mut Rng) -> Block {
    let x = random_words(rng, 256);
    let masked = (0..256).map(|i| x[i as usize] & (0xffff | i << 16));
    let counts = (0..256).map(|i| x.iter().filter(|word| *word & 7 == i & 7).count() as u32);
    let want = ints(masked.chain(counts));
    Block { inputs: vec![x], want: vec![want] }
}

/// As in the probes.
const TILES: usize = 37;
const WORDS: usize = 256;

fn ring(rng: &mut Rng, blocks: usize) -> Block {
    let x = random_words(rng, (TILES * WORDS) as u64);
    let sum = |word: usize| {
        let parts = (0..TILES).map(|tile| x[tile * WORDS + word].wrapping_mul(tile as u32 + 1));
        parts.fold(0, u32::wrapping_add)
    };
    let one = |n: usize, thread: usize| {
        let word = thread % 128 + 128 * n;
        sum(if thread < 128 { word } else { WORDS - 1 - word })
    };
    let want = ints((0..2).flat_map(|n| (0..256).map(move |thread| (n, thread))).map(|(n, i)| one(n, i)));
    Block { inputs: vec![x], want: vec![want.repeat(blocks)] }
}

fn warp_ring(rng: &mut Rng) -> Block {
    let (weights, inputs) = (random_words(rng, TILES as u64 * 128), random_words(rng, TILES as u64 * 64));
    let one = |warp: usize, lane: usize| {
        let tiles = [TILES, 10].into_iter().flat_map(|tiles| (warp..tiles).step_by(4));
        tiles.zip(1u32..).fold(0u32, |sum, (tile, count)| {
            let words =
                [&weights[128 * tile..128 * (tile + 1)], &inputs[64 * tile..64 * (tile + 1)]].concat();
            let mine = words.iter().skip(lane).step_by(32).fold(0u32, |sum, word| sum.wrapping_add(*word));
            sum.wrapping_add(mine.wrapping_mul(count))
        })
    };
    let want = ints((0..128).map(|thread| one(thread / 32, thread % 32)));
    Block { inputs: vec![weights, inputs], want: vec![want] }
}
