//! Rotary embedding: how far each pair of a head's elements turns per position.

use serde::{Deserialize, Serialize};

use crate::elem::is_positive_f32;
use crate::rope_factors::RopeFactors;

/// Rotary embedding, rotate-half over the first `dims` of a head (Su et al., 2104.09864, in the
/// half-split form): for i < dims/2, angle a = pos * frequency(i), and with the magnitude m,
/// `y[i] = m (x[i] cos a - x[i + dims/2] sin a)`, `y[i + dims/2] = m (x[i + dims/2] cos a + x[i] sin a)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// The base.
    pub theta: f64,
    /// Rotated dims of each head, even.
    pub dims: u64,
    /// How the frequencies of training are changed; `None`: they are not, and the magnitude is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

/// Changed frequencies, so that a model sees further than where it was trained. `f` is `theta^(-2i/dims)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a plan has few of them, and ops are copied")]
pub enum RopeScaling {
    /// `f / factor` (position interpolation, Chen et al., 2306.15595, eq. 4).
    Linear {
        /// How much further.
        factor: f64,
    },
    /// By wavelength `w = 2 pi / f` (Llama 3.1's): beyond `original / low` `f / factor`, below `original / high` `f`, in
    /// between `(1 - s) f / factor + s f` with `s = (original / w - low) / (high - low)`.
    Llama3 {
        /// How much further.
        factor: f64,
        /// Below so many turns in `original` tokens a pair is slowed.
        low: f64,
        /// Above so many turns it is not.
        high: f64,
        /// Tokens of the training's contexts.
        original: f64,
    },
    /// NTK-by-parts with a magnitude (YaRN, Peng et al., 2309.00071, eqs. 17 to 22): `(1 - r) f + r f / factor`, where
    /// `r` rises from 0 to 1 over the pairs that turn `fast` to `slow` times in `original` tokens, whole ones.
    Yarn {
        /// How much further.
        factor: f64,
        /// `beta_fast`.
        fast: f64,
        /// `beta_slow`.
        slow: f64,
        /// Tokens of the training's contexts.
        original: f64,
        /// What queries and keys are multiplied by.
        magnitude: f64,
    },
    /// `f / factors[i]` of pair `i`, with a magnitude: LongRoPE's (Ding et al., 2402.13753) and whatever else is constant.
    Factors {
        /// One for each pair.
        factors: RopeFactors,
        /// What queries and keys are multiplied by.
        magnitude: f64,
    },
}

impl RopeSpec {
    /// No scaling.
    pub fn plain(theta: f64, dims: u64) -> RopeSpec {
        RopeSpec { theta, dims, scaling: None }
    }

    /// Radians per position of pair `i`, below `dims / 2`.
    pub fn frequency(&self, i: u64) -> f64 {
        let plain = self.theta.powf(-2.0 * i as f64 / self.dims as f64);
        match self.scaling {
            None => plain,
            Some(RopeScaling::Linear { factor }) => plain / factor,
            Some(RopeScaling::Llama3 { factor, low, high, original }) => {
                let turns = original * plain / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                plain / factor * (1.0 - kept) + plain * kept
            }
            Some(RopeScaling::Yarn { factor, fast, slow, original, .. }) => {
                let first = self.pair_of(fast, original).floor().max(0.0);
                let last = self.pair_of(slow, original).ceil().min(self.dims as f64 - 1.0);
                let width = if first == last { 0.001 } else { last - first };
                let slowed = ((i as f64 - first) / width).clamp(0.0, 1.0);
                plain * (1.0 - slowed) + plain / factor * slowed
            }
            Some(RopeScaling::Factors { factors, .. }) => {
                plain / factors.list().get(i as usize).map_or(1.0, |factor| f64::from(*factor))
            }
        }
    }

    /// What sines and cosines are multiplied by.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            Some(RopeScaling::Yarn { magnitude, .. } | RopeScaling::Factors { magnitude, .. }) => magnitude,
            Some(RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. }) | None => 1.0,
        }
    }

    /// The pair, not a whole one, that turns so many times in `original` tokens.
    fn pair_of(&self, turns: f64, original: f64) -> f64 {
        let per_turn = original / (turns * std::f64::consts::TAU);
        self.dims as f64 * per_turn.ln() / (2.0 * self.theta.ln())
    }

    /// Whether it can be computed with heads of `dim`.
    pub fn is_possible(&self, dim: u64) -> bool {
        let fits = self.dims % 2 == 0 && (2..=dim).contains(&self.dims) && is_positive_f32(self.theta);
        // Pairs of a base of 1 all turn alike: none turns as often as asked for.
        let counts = !matches!(self.scaling, Some(RopeScaling::Yarn { .. })) || self.theta > 1.0;
        fits && counts && self.scaling.is_none_or(|scaling| scaling.is_possible(self.dims))
    }
}

impl RopeScaling {
    /// What is written, in words.
    pub const FORMS: &'static str = "`linear(factor)`, `llama3(factor, low, high, original)`, \
                                       `yarn(factor, fast, slow, original, magnitude)` or `factors(magnitude, a number for each pair)`";

    /// Its name and its numbers, as [`RopeScaling::of`] takes them.
    pub fn parts(&self) -> (&'static str, Vec<f64>) {
        match *self {
            RopeScaling::Linear { factor } => ("linear", vec![factor]),
            RopeScaling::Llama3 { factor, low, high, original } => {
                ("llama3", vec![factor, low, high, original])
            }
            RopeScaling::Yarn { factor, fast, slow, original, magnitude } => {
                ("yarn", vec![factor, fast, slow, original, magnitude])
            }
            RopeScaling::Factors { factors, magnitude } => {
                ("factors", std::iter::once(magnitude).chain(factors.shortest()).collect())
            }
        }
    }

