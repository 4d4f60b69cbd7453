//! How tokens are chosen, as people write it: `[sampling]` of a description, an artefact's defaults
//! ([`SAMPLING_KEY`](crate::artefact::SAMPLING_KEY)), a command's flags, a session's options. What a kernel gets of it
//! is [`SampleParams`](crate::sample::SampleParams).

use std::fmt;

use serde::{Deserialize, Serialize};

/// How tokens are chosen. The logits change and tokens drop out in the order of the fields, penalties first: penalties,
/// temperature, top-k, top-p, min-p.
///
/// Penalties look at the last [`penalty_window`](Sampling::penalty_window) tokens of a sequence, the prompt's and the
/// generated ones, and lower the logits of what they find there; they do at temperature 0 as well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// For every token of the window: a logit above 0 is divided by it, another one multiplied (Keskar et al.,
    /// arXiv 1909.05858, as in `transformers`, vLLM and llama.cpp); 1: none.
    pub repeat_penalty: f32,
    /// Taken from the logit of every token that was generated within the window (OpenAI's API, vLLM); 0: none.
    pub presence_penalty: f32,
    /// The same, once for each time that it was generated; 0: none.
    pub frequency_penalty: f32,
    /// How many tokens back penalties look.
    pub penalty_window: u32,
    /// Divides the logits; 0 is greedy: the largest logit, ties to the lower id.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0: all.
    pub top_k: u32,
    /// Keeps the likeliest tokens whose probabilities first reach this sum; 1: all.
    pub top_p: f32,
    /// Keeps tokens at least this likely beside the likeliest; 0: all.
    pub min_p: f32,
}

/// The largest [`Sampling::penalty_window`], in tokens: what a pass hands its kernel has room for so many per row.
pub const MAX_PENALTY_WINDOW: u32 = 4096;

