//! Which loaded model one is, and what it was opened for.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Which loaded model this is: no two of a process have the same one, not even of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(u64);

impl ModelId {
    pub(super) fn new() -> ModelId {
        static MODELS: AtomicU64 = AtomicU64::new(0);
        ModelId(MODELS.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be run: its code is mapped executable.
    Run,
    /// To be looked at: none of its code can run.
    Look,
}

impl Purpose {
    /// Errors: it is not to be run.
    pub(super) fn check_run(self, path: &Path) -> Result<()> {
        if self == Purpose::Run {
            return Ok(());
        }
        let message = format!("{} was opened to be looked at, not to be run", path.display());
        Err(Error::new(ErrorKind::BadInput, message).help("load it with `Model::load`"))
    }
}
