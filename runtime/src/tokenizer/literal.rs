//! What keeps a message's text from becoming special tokens.

use std::ops::Range;

use tokenizers::Encoding;

use super::guard::contained;
use super::{Tokenizer, encoded};
use crate::error::Result;

/// Tokens of a text.
pub(crate) struct Found {
    pub tokens: Vec<u32>,
    /// Those that are control tokens, and where in the text they were found.
    pub controls: Vec<(u32, Range<usize>)>,
}

impl Tokenizer {
    /// Whether a token is special, or is one of the model's own at the beginning or end of a text that the file adds
    /// to its model's.
    pub(crate) fn is_control(&self, token: u32) -> bool {
        let settings = &self.settings;
        let named = settings.bos == Some(token) || settings.eos.contains(&token);
        self.is_special(token)
            || (named && self.inner.get_added_vocabulary().simple_id_to_token(token).is_some())
    }

    /// The spellings of those.
    pub(crate) fn control_spellings(&self) -> Vec<String> {
        let ids = self.inner.get_added_vocabulary().get_added_tokens_decoder().keys();
        ids.filter(|id| self.is_control(**id)).filter_map(|id| self.spelling(*id)).collect()
    }

    /// Tokens of a text.
    pub(crate) fn encode_controls(&self, text: &str) -> Result<Found> {
        encoded(&self.inner, text, false).map(|encoding| self.found(&encoding))
    }

    fn found(&self, encoding: &Encoding) -> Found {
        let tokens = encoding.get_ids().to_vec();
        let places = tokens.iter().zip(encoding.get_offsets());
        let controls = places.filter(|(token, _)| self.is_control(**token));
        Found { controls: controls.map(|(token, (from, to))| (*token, *from..*to)).collect(), tokens }
    }

    /// Tokens of a text in which no special token is looked for.
    pub(crate) fn encode_literal(&self, text: &str) -> Result<Found> {
        let literal = match self.literal.get() {
            Some(literal) => literal,
            None => {
                let literal = contained("cannot tokenise", || {
                    let mut inner = self.inner.clone();
                    let control = self.control_spellings().into_iter();
                    let added = control.map(|text| tokenizers::AddedToken::from(text, true));
                    // None is new: they only become special.
                    inner.add_special_tokens(added.collect::<Vec<_>>())?;
                    inner.set_encode_special_tokens(true);
                    Ok(inner)
                })?;
                self.literal.get_or_init(|| literal)
            }
        };
        encoded(literal, text, false).map(|encoding| self.found(&encoding))
    }
}
