//! What must hold of a model on a text: `[eval]` of a description, which an artefact keeps
//! ([`EVAL_KEY`](crate::artefact::EVAL_KEY)) for `hyc eval`. Nothing that runs a model goes by it.

use serde::{Deserialize, Serialize};

use crate::sampling::Range;

/// What must hold, where it is said, and in windows of how many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalGates {
    /// Least share of its attention that each layer which reads a selection keeps in it: the mean over heads and tokens.
    pub recall: Option<f64>,
    /// Least share of planted keys that are found.
    pub keys: Option<f64>,
    /// Greatest perplexity.
    pub perplexity: Option<f64>,
    /// Tokens of a window.
    pub context: Option<u64>,
}

const fn range(key: &'static str, least: f32, most: f32) -> Range {
    Range { key, least, most, whole: false }
}

/// Of each gate, in the order of [`EvalGates::values`]. No vocabulary gives a greater perplexity to a model that knows
/// nothing.
pub const RANGES: [Range; 3] =
    [range("recall", 0.0, 1.0), range("keys", 0.0, 1.0), range("perplexity", 1.0, (1 << 24) as f32)];

impl EvalGates {
    /// The gates in the order of [`RANGES`].
    pub fn values(&self) -> [Option<f64>; 3] {
        [self.recall, self.keys, self.perplexity]
    }

    /// Errors: a gate out of its range, a window of no token; which, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        let gates = RANGES.iter().zip(self.values()).filter_map(|(range, value)| Some((range, value?)));
        if let Some((range, value)) = gates.into_iter().find(|(range, value)| !range.holds(*value)) {
            return Err(format!("{} = {value} is out of range", range.key));
        }
        if self.context == Some(0) {
            return Err("context = 0 is out of range".to_string());
        }
        Ok(())
    }

    /// As the artefact has it. Errors: those of [`EvalGates::check`].
    pub fn to_json(&self) -> Result<String, String> {
        self.check()?;
        serde_json::to_string(self).map_err(|e| e.to_string())
    }

    /// Errors: no such JSON; those of [`EvalGates::check`].
    pub fn from_json(json: &str) -> Result<EvalGates, String> {
        let gates: EvalGates = serde_json::from_str(json).map_err(|e| e.to_string())?;
        gates.check()?;
        Ok(gates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_checked_on_both_ways() {
        let good = EvalGates { recall: Some(0.9), keys: None, perplexity: Some(12.5), context: Some(8192) };
        let json = good.to_json().unwrap();
        assert_eq!(EvalGates::from_json(&json), Ok(good));
        assert_eq!(EvalGates::from_json("{}"), Ok(EvalGates::default()));
        let edits = [
            ("0.9", "1.5", "recall = 1.5 is out of range"),
            ("null", "-0.1", "keys = -0.1 is out of range"),
            ("12.5", "0.5", "perplexity = 0.5 is out of range"),
            ("8192", "0", "context = 0 is out of range"),
            ("recall", "recoil", "unknown field"),
        ];
        for (from, to, says) in edits {
            let error = EvalGates::from_json(&json.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for gates in [
            EvalGates { recall: Some(f64::NAN), ..good },
            EvalGates { perplexity: Some(f64::INFINITY), ..good },
        ] {
            assert!(gates.to_json().unwrap_err().contains("is out of range"));
        }
    }
}
