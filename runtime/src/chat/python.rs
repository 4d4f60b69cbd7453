//! What templates take from Python, within bounds: methods that `minijinja` does without, or would let make any amount of
//! text.

use std::fmt::{self, Write};

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::json;

/// Bytes that the engine lets one step make.
const STEP_BYTES: u64 = 64;

/// A method of a string, a list or a table.
pub fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "format") => {
            pay_for_format(state, text, args)?;
            unknown_method_callback(state, value, method, args)
        }
        (Some(text), "join") => {
            let (list,): (&Value,) = from_args(args)?;
            let mut out = Limited::new(state);
            for (at, item) in list.try_iter()?.enumerate() {
                out.put(if at > 0 { text } else { "" })?;
                out.print(&item)?;
            }
            Ok(Value::from(out.text))
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// Pays for what `str.format` can make: each field as wide as all numbers of the format say, or as all values are.
fn pay_for_format(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let numbers = format.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let wide = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    let mut values = Limited::new(state);
    args.iter().try_for_each(|value| values.print(value))?;
    let fields = format.matches('{').count() as u64;
    // What fills a field may have four bytes.
    let bytes = fields.saturating_mul(values.text.len() as u64).saturating_add(wide.saturating_mul(4));
    state.consume_fuel(bytes / STEP_BYTES)
}

/// `tojson`, as Python's `json.dumps` writes it.
pub fn tojson(state: &State, value: &Value, indent: Option<usize>, kwargs: Kwargs) -> Result<Value, Error> {
    let options = json::Options {
        indent: kwargs.get::<Option<usize>>("indent")?.or(indent).map(|n| n.min(16)),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let text = json::dumps(value, &options, left(state));
    text.map(Value::from).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// `string`.
pub fn string(state: &State, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() { Ok(value.clone()) } else { printed(state, value).map(Value::from) }
}

/// A value's text. A list's or a table's may have the bytes that the engine would let `~` make of one.
pub fn printed(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = Limited::new(state);
    out.most /= 16;
    out.print(value)?;
    Ok(out.text)
}

/// Bytes that may still be made.
fn left(state: &State) -> usize {
    let (_, steps) = state.fuel_levels().unwrap_or_default();
    usize::try_from(steps.saturating_mul(STEP_BYTES)).unwrap_or(usize::MAX)
}

/// A text that ends where nothing is left to pay for it.
struct Limited {
    text: String,
    most: usize,
}

impl Limited {
    fn new(state: &State) -> Limited {
        Limited { text: String::new(), most: left(state) }
    }

    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.write_str(text).map_err(|_| Error::from(ErrorKind::OutOfFuel))
    }

    fn print(&mut self, value: &Value) -> Result<(), Error> {
        write!(self, "{value}").map_err(|_| Error::from(ErrorKind::OutOfFuel))
    }
}

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.most {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
