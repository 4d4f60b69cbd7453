//! Keeps the text of messages from becoming special tokens.

use std::borrow::Cow;

use super::Message;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;

/// Marks what a message spells like a special token, so that it is still known after the template.
///
/// The mark is a character that Unicode promises never to assign, and that occurs nowhere else in the conversation. It
/// stands behind the spelling's first character: no template, and no search, takes the marked one for the token.
pub struct Shield {
    mark: char,
    /// Spellings of the special tokens, the longest first.
    special: Vec<String>,
}

impl Shield {
    /// Errors: the conversation contains each of the characters that are no characters.
    pub fn new(tokenizer: &Tokenizer, template: &str, messages: &[Message]) -> Result<Shield> {
        let texts = || messages.iter().map(|m| m.content.as_str()).chain([template]);
        let free = |mark: &char| !texts().any(|text| text.contains(*mark));
        let mark = ('\u{fdd0}'..='\u{fdef}').find(free).ok_or_else(|| {
            Error::new(ErrorKind::BadInput, "the conversation contains each of U+FDD0 to U+FDEF")
                .help("no text has a reason to contain those: is it damaged?")
        })?;
        let mut special = tokenizer.control_spellings();
        special.retain(|text| !text.is_empty());
        special.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(Shield { mark, special })
    }

    /// The special token that `text` begins with.
    fn begins(&self, text: &str) -> Option<&str> {
        self.special.iter().find(|special| text.starts_with(special.as_str())).map(String::as_str)
    }

    /// A message's text with marks.
    pub fn protect(&self, text: &str) -> String {
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        while let Some(letter) = text[at..].chars().next() {
            out.push(letter);
            at += letter.len_utf8();
            if self.begins(&text[at - letter.len_utf8()..]).is_some() {
                out.push(self.mark);
            }
        }
        out
    }

    /// Tokens of what the template made of marked messages.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        if !text.contains(self.mark) {
            return tokenizer.encode_bare(text);
        }
        let (mut tokens, mut begin) = (Vec::new(), 0);
        for (from, to) in self.between(text) {
            let segment = &text[from..to];
            if segment.contains(self.mark) {
                tokens.extend(tokenizer.encode_bare(&text[begin..from])?);
                tokens.extend(self.encode_marked(tokenizer, segment)?);
                begin = to;
            }
        }
        tokens.extend(tokenizer.encode_bare(&text[begin..])?);
        Ok(tokens)
    }

    /// The ranges between special tokens.
    fn between(&self, text: &str) -> Vec<(usize, usize)> {
        let (mut list, mut begin, mut at) = (Vec::new(), 0, 0);
        while let Some(letter) = text[at..].chars().next() {
            // One of a single character has its mark behind it.
            match self
                .begins(&text[at..])
                .filter(|special| !text[at + special.len()..].starts_with(self.mark))
            {
                Some(special) => {
                    list.push((begin, at));
                    at += special.len();
                    begin = at;
                }
                None => at += letter.len_utf8(),
            }
        }
        list.push((begin, text.len()));
        list
    }

    /// A text that spells special tokens. A model that has them among its plain entries gets them in pieces.
    fn encode_marked(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let tokens = tokenizer.encode_literal(&text.replace(self.mark, ""))?;
        if !tokens.iter().any(|token| tokenizer.is_control(*token)) {
            return Ok(tokens);
        }
        let mut tokens = Vec::new();
        for piece in text.split(self.mark) {
            tokens.extend(tokenizer.encode_literal(piece)?);
        }
        match tokens.iter().find(|token| tokenizer.is_control(**token)) {
            None => Ok(tokens),
            Some(token) => {
                let spelling: Cow<'_, str> = tokenizer.spelling(*token).map_or("".into(), Cow::from);
                let message = format!(
                    "a message spells the special token `{spelling}`, which this tokenizer cannot \
                     write as text"
                );
                Err(Error::new(ErrorKind::BadInput, message).help("leave it out of the message"))
            }
        }
    }
}
