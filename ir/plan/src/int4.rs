//! Groups of four-bit codes: the scale, and the least value where there is one, of the least sum of squared errors that is
//! found by rounding and fitting in turn, from a few beginnings.

use crate::elem::{MOST_F16, f16_to_f32, f32_to_f16};
use crate::shared::Shared;

/// Roundings and fits from each beginning.
const ROUNDS: usize = 2;

/// Appends the codes of a group, a byte each, and returns what they share.
pub fn encode(group: &[f32], zero: bool, out: &mut Vec<u8>) -> Shared {
    let shared = if zero { with_least(group) } else { symmetric(group) };
    let codes = Codes::of(shared);
    out.extend(group.iter().map(|x| codes.nearest(*x) as u8));
    shared
}

/// The codes nearest to numbers.
#[derive(Clone, Copy)]
struct Codes {
    shared: Shared,
    inverse: f32,
}

impl Codes {
    fn of(shared: Shared) -> Codes {
        // Where all codes stand for the same number, 8 is the zero of symmetric ones.
        Codes { shared, inverse: if shared.scale == 0.0 { 0.0 } else { 1.0 / shared.scale } }
    }

    /// A whole number from 0 to 15.
    fn nearest(self, x: f32) -> f32 {
        /// 2^23: what is added to it becomes whole, ties to even.
        const WHOLE: f32 = 8_388_608.0;
        if self.inverse == 0.0 {
            return 8.0;
        }
        let steps = ((x - self.shared.least) * self.inverse).clamp(0.0, 15.0);
        (steps + WHOLE) - WHOLE
    }
}

/// As an f16 has it.
fn half(x: f64) -> f32 {
    f16_to_f32(f32_to_f16((x as f32).clamp(-MOST_F16, MOST_F16)))
}

/// The sum of squared errors.
fn error(group: &[f32], shared: Shared) -> f64 {
    let codes = Codes::of(shared);
    let error = |x: &f32| f64::from(codes.nearest(*x) * shared.scale + shared.least - x).powi(2);
    group.iter().map(error).sum()
}

/// The better of what was found and of what a fit says.
fn keep(group: &[f32], best: &mut (f64, Shared), shared: Shared) {
    let found = error(group, shared);
    if found < best.0 {
        *best = (found, shared);
    }
}

/// `(code - 8) scale`: the side with the larger magnitude may have the eighth step.
fn symmetric(group: &[f32]) -> Shared {
    let largest = group.iter().fold(0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
    let mut best = (f64::INFINITY, Shared::symmetric(0.0));
    keep(group, &mut best, Shared::symmetric(0.0));
    for steps in [-8.0, -7.0, 7.0, 6.0] {
        let mut shared = Shared::symmetric(half(f64::from(largest) / steps));
        for _ in 0..ROUNDS {
            keep(group, &mut best, shared);
            // Least squares with these codes: sum q x / sum q^2.
            let (codes, mut qx, mut qq) = (Codes::of(shared), 0.0, 0.0);
            for x in group {
                let q = f64::from(codes.nearest(*x)) - 8.0;
                qx += q * f64::from(*x);
                qq += q * q;
            }
            if qq == 0.0 {
                break;
            }
            shared = Shared::symmetric(half(qx / qq));
        }
    }
    let found = f64::from(best.1.scale);
    for percent in (-10..=10).step_by(2).filter(|percent| *percent != 0) {
        keep(group, &mut best, Shared::symmetric(half(found * (1.0 + 0.01 * f64::from(percent)))));
    }
    best.1
}

/// `code scale + least`.
fn with_least(group: &[f32]) -> Shared {
    let (low, high) =
        group.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
    let mut best = (f64::INFINITY, Shared { scale: 0.0, least: half(f64::from(low)) });
    for shrunk in [1.0, 0.93, 0.86] {
        let (middle, width) = ((f64::from(low) + f64::from(high)) / 2.0, f64::from(high) - f64::from(low));
        let scale = half(width * shrunk / 15.0);
        let mut shared = Shared { scale, least: half(middle - 7.5 * f64::from(scale)) };
        for _ in 0..ROUNDS {
            keep(group, &mut best, shared);
            // A line through (code, number).
            let (codes, mut q, mut x, mut qq, mut qx) = (Codes::of(shared), 0.0, 0.0, 0.0, 0.0);
            for number in group {
                let (a, b) = (f64::from(codes.nearest(*number)), f64::from(*number));
                (q, x, qq, qx) = (q + a, x + b, qq + a * a, qx + a * b);
            }
            let n = group.len() as f64;
            let spread = n * qq - q * q;
            if spread == 0.0 {
                break;
            }
            let slope = (n * qx - q * x) / spread;
            shared = Shared { scale: half(slope), least: half((x - slope * q) / n) };
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, count: usize, shift: f32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next() + next() + next() + shift).collect()
    }

    /// No scale of a fine grid is better than what is found by more than a few percent.
    #[test]
    fn few_scales_are_better() {
        let mut worst = 0f64;
        for seed in 0..50 {
            let group = numbers(seed, 64, 0.0);
            let found = error(&group, symmetric(&group));
            let most = group.iter().fold(0f32, |most, x| most.max(x.abs()));
            let grid = (1..4000).flat_map(|i| {
                let scale = most * i as f32 / 16000.0;
                [scale, -scale].map(|scale| error(&group, Shared::symmetric(half(f64::from(scale)))))
            });
            let least = grid.fold(f64::INFINITY, f64::min);
            worst = worst.max(found / least);
        }
        // Twice what was measured.
        assert!(worst <= 1.12, "{worst}");
    }

    /// Sixteen evenly spaced numbers are exact, and so are equal ones.
    #[test]
    fn what_can_be_stored_is() {
        let steps: Vec<f32> = (0..16).map(|i| 0.25 * i as f32 - 1.5).collect();
        let even: Vec<f32> = (-8..8).map(|i| 0.5 * i as f32).collect();
        for (zero, group) in [
            (true, steps),
            (true, vec![0.75; 20]),
            (false, vec![0.0; 20]),
            (true, vec![0.0; 3]),
            (false, even),
        ] {
            let mut codes = Vec::new();
            let shared = encode(&group, zero, &mut codes);
            let number = |code: &u8| f32::from(*code) * shared.scale + shared.least;
            assert_eq!(codes.iter().map(number).collect::<Vec<f32>>(), group, "{zero}");
            // As it is stored.
            let [scale, least] = [shared.scale, shared.least].map(|x| f16_to_f32(f32_to_f16(x)));
            assert_eq!((scale, least), (shared.scale, shared.least), "{zero}");
        }
    }

    /// A least value helps where numbers are not about zero; numbers at the ends of f16 stay finite.
    #[test]
    fn least_values_and_ends() {
        let group = numbers(3, 64, 2.0);
        assert!(error(&group, with_least(&group)) < 0.5 * error(&group, symmetric(&group)));
        for most in [1e-30, 1e-8, 6e4, 4.5e5] {
            let group = [most, -most, 0.3 * most, 0.0];
            for zero in [false, true] {
                let shared = if zero { with_least(&group) } else { symmetric(&group) };
                let worst = group
                    .iter()
                    .map(|x| (Codes::of(shared).nearest(*x) * shared.scale + shared.least - x).abs());
                let worst = worst.fold(0f32, f32::max);
                // A step of a sixteenth, or of the smallest f16; a scale is limited by the largest.
                assert!(worst <= 0.08 * most + 1e-7 || most > 6e4 && zero, "{most} {zero}: {worst}");
                assert!(shared.scale.is_finite() && shared.least.is_finite());
            }
        }
    }
}
