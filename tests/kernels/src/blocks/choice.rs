//! The best of many scores: the larger first, the lower index among equals, -1 where there are no more.

use super::{Block, Want, words};
use crate::Rng;

/// As in the probe.
const SCORES: usize = 2600;
/// How many scores of each list count.
const VISIBLE: [usize; 8] = [SCORES, SCORES, SCORES, 7, 1, SCORES, 513, 0];

pub fn block(name: &str, rng: &mut Rng) -> Option<Block> {
    let count = match name {
        "best 16" | "best 16 merged" => 16,
        "best 32" | "best 32 merged" => 32,
        _ => return None,
    };
    let lists: Vec<Vec<f32>> = (0..VISIBLE.len()).map(|list| scores(rng, list)).collect();
    let want = lists.iter().zip(VISIBLE).flat_map(|(scores, visible)| best(&scores[..visible], count));
    let want = want.map(|index| Want::Int(index as u32)).collect();
    let visible = VISIBLE.iter().map(|count| *count as u32).collect();
    Some(Block { inputs: vec![words(&lists.concat()), visible], want: vec![want] })
}

/// Scores of list `list`: few different ones in 1 and 6, one in 2, hardly any finite in 5, and half in 6.
fn scores(rng: &mut Rng, list: usize) -> Vec<f32> {
    let finite: Vec<u64> = (0..5).map(|_| rng.below(SCORES as u64)).collect();
    let one = |i: u64| {
        let coarse = rng.below(20) as f32 - 10.5;
        match list {
            1 => coarse,
            2 => -3.25,
            5 if !finite.contains(&i) => f32::NEG_INFINITY,
            6 if coarse > -7.0 => f32::NEG_INFINITY,
            6 => coarse,
            _ => rng.normal() * 30.0,
        }
    };
    (0..SCORES as u64).map(one).collect()
}

fn best(scores: &[f32], count: usize) -> Vec<i32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let found = order.into_iter().map(|i| i as i32);
    found.chain(std::iter::repeat(-1)).take(count).collect()
}
