//! What the files beside a tokenizer.json say of the model's text, in Hugging Face's format.

use std::path::{Path, PathBuf};

use hyc_plan::text_settings::MAX_TEMPLATE_BYTES;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::frontend::TokenName;
use crate::words::{listed, place};

/// Tokenizer settings, with the tokens' spellings, the template and what is added to a prompt.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Spellings alone.
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
/// Ids of the tokens that begin and end a text.
const GENERATION_CONFIG: &str = "generation_config.json";
/// The template in a file of its own.
const TEMPLATE: &str = "chat_template.jinja";

/// What lies beside a tokenizer.json and belongs to it: the files that are read, and those that other programs read.
pub const NEIGHBOURS: [&str; 10] = [
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    GENERATION_CONFIG,
    TEMPLATE,
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// A file with more is none of these.
const MAX_BYTES: u64 = 16 << 20;

/// A token, and who names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The token.
    pub token: TokenName,
    /// File and key.
    pub place: String,
}

/// What the neighbours say: each key is looked at when it is asked for, so that a fault in one whose word does not
/// count, because the description says the same, is none.
#[derive(Debug)]
pub struct Neighbours {
    config: Config,
    map: Config,
    generation: Config,
    template: PathBuf,
}

impl Neighbours {
    /// Reads those that there are. Errors: one that is no JSON.
    pub fn read(folder: &Path) -> Result<Neighbours> {
        let config = Config::read(folder, TOKENIZER_CONFIG)?;
        let map = Config::read(folder, SPECIAL_TOKENS_MAP)?;
        let generation = Config::read(folder, GENERATION_CONFIG)?;
        Ok(Neighbours { config, map, generation, template: folder.join(TEMPLATE) })
    }

    /// The file whose word on a key counts. One that says `null` says that there is none.
    fn says(&self, key: &str) -> Option<&Config> {
        [&self.config, &self.map].into_iter().find(|file| file.has(key))
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Result<Option<Named>> {
        match self.says("bos_token") {
            Some(file) => file.token("bos_token", "`bos`"),
            None => Ok(self.generation.ids("bos_token_id", "`bos`")?.into_iter().next()),
        }
    }

    /// Tokens that end a text, the tokenizer's own first.
    pub fn eos(&self) -> Result<Vec<Named>> {
        let own = self.says("eos_token").map(|file| file.token("eos_token", "`eos`")).transpose()?;
        let more = self.generation.ids("eos_token_id", "`eos`")?;
        Ok(own.flatten().into_iter().chain(more).collect())
    }

    /// Whether a prompt begins with `bos`, and who says so.
    pub fn add_bos(&self) -> Result<Option<(bool, String)>> {
        self.config.flag("add_bos_token", "`bos` or `add_special`")
    }

    /// Whether a prompt ends with the first of `eos`, and who says so.
    pub fn add_eos(&self) -> Result<Option<(bool, String)>> {
        self.config.flag("add_eos_token", "`add_special = false`")
    }

    /// A chat template, and where it stands.
    pub fn chat_template(&self) -> Result<Option<(String, String)>> {
        match read_text(&self.template, MAX_TEMPLATE_BYTES as u64) {
            Ok(Some(text)) => Ok(Some((text, place(&self.template)))),
            Ok(None) => self.config.template("chat_template"),
            Err(error) if error.help.is_some() => Err(error),
            Err(error) => {
                Err(error.help(format!("correct the file, or write {OURS_TEMPLATE} under [tokenizer]")))
            }
        }
    }
}

/// What overrules a neighbour's template.
const OURS_TEMPLATE: &str = "`chat_template` or `chat_template_file`";

/// A JSON file; empty where there is none.
#[derive(Debug)]
struct Config {
    path: PathBuf,
    table: Map<String, Value>,
}

impl Config {
    fn read(folder: &Path, name: &str) -> Result<Config> {
        let path = folder.join(name);
        let Some(text) = read_text(&path, MAX_BYTES)? else { return Ok(Config { path, table: Map::new() }) };
        let table = serde_json::from_str(&text).map_err(|e| {
            Error::input(format!("{} is no JSON object: {e}", place(&path)))
                .help("it is read because it stands beside the tokenizer: repair it, or move it away")
        })?;
        Ok(Config { path, table })
    }

    fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.table.get(key).filter(|value| !value.is_null())
    }

    fn place(&self, key: &str) -> String {
        format!("`{key}` in {}", place(&self.path))
    }

    /// A value that is not what it should be; `ours`: what to write so that it does not count.
    fn wrong(&self, key: &str, want: &str, ours: &str) -> Error {
        Error::input(format!("{} must be {want}", self.place(key)))
            .help(format!("correct the file, or write {ours} under [tokenizer] in the model.toml"))
    }

    /// `"<s>"`, or a table with the same as `content`.
    fn token(&self, key: &str, ours: &str) -> Result<Option<Named>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        let text =
            text.ok_or_else(|| self.wrong(key, "a string, or a table with the string `content`", ours))?;
        Ok(Some(Named { token: TokenName::Text(text.to_string()), place: self.place(key) }))
    }

    /// A number or a list of numbers.
    fn ids(&self, key: &str, ours: &str) -> Result<Vec<Named>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let id = |item: &Value| {
            let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.wrong(key, "the number of a token, or a list of such", ours))?;
            Ok(Named { token: TokenName::Id(id), place: self.place(key) })
        };
        items.iter().map(id).collect()
    }

    fn flag(&self, key: &str, ours: &str) -> Result<Option<(bool, String)>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = value.as_bool().ok_or_else(|| self.wrong(key, "true or false", ours))?;
        Ok(Some((flag, self.place(key))))
    }

    /// A template, or a list of named ones, of which `default` is taken.
    fn template(&self, key: &str) -> Result<Option<(String, String)>> {
        const WANT: &str = "a template, or a list of tables with `name` and `template`";
        let wrong = || self.wrong(key, WANT, OURS_TEMPLATE);
        let Some(value) = self.get(key) else { return Ok(None) };
        if let Some(text) = value.as_str() {
            return Ok(Some((text.to_string(), self.place(key))));
        }
        let mut names = Vec::new();
        for item in value.as_array().ok_or_else(wrong)? {
            let text = |key: &str| item.get(key).and_then(Value::as_str);
            let (name, text) = text("name").zip(text("template")).ok_or_else(wrong)?;
            if name == "default" {
                return Ok(Some((text.to_string(), self.place(key))));
            }
            names.push(format!("`{name}`"));
        }
        if names.is_empty() {
            return Err(wrong());
        }
        Err(Error::input(format!("{} has no template named `default`", self.place(key))).help(format!(
            "it has: {}; put one into a file and name that as `chat_template_file` under [tokenizer]",
            listed(&names, ", ")
        )))
    }
}

/// A text file of at most `most` bytes; `None` where there is none.
pub fn read_text(path: &Path, most: u64) -> Result<Option<String>> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("read", path, e)),
    };
    if !meta.is_file() || meta.len() > most {
        let why = if meta.is_file() { format!("is larger than {most} bytes") } else { "is no file".into() };
        return Err(Error::input(format!("{} {why}", place(path))));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("{} is not text: byte {at} is not UTF-8", place(path)))
    })?;
    Ok(Some(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)))
}
