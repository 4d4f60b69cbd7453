//! Inputs of [`crate::Fill::LargeLogits`]: what a selection loses where it ranks by `logit - lse` in f32.
//!
//! ```text
//! logit = +-65536 / sqrt d + noise        the first dim gives the offset, by the head; the others the noise
//! ```
//! Queries and keys are multiples of 1/8, few enough that f32 and tensor cores sum them exactly in any order: whoever
//! has another order of blocks than the reference lost it in the selection.

use crate::Rng;

/// The first dim of a query or key.
const OFFSET: f32 = 256.0;

/// Multiples of 1/8 from -most to most.
fn eighths(rng: &mut Rng, most: u64) -> f32 {
    rng.below(16 * most + 1) as f32 / 8.0 - most as f32
}

/// Element `d` of the query of `head`.
pub fn query(rng: &mut Rng, head: u64, d: u64) -> f32 {
    match (d, head % 2) {
        (0, 0) => OFFSET,
        (0, _) => -OFFSET,
        _ => eighths(rng, 1),
    }
}

/// Element `d` of a key.
pub fn key(rng: &mut Rng, d: u64) -> f32 {
    if d == 0 { OFFSET } else { eighths(rng, 2) }
}

/// The sinks of four heads in turn: near the head's own logits twice, then far above all logits, so that the sink is
/// the whole of the log-sum-exp.
pub fn sink(head: u64) -> f32 {
    [8192.0, -8191.0, 9000.5, 9001.0][head as usize % 4]
}
