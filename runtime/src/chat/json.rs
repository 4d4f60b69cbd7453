//! JSON with the spaces that Python puts into it.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// As `json.dumps(value, ensure_ascii=False, indent=indent)`.
pub fn dumps(value: &impl Serialize, indent: Option<usize>) -> Result<String, serde_json::Error> {
    let mut out = Vec::new();
    match indent {
        Some(count) => {
            let blanks = " ".repeat(count);
            let formatter = PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced))?,
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `, ` and `: `.
struct Spaced;

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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spaces_are_pythons() {
        let value = json!({"a": [1, "é<>&'", null, true], "b": {}});
        assert_eq!(dumps(&value, None).unwrap(), r#"{"a": [1, "é<>&'", null, true], "b": {}}"#);
        assert_eq!(dumps(&json!({"a": [1]}), Some(2)).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}
