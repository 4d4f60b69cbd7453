//! The machine's own limits, measured as plainly as possible.

use std::hint::black_box;
use std::time::Instant;

/// What this machine can do with some threads.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes per second read from memory, far beyond the caches.
    pub read_bytes_per_s: f64,
    /// Floating-point operations per second in f32x4 multiply-adds from registers (an FMA counts as two):
    /// the widest that the generated code has.
    pub flop_per_s: f64,
}

/// Measures both on `threads` threads; the best of several rounds.
pub fn measure(threads: usize) -> Limits {
    Limits { read_bytes_per_s: read(threads), flop_per_s: multiply_add(threads) }
}

const ROUNDS: usize = 5;

fn best(threads: usize, work_each: f64, round: impl Fn(usize) + Sync) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let running = std::thread::scope(|scope| {
            let round = &round;
            let spawn = |i| std::thread::Builder::new().spawn_scoped(scope, move || round(i)).is_ok();
            // Where the system refuses a thread, those that are there are what it has.
            let running = 1 + (1..threads).take_while(|i| spawn(*i)).count();
            round(0);
            running
        });
        best = best.max(work_each * running as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Sums 256 MiB per thread, or a quarter of what memory is free in all, in eight independent sums, which the compiler
/// turns into vectors.
fn read(threads: usize) -> f64 {
    const WORDS: usize = 32 << 20;
    let free = hyc_runtime::Machine::here().free_memory().map_or(usize::MAX, |free| free.bytes as usize);
    let words = WORDS.min(free / 4 / threads / 8).max(1 << 16);
    let data: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64 + 1; words]).collect();
    best(threads, 8.0 * words as f64, |i| {
        let mut sums = [0u64; 32];
        for chunk in data[i].chunks_exact(32) {
            for (sum, word) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*word);
            }
        }
        black_box(sums);
    })
}

/// Twelve independent chains of f32x4 multiply-adds, the tile that the products use.
fn multiply_add(threads: usize) -> f64 {
    const STEPS: usize = 20_000_000;
    best(threads, STEPS as f64 * 12.0 * 8.0, |_| chains(STEPS))
}

#[cfg(target_arch = "x86_64")]
fn chains(steps: usize) {
    if std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has FMA, seen above.
        unsafe { chains_fma(steps) };
    } else {
        chains_plain(steps);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn chains(steps: usize) {
    chains_plain(steps);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma,avx")]
fn chains_fma(steps: usize) {
    use std::arch::x86_64::{_mm_fmadd_ps, _mm_set1_ps};
    let (x, y) = (black_box(_mm_set1_ps(0.999)), black_box(_mm_set1_ps(0.001)));
    let mut sums = [_mm_set1_ps(1.0); 12];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm_fmadd_ps(*sum, x, y);
        }
    }
    black_box(sums);
}

fn chains_plain(steps: usize) {
    let (x, y) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums = [1.0f32; 48];
    for _ in 0..steps {
        sums.iter_mut().for_each(|sum| *sum = *sum * x + y);
    }
    black_box(sums);
}
