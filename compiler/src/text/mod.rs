//! The tokenizer and what the model wants of its text: what `[tokenizer]` says, else what the files beside the
//! tokenizer say, else what is well known.

mod neighbours;
#[cfg(test)]
mod tests;

use std::path::Path;

use hyc_ir::text::{LONG_WORD, distance};
use hyc_plan::text_settings::{MAX_TEMPLATE_BYTES, TextSettings};
use hyc_runtime::{ChatTemplate, Tokenizer};

pub use self::neighbours::NEIGHBOURS;
use self::neighbours::{Named, Neighbours, read_text};
use crate::error::{Error, Result};
use crate::frontend::{AddSpecial, TemplateSource, TokenName, TokenizerDesc};
use crate::input;
use crate::words;

/// What of a model's text an artefact keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// What the model wants beside it.
    pub settings: TextSettings,
    /// Entries that the tokenizer has, where the model has more.
    pub named: Option<u64>,
}

/// Reads the tokenizer that a description names, for a model of `vocab` entries, and resolves its settings. Each key
/// of `[tokenizer]` stands above the neighbours' word on the same.
///
/// Errors: a file that cannot be read or is not what it should be, a tokenizer of a larger vocabulary, tokens that
/// it does not have, a template that does not parse.
pub fn read(desc: &TokenizerDesc, vocab: u64) -> Result<Option<Text>> {
    let Some(path) = &desc.file else {
        return match desc.says_something() {
            false => Ok(None),
            true => Err(Error::input(
                "[tokenizer] names no `file`, and the rest of it has no meaning without one",
            )
            .help("add `file = \"tokenizer.json\"`, or give `--tokenizer FILE`")),
        };
    };
    const WHAT: &str = "read the tokenizer";
    let there = input::open(WHAT, path)?.metadata().map_err(|e| Error::io(WHAT, path, e))?;
    let (size, most) = (there.len(), Tokenizer::most_bytes(vocab));
    if size > most {
        let message = format!(
            "{} has {size} bytes: a tokenizer of {vocab} entries has at most {most}",
            words::place(path)
        );
        return Err(Error::input(message).help("give the model the tokenizer it was trained with"));
    }
    let json = input::read(WHAT, path, most)?;
    let tokenizer = Tokenizer::new(&json, vocab, TextSettings::default())
        .map_err(|e| Error::from(e).within(&words::place(path)))?;
    let neighbours = Neighbours::read(path.parent().unwrap_or(Path::new("")))?;
    let settings =
        TextSettings { unnamed: tokenizer.unnamed().to_vec(), ..resolve(desc, &neighbours, &tokenizer)? };
    settings.check().map_err(Error::input)?;
    let named = Some(tokenizer.entries()).filter(|entries| (1..vocab).contains(entries));
    Ok(Some(Text { tokenizer: json, settings, named }))
}

fn resolve(desc: &TokenizerDesc, neighbours: &Neighbours, tokenizer: &Tokenizer) -> Result<TextSettings> {
    let find = |named: &Named| id(named, tokenizer);
    let ours = |key: &str, token: &TokenName| Named {
        token: token.clone(),
        place: format!("`{key}` in [tokenizer]"),
    };
    let bos = match &desc.bos {
        Some(token) if token.is_none() => None,
        Some(token) => Some(find(&ours("bos", token))?),
        None => neighbours.bos()?.as_ref().map(find).transpose()?,
    };
    let named: Vec<Named> = match &desc.eos {
        Some(tokens) => tokens.iter().map(|token| ours("eos", token)).collect(),
        None => neighbours.eos()?,
    };
    let mut eos = Vec::new();
    for token in &named {
        let token = find(token)?;
        if !eos.contains(&token) {
            eos.push(token);
        }
    }
    if desc.eos.is_none() && eos.is_empty() {
        eos = tokenizer.end_tokens();
    }
    // Who names a token that begins a text wants it there.
    let named_bos = desc.bos.is_some().then(|| bos.is_some());
    let (add_bos, add_eos) = match desc.add_special {
        AddSpecial::Never => (None, None),
        AddSpecial::Always => (bos.map(|_| true), said(neighbours.add_eos()?, !eos.is_empty(), "eos")?),
        AddSpecial::Auto => (
            match named_bos {
                Some(add) => add.then_some(true),
                None => said(neighbours.add_bos()?, bos.is_some(), "bos")?,
            },
            said(neighbours.add_eos()?, !eos.is_empty(), "eos")?,
        ),
    };
    Ok(TextSettings {
        bos,
        eos,
        post_process: desc.add_special != AddSpecial::Never,
        add_bos,
        add_eos,
        chat_template: template(desc, neighbours)?,
        unnamed: Vec::new(),
    })
}

/// What a neighbour says of a token that is, or is not, `there`.
fn said(flag: Option<(bool, String)>, there: bool, key: &str) -> Result<Option<bool>> {
    match flag {
        Some((true, place)) if !there => {
            Err(Error::input(format!("{place} is true, but no file names that token"))
                .help(format!("name it as `{key}` under [tokenizer], or write `add_special = false` there")))
        }
        other => Ok(other.map(|(flag, _)| flag)),
    }
}

fn id(named: &Named, tokenizer: &Tokenizer) -> Result<u32> {
    match &named.token {
        TokenName::Id(id) if tokenizer.spelling(*id).is_some() => Ok(*id),
        TokenName::Id(id) => Err(Error::input(format!("{}: the tokenizer has no token {id}", named.place))
            .help("is it this model's tokenizer?")),
        TokenName::Text(text) => tokenizer.token(text).ok_or_else(|| {
            let special = tokenizer.special_spellings();
            let near = special.iter().min_by_key(|other| distance(text, other));
            let near = near.filter(|other| distance(text, other) <= 2 + text.chars().count() / 3);
            let near = near.filter(|_| text.len() <= LONG_WORD);
            let text = words::shortened(text);
            Error::input(format!("{}: the tokenizer has no token `{text}`", named.place)).help(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if special.is_empty() => "the tokenizer has no special tokens".to_string(),
                None => {
                    let few = special.get(..12).unwrap_or(&special);
                    format!("its special tokens are: {}", words::listed(few, ", "))
                }
            })
        }),
    }
}

/// The chat template, which parses. An empty one is none.
fn template(desc: &TokenizerDesc, neighbours: &Neighbours) -> Result<Option<String>> {
    let (text, place) = match &desc.chat_template {
        Some(TemplateSource::Text(text)) => (text.clone(), "`chat_template` in [tokenizer]".to_string()),
        Some(TemplateSource::File(path)) => {
            let text = read_text(path, MAX_TEMPLATE_BYTES as u64)?.ok_or_else(|| {
                Error::input(format!(
                    "cannot read the chat template {}: there is no such file",
                    words::place(path)
                ))
                .help("check `chat_template_file` under [tokenizer]")
            })?;
            (text, words::place(path))
        }
        None => match neighbours.chat_template()? {
            Some(neighbour) => neighbour,
            None => return Ok(None),
        },
    };
    if text.is_empty() {
        return Ok(None);
    }
    ChatTemplate::new(&text).map_err(|e| Error::from(e).within(&place))?;
    Ok(Some(text))
}
