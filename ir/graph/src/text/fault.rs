//! What is wrong with a text.

use std::fmt;

use super::cursor::Fail;

/// A line that is not in the text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What may be meant.
    pub help: Option<String>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

/// More ops than any model has; keeps hostile text from taking hours.
pub const MAX_OPS: usize = 100_000;

/// Faulty lines that are told.
pub const MOST_ERRORS: usize = 100;

/// The fault of a line.
pub fn error_at(line: usize, fail: Fail) -> ParseError {
    ParseError { line, column: fail.column, message: fail.message, help: fail.help }
}
