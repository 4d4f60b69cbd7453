//! Threads that share out the items of a step.
//!
//! A decode step launches hundreds of kernels of a few microseconds, so a worker that has just finished
//! spins for a while before it sleeps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Work on the items `begin..end`, as worker `i`.
type Job<'a> = dyn Fn(usize, u64, u64) + Sync + 'a;

/// Rounds of looking for work before a worker sleeps: some tens of microseconds.
const SPINS: u32 = 20_000;

struct Shared {
    /// Counts jobs.
    epoch: AtomicU64,
    /// The open job, valid until every worker has left it.
    job: Mutex<Option<(*const Job<'static>, u64, u64)>>,
    next: AtomicU64,
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: the pointer in `job` is only followed between `run`'s publishing it and `busy` reaching zero, while
// `run` keeps what it points to alive; the job itself is Sync.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A pool; the calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` in all. Fewer come where the system refuses more.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |i: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("hyc-{i}")).spawn(move || worker(i, &shared)).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        Pool { shared, workers }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` over `0..items` in ranges of `grain`, on all threads; returns when all are done. Panics
    /// where the job does, after all threads have left it; generated code never does.
    pub fn run(&mut self, items: u64, grain: u64, job: &Job<'_>) {
        let grain = grain.max(1);
        if self.workers.is_empty() || items <= grain {
            if items > 0 {
                job(0, 0, items);
            }
            return;
        }
        let s = &*self.shared;
        // SAFETY: the lifetime is erased for the workers; this function does not return before they left.
        let pointer =
            unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(std::ptr::from_ref(job)) };
        s.next.store(0, Ordering::Relaxed);
        s.busy.store(self.workers.len(), Ordering::Relaxed);
        *s.job.lock().unwrap_or_else(|e| e.into_inner()) = Some((pointer, items, grain));
        s.epoch.fetch_add(1, Ordering::Release);
        {
            let _guard = s.sleep.lock().unwrap_or_else(|e| e.into_inner());
            s.wake.notify_all();
        }
        // Waits when dropped: a job that panics here must not end while the workers still run it.
        let wait = Wait(&s.busy);
        take(&s.next, items, grain, |begin, end| job(0, begin, end));
        drop(wait);
        assert!(!s.panicked.swap(false, Ordering::Relaxed), "a worker panicked");
    }
}

/// Waits for the workers when it is dropped.
struct Wait<'b>(&'b AtomicUsize);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            // With more threads than cores, the worker that is waited for may need this core.
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

fn take(next: &AtomicU64, items: u64, grain: u64, mut body: impl FnMut(u64, u64)) {
    loop {
        let begin = next.fetch_add(grain, Ordering::Relaxed);
        if begin >= items {
            return;
        }
        body(begin, items.min(begin + grain));
    }
}

fn worker(index: usize, s: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while s.epoch.load(Ordering::Acquire) == seen {
            if s.stop.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let guard = s.sleep.lock().unwrap_or_else(|e| e.into_inner());
            if s.epoch.load(Ordering::Acquire) == seen && !s.stop.load(Ordering::Relaxed) {
                drop(s.wake.wait(guard));
            }
        }
        seen = s.epoch.load(Ordering::Acquire);
        let job = *s.job.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((job, items, grain)) = job {
            // SAFETY: `run` waits for `busy`, which this worker lowers after its last use of the job.
            let job = unsafe { &*job };
            // The worker has to live on and to lower `busy`, or the caller would wait for ever.
            let work = || take(&s.next, items, grain, |begin, end| job(index, begin, end));
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                s.panicked.store(true, Ordering::Relaxed);
            }
        }
        s.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        {
            let _guard = self.shared.sleep.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        let mut pool = Pool::new(4);
        for items in [0u64, 1, 2, 7, 100, 1001] {
            for _ in 0..50 {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.run(items, 3, &|worker, begin, end| {
                    assert!(worker < 4);
                    (begin..end).for_each(|i| {
                        counts[i as usize].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{items} items");
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3);
        for bad in [0, 5, 63] {
            let run = AssertUnwindSafe(|| pool.run(64, 1, &|_, begin, _| assert_ne!(begin, bad)));
            assert!(catch_unwind(run).is_err());
            let sum = AtomicU64::new(0);
            pool.run(64, 1, &|_, begin, _| {
                sum.fetch_add(begin, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 63 * 64 / 2);
        }
    }

    #[test]
    fn sleeping_workers_wake_and_stop() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let seen = AtomicU64::new(0);
            pool.run(3, 1, &|_, _, _| {
                seen.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(seen.load(Ordering::Relaxed), 3);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none(), "a worker has not ended");
    }
}
