//! Times the CPU's kernels on one thread: `cargo bench -p hyc-kernel-tests [-- FILTER...]`, whose filters are parts of a
//! kernel's name as the table has it.
//!
//! A time is the median of calls, each on another copy of the operands, of which there are so many that weights and caches
//! come from memory as they do in a whole model; what is small stays in the processor's caches, as it does there. Beside
//! it stand the least time, which a busy machine leaves far below the median, the bytes and operations that the step has by the
//! median, and their shares of the machine's limits from the same run, also on one thread.
//!
//! `-- --test`, and any run that is not `cargo bench`, calls each once and prints no times.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // A program of the tests.

/// The same file as `hyc bench` has.
#[path = "../../../compiler/src/bandwidth.rs"]
mod bandwidth;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyc_kernel_tests::{Batch, Case, HostKernel, Memory, Rng, cases, memory, pointers, result_rows};
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::sample::penalise_and_choose;
use hyc_plan::work::{self, work};
use hyc_plan::{StepOp, ops};

/// Inputs are the same in every run.
const SEED: u64 = 1;
/// Bytes that a call on each copy of a kernel's operands reads: several times a processor's caches.
const COPIES_BYTES: u64 = 256 << 20;
const MOST_COPIES: u64 = 64;
/// Calls go on for so long, and there are so many at least.
const TIME: Duration = Duration::from_millis(500);
const LEAST_CALLS: usize = 15;
/// Calls that are shorter are timed several at once.
const LEAST_TIME: Duration = Duration::from_micros(50);

struct Args {
    filters: Vec<String>,
    once: bool,
}

/// What cargo and the user say. Flags of a test run are for other programs' harness. Errors: an unknown one of a bench.
fn args() -> Result<Args, String> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let once = !all.iter().any(|arg| arg == "--bench") || all.iter().any(|arg| arg == "--test");
    let (flags, filters): (Vec<_>, Vec<_>) = all.into_iter().partition(|arg| arg.starts_with('-'));
    match flags.iter().find(|flag| !once && *flag != "--bench") {
        Some(flag) => Err(format!("there is no {flag}: give parts of kernels' names, or --test")),
        None => Ok(Args { filters, once }),
    }
}

/// A kernel's name in the table: without rows, which have a column.
fn name(case: &Case) -> String {
    case.name().split(" [").next().unwrap_or_default().to_string()
}

/// What a step runs.
enum Runs {
    Kernel(Box<(HostKernel, Memory)>),
    /// The host chooses tokens without a kernel.
    Choose {
        vocab: u64,
    },
}

/// A step, with copies of its operands.
struct Work {
    batch: Batch,
    cost: work::Work,
    runs: Runs,
    copies: Vec<Vec<Memory>>,
}

impl Work {
    /// With copies of the operands where it is to be timed.
    fn new(case: &Case, timed: bool) -> Work {
        let mut rng = Rng::of(SEED, &case.name());
        let batch = case.batch(&mut rng);
        let first = memory(&mut rng, &case.spec, &batch, case.fill);
        let rows = result_rows(&case.spec, &batch);
        // Rows of a step are of one sequence here, and read its keys and values together.
        let context = (0..batch.rows()).map(|row| batch.position(row) + 1).max().unwrap_or(1);
        let cost = work(&case.spec, rows, context, rows);
        let copies =
            if timed { (COPIES_BYTES / (cost.bytes as u64).max(1)).clamp(1, MOST_COPIES) } else { 1 };
        let runs = match case.spec.op {
            StepOp::Sample(ops::Sample { vocab, .. }) => Runs::Choose { vocab },
            _ => {
                let kernel = HostKernel::new(&case.spec, CpuTarget::host().level);
                let scratch = kernel.scratch();
                Runs::Kernel(Box::new((kernel, scratch)))
            }
        };
        Work { batch, cost, runs, copies: vec![first; copies as usize] }
    }

