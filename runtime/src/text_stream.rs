//! Tokens to text as they come.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Tokens before the new text that decoding may depend on.
const CONTEXT: usize = 8;
/// Tokens after which the beginning of what is decoded again moves on, though nothing was certain for so long.
const LONGEST_WINDOW: usize = 96;

/// Turns tokens into text as they come. All parts together are what decoding the whole sequence gives after the
/// text of its context, up to a stop string: a decoder that drops the first space of a sequence, or that joins
/// bytes, sees the tokens before.
///
/// Text is held back while it may change (a character that is not complete, a run of single bytes) and while it
/// may be the beginning of a stop string.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    stop: Vec<String>,
    /// Special tokens are part of the text.
    special: bool,
    /// What is decoded again with each token: some tokens whose text is out, then those whose text is not.
    window: Vec<u32>,
    /// Where in `window` the tokens begin that came after the last certain text.
    fresh: usize,
    /// Bytes of the window's text that are out.
    shown: usize,
    /// Text that may still be the beginning of a stop string.
    held: String,
}

impl<'t> TextStream<'t> {
    /// A stream that ends at any of the `stop` strings. `context`: the tokens before the first one that is pushed.
    /// `special`: whether special tokens are part of the text.
    pub fn new(
        tokenizer: &'t Tokenizer,
        context: &[u32],
        stop: &[String],
        special: bool,
    ) -> Result<TextStream<'t>> {
        let mut stream = TextStream {
            tokenizer,
            stop: stop.iter().filter(|s| !s.is_empty()).cloned().collect(),
            special,
            window: context.to_vec(),
            fresh: 0,
            shown: 0,
            held: String::new(),
        };
        let hidden: Vec<bool> = context.iter().map(|token| stream.hidden(*token)).collect();
        let mut hidden = hidden.into_iter();
        stream.window.retain(|_| !hidden.next().unwrap_or(false));
        let mut begin = stream.window.len().saturating_sub(CONTEXT);
        while stream.splits_bytes(begin) {
            begin -= 1;
        }
        stream.window.drain(..begin);
        stream.fresh = stream.window.len();
        stream.shown = stream.decode(&stream.window)?.len();
        Ok(stream)
    }

    /// Takes a token; gives the text that is certain now, and whether a stop string ended it.
    pub fn push(&mut self, token: u32) -> Result<(String, bool)> {
        if self.hidden(token) {
            return Ok((String::new(), false));
        }
        self.window.push(token);
        let now = self.decode(&self.window)?;
        let open = self.tokenizer.is_byte(token) && self.window.len() - self.fresh < LONGEST_WINDOW;
        let sure = match now.strip_suffix('\u{fffd}') {
            _ if open => 0,
            Some(before) => before.len(),
            None => now.len(),
        };
        self.show(&now, sure);
        self.slide(&now, sure == now.len())?;
        Ok(self.release())
    }

    /// What was held back, when no more tokens come, and whether a stop string ends it. Bytes that are no whole
    /// character are U+FFFD.
    pub fn finish(mut self) -> Result<(String, bool)> {
        let now = self.decode(&self.window)?;
        self.show(&now, now.len());
        let (mut text, ended) = self.release();
        text.push_str(&self.held);
        Ok((text, ended))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode_with(tokens, self.special)
    }

    /// Whether a decoder never sees the token.
    fn hidden(&self, token: u32) -> bool {
        !self.tokenizer.is_known(token) || (!self.special && self.tokenizer.is_special(token))
    }

    /// Whether the window's token `at` goes on with bytes that those before it began.
    fn splits_bytes(&self, at: usize) -> bool {
        let byte = |at: usize| self.window.get(at).is_some_and(|token| self.tokenizer.is_byte(*token));
        at > 0 && byte(at) && byte(at - 1)
    }

    /// Takes the text up to `end`. What is out stays out, whatever a decoder makes of it afterwards.
    fn show(&mut self, now: &str, end: usize) {
        let begin = (self.shown..now.len()).find(|at| now.is_char_boundary(*at)).unwrap_or(now.len());
        if begin < end {
            self.held.push_str(&now[begin..end]);
            self.shown = end;
        }
    }

    /// Forgets what decoding no longer depends on. `sure`: all of `now`, the window's text, is out.
    fn slide(&mut self, now: &str, sure: bool) -> Result<()> {
        let count = self.window.len();
        let begin = match (sure, count > LONGEST_WINDOW) {
            (_, true) => count - CONTEXT,
            (true, false) => self.fresh,
            (false, false) => return Ok(()),
        };
        let text = self.decode(&self.window[begin..])?;
        let waits = now.len().saturating_sub(self.shown);
        // A text that a decoder has taken everything from shows nothing of what it takes from the next one.
        let same = !text.is_empty() && text.len() >= waits && now.ends_with(&text);
        if (same && !self.splits_bytes(begin)) || count > 2 * LONGEST_WINDOW {
            self.shown = text.len().saturating_sub(waits);
            self.window.drain(..begin);
        }
        if sure {
            self.fresh = self.window.len();
        }
        Ok(())
    }

    fn release(&mut self) -> (String, bool) {
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..at].to_string();
            self.held.clear();
            return (text, true);
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|n| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}
