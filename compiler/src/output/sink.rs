//! Where text goes, which need not be a file.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Kept, Target, Whole, stream};
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
            Some(path) if path == Path::new("-") || is_stdout(path) => Ok(Sink::Stdout),
            Some(path) if is_stream(path) => Ok(Sink::Special(path.to_path_buf())),
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

/// Whether bytes can be written to what is there without replacing it: a character device, a pipe.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_char_device() || m.file_type().is_fifo())
}

/// Whether standard output goes to what is there, as to `/dev/stdout`.
fn is_stdout(path: &Path) -> bool {
    let there = std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let stdout = rustix::fs::fstat(rustix::stdio::stdout()).map(|file| (file.st_dev, file.st_ino)).ok();
    there.is_some() && there == stdout
}
