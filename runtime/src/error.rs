//! Errors as values.

use std::fmt;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What the caller gave: a prompt, an option, a token id.
    BadInput,
    /// The artefact: truncated, damaged, of another version.
    BadArtefact,
    /// This machine lacks what the code needs.
    Unsupported,
    /// Memory, pages, threads, files.
    Resource,
    /// A kernel failed on its device, whose context is of no use from then on.
    Device,
    /// The caller asked to stop.
    Cancelled,
    /// The model computed something that is no number.
    BadNumbers,
}

/// What went wrong, and what to do: printed as the one line and the other, as a `main` that returns it prints it, too.
///
/// ```
/// use hyc_runtime::{ErrorKind, Model, Verify};
///
/// let Err(error) = Model::open_to_look("no-such-file", Verify::Full) else { panic!("it is there") };
/// assert_eq!(error.kind, ErrorKind::BadInput);
/// assert!(error.to_string().ends_with("\n  help: check the path"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// Whose fault.
    pub kind: ErrorKind,
    /// What is wrong and where.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), help: None }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(help.into());
        self
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
