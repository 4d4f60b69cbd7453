//! Tokens of a GGUF file, of whatever kind its tokenizer is.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::gguf::Value;

/// The metadata of a file, `tokenizer.ggml.` before the keys.
pub struct Keys<'k>(&'k BTreeMap<String, Value>);

impl<'k> Keys<'k> {
    /// Those of a file.
    pub fn of(all: &'k BTreeMap<String, Value>) -> Keys<'k> {
        Keys(all)
    }

    fn get(&self, key: &str) -> Option<&'k Value> {
        self.0.get(&format!("tokenizer.ggml.{key}"))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<&'k str> {
        text_of(self.get(key)?)
    }

    /// A token's number.
    pub fn id(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Unsigned(id)) => Some(*id),
            _ => None,
        }
    }

    /// A list.
    pub fn list(&self, key: &str) -> Option<&'k [Value]> {
        match self.get(key) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    /// A list of strings. Errors: there is none.
    pub fn texts(&self, key: &str) -> Result<Vec<&'k str>> {
        let list = self.list(key).and_then(|list| list.iter().map(text_of).collect());
        list.ok_or_else(|| broken(&format!("no list of {key}")))
    }

    /// true or false; what it is where nothing is said.
    pub fn flag(&self, key: &str, otherwise: bool) -> bool {
        match self.get(key) {
            Some(Value::Bool(flag)) => *flag,
            _ => otherwise,
        }
    }
}

/// The error of a vocabulary that is none; `has`: what it has or has not.
pub fn broken(has: &str) -> Error {
    Error::input(format!("the file's tokenizer has {has}"))
        .help("download the file again; `--no-tokenizer` imports the model without")
}

/// A string.
pub fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// A token's kind: a piece of text.
pub const PLAIN: Value = Value::Unsigned(1);
/// What stands for text that no token spells.
pub const UNKNOWN: Value = Value::Unsigned(2);
/// What a program sets.
pub const CONTROL: Value = Value::Unsigned(3);
/// What a user's text may spell.
pub const USERS: Value = Value::Unsigned(4);
/// What a model has a row for, and no text has.
pub const UNUSED: Value = Value::Unsigned(5);

/// Tokens that are found in a text before it is cut, of these kinds: those that are no text themselves, and a user's.
pub fn added(tokens: &[&str], kinds: &[Value], special: &[Value]) -> Vec<Json> {
    let of = |kind: &Value| *kind == USERS || special.contains(kind);
    let found = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| of(kind));
    let added = found.map(|(id, (token, kind))| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *kind != USERS,
        })
    });
    added.collect()
}
