//! The bytes of an artefact's file.

use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use hyc_plan::artefact::{ALIGN, MOST_HEADER};
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
    Mapped(Mmap, File),
    Copied(Aligned),
    /// Somebody else's, for as long as the program runs.
    Static(&'static [u8]),
    /// Somebody else's, who is kept.
    Owned(Arc<dyn AsRef<[u8]> + Send + Sync>),
    /// Those that somebody has asked for ([`FileBytes::need`]); the others are zeros that take no memory.
    Parts(Aligned, File),
}

impl FileBytes {
    /// Errors: no such file, a folder, a device or a pipe; no memory for a copy.
    ///
    /// # Safety
    /// Nobody writes to the file or shortens it while a mapping lives.
    pub(super) unsafe fn open(path: &Path, storage: Storage) -> Result<FileBytes> {
        let file = open_file(path).map_err(|e| unread(path, &e))?;
        if storage == Storage::Copied {
            let len = file.metadata().map_err(|e| unread(path, &e))?.len();
            room(path, len, "map the file (`Storage::Mapped`)")?;
            let mut copy = Aligned::zeroed(len)?;
            file.read_exact_at(copy.bytes_mut(), 0).map_err(|e| unread(path, &e))?;
            return Ok(FileBytes::Copied(copy));
        }
        // SAFETY: the file is only read, and that nobody writes to it is the caller's promise.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unread(path, &e))?;
        Ok(FileBytes::Mapped(map, file))
    }

    /// A part of the file, mapped to be executed; `None` where what is here is no mapping of a file.
    pub(super) fn map_executable(&self, part: Range<usize>) -> Option<std::io::Result<Mmap>> {
        let FileBytes::Mapped(_, file) = self else { return None };
        let mut options = memmap2::MmapOptions::new();
        // SAFETY: that nobody writes to the file while a mapping lives was promised to `FileBytes::open`.
        Some(unsafe { options.offset(part.start as u64).len(part.len()).map_exec(file) })
    }

    /// Bytes that are in memory already. Errors: they do not begin at a multiple of [`ALIGN`].
    pub(super) fn aligned(self, path: &Path) -> Result<FileBytes> {
        let off = self.as_ptr().addr() % ALIGN as usize;
        if off == 0 {
            return Ok(self);
        }
        let message = format!("{} begins {off} bytes behind a multiple of {ALIGN}", path.display());
        Err(Error::new(ErrorKind::BadInput, message)
            .help("align it (`#[repr(align(64))]`, a mapping, or an object of `hyc compile --emit obj`)"))
    }

    /// A file of which parts are read, once, so that nothing that happens to it later matters: at first the header.
    /// Errors: as for [`FileBytes::open`].
    pub(super) fn parts(path: &Path) -> Result<FileBytes> {
        let file = open_file(path).map_err(|e| unread(path, &e))?;
        let len = file.metadata().map_err(|e| unread(path, &e))?.len();
        let mut head = [0; 8];
        let most = (&file).take(8).read(&mut head).map_err(|e| unread(path, &e))?;
        let said = u64::from_le_bytes(head);
        // A header that is too long is refused by what it says.
        let header = if said > MOST_HEADER { 1 } else { said }.saturating_add(most as u64).min(len);
        let mut bytes = FileBytes::Parts(Aligned::zeroed(len)?, file);
        bytes.need(path, 0..header as usize)?;
        Ok(bytes)
    }

    /// Copies a part to `out`, which is as long. Errors: it cannot be read any more.
    pub(super) fn copy(&self, path: &Path, part: Range<usize>, out: &mut [u8]) -> Result<()> {
        match self {
            // A system call copies what a mapping would have to fault in, a few pages at a time.
            FileBytes::Mapped(_, file) => {
                file.read_exact_at(out, part.start as u64).map_err(|e| unread(path, &e))
            }
            bytes => {
                out.copy_from_slice(&bytes[part]);
                Ok(())
            }
        }
    }

    /// Reads a part, where parts are read. Errors: it cannot be read any more; no memory for it.
    pub(super) fn need(&mut self, path: &Path, part: Range<usize>) -> Result<()> {
        let FileBytes::Parts(bytes, file) = self else { return Ok(()) };
        room(path, part.len() as u64, "look at it where there is more memory")?;
        let start = part.start as u64;
        file.read_exact_at(&mut bytes.bytes_mut()[part], start).map_err(|e| unread(path, &e))
    }
}

fn unread(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::BadInput, format!("cannot read {}: {error}", path.display())).help("check the path")
}

/// Errors: less than `bytes` of memory are free.
fn room(path: &Path, bytes: u64, help: &str) -> Result<()> {
    let Some(free) = Machine::here().free_memory().filter(|free| free.bytes < bytes) else { return Ok(()) };
    let (path, bytes, room) = (path.display(), bytes >> 20, free.bytes >> 20);
    let message = format!("{path} has {bytes} MiB to read, {room} MiB are free{}", free.place);
    Err(Error::new(ErrorKind::Resource, message).help(help))
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map, _) => map,
            FileBytes::Static(bytes) => bytes,
            FileBytes::Owned(owner) => (**owner).as_ref(),
            FileBytes::Copied(copy) | FileBytes::Parts(copy, _) => copy.bytes(),
        }
    }
}
