//! Files that are given: regular ones, and no more bytes of them than make sense.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::words::{place, shortened};

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

/// A file of text. Errors: one that cannot be read, is longer than [`TEXT_BYTES`] or no UTF-8.
pub fn text(path: &Path) -> Result<String> {
    let bytes = read("read the text", path, TEXT_BYTES)?;
    let utf8 = |_| Error::input(format!("{} is not UTF-8", place(path))).help("give a file of text");
    String::from_utf8(bytes).map_err(utf8)
}

/// The token ids of a file: a JSON list, or numbers between spaces, commas and newlines. Errors: those of [`text`]; the first
/// word of it that is none.
pub fn token_ids(path: &Path) -> Result<Vec<u32>> {
    let text = text(path)?;
    let list = text.trim();
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(list);
    let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let id = |(at, word): (usize, &str)| {
        word.parse().map_err(|_| {
            Error::input(format!("word {} of {}, `{}`, is no token id", at + 1, place(path), shortened(word)))
                .help("give a JSON list, or numbers between spaces, commas and newlines")
        })
    };
    words.enumerate().map(id).collect()
}
