//! Errors of a build, which cargo prints as they print themselves.

use std::fmt;

/// What went wrong, and what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong and where.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a hint.
    pub(crate) fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), help: None }
    }

    /// Adds what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
    }

    /// An operation on a file failed.
    pub(crate) fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
        Error::new(format!("cannot {what} {}: {error}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<hyc::error::Error> for Error {
    fn from(error: hyc::error::Error) -> Error {
        // A description's faults are rendered with their carets.
        Error { message: error.to_string().trim_end().to_string(), help: error.help }
    }
}

impl From<hyc_runtime::Error> for Error {
    fn from(error: hyc_runtime::Error) -> Error {
        Error { message: error.message, help: error.help }
    }
}
