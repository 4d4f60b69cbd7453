//! How large a tokenizer.json is, before anything is built from it: the crate that reads it takes seconds and
//! hundreds of bytes for each entry, whatever the model needs.
//!
//! The text is read once, entries are counted and none is kept; where there are clearly too many, reading ends.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, ErrorKind, Result};

/// Bytes that a tokenizer.json may have beside its entries: normalizers, patterns, settings.
const BASE_BYTES: u64 = 16 << 20;
/// Bytes for each entry of the vocabulary, merges included; the published ones have up to 130.
const ENTRY_BYTES: u64 = 512;
/// Merges for each entry; the published ones have up to 2.3.
const ENTRY_MERGES: u64 = 8;
/// Entries are counted to this many, so that a message can say how many there are.
const COUNTED: u64 = 1 << 20;

/// The most bytes of a tokenizer.json for a vocabulary of `vocab` entries.
pub fn most_bytes(vocab: u64) -> u64 {
    BASE_BYTES.saturating_add(vocab.saturating_mul(ENTRY_BYTES))
}

/// Checks the size of a tokenizer.json for a vocabulary of `vocab` entries. Errors: too many bytes, entries, added
/// tokens or merges. What is no tokenizer at all passes: its reader says what is wrong.
pub fn check(json: &[u8], vocab: u64) -> Result<()> {
    let most = most_bytes(vocab);
    if json.len() as u64 > most {
        return Err(too_large(&format!("{} bytes, at most {most} fit", json.len()), vocab));
    }
    let counted = vocab.max(COUNTED);
    let limits = Limits { entries: counted, merges: counted.saturating_mul(ENTRY_MERGES) };
    let mut counts = Counts::default();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let ended = Object(&mut counts, &limits, Place::File).deserialize(&mut reader).is_err();
    let more = if ended { "more than " } else { "" };
    for (what, count, most) in [
        ("entries", counts.entries, vocab),
        ("added tokens", counts.added, vocab),
        ("merges", counts.merges, vocab.saturating_mul(ENTRY_MERGES).max(COUNTED)),
    ] {
        if count > most {
            // Counting went one beyond its limit where it ended.
            let shown = if ended && count > counted { count - 1 } else { count };
            let more = if shown < count { more } else { "" };
            return Err(too_large(&format!("{more}{shown} {what}"), vocab));
        }
    }
    Ok(())
}

fn too_large(has: &str, vocab: u64) -> Error {
    Error::new(ErrorKind::BadInput, format!("the tokenizer has {has}, the model's vocabulary {vocab}"))
        .help("give the model the tokenizer it was trained with")
}

struct Limits {
    entries: u64,
    merges: u64,
}

#[derive(Default)]
struct Counts {
    entries: u64,
    added: u64,
    merges: u64,
}

/// An object whose members are counted or left alone.
struct Object<'c>(&'c mut Counts, &'c Limits, Place);

#[derive(Clone, Copy)]
enum Place {
    File,
    Model,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Object(counts, limits, place) = self;
        while let Some(key) = items.next_key::<String>()? {
            match (place, key.as_str()) {
                (Place::File, "model") => items.next_value_seed(Object(counts, limits, Place::Model))?,
                (Place::File, "added_tokens") => {
                    items.next_value_seed(Count(&mut counts.added, limits.entries))?;
                }
                (Place::Model, "vocab") => {
                    items.next_value_seed(Count(&mut counts.entries, limits.entries))?;
                }
                (Place::Model, "merges") => {
                    items.next_value_seed(Count(&mut counts.merges, limits.merges))?;
                }
                _ => {
                    items.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A list or an object whose entries are counted, at most one more than a limit.
struct Count<'c>(&'c mut u64, u64);

impl Count<'_> {
    fn one<E: serde::de::Error>(&mut self) -> Result<(), E> {
        *self.0 += 1;
        if *self.0 > self.1 { Err(E::custom("too many")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {
            self.one()?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            self.one()?;
        }
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;
    use std::fmt::Write;
    use std::time::Duration;

    fn fault(json: &str, vocab: u64) -> String {
        check(json.as_bytes(), vocab).err().map(|e| e.message).unwrap_or_default()
    }

    fn file(vocab: &str, merges: &str, added: &str) -> String {
        format!(r#"{{"added_tokens":{added},"model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}}}}"#)
    }

    fn map(n: usize) -> String {
        let mut out = String::from("{");
        (0..n).for_each(|i| write!(out, "{}\"t{i}\":{i}", if i > 0 { "," } else { "" }).unwrap());
        out + "}"
    }

    #[test]
    fn entries_are_counted() {
        assert_eq!(fault(&file(&map(3), "[]", "[]"), 3), "");
        assert!(fault(&file(&map(4), "[]", "[]"), 3).contains("has 4 entries, the model's vocabulary 3"));
        assert!(fault(&file("[[\"a\",-1.5],[\"b\",-2]]", "[]", "null"), 1).contains("2 entries"));
        assert!(fault(&file("{}", "[]", "[{\"id\":0},{\"id\":1}]"), 1).contains("2 added tokens"));
        let merges = format!("[{}\"a b\"]", "\"a b\",".repeat(ENTRY_MERGES as usize * COUNTED as usize));
        assert!(fault(&file(&map(3), &merges, "[]"), 1 << 17).contains("merges"));
        // Another reader says what is wrong with these.
        for text in ["", "null", "[1]", "{\"model\":3}", "{\"model\":{\"vocab\":7}}", "{\"a\":"] {
            assert_eq!(fault(text, 1), "", "{text}");
        }
    }

    /// What this thread has computed for, whatever else the machine does.
    fn busy() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    #[test]
    fn three_million_entries_are_refused_before_they_are_built() {
        let json = file(&map(3_000_000), "[]", "[]");
        let start = busy();
        // As a file for this vocabulary, which is large enough for its bytes.
        assert!(fault(&json, 100_000).contains("has more than 1048576 entries"));
        assert!(Tokenizer::from_json(json.as_bytes(), 4096).is_err());
        // A tenth of a second; built first, it takes half a minute.
        let took = busy() - start;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