impl Default for Sampling {
    /// Greedy, without penalties.
    fn default() -> Sampling {
        Sampling {
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 1024,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

/// What one setting may be, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The setting, as `[sampling]` calls it.
    pub key: &'static str,
    /// The least value.
    pub least: f32,
    /// The greatest.
    pub most: f32,
    /// Whether it is an integer.
    pub whole: bool,
}

const fn range(key: &'static str, least: f32, most: f32) -> Range {
    Range { key, least, most, whole: false }
}

/// Of each setting, in the order of [`Sampling::values`].
pub const RANGES: [Range; 8] = [
    range("temperature", 0.0, 100.0),
    Range { whole: true, ..range("top_k", 0.0, (1 << 24) as f32) },
    range("top_p", 0.0, 1.0),
    range("min_p", 0.0, 1.0),
    range("repeat_penalty", 0.01, 100.0),
    range("presence_penalty", -2.0, 2.0),
    range("frequency_penalty", -2.0, 2.0),
    Range { whole: true, ..range("penalty_window", 1.0, MAX_PENALTY_WINDOW as f32) },
];

impl Range {
    /// Whether a value is in it. It comes as an f64, which has every f32 and every integer of 32 bits.
    pub fn holds(&self, value: f64) -> bool {
        (f64::from(self.least)..=f64::from(self.most)).contains(&value)
            && (!self.whole || value.fract() == 0.0)
    }

    /// What may be given, as a help says it.
    pub fn wanted(&self) -> String {
        let what = if self.whole { "an integer" } else { "a number" };
        format!("{what} from {} to {}", self.least, self.most)
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutOfRange {
    /// The range.
    pub range: Range,
    /// What was given.
    pub value: f64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of an f32 the digits that it was written with.
        match self.range.whole {
            true => write!(f, "{} = {} is out of range", self.range.key, self.value),
            false => write!(f, "{} = {} is out of range", self.range.key, self.value as f32),
        }
    }
}

impl Sampling {
    /// The settings in the order of [`RANGES`].
    pub fn values(&self) -> [f32; 8] {
        [
            self.temperature,
            self.top_k as f32,
            self.top_p,
            self.min_p,
            self.repeat_penalty,
            self.presence_penalty,
            self.frequency_penalty,
            self.penalty_window as f32,
        ]
    }

    /// The settings in the order of [`RANGES`], exactly: the integer next to the greatest is the same f32.
    fn exact(&self) -> [f64; 8] {
        let mut all = self.values().map(f64::from);
        for (value, range) in all.iter_mut().zip(RANGES) {
            match range.key {
                "top_k" => *value = self.top_k.into(),
                "penalty_window" => *value = self.penalty_window.into(),
                _ => {}
            }
        }
        all
    }

    /// Errors: the first setting that is out of its range or no number.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let mut settings = RANGES.into_iter().zip(self.exact());
        match settings.find(|(range, value)| !range.holds(*value)) {
            Some((range, value)) => Err(OutOfRange { range, value }),
            None => Ok(()),
        }
    }

    /// Whether any penalty does something.
    pub fn penalises(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// What an artefact says of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingDefaults {
    /// Where nobody says otherwise.
    pub sampling: Sampling,
    /// The seed, where the model shall say the same again and again; else every run draws one.
    pub seed: Option<u64>,
}

impl SamplingDefaults {
    /// As the artefact has it. Errors: a setting out of its range.
    pub fn to_json(&self) -> Result<String, String> {
        self.sampling.check().map_err(|e| e.to_string())?;
        serde_json::to_string(self).map_err(|e| e.to_string())
    }

    /// Errors: no such JSON, a setting out of its range.
    pub fn from_json(json: &str) -> Result<SamplingDefaults, String> {
        let defaults: SamplingDefaults = serde_json::from_str(json).map_err(|e| e.to_string())?;
        defaults.sampling.check().map_err(|e| e.to_string())?;
        Ok(defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every setting at both ends is taken, beyond them refused by its name.
    #[test]
    fn ranges_hold() {
        assert_eq!(Sampling::default().check(), Ok(()));
        let set = |index: usize, value: f32| {
            let mut s = Sampling::default();
            match index {
                0 => s.temperature = value,
                1 => s.top_k = value as u32,
                2 => s.top_p = value,
                3 => s.min_p = value,
                4 => s.repeat_penalty = value,
                5 => s.presence_penalty = value,
                6 => s.frequency_penalty = value,
                _ => s.penalty_window = value as u32,
            }
            s.check().map_err(|e| e.range.key)
        };
        let set_whole = |index: usize, value: u32| {
            let mut s = Sampling::default();
            *(if index == 1 { &mut s.top_k } else { &mut s.penalty_window }) = value;
            s.check().map_err(|e| e.range.key)
        };
        for (index, range) in RANGES.into_iter().enumerate() {
            assert_eq!([set(index, range.least), set(index, range.most)], [Ok(()); 2], "{}", range.key);
            assert_eq!(set(index, range.most * 1.01 + 0.01), Err(range.key));
            if range.whole {
                assert_eq!(set_whole(index, range.most as u32 + 1), Err(range.key));
                assert!(range.least == 0.0 || set(index, 0.0) == Err(range.key));
            } else {
                assert_eq!([set(index, range.least - 0.01), set(index, f32::NAN)], [Err(range.key); 2]);
            }
        }
    }

    #[test]
    fn defaults_are_checked_on_both_ways() {
        let good = SamplingDefaults { seed: Some(u64::MAX), ..SamplingDefaults::default() };
        let json = good.to_json().unwrap();
        assert_eq!(SamplingDefaults::from_json(&json), Ok(good));
        let bad = |min_p| Sampling { min_p, ..Sampling::default() };
        for sampling in [bad(1.5), bad(f32::NAN)] {
            assert!(SamplingDefaults { sampling, seed: None }.to_json().unwrap_err().contains("min_p"));
        }
        let edits = [
            ("\"min_p\":0.0", "\"min_p\":1.5", "min_p = 1.5 is out of range"),
            ("\"min_p\":0.0", "\"min_p\":null", "invalid type"),
            ("\"min_p\":0.0", "\"min_q\":0.0", "unknown field"),
            (",\"min_p\":0.0", "", "missing field"),
            ("\"top_k\":0", "\"top_k\":-1", "invalid value"),
            ("\"min_p\":0.0", "\"min_p\":1e999", "number out of range"),
        ];
        for (from, to, what) in edits {
            let json = json.replace(from, to);
            let error = SamplingDefaults::from_json(&json).unwrap_err();
            assert!(error.contains(what), "{json}: {error}");
        }
    }
}
