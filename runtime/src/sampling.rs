//! From logits to a token.

use std::hash::{BuildHasher, Hasher, RandomState};

use hyc_plan::sample::{ONE, SampleParams, Seen, penalise_and_choose};
use hyc_plan::sampling::OutOfRange;
pub use hyc_plan::sampling::{Sampling, SamplingDefaults};

use crate::error::{Error, ErrorKind};
use crate::history::History;

/// The error of a setting out of its range.
pub(crate) fn out_of_range(e: OutOfRange) -> Error {
    Error::new(ErrorKind::BadInput, e.to_string()).help(format!("give {}", e.range.wanted()))
}

/// A seed that the system has made up, short enough to be typed again.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

/// A seeded sampler: equal seeds, logits and tokens seen give equal tokens, on a GPU as on the host.
///
/// ```
/// use hyc_runtime::{Sampler, Sampling};
///
/// let sampling = Sampling { temperature: 0.8, top_k: 2, ..Sampling::default() };
/// let logits = [0.0, 3.0, 2.0, -1.0];
/// let draw = |seed| Sampler::new(sampling, seed).sample(&logits);
/// assert_eq!(draw(1), draw(1));
/// assert!((0..99).all(|seed| [1, 2].contains(&draw(seed))));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    history: History,
}

impl Default for Sampler {
    /// The greedy one.
    fn default() -> Sampler {
        Sampler::new(Sampling::default(), 0)
    }
}

impl Sampler {
    /// A sampler of that seed, for options that pass [`Sampling::check`].
    pub fn new(sampling: Sampling, seed: u64) -> Sampler {
        let mut sampler = Sampler { sampling, state: seed, history: History::default() };
        sampler.reset(sampling, seed);
        sampler
    }

    /// Chooses like that from now on, and knows the tokens that it has seen.
    pub(crate) fn reset(&mut self, sampling: Sampling, seed: u64) {
        (self.sampling, self.state) = (sampling, seed);
        self.history.set_window(if sampling.penalises() { sampling.penalty_window } else { 0 });
    }

    /// Takes note of tokens, for penalties: a prompt's, or `generated` ones. [`Sampler::sample`] takes none of what it
    /// chooses.
    pub fn see(&mut self, tokens: &[u32], generated: bool) {
        self.history.push(tokens, generated);
    }

    /// Has seen these tokens and no others, each with whether it was generated. Draws go on from where they are.
    pub(crate) fn see_anew(&mut self, tokens: impl Iterator<Item = (u32, bool)>) {
        self.history.clear();
        tokens.for_each(|(token, generated)| self.history.push(&[token], generated));
    }

    /// What chooses the next token, with the tokens that are penalised behind those in `seen`; and the state after the
    /// draw, to be kept with [`Sampler::advance`]. A greedy sampler draws nothing.
    pub(crate) fn next(&self, seen: &mut Vec<Seen>) -> (SampleParams, u64) {
        let (s, first) = (self.sampling, seen.len());
        seen.extend(self.history.seen());
        let penalties = SampleParams {
            first_seen: first as u32,
            seen: (seen.len() - first) as u32,
            repeat: s.repeat_penalty,
            presence: s.presence_penalty,
            frequency: s.frequency_penalty,
            ..SampleParams::default()
        };
        if s.temperature <= 0.0 {
            return (penalties, self.state);
        }
        let (draw, state) = draw(self.state);
        let params = SampleParams {
            // A temperature near zero has a scale that is no number any more.
            scale: (std::f32::consts::LOG2_E / s.temperature).min(f32::MAX),
            top_k: s.top_k,
            top_p: s.top_p,
            least: (f64::from(s.min_p) * f64::from(ONE)).ceil() as u32,
            draw,
            ..penalties
        };
        (params, state)
    }

    /// Goes on from a state that [`Sampler::next`] gave.
    pub(crate) fn advance(&mut self, state: u64) {
        self.state = state;
    }

