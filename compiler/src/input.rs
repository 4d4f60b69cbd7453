//! Files that are given: regular ones, and no more bytes of them than make sense.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::words::place;

/// Most bytes of a description or a dump.
pub const TEXT_BYTES: u64 = 64 << 20;
/// Opens a file to `what` (`read the prompt`). Errors: a folder, a pipe, a device, a socket; none there.
pub fn open(what: &str, path: &Path) -> Result<File> {
    hyc_runtime::open_file(path).map_err(|e| match e.kind() {
        ErrorKind::InvalidInput => {
            Error::input(format!("cannot {what} {}: {e}", place(path))).help("name a regular file")
        }
        _ => Error::io(what, path, e),
    })
}

/// Reads a file whole. Errors: those of [`open`]; more than `most` bytes, of which no more is read.
pub fn read(what: &str, path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(what, path)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(what, path, e))?;
    if bytes.len() as u64 > most {
        let message = format!("cannot {what} {}: it has more than {} MiB", place(path), most >> 20);
        return Err(Error::input(message).help("is it the right file?"));
    }
    Ok(bytes)
}
