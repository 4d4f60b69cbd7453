//! Temporary names, and what dead writers left under them.
//!
//! A name is `.hyc-` with twelve random characters and four that follow from them, so that no file of a user has
//! such a name by chance. A writer holds a lock on its temporary file, which ends with the process however it ends:
//! a file with such a name that can be locked is left over. Locks are seen by every process of the machine, in
//! whichever container; on file systems of a network they may not be, and nothing is swept there.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use hyc_plan::artefact::hex;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat, statat, unlinkat};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

use super::calls::call;

const PREFIX: &str = ".hyc-";
const RANDOM: usize = 12;

/// How often a name that is taken is tried anew.
pub const TRIES: usize = 16;

/// A name that nothing has.
pub fn fresh() -> io::Result<String> {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0u8; RANDOM];
    let count = call(|| getrandom(&mut bytes, GetRandomFlags::empty()))?;
    if count < RANDOM {
        return Err(io::Error::other("the kernel gives no random bytes"));
    }
    let random: String = bytes.iter().map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect();
    Ok(format!("{PREFIX}{random}{}", check(&random)))
}

fn check(random: &str) -> String {
    let digest = Sha256::digest(format!("a temporary file of hyc: {random}"));
    hex(&digest[..2])
}

/// Whether [`fresh`] can have given this name.
pub fn is_temporary(name: &[u8]) -> bool {
    let rest = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(PREFIX));
    let parts = rest.and_then(|rest| rest.split_at_checked(RANDOM));
    parts.is_some_and(|(random, digits)| digits == check(random))
}

/// Removes what dead writers of this user left in a folder. Whatever fails here is the next sweep's.
pub fn sweep(folder: &OwnedFd) {
    if fstatfs(folder).map_or(true, |fs| is_of_network(fs.f_type as u64)) {
        return;
    }
    let Ok(entries) = call(|| Dir::read_from(folder)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        if is_temporary(name) {
            use std::os::unix::ffi::OsStrExt;
            let _ = remove_dead(folder, OsStr::from_bytes(name));
        }
    }
}

fn remove_dead(folder: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(call(|| openat(folder, name, flags, Mode::empty()))?);
    let stat = call(|| fstat(&file))?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw();
    if ours && call(|| file.try_lock()).is_ok() && names(folder, name, &stat)? {
        call(|| unlinkat(folder, name, AtFlags::empty()))?;
    }
    Ok(())
}

/// Whether the name is that file's, and not one that came or went meanwhile.
fn names(folder: &OwnedFd, name: &OsStr, file: &Stat) -> io::Result<bool> {
    let now = call(|| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))?;
    Ok((now.st_dev, now.st_ino) == (file.st_dev, file.st_ino))
}

/// NFS, SMB (three numbers), 9P, FUSE, Ceph, AFS, Lustre, GPFS: other hosts may hold locks that are not seen here.
fn is_of_network(file_system: u64) -> bool {
    const MAGIC: [u64; 10] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x0102_1997,
        0x6573_5546,
        0x00c3_6400,
        0x5346_414f,
        0x0bd0_0bd0,
        0x4750_4653,
    ];
    MAGIC.contains(&(file_system & 0xffff_ffff))
}
