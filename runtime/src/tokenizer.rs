//! Text and tokens.

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// A tokenizer.json through the `tokenizers` crate.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// The artefact's own tokenizer. Errors: the artefact has none, or one of another vocabulary.
    pub fn of(model: &Model) -> Result<Tokenizer> {
        let Some(json) = model.tokenizer_json() else {
            let message = format!("{} has no tokenizer", model.path().display());
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("name one under [tokenizer] in the model.toml and compile again, or give token ids"));
        };
        Tokenizer::from_json(json, model.plan().model.vocab)
    }

    /// A tokenizer for a model of `vocab` entries.
    pub fn from_json(json: &[u8], vocab: u64) -> Result<Tokenizer> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| Error::new(ErrorKind::BadInput, format!("the tokenizer does not load: {e}")))?;
        let most = inner.get_vocab(true).values().copied().max().map_or(0, |id| u64::from(id) + 1);
        if most > vocab {
            let message = format!("the tokenizer has {most} entries, the model's vocabulary {vocab}");
            return Err(Error::new(ErrorKind::BadInput, message)
                .help("give the model the tokenizer it was trained with"));
        }
        Ok(Tokenizer { inner })
    }

    /// Tokens of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false);
        let encoding =
            encoding.map_err(|e| Error::new(ErrorKind::BadInput, format!("cannot tokenise: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens; bytes that are no whole character become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner
            .decode(tokens, false)
            .map_err(|e| Error::new(ErrorKind::BadInput, format!("cannot turn tokens into text: {e}")))
    }
}

/// Turns tokens into text as they come: no broken characters, no part of a stop string.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    stop: Vec<String>,
    tokens: Vec<u32>,
    /// Tokens whose text was taken into `text` already, kept as context for those after them.
    prefix: usize,
    taken: usize,
    /// Text that may still be the beginning of a stop string.
    held: String,
}

impl<'t> TextStream<'t> {
    /// A stream that ends at any of the `stop` strings.
    pub fn new(tokenizer: &'t Tokenizer, stop: &[String]) -> TextStream<'t> {
        let stop = stop.iter().filter(|s| !s.is_empty()).cloned().collect();
        TextStream { tokenizer, stop, tokens: Vec::new(), prefix: 0, taken: 0, held: String::new() }
    }

    /// Takes a token; gives the text that is certain now, and whether a stop string ended it.
    pub fn push(&mut self, token: u32) -> Result<(String, bool)> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.prefix..self.taken])?;
        let now = self.tokenizer.decode(&self.tokens[self.prefix..])?;
        if now.ends_with('\u{fffd}') || now.len() < before.len() || !now.is_char_boundary(before.len()) {
            return Ok((String::new(), false));
        }
        self.held.push_str(&now[before.len()..]);
        self.prefix = self.taken;
        self.taken = self.tokens.len();
        Ok(self.release())
    }

    /// What was held back, when no more tokens come, and whether a stop string ends it.
    pub fn finish(mut self) -> Result<(String, bool)> {
        let before = self.tokenizer.decode(&self.tokens[self.prefix..self.taken])?;
        let now = self.tokenizer.decode(&self.tokens[self.prefix..])?;
        if let Some(rest) = now.get(before.len()..) {
            // A character that the last tokens only began is left out.
            self.held.push_str(rest.trim_end_matches('\u{fffd}'));
        }
        // A token that ended inside a character may have brought a whole stop string before it.
        let (mut text, ended) = self.release();
        text.push_str(&self.held);
        Ok((text, ended))
    }

    fn release(&mut self) -> (String, bool) {
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..at].to_string();
            self.held.clear();
            return (text, true);
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|n| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer: token b is byte b.
    fn bytes() -> Tokenizer {
        bytes_and(&[])
    }

    /// The same with more entries, in GPT-2's spelling of bytes.
    fn bytes_and(more: &[&str]) -> Tokenizer {
        let table: Vec<String> = byte_table().iter().map(ToString::to_string).collect();
        let vocab: serde_json::Map<String, serde_json::Value> = table
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .zip(0..)
            .map(|(s, i): (&str, u32)| (s.to_string(), serde_json::json!(i)))
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": []},
        });
        Tokenizer::from_json(json.to_string().as_bytes(), 256 + more.len() as u64).unwrap()
    }

    /// GPT-2's printable stand-in for each byte.
    fn byte_table() -> Vec<char> {
        let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
        let mut next = 256;
        let stand_in = |b: u32| {
            if plain(b) {
                return b;
            }
            next += 1;
            next - 1
        };
        (0..256u32).map(stand_in).filter_map(char::from_u32).collect()
    }

    fn stream(text: &str, stop: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = bytes();
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut stream = TextStream::new(&tokenizer, &stop);
        let mut parts = Vec::new();
        for byte in text.bytes() {
            let (part, ended) = stream.push(u32::from(byte)).unwrap();
            parts.push(part);
            if ended {
                return (parts, true);
            }
        }
        let (part, ended) = stream.finish().unwrap();
        parts.push(part);
        (parts, ended)
    }

    #[test]
    fn characters_come_whole() {
        let (parts, _) = stream("aé€x", &[]);
        assert_eq!(parts, ["a", "", "é", "", "", "€", "x", ""]);
    }

    #[test]
    fn no_part_of_a_stop_string_is_shown() {
        let (parts, ended) = stream("one END two", &["END"]);
        assert!(ended);
        assert_eq!(parts.concat(), "one ");
        let (parts, ended) = stream("one ENough", &["END"]);
        assert!(!ended);
        assert_eq!(parts.concat(), "one ENough");
    }

    #[test]
    fn a_stop_string_before_an_unfinished_character_is_not_shown() {
        // Token 256 is "END" and the first byte of a character.
        let tokenizer = bytes_and(&["END\u{e2}"]);
        let mut stream = TextStream::new(&tokenizer, &["END".to_string()]);
        assert_eq!(stream.push(u32::from(b'a')).unwrap(), ("a".to_string(), false));
        let (part, ended) = stream.push(256).unwrap();
        let (rest, ended) = if ended { (String::new(), true) } else { stream.finish().unwrap() };
        assert_eq!((part + &rest, ended), (String::new(), true));
    }

    #[test]
    fn a_larger_vocabulary_is_refused() {
        let error = Tokenizer::from_json(
            br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"}}"#,
            1,
        );
        assert!(error.err().unwrap().message.contains("2 entries"));
    }
}
