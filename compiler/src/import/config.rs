//! `config.json` of a checkpoint: every key is asked for, or known to say nothing of the mathematics, or an error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::input;
use crate::words::{listed, place, shortened};

/// A file with more is no configuration.
const MAX_BYTES: u64 = 16 << 20;

/// Keys that say nothing of what a model computes from tokens: training, tokens' numbers (which `generation_config.json`
/// says again), other programs.
const SILENT: &[&str] = &[
    "_attn_implementation",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// A part of the file, in which keys are found by their names in transformers.
pub struct Config {
    path: PathBuf,
    /// `rope_scaling.` where it is a table of another.
    within: &'static str,
    table: Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

impl Config {
    /// Reads the file. Errors: it is not there, or no JSON object.
    pub fn read(path: &Path) -> Result<Config> {
        let bytes = input::read("read the configuration", path, MAX_BYTES)?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let table = serde_json::from_slice(bytes).map_err(|e| {
            let what = shortened(&e.to_string()).into_owned();
            Error::input(format!("{} is no JSON object: {what}", place(path)))
                .help("download it again: it is the checkpoint's config.json")
        })?;
        Ok(Config::of(path, table))
    }

    /// What a file of another form says.
    pub fn of(path: &Path, table: Map<String, Value>) -> Config {
        Config { path: path.to_path_buf(), within: "", table, asked: RefCell::default() }
    }

    /// A value. `null` is none.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_string());
        self.table.get(key).filter(|value| !value.is_null())
    }

    /// A table in it; an empty one where there is none.
    pub fn table(&self, key: &'static str) -> Result<Config> {
        let table = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(table)) => table.clone(),
            Some(other) => return Err(self.wrong(key, other, "a table")),
        };
        Ok(Config { path: self.path.clone(), within: key, table, asked: RefCell::default() })
    }

    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A size: an integer from 1.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        let size = |value: &Value| value.as_u64().filter(|n| (1..1 << 24).contains(n));
        self.get(key).map(|value| size(value).ok_or_else(|| self.wrong(key, value, "a size"))).transpose()
    }

    /// A size that must be there.
    pub fn needs_size(&self, key: &str) -> Result<u64> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number above 0.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        let good = |value: &Value| value.as_f64().filter(|x| hyc_plan::is_positive_f32(*x));
        let wrong = |value| self.wrong(key, value, "a number above 0");
        self.get(key).map(|value| good(value).ok_or_else(|| wrong(value))).transpose()
    }

    /// A list of numbers above 0, as f32, that must be there.
    pub fn needs_positives(&self, key: &str) -> Result<Vec<f32>> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let good = |x: &f64| hyc_plan::is_positive_f32(*x);
        let number = |value: &Value| value.as_f64().filter(good).map(|x| x as f32);
        let list: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
        list.filter(|list| !list.is_empty())
            .ok_or_else(|| self.wrong(key, value, "a list of numbers above 0"))
    }

    /// A number from 0.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let good = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x >= 0.0);
        let wrong = |value| self.wrong(key, value, "a number from 0");
        self.get(key).map(|value| good(value).ok_or_else(|| wrong(value))).transpose()
    }

    /// A number above 0 that must be there.
    pub fn needs_positive(&self, key: &str) -> Result<f64> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let wrong = |value| self.wrong(key, value, "true or false");
        self.get(key).map(|value| value.as_bool().ok_or_else(|| wrong(value))).transpose()
    }

    /// A string.
    pub fn word(&self, key: &str) -> Result<Option<&str>> {
        let wrong = |value| self.wrong(key, value, "a string");
        self.get(key).map(|value| value.as_str().ok_or_else(|| wrong(value))).transpose()
    }

    /// A list of strings.
    pub fn words(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let words = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        words.map(Some).ok_or_else(|| self.wrong(key, value, "a list of strings"))
    }

    /// A key that must have a value, where it is there at all; `why`: what any other one would mean.
    pub fn must_be(&self, key: &str, wanted: &[Value], why: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if !wanted.contains(value) => Err(self.refused(key, value, why)),
            _ => Ok(()),
        }
    }

    /// The error of a value that cannot be expressed.
    pub fn refused(&self, key: &str, value: &Value, why: &str) -> Error {
        Error::input(format!("{}: {why}", self.says(key, value)))
            .help("hyc does not have it yet, and imports nothing that it would compute otherwise")
    }

    /// The error of a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::input(format!("{} has no `{}`", place(&self.path), self.name(key)))
            .help("is it the config.json of a language model that transformers wrote?")
    }

    fn wrong(&self, key: &str, value: &Value, want: &str) -> Error {
        Error::input(format!("{}: it must be {want}", self.says(key, value)))
            .help("download the file again, or correct it")
    }

    fn name(&self, key: &str) -> String {
        if self.within.is_empty() { key.to_string() } else { format!("{}.{key}", self.within) }
    }

    fn says(&self, key: &str, value: &Value) -> String {
        let value = value.to_string();
        format!("{} says `{}` = {}", place(&self.path), shortened(&self.name(key)), shortened(&value))
    }

    /// Errors: a key that nobody asked for and that may change what the model computes.
    pub fn all_asked(&self) -> Result<()> {
        let asked = self.asked.borrow();
        let known = |key: &str| asked.contains(key) || (self.within.is_empty() && SILENT.contains(&key));
        let silent = |value: &Value| value.is_null() || *value == Value::Bool(false);
        let unknown: Vec<String> = self
            .table
            .iter()
            .filter(|(key, value)| !known(key) && !silent(value))
            .map(|(key, value)| self.says(key, value))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::input(format!("not known here:\n  {}", listed(&unknown, "\n  "))).help(
            "where a key changes nothing of what the model computes, take it out of a copy of the file",
        ))
    }
}
