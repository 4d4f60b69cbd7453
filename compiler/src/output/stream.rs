//! Devices and pipes, which bytes are written to as they are. A pipe may have no reader yet, or a slow one: both are
//! waited for, and Ctrl-C ends the wait.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// How long Ctrl-C goes unnoticed at most.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Opens it, once it has a reader. Errors: `Interrupted` by Ctrl-C.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    loop {
        stopped()?;
        match openat(CWD, path, flags, Mode::empty()) {
            // A pipe that nobody reads. Nothing says when somebody does.
            Err(Errno::NXIO) => drop(poll(&mut [], Some(&WAIT))),
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Writes all of it. Errors: `BrokenPipe` without a reader, `Interrupted` by Ctrl-C.
pub fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        stopped()?;
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(to, PollFlags::OUT)], Some(&WAIT))),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn stopped() -> Result<()> {
    if crate::signal::pressed() { Err(Error::from(ErrorKind::Interrupted)) } else { Ok(()) }
}
