//! Compiled code of the GPU's driver, kept between processes: compiling PTX takes it seconds.
//!
//! A folder with one file for each (code, driver, device): a magic word, the SHA-256 of what follows, the code. A
//! file that is damaged, or that cannot be read or written, is as good as none: the code is compiled again.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"hyccubin";
/// Bytes before the code.
const HEAD: usize = 8 + 32;

/// The file's name: whatever the compiled code depends on.
pub fn name(code: &[u8], driver: i32, (major, minor): (i32, i32)) -> String {
    let digest: String = Sha256::digest(code).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}-{driver}-sm{major}{minor}.cubin")
}

/// The code that the folder holds under `name`.
pub fn read(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(folder.join(name)).ok()?;
    let whole =
        bytes.len() > HEAD && bytes[..8] == *MAGIC && bytes[8..HEAD] == Sha256::digest(&bytes[HEAD..])[..];
    whole.then(|| bytes.split_off(HEAD))
}

/// Keeps `code` under `name`; a reader sees all of it or nothing.
pub fn write(folder: &Path, name: &str, code: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}.{write}", std::process::id()));
    let result = std::fs::File::create(&temporary).and_then(|mut file| {
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
