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
    /// `rope_scaling` where it is a table of another.
    within: String,
    table: Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
    /// What it says that cannot be expressed, and why.
    refused: RefCell<Vec<String>>,
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
        Config::part(path, String::new(), table)
    }

    fn part(path: &Path, within: String, table: Map<String, Value>) -> Config {
        let (asked, refused) = (RefCell::default(), RefCell::default());
        Config { path: path.to_path_buf(), within, table, asked, refused }
    }

    /// A value. `null` is none.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_string());
        self.table.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, and says that there is none.
    pub fn says_null(&self, key: &str) -> bool {
        self.get(key).is_none() && self.table.contains_key(key)
    }

    /// A table in it; an empty one where there is none.
    pub fn table(&self, key: &str) -> Result<Config> {
        let table = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(table)) => table.clone(),
            Some(other) => return Err(self.wrong(key, other, "a table")),
        };
        Ok(Config::part(&self.path, self.name(key), table))
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

    /// The number of layers, no more than a model may have.
    pub fn layers(&self) -> Result<u64> {
        const KEY: &str = "num_hidden_layers";
        let layers = self.needs_size(KEY)?;
        if layers > hyc_plan::MAX_LAYERS {
            let want = format!("at most {}", hyc_plan::MAX_LAYERS);
            return Err(self.wrong(KEY, &Value::from(layers), &want));
        }
        Ok(layers)
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

    /// A list of a 0 or 1 for each of so many layers.
    pub fn flags(&self, key: &str, layers: u64) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = |value: &Value| value.as_u64().filter(|n| *n < 2).map(|n| n == 1);
        let list: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(flag).collect());
        let list = list.filter(|list| list.len() as u64 == layers);
        let want = format!("a list of {layers} numbers, 0 or 1");
        list.map(Some).ok_or_else(|| self.wrong(key, value, &want))
    }

    /// A list of strings.
    pub fn words(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let words = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        words.map(Some).ok_or_else(|| self.wrong(key, value, "a list of strings"))
    }

    /// A key that must have a value, where it is there at all; `why`: what any other one would mean. Another value is an
    /// error of [`Config::expressible`].
    pub fn must_be(&self, key: &str, wanted: &[Value], why: &str) {
        if let Some(value) = self.get(key).filter(|value| !wanted.contains(value)) {
            self.cannot(key, value, why);
        }
    }

    /// Notes a value that cannot be expressed, for [`Config::expressible`].
    pub fn cannot(&self, key: &str, value: &Value, why: &str) {
        self.refused.borrow_mut().push(format!("{}: {why}", self.spelt(key, value)));
    }

    /// The error of a value that cannot be expressed, with all that was noted before.
    pub fn refused(&self, key: &str, value: &Value, why: &str) -> Error {
        self.cannot(key, value, why);
        self.all_refused()
    }

    /// Errors: what was noted, all of it.
    pub fn expressible(&self) -> Result<()> {
        if self.refused.borrow().is_empty() { Ok(()) } else { Err(self.all_refused()) }
    }

    fn all_refused(&self) -> Error {
        let list = self.refused.borrow();
        let before = if list.len() == 1 { " " } else { ":\n  " };
        Error::input(format!("{} says{before}{}", place(&self.path), listed(&list, "\n  ")))
            .help("hyc does not have it yet, and imports nothing that it would compute otherwise")
    }

    /// The error of a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::input(format!("{} has no `{}`", place(&self.path), self.name(key)))
            .help("is it the config.json of a language model that transformers wrote?")
    }

    /// The error of a value that is none that the key may have.
    pub fn wrong(&self, key: &str, value: &Value, want: &str) -> Error {
        Error::input(format!("{}: it must be {want}", self.says(key, value)))
            .help("download the file again, or correct it")
    }

    fn name(&self, key: &str) -> String {
        if self.within.is_empty() { key.to_string() } else { format!("{}.{key}", self.within) }
    }

    fn says(&self, key: &str, value: &Value) -> String {
        format!("{} says {}", place(&self.path), self.spelt(key, value))
    }

    fn spelt(&self, key: &str, value: &Value) -> String {
        let value = value.to_string();
        format!("`{}` = {}", shortened(&self.name(key)), shortened(&value))
    }

    /// Errors: what was noted; a key that nobody asked for and that may change what the model computes.
    pub fn all_asked(&self) -> Result<()> {
        self.expressible()?;
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