    /// Runs the step on a copy `times` times; how long that took.
    fn call(&mut self, copy: usize, times: usize) -> Duration {
        let count = self.copies.len();
        let operands = &mut self.copies[copy % count];
        match &mut self.runs {
            Runs::Kernel(kernel) => {
                let (kernel, scratch) = &mut **kernel;
                let (context, addresses) = (self.batch.context(), pointers(operands));
                let items = kernel.items(&self.batch);
                let start = Instant::now();
                for _ in 0..times {
                    // SAFETY: the memory was made for this kernel's spec and this batch.
                    unsafe { kernel.run(&context, &addresses, scratch, 0..items) };
                }
                start.elapsed()
            }
            Runs::Choose { vocab } => {
                let bytes = &operands[0].bytes()[..4 * *vocab as usize];
                let logits: Vec<f32> =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                let start = Instant::now();
                for _ in 0..times {
                    // As a session does: penalties may change the logits.
                    black_box(penalise_and_choose(
                        &mut black_box(&logits).clone(),
                        *vocab,
                        &self.batch.sampling[0],
                        &self.batch.seen,
                    ));
                }
                start.elapsed()
            }
        }
    }

    /// The median time of a call, and the least.
    fn time(&mut self) -> (Duration, Duration) {
        let once = (0..self.copies.len()).map(|copy| self.call(copy, 1)).min().unwrap_or_default();
        let times = (LEAST_TIME.as_nanos() / once.as_nanos().max(1) + 1) as usize;
        let (mut calls, start) = (Vec::new(), Instant::now());
        while calls.len() < LEAST_CALLS || start.elapsed() < TIME {
            calls.push(self.call(calls.len(), times) / times as u32);
        }
        calls.sort_unstable();
        (calls[calls.len() / 2], calls[0])
    }
}

/// `x` with three digits, and its share of a limit.
fn of_limit(per_s: f64, limit: f64) -> String {
    format!("{:>8.2} {:>5.0} %", per_s / 1e9, 100.0 * per_s / limit)
}

/// The machine's limits: the best of some, for others may be at work on it.
fn limits() -> bandwidth::Limits {
    let all = [(); 3].map(|()| bandwidth::measure(1));
    bandwidth::Limits {
        read_bytes_per_s: all.iter().map(|limits| limits.read_bytes_per_s).fold(0.0, f64::max),
        flop_per_s: all.iter().map(|limits| limits.flop_per_s).fold(0.0, f64::max),
    }
}

fn time(case: &Case, limits: &bandwidth::Limits) {
    let mut work = Work::new(case, true);
    let (median, least) = work.time();
    let seconds = median.as_secs_f64();
    let bytes = of_limit(work.cost.bytes / seconds, limits.read_bytes_per_s);
    let flop = if work.cost.flop > 0.0 {
        of_limit(work.cost.flop / seconds, limits.flop_per_s)
    } else {
        String::new()
    };
    let rows = work.batch.rows();
    let context = case.spec.op.attention().map(|_| format!("{}", work.batch.position(rows - 1) + 1));
    let context = context.unwrap_or_default();
    let line = format!(
        "{:<60} {rows:>4} {context:>7} {:>9.1} {:>9.1} {bytes} {flop}",
        name(case),
        1e6 * seconds,
        1e6 * least.as_secs_f64()
    );
    println!("{}", line.trim_end());
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let wanted = |case: &Case| {
        args.filters.is_empty() || args.filters.iter().any(|part| name(case).contains(part.as_str()))
    };
    let cases: Vec<Case> = cases::timed().into_iter().filter(wanted).collect();
    if args.once {
        for case in &cases {
            Work::new(case, false).call(0, 1);
        }
        println!("{} kernels ran", cases.len());
        return ExitCode::SUCCESS;
    }
    let limits = limits();
    println!(
        "one thread; reads {:.1} GB/s, multiply-adds {:.1} GFLOP/s",
        limits.read_bytes_per_s / 1e9,
        limits.flop_per_s / 1e9
    );
    println!("{:<60} rows context median us  least us     GB/s of read  GFLOP/s  of mul-add", "kernel");
    cases.iter().for_each(|case| time(case, &limits));
    ExitCode::SUCCESS
}
