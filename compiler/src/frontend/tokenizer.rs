//! `[tokenizer]`.

use std::path::Path;

use toml::de::DeValue;

use super::desc::{AddSpecial, TemplateSource, TokenName, TokenizerDesc};
use super::reader::Section;

/// Reads `[tokenizer]`; files are found from `folder`.
pub fn read(folder: &Path, tokenizer: &Section) -> TokenizerDesc {
    let file = tokenizer.string("file", "tokenizer.json").map(|file| folder.join(file.value));
    let template = tokenizer.string("chat_template", "...").map(|text| TemplateSource::Text(text.value));
    let in_file = tokenizer.string("chat_template_file", "chat_template.jinja");
    if template.is_some() {
        tokenizer.refuse("chat_template_file", "`chat_template` is there, too");
    }
    TokenizerDesc {
        file,
        bos: read_bos(tokenizer),
        eos: read_eos(tokenizer),
        add_special: read_add_special(tokenizer),
        chat_template: template.or(in_file.map(|file| TemplateSource::File(folder.join(file.value)))),
    }
}

/// A spelling or a number.
fn token(value: &DeValue<'_>) -> Option<TokenName> {
    match value {
        DeValue::String(text) => Some(TokenName::Text(text.to_string())),
        DeValue::Integer(number) => {
            u32::from_str_radix(number.as_str(), number.radix()).ok().map(TokenName::Id)
        }
        _ => None,
    }
}

fn read_bos(tokenizer: &Section) -> Option<TokenName> {
    let value = tokenizer.get("bos")?;
    let token = token(value.get_ref());
    if token.is_none() {
        tokenizer.wrong("bos", value, "a token's spelling or number", "\"<s>\"");
    }
    token
}

fn read_eos(tokenizer: &Section) -> Option<Vec<TokenName>> {
    let value = tokenizer.get("eos")?;
    let tokens: Option<Vec<TokenName>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| token(item.get_ref())).collect(),
        one => token(one).map(|token| vec![token]),
    };
    let tokens = tokens.filter(|tokens| !tokens.iter().any(TokenName::is_none));
    if tokens.is_none() {
        tokenizer.wrong("eos", value, "a token's spelling or number, or a list of such", "[\"</s>\"]");
    }
    tokens
}

fn read_add_special(tokenizer: &Section) -> AddSpecial {
    let Some(value) = tokenizer.get("add_special") else { return AddSpecial::Auto };
    match value.get_ref() {
        DeValue::Boolean(true) => AddSpecial::Always,
        DeValue::Boolean(false) => AddSpecial::Never,
        DeValue::String(word) if word == "auto" => AddSpecial::Auto,
        _ => {
            tokenizer.wrong("add_special", value, "true, false or \"auto\"", "\"auto\"");
            AddSpecial::Auto
        }
    }
}
