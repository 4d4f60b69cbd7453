//! The way into a job and out of it: who may follow the caller's pointer, and until when.
//!
//! All of it is one word, changed by atomic read-modify-writes:
//!
//! | bits | |
//! |---|---|
//! | 0..16 | `active`: workers inside the job |
//! | 16 | `OPEN`: workers may enter |
//! | 17 | `WAITS`: the caller sleeps until `active` is 0 |
//! | 32..64 | `epoch`: counts jobs |
//!
//! ```text
//! caller                                    worker
//!   open:  writes the job; epoch + 1, OPEN
//!                                             enter: OPEN and a new epoch -> active + 1, reads the job
//!   takes items until none is left            takes items until none is left
//!   close: OPEN off
//!          active is 0? else WAITS, sleeps    leave: active - 1; the last one wakes a caller that WAITS
//! ```
//!
//! The job is written only while the gate is closed and `active` is 0, and read only by who has raised `active`
//! while it was open. A worker that comes late finds the gate closed and has missed nothing but work; the caller
//! never waits for one that has not entered.

use super::patience::Patience;
use super::sync::{AtomicU64, Mutex, Ordering, Thread, UnsafeCell, current, park};

const ACTIVE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const WAITS: u64 = 1 << 17;
const EPOCH: u64 = 1 << 32;

/// Most workers that the word counts.
pub(super) const MOST_WORKERS: usize = ACTIVE as usize;

/// A job that one caller offers to many workers.
pub(super) struct Gate<J> {
    state: AtomicU64,
    job: UnsafeCell<Option<J>>,
    /// Who sleeps in `close`.
    caller: Mutex<Option<Thread>>,
}

// SAFETY: `job` is written and read as the module says; it is copied out by workers.
unsafe impl<J: Send> Sync for Gate<J> {}

impl<J: Copy> Gate<J> {
    /// A closed gate.
    pub(super) fn new() -> Gate<J> {
        Gate { state: AtomicU64::new(0), job: UnsafeCell::new(None), caller: Mutex::new(None) }
    }

    /// Offers a job.
    ///
    /// # Safety
    /// The gate is closed ([`Gate::close`] has returned since the last call), and no other thread calls this.
    pub(super) unsafe fn open(&self, job: J) {
        // SAFETY: the gate is closed and empty, so that nobody reads.
        self.job.with_mut(|slot| unsafe { *slot = Some(job) });
        let epoch = self.state.load(Ordering::Relaxed) & !(EPOCH - 1);
        self.state.store(epoch.wrapping_add(EPOCH) | OPEN, Ordering::Release);
    }

    /// Enters an open job that is not the one `seen`; the caller then waits for [`Gate::leave`].
    pub(super) fn enter(&self, seen: &mut u32) -> Option<J> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let epoch = (state / EPOCH) as u32;
            if state & OPEN == 0 || epoch == *seen {
                return None;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => *seen = epoch,
                Err(now) => {
                    state = now;
                    continue;
                }
            }
            // SAFETY: this worker is inside, so that the caller does not write.
            return self.job.with(|slot| unsafe { *slot });
        }
    }

    /// Leaves the job that this worker has entered; it must not use it any more.
    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & (ACTIVE | WAITS) == 1 | WAITS {
            let caller = self.caller.lock().unwrap_or_else(|e| e.into_inner()).clone();
            if let Some(caller) = caller {
                caller.unpark();
            }
        }
    }

    /// Lets nobody enter any more and waits for those inside.
    pub(super) fn close(&self, patience: &mut Patience) {
        let before = self.state.fetch_and(!OPEN, Ordering::AcqRel);
        if before & ACTIVE == 0 || patience.look(|| self.is_empty()) {
            return;
        }
        *self.caller.lock().unwrap_or_else(|e| e.into_inner()) = Some(current());
        self.state.fetch_or(WAITS, Ordering::AcqRel);
        while !self.is_empty() {
            park();
        }
        self.state.fetch_and(!WAITS, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.state.load(Ordering::Acquire) & ACTIVE == 0
    }
}
