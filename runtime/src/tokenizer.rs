//! Text and tokens.

use std::collections::HashSet;
#[cfg(feature = "chat")]
use std::sync::OnceLock;

use hyc_ir::text_settings::TextSettings;
use tokenizers::ModelWrapper;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::tokenizer_size;

/// Tokens that end a text wherever they are, in the files of the models that have them.
const END_TOKENS: &[&str] = &[
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<｜end▁of▁sentence｜>",
];

/// A tokenizer.json through the `tokenizers` crate, with what the model wants of its text beside it.
///
/// Tokens are those that every other user of the file gets at inference. What of the file is meant for training
/// alone has no effect: truncation, padding, and the random dropout of merges.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    settings: TextSettings,
    special: HashSet<u32>,
    /// The same without special tokens, once it is needed.
    #[cfg(feature = "chat")]
    literal: OnceLock<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// The artefact's own tokenizer. Errors: the artefact has none, or one of another vocabulary.
    pub fn of(model: &Model) -> Result<Tokenizer> {
        let Some(json) = model.tokenizer_json() else {
            let message = format!("{} has no tokenizer", model.path().display());
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("name one under [tokenizer] in the model.toml and compile again, or give token ids"));
        };
        let vocab = model.plan().model.vocab;
        match model.text_settings() {
            Some(settings) => Tokenizer::new(json, vocab, settings.clone()),
            None => Tokenizer::from_json(json, vocab),
        }
    }

    /// The most bytes that a tokenizer.json for a vocabulary of `vocab` entries may have.
    pub fn most_bytes(vocab: u64) -> u64 {
        tokenizer_size::most_bytes(vocab)
    }

    /// A tokenizer for a model of `vocab` entries. Prompts are as its post-processor makes them, and the texts end
    /// at [`Tokenizer::end_tokens`].
    pub fn from_json(json: &[u8], vocab: u64) -> Result<Tokenizer> {
        let mut tokenizer = Tokenizer::new(json, vocab, TextSettings::default())?;
        tokenizer.settings.eos = tokenizer.end_tokens();
        Ok(tokenizer)
    }

    /// A tokenizer for a model of `vocab` entries. Errors: one that does not load or has more entries, settings
    /// that name a token it does not have.
    pub fn new(json: &[u8], vocab: u64, settings: TextSettings) -> Result<Tokenizer> {
        let wrong = |e: tokenizers::Error| {
            Error::new(ErrorKind::BadInput, format!("the tokenizer does not load: {e}"))
        };
        tokenizer_size::check(json, vocab)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(wrong)?;
        let most = inner.get_vocab(true).values().copied().max().map_or(0, |id| u64::from(id) + 1);
        if most > vocab {
            let message = format!("the tokenizer has {most} entries, the model's vocabulary {vocab}");
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("give the model the tokenizer it was trained with"));
        }
        inner.with_truncation(None).map_err(wrong)?.with_padding(None);
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            inner.with_model(bpe);
        }
        let named = settings.bos.iter().chain(&settings.eos);
        if let Some(id) = named.copied().find(|id| inner.id_to_token(*id).is_none()) {
            let message = format!("the text settings name token {id}, which the tokenizer does not have");
            return Err(Error::new(ErrorKind::BadInput, message).help("compile the model again"));
        }
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        Ok(Tokenizer {
            inner,
            settings,
            special,
            #[cfg(feature = "chat")]
            literal: OnceLock::new(),
        })
    }

    /// What the model wants of its text.
    pub fn settings(&self) -> &TextSettings {
        &self.settings
    }

    /// Well-known tokens that end a text, of those that the file says are special.
    pub fn end_tokens(&self) -> Vec<u32> {
        let found = END_TOKENS.iter().filter_map(|text| self.inner.token_to_id(text));
        found.filter(|id| self.is_special(*id)).collect()
    }

    /// Tokens of a prompt, with those that the model wants at its beginning and end: what the file's
    /// post-processor adds, and what [`TextSettings::add_bos`] and [`TextSettings::add_eos`] say of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let TextSettings { bos, add_bos, add_eos, post_process, .. } = &self.settings;
        let encoding = self.inner.encode(text, *post_process).map_err(cannot_encode)?;
        // Those that the post-processor added, of whatever the text has of the same.
        let added = |at: usize| encoding.get_special_tokens_mask().get(at) == Some(&1);
        let mut tokens = encoding.get_ids().to_vec();
        if let Some(bos) = *bos {
            match (add_bos, tokens.first() == Some(&bos)) {
                (Some(true), false) => tokens.insert(0, bos),
                (Some(false), true) if added(0) => drop(tokens.remove(0)),
                _ => {}
            }
        }
        if let Some(eos) = self.settings.eos.first() {
            let last = encoding.len().saturating_sub(1);
            match (add_eos, tokens.last() == Some(eos)) {
                (Some(true), false) => tokens.push(*eos),
                (Some(false), true) if added(last) => drop(tokens.pop()),
                _ => {}
            }
        }
        Ok(tokens)
    }

    /// Tokens of a text alone; nothing is added.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode(text, false).map_err(cannot_encode)?.get_ids().to_vec())
    }

    /// Text of tokens, without the special ones; bytes that are no whole character become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decode_with(tokens, false)
    }

    /// The same; `special`: with the special tokens.
    pub fn decode_with(&self, tokens: &[u32], special: bool) -> Result<String> {
        // Some of the crate's decoders take an empty list for a bug of the caller.
        if !tokens.iter().any(|token| self.is_known(*token) && (special || !self.is_special(*token))) {
            return Ok(String::new());
        }
        self.inner
            .decode(tokens, !special)
            .map_err(|e| Error::new(ErrorKind::BadInput, format!("cannot turn tokens into text: {e}")))
    }

    /// The token that is spelled so in the file.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// How the file spells a token.
    pub fn spelling(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Whether a token is special: no text, and hidden unless it is asked for.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// The spellings of all special tokens, by their ids.
    pub fn special_spellings(&self) -> Vec<String> {
        let mut ids: Vec<u32> = self.special.iter().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.spelling(id)).collect()
    }

    /// Whether the tokenizer has a token: a model's vocabulary may be larger.
    pub(crate) fn is_known(&self, token: u32) -> bool {
        self.spelling(token).is_some()
    }

    /// The byte that a token is, in SentencePiece's spelling. A run of them becomes text as a whole.
    pub(crate) fn byte(&self, token: u32) -> Option<u8> {
        let text = self.spelling(token)?;
        let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
        if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
    }
}

/// What keeps a message's text from becoming special tokens.
#[cfg(feature = "chat")]
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
        let ids = self.inner.get_added_tokens_decoder().into_iter().map(|(id, _)| id);
        ids.filter(|id| self.is_control(*id)).filter_map(|id| self.spelling(id)).collect()
    }

    /// Tokens of a text in which no special token is looked for.
    pub(crate) fn encode_literal(&self, text: &str) -> Result<Vec<u32>> {
        let literal = self.literal.get_or_init(|| {
            let mut inner = self.inner.clone();
            let control = self.control_spellings().into_iter();
            let added = control.map(|text| tokenizers::AddedToken::from(text, true));
            // None is new: they only become special.
            let _ = inner.add_special_tokens(added.collect::<Vec<_>>());
            inner.set_encode_special_tokens(true);
            inner
        });
        Ok(literal.encode(text, false).map_err(cannot_encode)?.get_ids().to_vec())
    }
}

fn cannot_encode(error: tokenizers::Error) -> Error {
    Error::new(ErrorKind::BadInput, format!("cannot tokenise: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_vocabulary_is_refused() {
        let error = Tokenizer::from_json(
            br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"}}"#,
            1,
        );
        assert!(error.err().unwrap().message.contains("2 entries"));
    }
}
