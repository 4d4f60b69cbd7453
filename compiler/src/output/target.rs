//! The place that a file will have.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, openat, statat};
use rustix::io::Errno;

use super::calls::call;
use crate::error::{Error, ErrorKind, Result};
use crate::words::place;

/// Files that must not be replaced, as device and inode: whatever the work reads, and what this process has open.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    files: Vec<(u64, u64, String)>,
}

impl Kept {
    /// The files that this process has open, whoever opened them: a log that standard output goes to would be lost.
    pub fn of_process() -> Kept {
        let mut kept = Kept::default();
        for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
            let what = match entry.file_name().to_str() {
                Some("0") => "what standard input comes from".to_string(),
                Some("1") => "what standard output goes to".to_string(),
                Some("2") => "what standard error goes to".to_string(),
                name => format!("open as file descriptor {}", name.unwrap_or_default()),
            };
            if let Some(file) = std::fs::metadata(entry.path()).ok().filter(|file| file.is_file()) {
                kept.files.push((file.dev(), file.ino(), what));
            }
        }
        kept
    }

    /// Adds a file, where there is one; `what` it is for the work (`the description`).
    pub fn add(&mut self, what: &str, path: &Path) {
        if let Ok(file) = std::fs::metadata(path) {
            self.files.push((file.dev(), file.ino(), format!("{what} {}, which is read", place(path))));
        }
    }

    /// What the file is for the work, where it is one of these.
    fn find(&self, file: &Stat) -> Option<&str> {
        let same = |(dev, ino, _): &&(u64, u64, String)| (*dev, *ino) == (file.st_dev, file.st_ino);
        self.files.iter().find(same).map(|(_, _, what)| what.as_str())
    }
}

/// The place of a file, its folder held open: renaming a folder meanwhile moves the file with it.
#[derive(Debug)]
pub struct Target {
    pub(super) folder: OwnedFd,
    /// Whether the folder's entries may be read; without that it is neither swept nor synced.
    pub(super) readable: bool,
    pub(super) name: OsString,
    path: PathBuf,
    kept: Kept,
}

impl Target {
    /// Looks at the place that `path` names. Errors: a file in `kept`; a folder, a device, a link to nothing; no
    /// permission to write there.
    pub fn new(path: &Path, kept: &Kept) -> Result<Target> {
        let end = if path.as_os_str().as_bytes().ends_with(b"/") { None } else { path.file_name() };
        let Some(_) = end.filter(|_| !path.is_dir()) else {
            return Err(Error::new(ErrorKind::Usage, format!("{} is a folder", place(path)))
                .help("name a file with `-o`"));
        };
        let place = followed(path)?;
        let (folder, name) = (folder(&place), place.file_name().unwrap_or_default().to_os_string());
        let fail = |e: Errno| outside(path, folder, e);
        let (folder, readable) = open_folder(folder).map_err(fail)?;
        let target = Target { folder, readable, name, path: path.to_path_buf(), kept: kept.clone() };
        let old = target.stat().map_err(|e| Error::io("write", path, e))?;
        if let Some(old) = &old {
            target.check(old)?;
        }
        let asked = old.as_ref().map_or(OsStr::new("."), |_| target.name.as_os_str());
        may_write(&target.folder, asked, path)?;
        may_write(&target.folder, OsStr::new("."), path)?;
        Ok(target)
    }

    /// The place as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now.
    pub(super) fn stat(&self) -> std::io::Result<Option<Stat>> {
        match call(|| statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Brings its name to disk. A file system that cannot says so, and has no better way.
    pub(super) fn sync_folder(&self) -> std::io::Result<()> {
        if !self.readable {
            return Ok(());
        }
        match call(|| rustix::fs::fsync(&self.folder)) {
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Unsupported) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Errors where what is there now may not be replaced.
    pub(super) fn check(&self, old: &Stat) -> Result<()> {
        let shown = place(&self.path);
        if let Some(what) = self.kept.find(old) {
            let message = format!("{shown} is {what}: it would be lost");
            return Err(Error::new(ErrorKind::Usage, message).help("name another file with `-o`"));
        }
        if FileType::from_raw_mode(old.st_mode) != FileType::RegularFile {
            let message = format!("{shown} is no file, but a device, a pipe or a folder");
            return Err(Error::new(ErrorKind::Usage, message).help("name a file with `-o`"));
        }
        Ok(())
    }
}

/// Where a path ends that may be a symbolic link. Errors: it points to nothing.
fn followed(path: &Path) -> Result<PathBuf> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    if !is_link {
        return Ok(path.to_path_buf());
    }
    // The kernel follows it first: it may refuse a link that another user has put into a shared folder.
    std::fs::metadata(path).and_then(|_| std::fs::canonicalize(path)).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let message = format!("{} is a symbolic link to a file that does not exist", place(path));
            Error::new(ErrorKind::Usage, message).help("remove the link, or name its target with `-o`")
        }
        _ => Error::io("write", path, e),
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder, and whether it may be read.
fn open_folder(folder: &Path) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(CWD, folder, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            openat(CWD, folder, flags | OFlags::PATH, Mode::empty()).map(|folder| (folder, false))
        }
        folder => folder.map(|folder| (folder, true)),
    }
}

/// The error of a folder that cannot be opened.
fn outside(path: &Path, folder: &Path, error: Errno) -> Error {
    match error {
        Errno::NOENT => {
            let message = format!("cannot write {}: there is no folder {}", place(path), place(folder));
            Error::input(message).help("make the folder, or name another one with `-o`")
        }
        Errno::NOTDIR => {
            let message = format!("cannot write {}: {} is no folder", place(path), place(folder));
            Error::input(message).help("name a file with `-o`")
        }
        _ => Error::io("write", path, error.into()),
    }
}

/// Errors where this user may not write what is there.
fn may_write(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
    match accessat(folder, name, Access::WRITE_OK, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            Err(Error::io("write", path, error.into()))
        }
        // The answer of a file system that cannot say, or of a file that has gone: writing will tell.
        _ => Ok(()),
    }
}
