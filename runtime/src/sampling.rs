//! From logits to a token.

use hyc_ir::sample::{ONE, SampleParams, choose};

use crate::error::{Error, ErrorKind, Result};

/// How to choose. The filters apply in this order: temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the largest logit, ties to the lower id.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0: all.
    pub top_k: usize,
    /// Keeps the likeliest tokens whose probabilities first reach this sum; 1: all.
    pub top_p: f32,
    /// Keeps tokens at least this likely beside the likeliest; 0: all.
    pub min_p: f32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Sampling {
    /// Errors: a temperature that is negative or no number, `top_p` or `min_p` outside 0..=1.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, f32::MAX),
            ("top_p", self.top_p, 1.0),
            ("min_p", self.min_p, 1.0),
        ];
        for (name, value, most) in ranges {
            if !(0.0..=most).contains(&value) {
                let message = format!("{name} = {value} is out of range");
                let help =
                    if most == 1.0 { "give a number from 0 to 1" } else { "give a finite number from 0 up" };
                return Err(Error::new(ErrorKind::BadInput, message).help(help));
            }
        }
        Ok(())
    }
}

/// A seeded sampler: equal seeds and logits give equal tokens, on a GPU as on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
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
        Sampler { sampling, state: seed }
    }

    /// 64 uniform bits (splitmix64).
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What chooses the next token. A greedy sampler draws nothing.
    pub(crate) fn params(&mut self) -> SampleParams {
        let s = self.sampling;
        if s.temperature <= 0.0 {
            return SampleParams::default();
        }
        SampleParams {
            // A temperature near zero has a scale that is no number any more.
            scale: (std::f32::consts::LOG2_E / s.temperature).min(f32::MAX),
            top_k: u32::try_from(s.top_k).unwrap_or(u32::MAX),
            top_p: s.top_p,
            least: (f64::from(s.min_p) * f64::from(ONE)).ceil() as u32,
            draw: self.draw(),
        }
    }

    /// The next token; 0 where the logits are no numbers.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let params = self.params();
        choose(logits, &params).unwrap_or(0)
    }
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
        let s = Sampling::default();
        assert!(s.check().is_ok());
        for bad in [
            Sampling { temperature: -0.1, ..s },
            Sampling { temperature: f32::NAN, ..s },
            Sampling { temperature: f32::INFINITY, ..s },
            Sampling { top_p: 1.5, ..s },
            Sampling { top_p: f32::NAN, ..s },
            Sampling { min_p: 1.01, ..s },
        ] {
            assert_eq!(bad.check().unwrap_err().kind, ErrorKind::BadInput, "{bad:?}");
        }
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
