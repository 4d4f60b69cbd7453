//! A folder of files that belong together.
//!
//! It is new, or empty, or holds files of these names alone: an earlier run's, which are replaced. All contents are on
//! disk before the first file gets its name. What fails before that leaves everything as it was; a process that ends
//! between two names leaves old and new files, each of them whole.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, mkdirat, unlinkat};

use super::calls::call;
use super::temporary::is_temporary;
use super::{Kept, Target, Whole};
use crate::error::{Error, ErrorKind, Result};
use crate::words::place;

/// The folder, looked at before the work.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    names: Vec<String>,
    kept: Kept,
}

const HELP: &str = "name a new or an empty folder";

impl Folder {
    /// Errors: a file; a folder that holds what none of these names is; one of `kept` under such a name; no place for
    /// a new folder.
    pub fn new(path: &Path, names: Vec<String>, kept: &Kept) -> Result<Folder> {
        // Without what stands behind the last name: `dumps/` is `dumps`.
        let folder = Folder { path: path.components().collect(), names, kept: kept.clone() };
        match folder.is_there()? {
            true => drop(folder.targets()?),
            false => drop(folder.place()?),
        }
        Ok(folder)
    }

    /// Whether there is such a folder, of no other files.
    fn is_there(&self) -> Result<bool> {
        let fail = |e| Error::io("look into", &self.path, e);
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let message = format!("{} is a file, and no folder", place(&self.path));
                return Err(Error::new(ErrorKind::Usage, message).help(HELP));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(fail(e)),
        }
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if !is_temporary(name.as_bytes()) && !self.names.iter().any(|own| name == own.as_str()) {
                let (folder, name) = (place(&self.path), place(Path::new(&name)));
                let message = format!("{folder} holds {name}, which no earlier run has written");
                return Err(Error::new(ErrorKind::Usage, message).help(HELP));
            }
        }
        Ok(true)
    }

    /// The place of a new folder, in one that is there.
    fn place(&self) -> Result<Target> {
        Target::new(&self.path, &self.kept).map_err(|e| e.help(HELP))
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let target = |name: &String| Target::new(&self.path.join(name), &self.kept).map_err(|e| e.help(HELP));
        self.names.iter().map(target).collect()
    }

    /// Writes the files, as many as there are names. Errors: those of [`Folder::new`]; a folder or a file that cannot
    /// be written.
    pub fn write(&self, contents: &[impl AsRef<[u8]>]) -> Result<()> {
        if self.is_there()? {
            return self.fill(contents);
        }
        let parent = self.place()?;
        let fail = |e| Error::io("make the folder", &self.path, e);
        call(|| mkdirat(&parent.folder, &parent.name, Mode::from_raw_mode(0o777))).map_err(fail)?;
        let filled = self.fill(contents);
        if filled.is_err() {
            // It goes where it is still empty.
            let _ = call(|| unlinkat(&parent.folder, &parent.name, AtFlags::REMOVEDIR));
        }
        filled.and_then(|()| parent.sync_folder().map_err(fail))
    }

    fn fill(&self, contents: &[impl AsRef<[u8]>]) -> Result<()> {
        let targets = self.targets()?;
        let mut files = Vec::with_capacity(targets.len());
        for (target, content) in targets.iter().zip(contents) {
            let mut whole = Whole::create(target)?;
            let written = whole.write_all(content.as_ref()).and_then(|()| whole.sync());
            written.map_err(|e| Error::io("write", target.path(), e))?;
            files.push(whole);
        }
        files.into_iter().try_for_each(Whole::finish)
    }
}
