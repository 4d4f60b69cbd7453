//! The stages of a tokenizer.json as lists of steps, each of which is checked, and measured where it makes a text longer:
//! six replacements of a letter by 32 letters would make gigabytes of a word.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value;
use tokenizers::{
    Decoder, DecoderWrapper, Encoding, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PostProcessor, PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::guard::refuse;
use super::template;

/// Most steps of a stage; the published ones have up to ten.
pub const MOST_STEPS: usize = 64;
/// Most bytes that a step puts into one place.
const MOST_BYTES: usize = 4096;
/// A stage makes at most so many bytes of one, and so many more. SentencePiece makes 33 of the three of U+FDFA.
const GROWTH: usize = 40;
const ROOM: usize = 64;
/// Bytes that are tried before a step is let loose on a text that it could make too long.
const PIECE: usize = 256;

/// One step, and the most bytes that it makes of one.
#[derive(Clone)]
struct Step<W> {
    inner: W,
    growth: usize,
}

/// A tokenizer's normalizers.
#[derive(Clone)]
pub struct Normalizers(Vec<Step<NormalizerWrapper>>);
/// What splits a text into words.
#[derive(Clone)]
pub struct PreTokenizers(Vec<Step<PreTokenizerWrapper>>);
/// What puts tokens around a text's.
#[derive(Clone)]
pub struct PostProcessors(PostProcessorWrapper);
/// What makes a text of tokens.
#[derive(Clone)]
pub struct Decoders(Vec<Step<DecoderWrapper>>);

impl<'de> Deserialize<'de> for Normalizers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        steps(from, "normalizers").map(Normalizers)
    }
}

impl<'de> Deserialize<'de> for PreTokenizers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        steps(from, "pretokenizers").map(PreTokenizers)
    }
}

impl<'de> Deserialize<'de> for PostProcessors {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let mut list = Vec::new();
        flatten(value.clone(), "processors", &mut list).map_err(D::Error::custom)?;
        list.iter().try_for_each(template::check).map_err(D::Error::custom)?;
        serde_json::from_value(value).map(PostProcessors).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Decoders {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        steps(from, "decoders").map(Decoders)
    }
}

/// The steps of a stage; `list` is the name of those of a sequence.
fn steps<'de, D: Deserializer<'de>, W: DeserializeOwned>(
    from: D,
    list: &str,
) -> Result<Vec<Step<W>>, D::Error> {
    let mut values = Vec::new();
    flatten(Value::deserialize(from)?, list, &mut values).map_err(D::Error::custom)?;
    let step = |value: Value| {
        let growth = growth(&value).map_err(D::Error::custom)?;
        Ok(Step { inner: serde_json::from_value(value).map_err(D::Error::custom)?, growth })
    };
    values.into_iter().map(step).collect()
}

/// Adds what a stage does, one after the other.
fn flatten(mut value: Value, list: &str, out: &mut Vec<Value>) -> Result<(), String> {
    // The oldest files have no types.
    if value.get("type").is_none_or(|kind| kind == "Sequence") && value[list].is_array() {
        let Value::Array(inner) = value[list].take() else { return Ok(()) };
        return inner.into_iter().try_for_each(|value| flatten(value, list, out));
    }
    out.push(value);
    if out.len() > MOST_STEPS { Err(format!("more than {MOST_STEPS} {list}")) } else { Ok(()) }
}

/// The most bytes that a step makes of one.
fn growth(step: &Value) -> Result<usize, String> {
    let bytes = |key: &str| step[key].as_str().map_or(0, str::len);
    let kind = step["type"].as_str().unwrap_or_default();
    if let Some(key) = ["content", "prepend"].into_iter().find(|key| bytes(key) > MOST_BYTES) {
        return Err(format!(
            "a {kind} step puts {} bytes into one place, at most {MOST_BYTES} fit",
            bytes(key)
        ));
    }
    if let Some(map) = step["precompiled_charsmap"].as_str() {
        return longest_entry(map);
    }
    // Compatibility decomposition makes 18; the others make up to four of one.
    let decomposes = ["NFC", "NFD", "NFKC", "NFKD", "Bert", "BertNormalizer"].contains(&kind);
    Ok(if decomposes { 18 } else { (bytes("content") + 1).max(4) })
}