    /// The one of that name; `None`: there is none with so many numbers.
    pub fn of(name: &str, numbers: &[f64]) -> Option<RopeScaling> {
        Some(match (name, numbers) {
            ("linear", &[factor]) => RopeScaling::Linear { factor },
            ("llama3", &[factor, low, high, original]) => RopeScaling::Llama3 { factor, low, high, original },
            ("yarn", &[factor, fast, slow, original, magnitude]) => {
                RopeScaling::Yarn { factor, fast, slow, original, magnitude }
            }
            ("factors", [magnitude, factors @ ..]) => {
                let factors: Vec<f32> = factors.iter().map(|x| *x as f32).collect();
                RopeScaling::Factors { factors: RopeFactors::new(&factors)?, magnitude: *magnitude }
            }
            _ => return None,
        })
    }

    /// Whether its numbers are positive, in their order, and as many as there are pairs in `dims`.
    pub fn is_possible(&self, dims: u64) -> bool {
        let ordered = match *self {
            RopeScaling::Linear { .. } => true,
            RopeScaling::Llama3 { low, high, .. } => low < high,
            RopeScaling::Yarn { fast, slow, .. } => slow < fast,
            RopeScaling::Factors { factors, .. } => {
                factors.is_possible() && 2 * factors.list().len() as u64 == dims
            }
        };
        ordered && self.parts().1.iter().all(|number| is_positive_f32(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(theta: f64, dims: u64, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta, dims, scaling: Some(scaling) }
    }

    /// The numbers of `ROPE_INIT_FUNCTIONS` in transformers 5.24, which are f32.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let yarn =
            |factor, original| RopeScaling::Yarn { factor, fast: 32.0, slow: 1.0, original, magnitude: 1.0 };
        let factors = RopeScaling::Factors { factors: RopeFactors::new(&[2.5; 32]).unwrap(), magnitude: 1.0 };
        for (theta, dims, scaling, known) in [
            (5e5, 128, llama3, LLAMA3),
            (1e6, 128, yarn(4.0, 32768.0), YARN_4),
            (1.5e5, 64, yarn(32.0, 4096.0), YARN_32),
            (1e4, 64, RopeScaling::Linear { factor: 2.5 }, LINEAR),
            (1e4, 64, factors, LINEAR),
        ] {
            for (i, value) in known {
                let own = spec(theta, dims, scaling).frequency(i);
                assert!((own / value - 1.0).abs() < 4e-7, "{scaling:?}, pair {i}: {own} for {value}");
            }
        }
    }

    type Known = [(u64, f64); 6];
    const LLAMA3: Known = [
        (1, 0.814_617_216_587_066_7),
        (16, 0.037_606_030_702_590_94),
        (32, 0.000_524_846_022_017_300_1),
        (42, 2.274_892_904_097_214_3e-5),
        (48, 6.647_869_668_086_059e-6),
        (63, 3.068_925_877_869_333e-7),
    ];
    const YARN_4: Known = [
        (1, 0.805_842_220_783_233_6),
        (16, 0.031_622_778_624_296_19),
        (32, 0.000_602_941_145_189_106_5),
        (42, 2.886_954_825_953_580_4e-5),
        (48, 7.905_693_564_680_405e-6),
        (63, 3.102_344_408_034_696e-7),
    ];
    const YARN_32: Known = [
        (8, 0.050_813_272_595_405_58),
        (10, 0.019_450_966_268_777_847),
        (16, 0.000_580_947_496_928_274_6),
        (21, 1.253_256_959_898_863e-5),
        (24, 4.099_978_468_730_114e-6),
        (31, 3.023_511_396_804_679e-7),
    ];
    const LINEAR: Known = [
        (0, 0.400_000_005_960_464_5),
        (1, 0.299_957_692_623_138_4),
        (8, 0.039_999_999_105_930_33),
        (16, 0.003_999_999_724_328_518),
        (24, 0.000_400_000_018_998_980_5),
        (31, 5.334_086_017_683_148_4e-5),
    ];

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(RopeSpec::plain(1e4, 64).is_possible(64));
        let yarn =
            |fast, slow| RopeScaling::Yarn { factor: 4.0, fast, slow, original: 4096.0, magnitude: 1.1 };
        for (spec, good) in [
            (RopeSpec::plain(1e4, 63), false),
            (RopeSpec::plain(0.0, 64), false),
            (RopeSpec::plain(1e4, 66), false),
            (spec(1e4, 64, yarn(32.0, 1.0)), true),
            (spec(1e4, 64, yarn(1.0, 32.0)), false),
            (spec(1.0, 64, yarn(32.0, 1.0)), false),
            (spec(1e4, 64, RopeScaling::Linear { factor: 0.0 }), false),
            (spec(1e4, 64, RopeScaling::Linear { factor: f64::NAN }), false),
        ] {
            assert_eq!(spec.is_possible(64), good, "{spec:?}");
        }
        let of =
            |list: &[f32]| RopeScaling::Factors { factors: RopeFactors::new(list).unwrap(), magnitude: 1.25 };
        for (list, good) in [(&[1.0, 0.3][..], true), (&[1.0], false), (&[1.0, -2.0], false)] {
            assert_eq!(spec(1e4, 4, of(list)).is_possible(64), good, "{list:?}");
        }
        for scaling in [yarn(32.0, 1.0), of(&[1.0, 0.3])] {
            let (name, numbers) = scaling.parts();
            assert_eq!(RopeScaling::of(name, &numbers), Some(scaling));
            assert_eq!(RopeScaling::of("llama3", &numbers), None);
        }
        assert_eq!(RopeScaling::of("factors", &[1.0]), None);
    }
}
