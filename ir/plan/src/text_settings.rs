//! What a model wants of its text beside its tokenizer, as an artefact keeps it.

use serde::{Deserialize, Serialize};

/// Most bytes of these settings as JSON: six per byte of the template, where none can be said in fewer.
pub const MAX_BYTES: usize = 1 << 19;
/// Most bytes of a chat template; the published ones have up to some twenty thousand.
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;
/// Most tokens that end a text.
pub const MAX_EOS: usize = 64;

/// Most ranges of ids that have no token.
pub const MAX_UNNAMED: usize = 4096;

/// Begin and end of a text, and how a conversation becomes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSettings {
    /// The token that begins a text; a chat template's `bos_token`.
    pub bos: Option<u32>,
    /// Tokens that end a text; the first is a chat template's `eos_token`.
    pub eos: Vec<u32>,
    /// Whether the tokenizer's own post-processor adds its tokens to a prompt.
    pub post_process: bool,
    /// Whether a prompt begins with `bos`, once; `None`: as the post-processor leaves it.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with the first of `eos`, once; `None`: as the post-processor leaves it.
    pub add_eos: Option<bool>,
    /// Jinja template that makes a prompt of a conversation.
    pub chat_template: Option<String>,
    /// Ids between the tokenizer's tokens that it has none for, which are never chosen: from the first and up to the second
    /// of each pair, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed: Vec<[u32; 2]>,
}

impl Default for TextSettings {
    /// Prompts are as the tokenizer's post-processor makes them, and nothing ends a text.
    fn default() -> TextSettings {
        TextSettings {
            bos: None,
            eos: Vec::new(),
            post_process: true,
            add_bos: None,
            add_eos: None,
            chat_template: None,
            unnamed: Vec::new(),
        }
    }
}

impl TextSettings {
    /// What writes an artefact and what loads one ask the same. Errors: more of something than the bounds of this module
    /// allow; ranges that are none or do not ascend; what, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.eos.len() > MAX_EOS {
            return Err(format!("{} tokens end a text: more than {MAX_EOS}", self.eos.len()));
        }
        let template = self.chat_template.as_ref().map_or(0, String::len);
        if template > MAX_TEMPLATE_BYTES {
            return Err(format!("the chat template has {template} bytes: more than {MAX_TEMPLATE_BYTES}"));
        }
        if self.unnamed.len() > MAX_UNNAMED {
            let places = self.unnamed.len();
            return Err(format!(
                "ids have no token in {places} places between tokens: more than {MAX_UNNAMED}"
            ));
        }
        let mut after = 0;
        for [first, end] in self.unnamed.iter().copied() {
            if first < after || first >= end {
                return Err(format!(
                    "the ids without a token from {first} up to {end} are no range after {after}"
                ));
            }
            after = end;
        }
        Ok(())
    }

    /// How many ids have no token.
    pub fn unnamed_ids(&self) -> u64 {
        self.unnamed.iter().map(|[first, end]| u64::from(end.saturating_sub(*first))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes here is small enough for whoever reads it.
    #[test]
    fn what_may_be_written_is_small_enough_to_be_read() {
        let of = |text: String| TextSettings {
            eos: vec![u32::MAX; MAX_EOS],
            chat_template: Some(text),
            unnamed: (0..MAX_UNNAMED as u32)
                .map(|i| {
                    [u32::MAX - 2 * (MAX_UNNAMED as u32 - i), u32::MAX - 2 * (MAX_UNNAMED as u32 - i) + 1]
                })
                .collect(),
            ..TextSettings::default()
        };
        for letter in ["x", "\n", "\u{1}"] {
            let most = of(letter.repeat(MAX_TEMPLATE_BYTES));
            assert_eq!(most.check(), Ok(()));
            assert!(serde_json::to_string(&most).unwrap().len() <= MAX_BYTES);
            let more = of(letter.repeat(MAX_TEMPLATE_BYTES + 1));
            assert!(more.check().unwrap_err().contains("the chat template has"));
        }
    }

    #[test]
    fn ranges_without_a_token_ascend() {
        let of = |unnamed: &[[u32; 2]]| TextSettings { unnamed: unnamed.to_vec(), ..TextSettings::default() };
        assert_eq!(of(&[[0, 1], [1, 3], [7, u32::MAX]]).check(), Ok(()));
        assert_eq!(of(&[[0, 1], [1, 3], [7, 9]]).unnamed_ids(), 5);
        for wrong in
            [&[[3, 3]][..], &[[3, 2]], &[[0, 4], [3, 5]], &[[4, 5], [0, 1]], &[[0, 1]; MAX_UNNAMED + 1]]
        {
            let fault = of(wrong).check().unwrap_err();
            assert!(fault.contains("are no range after") || fault.contains("in 4097 places"), "{fault}");
        }
    }
}
