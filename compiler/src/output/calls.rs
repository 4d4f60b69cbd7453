//! The system calls of the write path: a test lets each of them fail, or ends the process at it.

use std::io;

/// Makes one call.
pub fn call<T, E: Into<io::Error>>(call: impl FnOnce() -> Result<T, E>) -> io::Result<T> {
    #[cfg(test)]
    fault::before()?;
    call().map_err(Into::into)
}

/// Whether file systems may have nameless files: always, but in tests of those that have none.
pub fn nameless_files() -> bool {
    #[cfg(test)]
    return !fault::ALL_NAMED.get();
    #[cfg(not(test))]
    true
}

/// Faults of this thread's calls.
#[cfg(test)]
pub mod fault {
    use std::cell::Cell;
    use std::io;

    /// What happens at a call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// It fails, and the calls after it do not.
        Fail(io::ErrorKind),
        /// The process ends before it: nothing that comes later has any effect.
        Die,
    }

    thread_local! {
        /// How many calls were made.
        static COUNT: Cell<u64> = const { Cell::new(0) };
        /// What happens at which call.
        static FAULT: Cell<Option<(u64, Fault)>> = const { Cell::new(None) };
        /// Whether no file is nameless.
        pub static ALL_NAMED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `work` with a fault; also returns how many calls there were.
    pub fn with<T>(fault: Option<(u64, Fault)>, work: impl FnOnce() -> T) -> (T, u64) {
        COUNT.set(0);
        FAULT.set(fault);
        let result = work();
        FAULT.set(None);
        (result, COUNT.get())
    }

    pub(super) fn before() -> io::Result<()> {
        let number = COUNT.replace(COUNT.get() + 1);
        match FAULT.get() {
            Some((at, Fault::Fail(kind))) if number == at => Err(io::Error::new(kind, "injected fault")),
            Some((at, Fault::Die)) if number >= at => Err(io::Error::other("this process is dead")),
            _ => Ok(()),
        }
    }
}
