//! What a call answers, and why it fails.

use std::sync::{Mutex, MutexGuard, TryLockError};

use hyc_runtime::{Error, ErrorKind};

/// What a call answers. Numbers are never given another meaning; there may be more of them in a later version.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "C's names")]
pub enum hyc_status {
    /// Done.
    HYC_OK = 0,
    /// There is nothing more.
    HYC_END = 1,
    /// What the caller gave: a prompt, an option, a token, a path.
    HYC_BAD_INPUT = 2,
    /// The artefact: truncated, damaged, of another version or build.
    HYC_BAD_ARTEFACT = 3,
    /// This machine lacks what the code needs.
    HYC_UNSUPPORTED = 4,
    /// Memory, pages, threads, files.
    HYC_RESOURCE = 5,
    /// A kernel failed on its device: the process must start again.
    HYC_DEVICE = 6,
    /// Somebody asked to stop.
    HYC_CANCELLED = 7,
    /// The model computed something that is no number.
    HYC_BAD_NUMBERS = 8,
    /// A handle that is NULL, was freed, or is of another kind.
    HYC_BAD_HANDLE = 9,
    /// Another thread is inside a call with the same session.
    HYC_BUSY = 10,
    /// A bug of hyc: what was in hand is of no use any more, and is to be freed.
    HYC_BUG = 11,
    /// The buffer is too small; how much is needed was written to where the count goes.
    HYC_SHORT = 12,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    /// What the call answers.
    pub status: hyc_status,
    /// What is wrong and where.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Failure {
    fn new(status: hyc_status, message: impl Into<String>, help: &str) -> Failure {
        Failure { status, message: message.into(), help: Some(help.to_string()) }
    }

    /// A handle that is none.
    pub fn handle(message: impl Into<String>) -> Failure {
        Failure::new(hyc_status::HYC_BAD_HANDLE, message, "give what a call has made and nobody has freed")
    }

    /// An argument that is wrong.
    pub fn argument(message: impl Into<String>, help: &str) -> Failure {
        Failure::new(hyc_status::HYC_BAD_INPUT, message, help)
    }

    /// A session that another thread is inside of.
    pub fn busy() -> Failure {
        let message = "another thread is inside a call with this session";
        Failure::new(
            hyc_status::HYC_BUSY,
            message,
            "call again when it is through, or give each thread its own session",
        )
    }

    /// A panic.
    pub fn bug(message: impl Into<String>) -> Failure {
        Failure::new(hyc_status::HYC_BUG, message, "free what was in hand; please report this bug of hyc")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error.kind {
            ErrorKind::BadInput => hyc_status::HYC_BAD_INPUT,
            ErrorKind::BadArtefact => hyc_status::HYC_BAD_ARTEFACT,
            ErrorKind::Unsupported => hyc_status::HYC_UNSUPPORTED,
            ErrorKind::Resource => hyc_status::HYC_RESOURCE,
            ErrorKind::Device => hyc_status::HYC_DEVICE,
            ErrorKind::Cancelled => hyc_status::HYC_CANCELLED,
            ErrorKind::BadNumbers => hyc_status::HYC_BAD_NUMBERS,
        };
        Failure { status, message: error.message, help: error.help }
    }
}

/// Enters what one call at a time may use: `what` with an article. Errors: another call is inside; one has panicked there.
pub fn enter<'m, T>(inside: &'m Mutex<T>, what: &str) -> Result<MutexGuard<'m, T>, Failure> {
    inside.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Failure::busy(),
        TryLockError::Poisoned(_) => Failure::bug(format!("a call with {what} has panicked")),
    })
}
