//! A file that appears under its name when it is complete.
//!
//! It is written without a name (O_TMPFILE), brought to disk, and then linked to its target. A link cannot replace a
//! file, a rename can: where there is one already, the new file gets a temporary name first. Where the file system
//! has no nameless files, it has a temporary name from the beginning. At the end the folder is brought to disk, too.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, linkat, openat, renameat, unlinkat,
};

use super::calls::{call, nameless_files};
use super::target::Target;
use super::temporary::{self, TRIES};
use crate::error::{Error, Result};

/// The file, on its way to a target.
pub struct Whole<'t> {
    target: &'t Target,
    file: File,
    /// The temporary name, while the file has one.
    temporary: Option<String>,
}

impl Whole<'_> {
    /// An empty file for the target; sweeps its folder. Errors: the folder takes no new file.
    pub fn create(target: &Target) -> Result<Whole<'_>> {
        if target.readable {
            temporary::sweep(&target.folder);
        }
        let create = || {
            // What replaces a file may have to stay as private as that file was.
            let mode = if target.stat()?.is_some() { 0o600 } else { 0o666 };
            match nameless(target, Mode::from_raw_mode(mode)) {
                Some(file) => Ok(Whole { target, file, temporary: None }),
                None => named(target, Mode::from_raw_mode(mode)),
            }
        };
        create().map_err(|e| Error::io("write", target.path(), e))
    }

    /// Brings the content to disk.
    pub fn sync(&self) -> io::Result<()> {
        call(|| self.file.sync_all())
    }

    /// Brings the content to disk and gives the file its name, in place of what had it before.
    pub fn finish(mut self) -> Result<()> {
        let target = self.target;
        let fail = |e: io::Error| Error::io("write", target.path(), e);
        self.sync().map_err(fail)?;
        let mut old = target.stat().map_err(fail)?;
        if old.is_none() && self.temporary.is_none() {
            self.make_new().map_err(fail)?;
            match self.link(&target.name) {
                Ok(()) => return target.sync_folder().map_err(fail),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => old = target.stat().map_err(fail)?,
                Err(e) => return Err(fail(e)),
            }
        }
        match &old {
            Some(old) => {
                target.check(old)?;
                self.take_after(old).map_err(fail)?;
            }
            None => self.make_new().map_err(fail)?,
        }
        self.rename().map_err(fail)?;
        target.sync_folder().map_err(fail)
    }

    /// Permissions of a file that replaces none: what the umask leaves, where they are not that already.
    fn make_new(&self) -> io::Result<()> {
        let mode = call(|| fstat(&self.file))?.st_mode & 0o777;
        match mode {
            0o600 => self.set_mode(0o666 & !umask()),
            _ => Ok(()),
        }
    }

    /// Owner, group and permissions of the file that is replaced. Where the group cannot be kept, it gets no more
    /// than everybody.
    fn take_after(&self, old: &Stat) -> io::Result<()> {
        let new = call(|| fstat(&self.file))?;
        let (uid, gid) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        let same_group = new.st_gid == old.st_gid || call(|| fchown(&self.file, None, Some(gid))).is_ok();
        let same_owner = new.st_uid == old.st_uid || call(|| fchown(&self.file, Some(uid), None)).is_ok();
        let mut mode = old.st_mode & 0o7777;
        if !same_group {
            mode = mode & 0o707 | (mode & 0o007) << 3 & mode;
        }
        if !same_owner {
            mode &= 0o777;
        }
        self.set_mode(mode)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        if call(|| fstat(&self.file))?.st_mode & 0o7777 == mode {
            return Ok(());
        }
        call(|| fchmod(&self.file, Mode::from_raw_mode(mode)))
    }

    fn rename(&mut self) -> io::Result<()> {
        for _ in 0..TRIES {
            if self.temporary.is_some() {
                break;
            }
            let name = temporary::fresh()?;
            match self.link(OsStr::new(&name)) {
                Ok(()) => self.temporary = Some(name),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        let folder = &self.target.folder;
        let Some(name) = &self.temporary else { return Err(no_name()) };
        call(|| renameat(folder, name, folder, &self.target.name))?;
        self.temporary = None;
        Ok(())
    }

    fn link(&self, name: &OsStr) -> io::Result<()> {
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        call(|| linkat(CWD, from, &self.target.folder, name, AtFlags::SYMLINK_FOLLOW))
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        // The name is this file's: it was made for it alone, and the lock keeps others from sweeping it.
        if let Some(name) = &self.temporary {
            let _ = call(|| unlinkat(&self.target.folder, name, AtFlags::empty()));
        }
    }
}

impl Write for Whole<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        call(|| self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Whole<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        call(|| self.file.seek(to))
    }
}

/// A file without a name, locked; `None` where it could not get one later.
fn nameless(target: &Target, mode: Mode) -> Option<File> {
    if !nameless_files() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(call(|| openat(&target.folder, ".", flags, mode)).ok()?);
    // Where locks do not work, they do not work for those either who sweep.
    let _ = call(|| file.try_lock());
    let reachable = std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd())).is_ok();
    reachable.then_some(file)
}

/// A file with a temporary name, locked.
fn named(target: &Target, mode: Mode) -> io::Result<Whole<'_>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        let name = temporary::fresh()?;
        let file = match call(|| openat(&target.folder, &name, flags, mode)) {
            Ok(file) => File::from(file),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        // Another process may sweep it before it is locked: then it has no name any more, or will have none soon.
        let mut whole = Whole { target, file, temporary: Some(name) };
        let swept = matches!(whole.file.try_lock(), Err(std::fs::TryLockError::WouldBlock));
        if swept || call(|| fstat(&whole.file))?.st_nlink == 0 {
            whole.temporary = None;
            continue;
        }
        return Ok(whole);
    }
    Err(no_name())
}

fn no_name() -> io::Error {
    io::Error::other("every temporary name is taken")
}

/// The umask, without changing it for a moment under other threads.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o077)
}
