//! Lines of standard input, which Ctrl-C may interrupt.

use std::io::IsTerminal;

use super::prompt::{Fault, more};
use crate::error::{Error, ErrorKind, Result};

/// A longer line is no message.
const MAX_BYTES: usize = 16 << 20;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C was pressed.
    Interrupted,
    /// There is no more.
    End,
}

/// The lines of standard input.
pub struct Lines {
    input: std::io::Stdin,
    bytes: Vec<u8>,
}

impl Lines {
    /// Nobody else may read it meanwhile.
    pub fn of_stdin() -> Lines {
        Lines { input: std::io::stdin(), bytes: Vec::new() }
    }

    /// Whether somebody types them.
    pub fn is_terminal(&self) -> bool {
        self.input.is_terminal()
    }

    /// The next one. Errors: what cannot be read, is longer than 16 MiB or no UTF-8.
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
        let mut line = String::from_utf8(line).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Error::new(
                ErrorKind::Input,
                format!("a message is not UTF-8 text: byte {at} begins no character"),
            )
        })?;
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(Line::Text(line))
    }
}
