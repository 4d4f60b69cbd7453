//! What the files beside a tokenizer.json say of the model's text, in Hugging Face's format.

use std::path::{Path, PathBuf};

use hyc_ir::text_settings::MAX_TEMPLATE_BYTES;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::frontend::TokenName;

/// Tokenizer settings, with the tokens' spellings, the template and what is added to a prompt.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Spellings alone.
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
/// Ids of the tokens that begin and end a text.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// The template in a file of its own.
pub const TEMPLATE: &str = "chat_template.jinja";

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

/// What the neighbours say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// The token that begins a text.
    pub bos: Option<Named>,
    /// Tokens that end a text, the tokenizer's own first.
    pub eos: Vec<Named>,
    /// Whether a prompt begins with `bos`, and who says so.
    pub add_bos: Option<(bool, String)>,
    /// Whether a prompt ends with the first of `eos`, and who says so.
    pub add_eos: Option<(bool, String)>,
    /// A chat template, and where it stands.
    pub chat_template: Option<(String, String)>,
}

impl Neighbours {
    /// Reads those that there are. Errors: one that is no JSON, or in which a key is not what it should be.
    pub fn read(folder: &Path) -> Result<Neighbours> {
        let config = Config::read(folder, TOKENIZER_CONFIG)?;
        let map = Config::read(folder, SPECIAL_TOKENS_MAP)?;
        let generation = Config::read(folder, GENERATION_CONFIG)?;
        // A file that says `null` says that there is none.
        let says = |key: &str| [&config, &map].into_iter().find(|file| file.has(key));
        let bos = match says("bos_token") {
            Some(file) => file.token("bos_token")?,
            None => generation.ids("bos_token_id")?.into_iter().next(),
        };
        let mut eos: Vec<Named> = match says("eos_token") {
            Some(file) => file.token("eos_token")?.into_iter().collect(),
            None => Vec::new(),
        };
        eos.extend(generation.ids("eos_token_id")?);
        let chat_template = match read_text(&folder.join(TEMPLATE), MAX_TEMPLATE_BYTES as u64)? {
            Some(text) => Some((text, folder.join(TEMPLATE).display().to_string())),
            None => config.template("chat_template")?,
        };
        let (add_bos, add_eos) = (config.flag("add_bos_token")?, config.flag("add_eos_token")?);
        Ok(Neighbours { bos, eos, add_bos, add_eos, chat_template })
    }
}

/// A JSON file; empty where there is none.
struct Config {
    path: PathBuf,
    table: Map<String, Value>,
}

impl Config {
    fn read(folder: &Path, name: &str) -> Result<Config> {
        let path = folder.join(name);
        let Some(text) = read_text(&path, MAX_BYTES)? else { return Ok(Config { path, table: Map::new() }) };
        let table = serde_json::from_str(&text).map_err(|e| {
            Error::input(format!("{} is no JSON object: {e}", path.display()))
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
        format!("`{key}` in {}", self.path.display())
    }

    fn wrong(&self, key: &str, want: &str) -> Error {
        Error::input(format!("{} must be {want}", self.place(key)))
            .help("correct the file, or say it under [tokenizer] in the model.toml")
    }

    /// `"<s>"`, or a table with the same as `content`.
    fn token(&self, key: &str) -> Result<Option<Named>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        let text = text.ok_or_else(|| self.wrong(key, "a string, or a table with the string `content`"))?;
        Ok(Some(Named { token: TokenName::Text(text.to_string()), place: self.place(key) }))
    }

    /// A number or a list of numbers.
    fn ids(&self, key: &str) -> Result<Vec<Named>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let id = |item: &Value| {
            let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.wrong(key, "the number of a token, or a list of such"))?;
            Ok(Named { token: TokenName::Id(id), place: self.place(key) })
        };
        items.iter().map(id).collect()
    }

    fn flag(&self, key: &str) -> Result<Option<(bool, String)>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))?;
        Ok(Some((flag, self.place(key))))
    }

    /// A template, or a list of named ones, of which `default` is taken.
    fn template(&self, key: &str) -> Result<Option<(String, String)>> {
        let want = "a template, or a list of tables with `name` and `template`";
        let Some(value) = self.get(key) else { return Ok(None) };
        if let Some(text) = value.as_str() {
            return Ok(Some((text.to_string(), self.place(key))));
        }
        let mut names = Vec::new();
        for item in value.as_array().ok_or_else(|| self.wrong(key, want))? {
            let text = |key: &str| item.get(key).and_then(Value::as_str);
            let (name, text) = text("name").zip(text("template")).ok_or_else(|| self.wrong(key, want))?;
            if name == "default" {
                return Ok(Some((text.to_string(), self.place(key))));
            }
            names.push(format!("`{name}`"));
        }
        Err(Error::input(format!("{} has no template named `default`", self.place(key))).help(format!(
            "it has: {}; put one into a file and name that as `chat_template_file` under [tokenizer]",
            names.join(", ")
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
        return Err(Error::input(format!("{} {why}", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("{} is not text: byte {at} is not UTF-8", path.display()))
    })?;
    Ok(Some(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)))
}
