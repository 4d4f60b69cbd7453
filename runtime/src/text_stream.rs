//! Tokens to text as they come.

use std::ops::Deref;

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
///
/// ```
/// # use hyc_handmade::Parts;
/// # use hyc_runtime::{TextStream, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// # let tokenizer = Tokenizer::of(&model)?;
/// let mut stream = TextStream::new(&tokenizer, &[], &["ef".to_string()], false)?;
/// let mut text = String::new();
/// for token in [2, 3, 4, 5, 6] {
///     let (part, ended) = stream.push(token)?;
///     text += &part;
///     if ended {
///         break;
///     }
/// }
/// assert_eq!(text, "cd", "up to the stop text");
/// # Ok(())
/// # }
/// ```
///
/// `T` is a [`Tokenizer`], borrowed or shared.
pub struct TextStream<T> {
    tokenizer: T,
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

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A stream that ends at any of the `stop` strings. `context`: the tokens before the first one that is pushed.
    /// `special`: whether special tokens are part of the text.
    pub fn new(tokenizer: T, context: &[u32], stop: &[String], special: bool) -> Result<TextStream<T>> {
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
        let begin = stream.context_begin();
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
        let waiting = self.window.len() - self.fresh;
        let certain = match self.tokenizer.byte(token) {
            None => self.window.len(),
            Some(_) if waiting < LONGEST_WINDOW => return Ok(self.release()),
            Some(_) => self.window.len() - self.unfinished(),
        };
        let now = self.decode(&self.window[..certain])?;
        let sure = now.strip_suffix('\u{fffd}').unwrap_or(&now).len();
        self.show(&now, sure);
        self.slide(&now, certain, sure == now.len())?;
        Ok(self.release())
    }

    /// What was held back, when no more tokens come, and whether a stop string ends it. Bytes that are no whole
    /// character are U+FFFD.
    pub fn finish(mut self) -> Result<(String, bool)> {
        // Of a run that is out in part, the beginning of a character is all that can be left.
        let mut now = self.decode(&self.window)?;
        let mut open = 0;
        if now.ends_with('\u{fffd}') && self.splits_bytes(self.fresh) {
            open = self.unfinished();
            now = self.decode(&self.window[..self.window.len() - open])?;
        }
        self.show(&now, now.len());
        self.held.extend(std::iter::repeat_n('\u{fffd}', open));
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

    /// The byte that the window's token `at` is, where it is one.
    fn byte(&self, at: usize) -> Option<u8> {
        self.window.get(at).and_then(|token| self.tokenizer.byte(*token))
    }

    /// Whether the window's token `at` goes on with bytes that those before it began.
    fn splits_bytes(&self, at: usize) -> bool {
        at > 0 && self.byte(at).is_some() && self.byte(at - 1).is_some()
    }

    /// Bytes at the window's end that begin a character. Errors of the run before them are none of theirs: it is
    /// decoded as a whole, and is no text whatever comes.
    fn unfinished(&self) -> usize {
        let run = (0..self.window.len()).rev().map_while(|at| self.byte(at));
        let mut run: Vec<u8> = run.collect();
        run.reverse();
        match std::str::from_utf8(&run) {
            Err(e) if e.error_len().is_none() => run.len() - e.valid_up_to(),
            _ => 0,
        }
    }

    /// Where the context begins that decoding may depend on: before a run of bytes, or, in a long one, at a character.
    fn context_begin(&self) -> usize {
        let count = self.window.len();
        let latest = count.saturating_sub(CONTEXT);
        let run = (count.saturating_sub(LONGEST_WINDOW)..=latest).rev().find(|at| !self.splits_bytes(*at));
        let letter = || back(latest).find(|at| self.byte(*at).is_none_or(|byte| byte & 0xc0 != 0x80));
        run.or_else(letter).unwrap_or(latest)
    }

    /// Takes the text up to `end`. What is out stays out, whatever a decoder makes of it afterwards.
    fn show(&mut self, now: &str, end: usize) {
        // A context that ended inside a character was longer.
        self.shown = self.shown.min(now.len());
        let begin = (self.shown..now.len()).find(|at| now.is_char_boundary(*at)).unwrap_or(now.len());
        if begin < end {
            self.held.push_str(&now[begin..end]);
            self.shown = end;
        }
    }

    /// Forgets what decoding no longer depends on. `now` is the text of the window's first `certain` tokens; `sure`: all
    /// of it is out.
    fn slide(&mut self, now: &str, mut certain: usize, sure: bool) -> Result<()> {
        let long = certain > LONGEST_WINDOW;
        let latest = match (sure, long) {
            (_, true) => certain - CONTEXT,
            (true, false) => self.fresh,
            (false, false) => return Ok(()),
        };
        let waits = now.len().saturating_sub(self.shown);
        for begin in back(latest) {
            let text = self.decode(&self.window[begin..certain])?;
            // A text that a decoder has taken everything from shows nothing of what it takes from the next one.
            let same = !text.is_empty() && text.len() >= waits && now.ends_with(&text);
            // What depends on all that came, as a run of bytes that are no text does, ends somewhere.
            let endless = begin == latest && certain > 4 * LONGEST_WINDOW;
            if (same && (long || !self.splits_bytes(begin))) || endless {
                self.shown = text.len().saturating_sub(waits);
                self.window.drain(..begin);
                self.fresh = self.fresh.saturating_sub(begin);
                certain -= begin;
                break;
            }
        }
        if sure {
            self.fresh = certain;
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

/// `latest`, and the three places before it: one of four begins a character.
fn back(latest: usize) -> impl Iterator<Item = usize> {
    (latest.saturating_sub(3)..=latest).rev()
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|n| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}