/// Bytes of the longest text that a precompiled map of characters has. It is the length of a trie, the trie, and texts
/// that end in zeros.
fn longest_entry(base64: &str) -> Result<usize, String> {
    // What is no base64 at all its reader refuses.
    let bytes = decoded(base64).unwrap_or_default();
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return Ok(1) };
    let size = u32::from_le_bytes(*size) as usize;
    let texts = rest.get(size / 4 * 4..).ok_or("its precompiled map of characters is cut short")?;
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > MOST_BYTES {
        return Err(format!("a map of characters has a text of {longest} bytes, at most {MOST_BYTES} fit"));
    }
    Ok(longest.max(1))
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut count) = (Vec::with_capacity(base64.len() / 4 * 3), 0u32, 0);
    for letter in base64.trim_end_matches('=').bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(six), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// The most bytes that a stage makes of so many.
fn most(bytes: usize) -> usize {
    bytes.saturating_mul(GROWTH).saturating_add(ROOM)
}

fn too_long() -> ! {
    refuse(format!("a step makes more than {GROWTH} bytes of each one of the text"))
}

/// Lets a step try a text, in pieces. What it makes of them may have at most `left` bytes.
fn try_out(
    text: &str,
    left: &mut usize,
    mut step: impl FnMut(&str) -> tokenizers::Result<usize>,
) -> tokenizers::Result<()> {
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        *left = left.checked_sub(step(piece)?).unwrap_or_else(|| too_long());
        rest = after;
    }
    Ok(())
}

impl Normalizer for Normalizers {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let most = most(text.get_original().len());
        for step in &self.0 {
            if text.get().len().saturating_mul(step.growth) > most {
                try_out(text.get(), &mut most.clone(), |piece| {
                    let mut piece = NormalizedString::from(piece);
                    step.inner.normalize(&mut piece)?;
                    Ok(piece.get().len())
                })?;
            }
            step.inner.normalize(text)?;
            if text.get().len() > most {
                too_long();
            }
        }
        Ok(())
    }
}

impl PreTokenizer for PreTokenizers {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        let bytes = |text: &PreTokenizedString| -> usize {
            let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            splits.iter().map(|(text, ..)| text.len()).sum()
        };
        // One alone makes few bytes of one.
        let most = if self.0.len() > 1 { most(bytes(text)) } else { usize::MAX };
        for step in &self.0 {
            step.inner.pre_tokenize(text)?;
            let grows =
                matches!(step.inner, PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Metaspace(_));
            if grows && most < usize::MAX && bytes(text) > most {
                too_long();
            }
        }
        Ok(())
    }
}

impl PostProcessor for PostProcessors {
    fn added_tokens(&self, is_pair: bool) -> usize {
        self.0.added_tokens(is_pair)
    }

    fn process_encodings(
        &self,
        encodings: Vec<Encoding>,
        special: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        self.0.process_encodings(encodings, special)
    }
}

impl Decoder for Decoders {
    fn decode_chain(&self, mut tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        let bytes = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
        let most = most(bytes(&tokens));
        for step in &self.0 {
            if bytes(&tokens).saturating_mul(step.growth) > most {
                let mut left = most;
                for token in &tokens {
                    try_out(token, &mut left, |piece| {
                        Ok(bytes(&step.inner.decode_chain(vec![piece.into()])?))
                    })?;
                }
            }
            tokens = step.inner.decode_chain(tokens)?;
            if bytes(&tokens) > most {
                too_long();
            }
        }
        Ok(tokens)
    }
}
