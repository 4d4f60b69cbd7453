//! From logits to a token.

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

/// A seeded sampler: equal seeds and logits give equal tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
}

impl Sampler {
    /// A sampler of that seed, for options that pass [`Sampling::check`].
    pub fn new(sampling: Sampling, seed: u64) -> Sampler {
        Sampler { sampling, state: seed }
    }

    /// A uniform number in 0..1 (splitmix64's upper 53 bits).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The next token.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature <= 0.0 {
            return greedy(logits);
        }
        let kept = filter(logits, &self.sampling);
        let total: f64 = kept.iter().map(|(_, p)| p).sum();
        let mut left = self.uniform() * total;
        for (token, p) in &kept {
            left -= p;
            if left < 0.0 {
                return *token;
            }
        }
        kept.last().map_or(0, |(token, _)| *token)
    }
}

/// The largest logit's token, ties to the lower id.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The tokens that pass, likeliest first, with their (not renormalised) probabilities.
fn filter(logits: &[f32], s: &Sampling) -> Vec<(u32, f64)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| (f64::from(x - top) / f64::from(s.temperature)).exp();
    let mut list: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, x)| (i as u32, weight(*x))).collect();
    list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_k > 0 {
        list.truncate(s.top_k);
    }
    let total: f64 = list.iter().map(|(_, p)| p).sum();
    list.iter_mut().for_each(|(_, p)| *p /= total);
    if s.top_p < 1.0 {
        let mut sum = 0.0;
        let keep = list.iter().take_while(|(_, p)| {
            let wanted = sum < f64::from(s.top_p);
            sum += p;
            wanted
        });
        let keep = keep.count().max(1);
        list.truncate(keep);
    }
    if s.min_p > 0.0 {
        let least = f64::from(s.min_p) * list[0].1;
        list.retain(|(_, p)| *p >= least);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn kept(sampling: Sampling) -> Vec<u32> {
        filter(&LOGITS, &Sampling { temperature: 1.0, ..sampling }).into_iter().map(|(t, _)| t).collect()
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
        assert_eq!(kept(Sampling { top_k: 3, ..Sampling::default() }), [1, 3, 2]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..Sampling::default() }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..Sampling::default() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..Sampling::default() }), [1, 3, 2]);
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
