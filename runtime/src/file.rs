//! Files that are read.

use std::fs::{File, FileType, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Opens a file to read it. Errors, without waiting for anybody: what is there is a folder, a pipe, a device or a
/// socket ([`ErrorKind::InvalidInput`]), and those of [`File::open`].
///
/// ```
/// use hyc_runtime::open_file;
///
/// let error = open_file("/dev/zero".as_ref()).unwrap_err();
/// assert_eq!(error.to_string(), "it is a device, no regular file");
/// ```
pub fn open_file(path: &Path) -> Result<File> {
    // Opening a pipe would wait for somebody who writes to it.
    check(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(there: &Metadata) -> Result<()> {
    let what = |kind: FileType| match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    if there.is_file() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {}, no regular file", what(there.file_type()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
        std::fs::write(&file, "x").unwrap();
        assert!(open_file(&file).is_ok());
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let wrong =
            [(folder.path(), "a folder"), (&socket, "a socket"), (Path::new("/dev/zero"), "a device")];
        for (path, word) in wrong {
            let error = open_file(path).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(word), "{error}");
        }
        assert_eq!(open_file(&folder.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
