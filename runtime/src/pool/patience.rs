//! How long a thread looks for what it waits for before it sleeps.

use std::time::{Duration, Instant};

/// The longest look: the gap between two tokens with room to spare, and little beside a time slice.
const LOOK: Duration = Duration::from_micros(50);
/// Looks between two readings of the clock: some hundreds of nanoseconds.
const ROUNDS: u32 = 8;
/// Most waits in a row that sleep at once.
const MOST_SKIPPED: u32 = 1024;

/// A thread's own patience. Looking pays where the other thread runs meanwhile. Where looks fail one after the other,
/// there are fewer free cores than threads, or nothing to do: more and more waits then sleep at once.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Looks in a row that failed.
    failed: u32,
    /// Waits that are still to sleep at once.
    skip: u32,
}

impl Patience {
    /// Looks until `ready` says true; false: it has not within the time, and the thread should sleep.
    pub(super) fn look(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if cfg!(loom) || self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..ROUNDS {
                std::hint::spin_loop();
                if ready() {
                    // What came after the time came because this thread was not running: no success.
                    self.learn(start.elapsed() <= LOOK);
                    return true;
                }
            }
            if start.elapsed() > LOOK {
                self.learn(false);
                return false;
            }
        }
    }

    /// One failure is the end of a burst of work; from the second in a row on, two waits sleep at once, then six, ...
    fn learn(&mut self, success: bool) {
        self.failed = if success { 0 } else { (self.failed + 1).min(16) };
        self.skip = (1u32 << self.failed).saturating_sub(2).min(MOST_SKIPPED);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_in_time_and_failures_make_it_rare() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let (mut waits, mut looks) = (0, 0);
        while looks < 8 {
            let mut rounds = 0;
            assert!(!patience.look(|| {
                rounds += 1;
                false
            }));
            looks += u32::from(rounds > 1);
            waits += 1;
        }
        assert_eq!(waits, 8 + (0..8u32).map(|f| (1 << f) - if f == 0 { 1 } else { 2 }).sum::<u32>());
        assert!(start.elapsed() >= 8 * LOOK);
        // A success makes it as patient as ever.
        while patience.failed > 0 {
            let mut rounds = 0;
            patience.look(|| {
                rounds += 1;
                rounds == 2
            });
        }
        assert_eq!(patience.skip, 0);
    }
}
