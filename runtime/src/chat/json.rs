//! JSON as Python's `json.dumps` writes it.

use std::io;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::Serialize;
use serde::ser::{Error as _, SerializeMap};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use super::bounded::Bounded;

/// Most lists and tables within each other; Python's own limit is near a thousand.
const MOST_LEVELS: usize = 500;

/// The words of `json.dumps`.
#[derive(Default)]
pub struct Options {
    /// Blanks for each level; `None`: all in one line.
    pub indent: Option<usize>,
    /// Tables by their keys.
    pub sort_keys: bool,
    /// Escapes of what is no ASCII.
    pub ensure_ascii: bool,
}

/// A value's JSON. Errors: more than `most` bytes, more levels than Python takes, what is no JSON.
pub fn dumps(value: &Value, options: &Options, most: usize) -> Result<String, serde_json::Error> {
    let mut out = Bounded { bytes: Vec::new(), most };
    let value = Json { value: value.clone(), level: 0, sort: options.sort_keys };
    let ascii = options.ensure_ascii;
    match options.indent {
        Some(count) => {
            let blanks = " ".repeat(count);
            let inner = PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, Pretty { inner, ascii }))?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced { ascii }))?,
    }
    Ok(String::from_utf8_lossy(&out.bytes).into_owned())
}

/// A value at a level.
struct Json {
    value: Value,
    level: usize,
    sort: bool,
}

impl Json {
    fn inner(&self, value: Value) -> Json {
        Json { value, level: self.level + 1, sort: self.sort }
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.level > MOST_LEVELS {
            return Err(S::Error::custom(format!(
                "more than {MOST_LEVELS} lists and tables within each other"
            )));
        }
        let items = || self.value.try_iter().map_err(S::Error::custom);
        match self.value.kind() {
            ValueKind::Seq | ValueKind::Iterable => to.collect_seq(items()?.map(|item| self.inner(item))),
            ValueKind::Map => {
                let mut keys: Vec<Value> = items()?.collect();
                if self.sort {
                    keys.sort_by_cached_key(Value::to_string);
                }
                let mut map = to.serialize_map(Some(keys.len()))?;
                for key in keys {
                    let item = self.value.get_item(&key).map_err(S::Error::custom)?;
                    map.serialize_entry(&key, &self.inner(item))?;
                }
                map.end()
            }
            _ => self.value.serialize(to),
        }
    }
}

/// A part of a string, with escapes of what is no ASCII.
fn escaped<W: ?Sized + io::Write>(out: &mut W, text: &str) -> io::Result<()> {
    for letter in text.chars() {
        if matches!(letter, ' '..='~') {
            out.write_all(&[letter as u8])?;
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}")?;
        }
    }
    Ok(())
}

/// `, ` and `: `.
struct Spaced {
    ascii: bool,
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if self.ascii { escaped(out, text) } else { out.write_all(text.as_bytes()) }
    }
}

/// A line for each item.
struct Pretty<'a> {
    inner: PrettyFormatter<'a>,
    ascii: bool,
}

/// Methods that are those of what is inside.
macro_rules! same {
    ($($name:ident($($first:ident)?))*) => {$(
        fn $name<W: ?Sized + io::Write>(&mut self, out: &mut W $(, $first: bool)?) -> io::Result<()> {
            self.inner.$name(out $(, $first)?)
        }
    )*};
}

impl Formatter for Pretty<'_> {
    same! {
        begin_array() end_array() begin_array_value(first) end_array_value()
        begin_object() end_object() begin_object_key(first) begin_object_value() end_object_value()
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if self.ascii { escaped(out, text) } else { CompactFormatter.write_string_fragment(out, text) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: serde_json::Value, options: Options, expected: &str) {
        assert_eq!(dumps(&serde_json::from_value::<Value>(value).unwrap(), &options, 200).unwrap(), expected);
    }

    #[test]
    fn json_is_pythons() {
        let value = json!({"a": [1, "é<>&'", null, true], "b": {}});
        check(value, Options::default(), r#"{"a": [1, "é<>&'", null, true], "b": {}}"#);
        let indent = || Options { indent: Some(2), ..Options::default() };
        check(json!({"a": [1], "b": []}), indent(), "{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}");
        let ascii = || Options { ensure_ascii: true, ..Options::default() };
        check(json!(["é\u{7f}🦀\n\"~"]), ascii(), r#"["\u00e9\u007f\ud83e\udd80\n\"~"]"#);
        check(json!(["é"]), Options { indent: Some(1), ..ascii() }, "[\n \"\\u00e9\"\n]");
    }

    #[test]
    fn keys_are_sorted_where_they_shall_be() {
        let value =
            Value::from_pairs([("b", Value::from(1)), ("a", Value::from_pairs([("d", 2), ("c", 3)]))]);
        let sorted = Options { sort_keys: true, ..Options::default() };
        assert_eq!(dumps(&value, &sorted, 200).unwrap(), r#"{"a": {"c": 3, "d": 2}, "b": 1}"#);
        assert_eq!(dumps(&value, &Options::default(), 200).unwrap(), r#"{"b": 1, "a": {"d": 2, "c": 3}}"#);
    }

    #[test]
    fn json_has_bounds() {
        let mut value = Value::from(1);
        for _ in 0..40 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(dumps(&value, &Options::default(), 1 << 20).is_err());
        let deep = (0..1000).fold(Value::from(1), |value, _| Value::from(vec![value]));
        let error = dumps(&deep, &Options::default(), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("within each other"), "{error}");
    }
}
