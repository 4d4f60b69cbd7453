//! Text and tokens.

mod guard;
#[cfg(feature = "chat")]
pub(crate) mod literal;
mod size;
mod steps;
mod template;

use std::collections::HashSet;
#[cfg(feature = "chat")]
use std::sync::OnceLock;

use hyc_plan::text_settings::TextSettings;
use tokenizers::{Encoding, ModelWrapper, TokenizerImpl};

use self::guard::contained;
use self::steps::{Decoders, Normalizers, PostProcessors, PreTokenizers};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// The crate's tokenizer with stages that are checked.
type Inner = TokenizerImpl<ModelWrapper, Normalizers, PreTokenizers, PostProcessors, Decoders>;

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
///
/// ```
/// # use hyc_handmade::Parts;
/// # use hyc_runtime::Tokenizer;
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// let tokenizer = Tokenizer::of(&model)?;
/// let token = tokenizer.encode("c")?;
/// assert_eq!((token.as_slice(), tokenizer.decode(&token)?), (&[2][..], "c".to_string()));
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    inner: Inner,
    entries: u64,
    unnamed: Vec<[u32; 2]>,
    settings: TextSettings,
    special: HashSet<u32>,
    /// The same without special tokens, once it is needed.
    #[cfg(feature = "chat")]
    literal: OnceLock<Inner>,
}

/// The ranges of ids before, and between, those that are there.
fn between(ids: &HashSet<u32>) -> Vec<[u32; 2]> {
    let mut ids: Vec<u32> = ids.iter().copied().collect();
    ids.sort_unstable();
    let before = ids.iter().scan(0, |next, id| Some([std::mem::replace(next, id + 1), *id]));
    before.filter(|[first, end]| first < end).collect()
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
        size::most_bytes(vocab)
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
        size::check(json, vocab)?;
        let inner = contained("the tokenizer does not load", || {
            let mut inner = Inner::from_bytes(json)?;
            inner.with_truncation(None)?.with_padding(None);
            if let ModelWrapper::BPE(bpe) = inner.get_model()
                && bpe.dropout.is_some()
            {
                let mut bpe = bpe.clone();
                bpe.dropout = None;
                inner.with_model(bpe);
            }
            Ok(inner)
        })?;
        let ids: HashSet<u32> = inner.get_vocab(true).into_values().collect();
        let most = ids.iter().max().map_or(0, |id| u64::from(*id) + 1);
        if most > vocab {
            let message = format!("the tokenizer has {most} entries, the model's vocabulary {vocab}");
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("give the model the tokenizer it was trained with"));
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
            entries: most,
            unnamed: between(&ids),
            settings,
            special,
            #[cfg(feature = "chat")]
            literal: OnceLock::new(),
        })
    }

    /// Entries: the ids of all its tokens are below.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ids below [`Tokenizer::entries`] that no token has, as [`TextSettings::unnamed`] has them.
    pub fn unnamed(&self) -> &[[u32; 2]] {
        &self.unnamed
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
        let encoding = encoded(&self.inner, text, *post_process)?;
        // Those that the post-processor added, of whatever the text has of the same.
        let added = |at: Option<&u32>| at == Some(&1);
        let mask = encoding.get_special_tokens_mask();
        let mut tokens = encoding.get_ids().to_vec();
        // One token may be both: where it is the first, it is not the last.
        let mut first = 0;
        if let Some(bos) = *bos {
            match (add_bos, tokens.first() == Some(&bos)) {
                (Some(true), there) => {
                    if !there {
                        tokens.insert(0, bos);
                    }
                    first = 1;
                }
                (Some(false), true) if added(mask.first()) => drop(tokens.remove(0)),
                (None, true) if added(mask.first()) => first = 1,
                _ => {}
            }
        }
        if let Some(eos) = self.settings.eos.first() {
            match (add_eos, tokens[first..].last() == Some(eos)) {
                (Some(true), false) => tokens.push(*eos),
                (Some(false), true) if added(mask.last()) => drop(tokens.pop()),
                _ => {}
            }
        }
        Ok(tokens)
    }

    /// Tokens of a text alone; nothing is added.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        Ok(encoded(&self.inner, text, false)?.get_ids().to_vec())
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
        contained("cannot turn tokens into text", || self.inner.decode(tokens, !special))
    }

    /// The token that is spelled so in the file.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// How the file spells a token.
    pub fn spelling(&self, token: u32) -> Option<String> {
        // The crate itself gives what its normalizer makes of one.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&token);
        added.map(|added| added.content.clone()).or_else(|| self.inner.id_to_token(token))
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

fn encoded(inner: &Inner, text: &str, special: bool) -> Result<Encoding> {
    contained("cannot tokenise", || inner.encode(text, special))
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
