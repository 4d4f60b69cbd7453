#[cfg(not(loom))]
mod plain {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::super::*;

    /// Runs `items` items; each must run once.
    fn check(pool: &mut Pool, items: u64, grain: u64) {
        let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        let threads = pool.threads();
        pool.run(items, grain, &|worker, begin, end| {
            assert!(worker < threads);
            (begin..end).for_each(|i| {
                counts[i as usize].fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{items} items by {grain}");
    }

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 4, 17] {
            let mut pool = Pool::new(threads);
            for items in [0u64, 1, 2, 7, 100, 1001] {
                for grain in [0, 1, 3, 5000] {
                    (0..20).for_each(|_| check(&mut pool, items, grain));
                }
            }
        }
    }

    /// Workers meet at the gate in every state of sleep.
    #[test]
    fn jobs_after_pauses_of_all_lengths() {
        let mut pool = Pool::new(5);
        for round in 0..400u64 {
            let pause = Duration::from_micros(round * 7919 % 120);
            let start = std::time::Instant::now();
            while start.elapsed() < pause {
                std::hint::spin_loop();
            }
            check(&mut pool, 1 + round % 40, 1 + round % 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3);
        for bad in [0, 5, 63] {
            let run = AssertUnwindSafe(|| pool.run(64, 1, &|_, begin, _| assert_ne!(begin, bad)));
            assert!(catch_unwind(run).is_err());
            check(&mut pool, 64, 1);
        }
        // Of all threads at once: the caller's stands, and the next job is a new one.
        let run = AssertUnwindSafe(|| pool.run(64, 1, &|_, _, _| panic!("all")));
        assert!(catch_unwind(run).is_err());
        check(&mut pool, 64, 1);
    }

    #[test]
    fn a_late_worker_finds_the_gate_closed_and_nobody_waits_for_it() {
        let (gate, mut patience) = (Gate::new(), Patience::default());
        let (mut early, mut late) = (0, 0);
        for job in 1..4 {
            // SAFETY: it is new, or closed below.
            unsafe { gate.open(job) };
            assert_eq!(gate.enter(&mut early), Some(job));
            assert_eq!(gate.enter(&mut early), None, "twice into one job");
            gate.leave();
            gate.close(&mut patience);
            assert_eq!(gate.enter(&mut late), None);
        }
    }

    #[test]
    fn sleeping_workers_wake_and_stop() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(20));
            // Each item waits for the other two: all three workers have to come.
            let seen = AtomicU64::new(0);
            pool.run(3, 1, &|_, _, _| {
                seen.fetch_add(1, Ordering::Relaxed);
                while seen.load(Ordering::Relaxed) < 3 {
                    std::thread::yield_now();
                }
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none(), "a worker has not ended");
    }

    #[test]
    fn refused_threads_are_done_without() {
        for most in [0, 1, 2] {
            let mut pool = Pool::with(8, &mut |i| i <= most);
            assert_eq!(pool.threads(), most + 1);
            check(&mut pool, 100, 3);
        }
    }
}

/// The same code in every order of events with a bounded number of switches: `cargo test -p hyc-pool-tests`.
#[cfg(loom)]
mod every_order {
    use loom::cell::UnsafeCell;

    use super::super::*;

    /// Every order with at most `switches` switches between threads that could run on.
    fn model(switches: usize, f: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(switches);
        builder.check(f);
    }

    /// Cells that items write, without any order of their own: loom finds two that write one, or a reader that need
    /// not see it.
    struct Cells(Vec<UnsafeCell<u64>>);

    // SAFETY: loom looks at every access.
    unsafe impl Sync for Cells {}

    impl Cells {
        fn new(count: u64) -> Cells {
            Cells((0..count).map(|_| UnsafeCell::new(0)).collect())
        }

        fn raise(&self, i: u64) {
            // SAFETY: an item is one worker's; else loom says so.
            self.0[i as usize].with_mut(|cell| unsafe { *cell += 1 });
        }

        fn all_are(&self, value: u64) -> bool {
            // SAFETY: the job is through; else loom says so.
            self.0.iter().all(|cell| cell.with(|cell| unsafe { *cell == value }))
        }
    }

    /// Two jobs, then the end: no lost item, no use after the job's end, no thread that sleeps for ever.
    #[test]
    fn one_worker() {
        model(3, || {
            let mut pool = Pool::new(2);
            for round in 1..=2 {
                // Its own cells each time: a worker that is late would touch what is gone.
                let cells = Cells::new(2);
                pool.run(2, 1, &|_, begin, _| cells.raise(begin));
                assert!(cells.all_are(1), "round {round}");
            }
        });
    }

    #[test]
    fn two_workers() {
        model(2, || {
            let mut pool = Pool::new(3);
            let cells = Cells::new(3);
            pool.run(3, 1, &|_, begin, _| cells.raise(begin));
            assert!(cells.all_are(1));
        });
    }

    /// The gate opens again while a worker of the job before is still on its way.
    #[test]
    fn two_workers_and_two_jobs() {
        model(1, || {
            let mut pool = Pool::new(3);
            for round in 1..=2 {
                let cells = Cells::new(3);
                pool.run(3, 1, &|_, begin, _| cells.raise(begin));
                assert!(cells.all_are(1), "round {round}");
            }
        });
    }

    #[test]
    fn a_panic() {
        model(3, || {
            let mut pool = Pool::new(2);
            let run = AssertUnwindSafe(|| pool.run(2, 1, &|_, begin, _| assert!(begin != 1)));
            assert!(catch_unwind(run).is_err());
            let cells = Cells::new(2);
            pool.run(2, 1, &|_, begin, _| cells.raise(begin));
            assert!(cells.all_are(1));
        });
    }
}
