//! Files that hyc writes: artefacts, and whatever `-o` names. Nothing that a user owns is lost.
//!
//! What holds, whichever call fails and whenever the process ends:
//!
//! - The target is what it was before, or the new file, and whole.
//! - It is none of the files that are read, under whatever name (symbolic link, hard link, `..`), and none that this
//!   process was given open ([`Kept::of_process`]): this is asked before any work is done, and once more before the
//!   file is replaced. What names standard output (`/dev/stdout`) is standard output.
//! - A new file has the permissions that the umask leaves. A replaced one keeps its permissions, and its owner and
//!   group where this user may give files away. A file that this user may not write is not replaced.
//! - A symbolic link is followed: what it points to is replaced, the link stays. One that points to nothing is an
//!   error, as is a folder; devices and pipes are written to and never replaced.
//! - No other file is ever removed. A process that is killed leaves at most one temporary file, which the next
//!   write into that folder removes (see `temporary.rs`).
//!
//! [`Target`] is the place, looked at before the work; [`Whole`] the file that appears there; [`Folder`] several that
//! belong together.

mod calls;
mod folder;
mod stream;
mod target;
mod temporary;
mod whole;

#[cfg(test)]
mod tests;

pub use folder::Folder;
pub use target::{Kept, Target};
pub use whole::Whole;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::terminal;
use crate::words::place;

/// Where text goes that need not be a file.
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A device or a pipe.
    Special(PathBuf),
    /// A file.
    File(Target),
}

impl Sink {
    /// What `-o` names; nothing and `-` are standard output. Errors: those of [`Target::new`].
    pub fn new(path: Option<&Path>, kept: &Kept) -> Result<Sink> {
        match path {
            None => Ok(Sink::Stdout),
            Some(path) if path == Path::new("-") || target::is_stdout(path) => Ok(Sink::Stdout),
            Some(path) if target::is_stream(path) => Ok(Sink::Special(path.to_path_buf())),
            Some(path) => Ok(Sink::File(Target::new(path, kept)?)),
        }
    }

    /// Writes all of it.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::Stdout => terminal::write(bytes),
            Sink::Special(path) => {
                let written = stream::open(path).and_then(|to| stream::write_all(&to, bytes));
                written.map_err(|e| match e.kind() {
                    std::io::ErrorKind::Interrupted => Error::new(
                        ErrorKind::Cancelled,
                        format!("cancelled while writing to {}", place(path)),
                    ),
                    std::io::ErrorKind::BrokenPipe => {
                        Error::new(ErrorKind::ReaderGone, format!("the reader of {} has gone", place(path)))
                    }
                    _ => Error::io("write", path, e),
                })
            }
            Sink::File(target) => {
                let mut whole = Whole::create(target)?;
                whole.write_all(bytes).map_err(|e| Error::io("write", target.path(), e))?;
                whole.finish()
            }
        }
    }
}
