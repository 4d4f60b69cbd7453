//! Keeps the text of messages from becoming special tokens.

use std::ops::Range;

use super::message::Message;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;

/// How often more is marked.
const PASSES: usize = 8;

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
    ///
    /// A tokenizer may find a special token in what spells it otherwise, where it looks for tokens in a normalised text:
    /// `<S>` for `<s>`. That is marked, too, once it is found, and the text becomes tokens again.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str, messages: &[Message]) -> Result<Vec<u32>> {
        let mut text = text.to_string();
        for _ in 0..PASSES {
            let (tokens, mut found) = self.encode_once(tokenizer, &text, messages)?;
            if found.is_empty() {
                return Ok(tokens);
            }
            found.sort_unstable();
            found.dedup();
            for at in found.into_iter().rev() {
                text.insert(at, self.mark);
            }
        }
        Err(Error::new(ErrorKind::BadInput, "a message spells special tokens in too many ways")
            .help("leave them out of the message"))
    }

    /// Tokens of a text, and where marks are missing in it.
    fn encode_once(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        messages: &[Message],
    ) -> Result<(Vec<u32>, Vec<usize>)> {
        let (mut tokens, mut missing, mut begin) = (Vec::new(), Vec::new(), 0);
        let segments = if text.contains(self.mark) { self.between(text) } else { Vec::new() };
        let marked = segments.into_iter().filter(|(from, to)| text[*from..*to].contains(self.mark));
        for (from, to) in marked.chain([(text.len(), text.len())]) {
            let found = tokenizer.encode_controls(&text[begin..from])?;
            tokens.extend(found.tokens);
            let controls =
                found.controls.into_iter().map(|(token, at)| (token, begin + at.start..begin + at.end));
            missing.extend(
                controls.filter_map(|(token, at)| self.disguised(tokenizer, text, messages, token, at)),
            );
            let (more, inside) = self.encode_marked(tokenizer, &text[from..to])?;
            tokens.extend(more);
            missing.extend(inside.into_iter().map(|at| from + at));
            begin = to;
        }
        Ok((tokens, missing))
    }

    /// Where a mark is missing, if a special token was found in a message's text: not in its own spelling, which would
    /// have one.
    fn disguised(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        messages: &[Message],
        token: u32,
        at: Range<usize>,
    ) -> Option<usize> {
        let shown = text.get(at.clone())?;
        let spelling = tokenizer.spelling(token).unwrap_or_default();
        let exact = shown.find(&spelling).map(|from| at.start + from + spelling.len());
        let bare = shown.trim();
        let first = bare.chars().next()?.len_utf8();
        if exact.is_some_and(|end| !text[end..].starts_with(self.mark))
            || !messages.iter().any(|message| message.content.contains(bare))
        {
            return None;
        }
        Some(at.start + (shown.len() - shown.trim_start().len()) + first)
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

    /// A text that spells special tokens, and where marks are missing in it. A model that has them among its plain
    /// entries gets them in pieces.
    fn encode_marked(&self, tokenizer: &Tokenizer, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
        let whole = tokenizer.encode_literal(&text.replace(self.mark, ""))?;
        if whole.controls.is_empty() {
            return Ok((whole.tokens, Vec::new()));
        }
        let (mut tokens, mut missing, mut begin) = (Vec::new(), Vec::new(), 0);
        for piece in text.split(self.mark) {
            let found = tokenizer.encode_literal(piece)?;
            for (token, at) in found.controls {
                let shown = piece.get(at.clone()).unwrap_or_default();
                let first = shown.chars().next().map_or(0, char::len_utf8);
                // One of a single character is in one piece, whatever is marked.
                if first == shown.len() {
                    return Err(cannot_write(tokenizer, token));
                }
                missing.push(begin + at.start + first);
            }
            tokens.extend(found.tokens);
            begin += piece.len() + self.mark.len_utf8();
        }
        Ok((tokens, missing))
    }
}

fn cannot_write(tokenizer: &Tokenizer, token: u32) -> Error {
    let spelling = tokenizer.spelling(token).unwrap_or_default();
    let message =
        format!("a message spells the special token `{spelling}`, which this tokenizer cannot write as text");
    Error::new(ErrorKind::BadInput, message).help("leave it out of the message")
}
