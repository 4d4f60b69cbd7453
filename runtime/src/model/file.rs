//! The bytes of an artefact's file.

use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};
use crate::file::open_file;
use crate::memory::{Aligned, Machine};

/// Where a loaded file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// Mapped: pages are read when they are used, shared with other processes, and the system can take them back.
    /// Whoever changes the file in place changes the model under way, and whoever shortens it ends the process with
    /// SIGBUS: replace an artefact by another file that is renamed, as the compiler does.
    #[default]
    Mapped,
    /// Copied to memory of this process: nothing that happens to the file later matters.
    Copied,
}

/// A file's bytes.
pub(super) enum FileBytes {
    Mapped(Mmap),
    Copied(Aligned),
}

impl FileBytes {
    /// Errors: no such file, a folder, a device or a pipe; no memory for a copy.
    pub(super) fn open(path: &Path, storage: Storage) -> Result<FileBytes> {
        let io = |e: std::io::Error| {
            Error::new(ErrorKind::BadInput, format!("cannot read {}: {e}", path.display()))
                .help("check the path")
        };
        let mut file = open_file(path).map_err(io)?;
        if storage == Storage::Copied {
            let len = file.metadata().map_err(io)?.len();
            if let Some(free) = Machine::here().free_memory().filter(|free| free.bytes < len) {
                let message = format!(
                    "{} has {} MiB to copy, {} MiB are free{}",
                    path.display(),
                    len >> 20,
                    free.bytes >> 20,
                    free.place
                );
                return Err(Error::new(ErrorKind::Resource, message).help("map the file (`Storage::Mapped`)"));
            }
            let mut copy = Aligned::zeroed(len)?;
            file.read_exact(copy.bytes_mut()).map_err(io)?;
            return Ok(FileBytes::Copied(copy));
        }
        // SAFETY: the file is only read, and that nobody writes to it is the caller's promise (`Model::load`).
        unsafe { Mmap::map(&file) }.map(FileBytes::Mapped).map_err(io)
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Copied(copy) => copy.bytes(),
        }
    }
}
