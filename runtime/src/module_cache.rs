//! Compiled code of the GPU's driver, kept between processes: compiling PTX takes it seconds.
//!
//! A folder with one file for each (code, driver, device): a magic word, the SHA-256 of what follows, the code. A
//! file that is damaged, or that cannot be read or written, is as good as none: the code is compiled again.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::Path;

use hyc_plan::artefact::hex;
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"hyccubin";
/// The end of a temporary file's name.
const TEMPORARY: &str = ".tmp";
/// Bytes before the code.
const HEAD: usize = 8 + 32;

/// The file's name: whatever the compiled code depends on.
pub fn name(code: &[u8], driver: i32, (major, minor): (i32, i32)) -> String {
    let digest = hex(&Sha256::digest(code)[..16]);
    format!("{digest}-{driver}-sm{major}{minor}.cubin")
}

/// The code that the folder holds under `name`.
pub fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(folder.join(name)).ok()?;
    let whole =
        bytes.len() > HEAD && bytes[..8] == *MAGIC && bytes[8..HEAD] == Sha256::digest(&bytes[HEAD..])[..];
    whole.then(|| bytes.split_off(HEAD))
}

/// Keeps `code` under `name`; a reader sees all of it or nothing. What dead writers left in the folder is removed.
pub fn write(folder: &Path, name: &str, code: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    sweep(folder);
    // Random, not counted: two containers have the same process ids and one folder.
    let temporary =
        folder.join(format!(".{name}.{:016x}{TEMPORARY}", RandomState::new().build_hasher().finish()));
    let mut file = File::create_new(&temporary)?;
    let result = file.lock().and_then(|()| {
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        std::fs::rename(&temporary, folder.join(name))
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Removes the temporary files whose writers do not live: nobody has locked them. One that a writer has made this very
/// moment may go too; it then keeps nothing.
fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(TEMPORARY));
        if ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_code_driver_and_device_apart() {
        let base = name(b"code", 13000, (9, 0));
        assert_eq!(base, name(b"code", 13000, (9, 0)));
        assert!(base.ends_with("-13000-sm90.cubin"), "{base}");
        for other in
            [name(b"codf", 13000, (9, 0)), name(b"code", 12080, (9, 0)), name(b"code", 13000, (10, 0))]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn what_dead_writers_left_goes_and_what_live_ones_write_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [".x.0123.tmp", ".y.4567.tmp", "x.tmp", ".x"] {
            std::fs::write(at(name), b"part").unwrap();
        }
        let live = File::open(at(".y.4567.tmp")).unwrap();
        live.lock().unwrap();
        write(folder.path(), "z", b"code").unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".x", ".y.4567.tmp", "x.tmp", "z"]);
    }

    #[test]
    fn what_is_kept_comes_back_and_damage_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        assert_eq!(read(&inner, "x"), None);
        write(&inner, "x", b"some code").unwrap();
        write(&inner, "x", b"other code").unwrap();
        assert_eq!(read(&inner, "x").as_deref(), Some(&b"other code"[..]));
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1, "a temporary file stayed");
        let whole = std::fs::read(inner.join("x")).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(inner.join("x"), &bad).unwrap();
            assert_eq!(read(&inner, "x"), None, "byte {at}");
            std::fs::write(inner.join("x"), &whole[..at]).unwrap();
            assert_eq!(read(&inner, "x"), None, "{at} bytes");
        }
        // A folder that is a file.
        assert!(write(&inner.join("x"), "y", b"code").is_err());
        assert_eq!(read(&inner.join("x"), "y"), None);
    }
}
