//! Lines of standard input, which Ctrl-C may interrupt.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use super::prompt::{Fault, more};
use crate::error::{Error, Result};

/// A longer line is no message.
const MAX_BYTES: usize = 16 << 20;

/// What some editors and programs begin a text with.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What comes next.
#[derive(Debug)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// A line that is no UTF-8, and the error that says so. Those after it may be text.
    NotText(Error),
    /// Ctrl-C was pressed.
    Interrupted,
    /// There is no more.
    End,
}

/// The lines of standard input, without a byte order mark at its beginning.
pub struct Lines<I = std::io::Stdin> {
    input: I,
    bytes: Vec<u8>,
    /// Whether no line was read.
    begins: bool,
}

impl Lines {
    /// Nobody else may read it meanwhile.
    pub fn of_stdin() -> Lines {
        Lines::of(std::io::stdin())
    }

    /// Whether somebody types them.
    pub fn is_terminal(&self) -> bool {
        self.input.is_terminal()
    }
}

impl<I: AsFd> Lines<I> {
    fn of(input: I) -> Lines<I> {
        Lines { input, bytes: Vec::new(), begins: true }
    }

    /// The next one. Errors: what cannot be read, or is longer than 16 MiB.
    pub fn next(&mut self) -> Result<Line> {
        let end = loop {
            if let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break at + 1;
            }
            if self.bytes.len() > MAX_BYTES {
                return Err(Error::input(format!("a message is longer than {} MiB", MAX_BYTES >> 20)));
            }
            match more(&self.input, &mut self.bytes) {
                Ok(0) if self.bytes.is_empty() => return Ok(Line::End),
                Ok(0) => break self.bytes.len(),
                Ok(_) => {}
                Err(Fault::Cancelled) => return Ok(Line::Interrupted),
                Err(fault) => return Err(fault.of("standard input".to_string())),
            }
        };
        let line: Vec<u8> = self.bytes.drain(..end).collect();
        let line = match std::mem::take(&mut self.begins) {
            true => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line),
            false => &line,
        };
        let mut line = match std::str::from_utf8(line) {
            Ok(line) => line.to_string(),
            Err(e) => {
                let message =
                    format!("a message is not UTF-8 text: byte {} begins no character", e.valid_up_to());
                return Ok(Line::NotText(Error::input(message)));
            }
        };
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(Line::Text(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn lines(input: &[u8]) -> Vec<String> {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(input).unwrap();
        drop(writer);
        let mut lines = Lines::of(reader);
        let next = || match lines.next().unwrap() {
            Line::Text(line) => Some(line),
            Line::NotText(error) => Some(format!("error: {}", error.message)),
            Line::Interrupted | Line::End => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn lines_end_where_they_should() {
        assert_eq!(lines(b""), [""; 0]);
        assert_eq!(lines(b"a\r\n\nb"), ["a", "", "b"]);
        // One mark, at the beginning of all.
        assert_eq!(lines("\u{feff}a\n\u{feff}b\n".as_bytes()), ["a", "\u{feff}b"]);
        assert_eq!(lines("\u{feff}\u{feff}a".as_bytes()), ["\u{feff}a"]);
    }

    #[test]
    fn a_line_that_is_no_text_is_one_line() {
        let found = lines(b"a\nb\xff\nc\n");
        assert_eq!(found, ["a", "error: a message is not UTF-8 text: byte 1 begins no character", "c"]);
    }
}
