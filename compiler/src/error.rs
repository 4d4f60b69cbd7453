//! The compiler's error: whose fault it is, what is wrong, where, and what to do.

use std::fmt;

use crate::words::{bounded, place};

/// Whose fault an error is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line: exit code 2.
    Usage,
    /// A file that was given: model, weights, dump, artefact, prompt. Exit code 3.
    Input,
    /// This build or this machine cannot do it: exit code 4.
    Unsupported,
    /// Reading, writing, memory: exit code 5.
    Resource,
    /// Ctrl-C: exit code 130.
    Cancelled,
    /// Whoever read standard output has gone: exit code 0, and nothing is said.
    ReaderGone,
    /// Two executions differ (`hyc diff`): exit code 1.
    Differs,
    /// Something that must hold does not (`hyc eval --gate`): exit code 1.
    Gate,
    /// A bug in hyc: exit code 70.
    Internal,
}

impl ErrorKind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::ReaderGone => 0,
            ErrorKind::Differs | ErrorKind::Gate => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Input => 3,
            ErrorKind::Unsupported => 4,
            ErrorKind::Resource => 5,
            ErrorKind::Internal => 70,
            ErrorKind::Cancelled => 130,
        }
    }
}

/// One clear error. Message and help are short, whatever was put into them.
#[derive(Debug)]
pub struct Error {
    /// Whose fault.
    pub kind: ErrorKind,
    /// What is wrong and where: one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// A message that is laid out already (diagnostics with carets); printed instead of `message`.
    pub rendered: Option<Box<crate::frontend::Diagnostics>>,
}

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: bounded(message.into()), help: None, rendered: None }
    }

    /// A file that was given is wrong.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Input, message)
    }

    /// An operation on a file failed.
    pub fn io(what: &str, path: &std::path::Path, error: std::io::Error) -> Error {
        let message = format!("cannot {what} {}: {error}", place(path));
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::PermissionDenied => "check the permissions of the file and its folder",
            std::io::ErrorKind::StorageFull => "free some space, or name another place with `-o`",
            _ => return Error::new(ErrorKind::Resource, message),
        };
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::Input,
            _ => ErrorKind::Resource,
        };
        Error::new(kind, message).help(help)
    }

    /// Puts where it is before the message.
    pub fn within(mut self, place: &str) -> Error {
        self.message = bounded(format!("{place}: {}", self.message));
        self
    }

    /// Adds what to do, where something is known.
    pub fn maybe_help(self, help: Option<String>) -> Error {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.help = Some(bounded(help.into()));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rendered {
            Some(diagnostics) => f.write_str(&diagnostics.render(false)),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::frontend::Diagnostics> for Error {
    fn from(diagnostics: crate::frontend::Diagnostics) -> Error {
        let mut error = Error::input("the model description is not valid");
        error.rendered = Some(Box::new(diagnostics));
        error
    }
}

impl From<hyc_runtime::Error> for Error {
    fn from(error: hyc_runtime::Error) -> Error {
        use hyc_runtime::ErrorKind as Runtime;
        let kind = match error.kind {
            Runtime::BadInput | Runtime::BadArtefact | Runtime::BadNumbers => ErrorKind::Input,
            Runtime::Unsupported => ErrorKind::Unsupported,
            Runtime::Resource => ErrorKind::Resource,
            Runtime::Cancelled => ErrorKind::Cancelled,
            Runtime::Device => ErrorKind::Internal,
        };
        Error::new(kind, error.message).maybe_help(error.help)
    }
}
