//! Threads that share out the items of a step.
//!
//! A decode step launches hundreds of kernels of a few microseconds. So a worker that has just finished looks for
//! more work for some tens of microseconds, by the clock, before it sleeps (`patience.rs`); and the caller takes
//! items like every worker and waits only for those workers that have entered the job (`gate.rs`). A worker that the
//! system runs late misses a job, and the others do its share: more threads than free cores cost little.
//!
//! Sleeping workers are woken as a tree, so that a job is known to all after a few wakes in a row: the caller wakes
//! workers 1 and 2, worker i those of 2i + 1 and 2i + 2, as long as items are left. Nothing depends on a wake but
//! speed.

mod gate;
mod patience;
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::gate::{Gate, MOST_WORKERS};
use self::patience::Patience;
use self::sync::{Arc, AtomicBool, AtomicU64, Builder, JoinHandle, Mutex, Ordering, Thread, current, park};

/// Work on the items `begin..end`, as worker `i`.
type Job<'a> = dyn Fn(usize, u64, u64) + Sync + 'a;

/// The job in hand, for who is inside the gate.
#[derive(Clone, Copy)]
struct Offer {
    job: *const Job<'static>,
    items: u64,
    grain: u64,
}

// SAFETY: the job is Sync, and followed only inside the gate, while `Pool::run` keeps it alive.
unsafe impl Send for Offer {}

/// Where a worker sleeps.
struct Seat {
    thread: Mutex<Option<Thread>>,
    sleeps: AtomicBool,
}

struct Shared {
    gate: Gate<Offer>,
    /// The next item that nobody has taken.
    next: AtomicU64,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Of worker 1, 2, ...
    seats: Vec<Seat>,
}

/// A pool; the calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    patience: Patience,
}

impl Pool {
    /// A pool of `threads` in all. Fewer come where the system refuses more.
    pub fn new(threads: usize) -> Pool {
        Pool::with(threads, &mut |_| true)
    }

    /// The same; a worker that `allow` refuses is one that the system refuses.
    fn with(threads: usize, allow: &mut dyn FnMut(usize) -> bool) -> Pool {
        let seat = |_| Seat { thread: Mutex::new(None), sleeps: AtomicBool::new(false) };
        let shared = Arc::new(Shared {
            gate: Gate::new(),
            next: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            seats: (1..threads.min(MOST_WORKERS)).map(seat).collect(),
        });
        let spawn = |i: usize| {
            let shared = shared.clone();
            let builder = Builder::new().name(format!("hyc-{i}"));
            allow(i).then(|| builder.spawn(move || work(i, &shared)).ok()).flatten()
        };
        let workers = (1..=shared.seats.len()).map_while(spawn).collect();
        Pool { shared, workers, patience: Patience::default() }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` over `0..items` in ranges of `grain`, on all threads that come in time; returns when all are
    /// done. Panics where the job does, after all threads have left it; generated code never does.
    pub fn run(&mut self, items: u64, grain: u64, job: &Job<'_>) {
        let grain = grain.max(1);
        if self.workers.is_empty() || items <= grain {
            if items > 0 {
                job(0, 0, items);
            }
            return;
        }
        let s = &*self.shared;
        // SAFETY: the lifetime is erased for the workers; this function does not end before they have left.
        let pointer =
            unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(std::ptr::from_ref(job)) };
        s.next.store(0, Ordering::Relaxed);
        // Where the caller's own part panicked too, nobody has looked at the workers'.
        s.panicked.store(false, Ordering::Relaxed);
        let offer = Offer { job: pointer, items, grain };
        // SAFETY: `Closing` has closed the gate at the end of the last run, and `self` is borrowed mutably.
        unsafe { s.gate.open(offer) };
        // A job that panics here must not end while workers still run it.
        let closing = Closing { gate: &s.gate, patience: &mut self.patience };
        s.wake_children(0, &offer);
        s.take(&offer, |begin, end| job(0, begin, end));
        drop(closing);
        assert!(!s.panicked.swap(false, Ordering::Relaxed), "a worker panicked");
    }
}

/// Closes the gate when it is dropped.
struct Closing<'p> {
    gate: &'p Gate<Offer>,
    patience: &'p mut Patience,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.gate.close(self.patience);
    }
}

impl Shared {
    /// Runs `body` over ranges until all items are taken.
    fn take(&self, offer: &Offer, mut body: impl FnMut(u64, u64)) {
        loop {
            let begin = self.next.fetch_add(offer.grain, Ordering::Relaxed);
            if begin >= offer.items {
                return;
            }
            body(begin, offer.items.min(begin.saturating_add(offer.grain)));
        }
    }

    /// Wakes the workers below `index` in the tree that sleep, as long as there is work for them.
    fn wake_children(&self, index: usize, offer: &Offer) {
        for child in [2 * index + 1, 2 * index + 2] {
            let Some(seat) = self.seats.get(child - 1) else { return };
            if child as u64 * offer.grain >= offer.items || self.next.load(Ordering::Relaxed) >= offer.items {
                return;
            }
            if seat.sleeps.load(Ordering::Relaxed) && seat.sleeps.swap(false, Ordering::Relaxed) {
                seat.wake();
            }
        }
    }

    /// Waits for a job and enters it; `None`: the pool ends.
    fn wait(&self, index: usize, seen: &mut u32, patience: &mut Patience) -> Option<Offer> {
        let seat = &self.seats[index - 1];
        let mut offer = None;
        let mut ready = || {
            offer = self.gate.enter(seen);
            offer.is_some() || self.stop.load(Ordering::Acquire)
        };
        if !patience.look(&mut ready) {
            loop {
                seat.sleeps.store(true, Ordering::Relaxed);
                if ready() {
                    break;
                }
                park();
            }
            seat.sleeps.store(false, Ordering::Relaxed);
        }
        offer
    }
}

impl Seat {
    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(|e| e.into_inner()) {
            thread.unpark();
        }
    }
}

/// What worker `index` does until the pool ends.
fn work(index: usize, s: &Shared) {
    *s.seats[index - 1].thread.lock().unwrap_or_else(|e| e.into_inner()) = Some(current());
    let (mut seen, mut patience) = (0, Patience::default());
    while let Some(offer) = s.wait(index, &mut seen, &mut patience) {
        s.wake_children(index, &offer);
        // SAFETY: this worker is inside the gate, where the job lives.
        let job = unsafe { &*offer.job };
        // The worker has to live on and to leave, or the caller would wait for ever.
        let share = || s.take(&offer, |begin, end| job(index, begin, end));
        if catch_unwind(AssertUnwindSafe(share)).is_err() {
            s.panicked.store(true, Ordering::Relaxed);
        }
        s.gate.leave();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Those that do not sleep find the wake when they next would.
        self.shared.seats.iter().for_each(Seat::wake);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