    /// The next token; 0 where the logits are no numbers. Panics where there is no logit of a token that it has seen.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let mut seen = Vec::new();
        let (params, state) = self.next(&mut seen);
        self.advance(state);
        penalise_and_choose(&mut logits.to_vec(), logits.len() as u64, &params, &seen).unwrap_or(0)
    }
}

/// 64 uniform bits, and the state after them (splitmix64).
fn draw(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31), state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    /// The tokens that a thousand seeds choose.
    fn kept(sampling: Sampling) -> Vec<u32> {
        let sampling = Sampling { temperature: 1.0, ..sampling };
        let chosen: BTreeSet<u32> =
            (0..1000).map(|seed| Sampler::new(sampling, seed).sample(&LOGITS)).collect();
        chosen.into_iter().collect()
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let error = out_of_range(Sampling { top_p: 1.5, ..Sampling::default() }.check().unwrap_err());
        assert_eq!(error.kind, ErrorKind::BadInput);
        assert_eq!(error.message, "top_p = 1.5 is out of range");
        assert_eq!(error.help.as_deref(), Some("give a number from 0 to 1"));
    }

    #[test]
    fn seeds_are_made_up_anew() {
        assert_ne!(random_seed(), random_seed());
    }

    /// Each penalty changes what is chosen, at temperature 0, and for the tokens that it is about alone.
    #[test]
    fn penalties_choose_other_tokens() {
        let chosen = |sampling: Sampling, prompt: &[u32], generated: &[u32]| {
            let mut sampler = Sampler::new(sampling, 1);
            sampler.see(prompt, false);
            sampler.see(generated, true);
            sampler.sample(&LOGITS)
        };
        let s = Sampling::default();
        let repeat = Sampling { repeat_penalty: 1.5, ..s };
        assert_eq!(chosen(repeat, &[], &[]), 1);
        assert_eq!(
            [chosen(repeat, &[1], &[]), chosen(repeat, &[], &[1]), chosen(repeat, &[1], &[3])],
            [3, 3, 1]
        );
        assert_eq!(chosen(Sampling { penalty_window: 1, ..repeat }, &[1, 0], &[]), 1);
        let presence = Sampling { presence_penalty: 0.5, ..s };
        assert_eq!(
            [chosen(presence, &[1], &[]), chosen(presence, &[], &[1]), chosen(presence, &[], &[1, 1, 3])],
            [1, 3, 1]
        );
        let frequency = Sampling { frequency_penalty: 0.5, ..s };
        assert_eq!(
            [chosen(frequency, &[1], &[]), chosen(frequency, &[], &[1]), chosen(frequency, &[], &[1, 1, 3])],
            [1, 3, 3]
        );
        let reward = Sampling { frequency_penalty: -1.0, ..s };
        assert_eq!(chosen(reward, &[], &[2, 2]), 2);
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        let sampling = Sampling { temperature: 1e-30, top_k: 1, ..Sampling::default() };
        assert_eq!(Sampler::new(sampling, 3).sample(&LOGITS), 1);
    }

    #[test]
    fn greedy_takes_the_lower_of_equals() {
        assert_eq!(Sampler::new(Sampling::default(), 1).sample(&LOGITS), 1);
    }

    #[test]
    fn filters_keep_the_likeliest() {
        assert_eq!(kept(Sampling { top_k: 3, ..Sampling::default() }), [1, 2, 3]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..Sampling::default() }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..Sampling::default() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..Sampling::default() }), [1, 2, 3]);
    }

    #[test]
    fn seeds_repeat_and_frequencies_follow_the_logits() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let draw = |seed| {
            let mut sampler = Sampler::new(sampling, seed);
            (0..20_000).map(|_| sampler.sample(&LOGITS)).collect::<Vec<u32>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let total: f64 = LOGITS.iter().map(|x| f64::from(*x).exp()).sum();
        for (token, x) in LOGITS.iter().enumerate() {
            let share = draw(9).iter().filter(|t| **t == token as u32).count() as f64 / 20_000.0;
            assert!((share - f64::from(*x).exp() / total).abs() < 0.02, "token {token}: {share}");
        }
    }
}
