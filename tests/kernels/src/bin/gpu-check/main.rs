//! Checks the kernels that `gpu-cases` compiled, on a GPU, against the reference on fresh random inputs.
//!
//! The GPU belongs to a child process: one that faults or never ends is started again without the case that did
//! it.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)] // A program of the tests: it may end at a closed pipe.

mod device;
mod worker;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use hyc_kernel_tests::Rng;
use hyc_kernel_tests::manifest::{FILE, Item, Manifest};

use worker::Line;

/// Compare GPU kernels with the reference
#[derive(Debug, Parser)]
pub struct Args {
    /// What gpu-cases wrote
    #[arg(default_value = "target/gpu-cases")]
    folder: PathBuf,
    /// Repeats the inputs of a run
    #[arg(long)]
    seed: Option<u64>,
    /// Only cases whose family or name holds this (may be repeated: any of them)
    #[arg(long)]
    filter: Vec<String>,
    /// No cases whose name ends so (may be repeated)
    #[arg(long, value_name = "END")]
    without: Vec<String>,
    /// Only cases that are quick under a sanitizer
    #[arg(long)]
    small: bool,
    /// Print the cases and run none
    #[arg(long)]
    list: bool,
    /// Threads for inputs and references; all cores by default
    #[arg(long)]
    threads: Option<usize>,
    /// Seconds after which a kernel counts as hanging
    #[arg(long, default_value_t = 20)]
    timeout: u64,
    /// Let the driver assemble the PTX, not ptxas
    #[arg(long)]
    jit: bool,
    /// Leave scratch as it is allocated, for a sanitizer that looks for memory that nobody wrote
    #[arg(long)]
    leave_scratch: bool,
    #[arg(long, hide = true)]
    worker: bool,
}

/// Faults of a kernel after which its other cases are not tried.
const PATIENCE: usize = 2;

type Outcome = Result<f64, Vec<String>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let path = args.folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let seed = args.seed.unwrap_or_else(Rng::fresh_seed);
    if args.worker {
        return worker::run(args, &manifest, seed).map(|()| true);
    }
    let wanted = |item: &Item| {
        let named = |part: &String| item.family.contains(part) || item.name.contains(part);
        let excluded = args.without.iter().any(|end| item.name.ends_with(end));
        (item.small || !args.small) && !excluded && (args.filter.is_empty() || args.filter.iter().any(named))
    };
    let numbers: Vec<usize> =
        (0..manifest.count()).filter(|number| wanted(&manifest.item(*number))).collect();
    if args.list {
        for number in numbers {
            let item = manifest.item(number);
            println!("{}: {}", item.family, item.name);
        }
        return Ok(true);
    }
    println!("seed {seed}, {} cases", numbers.len());
    let mut supervisor =
        Supervisor { args, manifest: &manifest, seed, numbers: &numbers, outcomes: BTreeMap::new() };
    for number in &numbers {
        if let Some(reason) = &manifest.kernels[manifest.item(*number).kernel].refused {
            supervisor.record(*number, Err(vec![format!("no code: {reason}")]));
        }
    }
    loop {
        let rest: Vec<usize> =
            numbers.iter().copied().filter(|n| !supervisor.outcomes.contains_key(n)).collect();
        if rest.is_empty() {
            break;
        }
        supervisor.process(&rest)?;
    }
    Ok(table(&manifest, &supervisor.outcomes))
}

struct Supervisor<'a> {
    args: &'a Args,
    manifest: &'a Manifest,
    seed: u64,
    /// All cases of this run.
    numbers: &'a [usize],
    outcomes: BTreeMap<usize, Outcome>,
}

impl Supervisor<'_> {
    fn record(&mut self, number: usize, outcome: Outcome) {
        if let Err(wrong) = &outcome {
            let item = self.manifest.item(number);
            println!("FAIL {}: {}: {}", item.family, item.name, wrong.join("; "));
        }
        self.outcomes.insert(number, outcome);
    }

    /// Records a kernel's fault; after some of them, all its cases have failed.
    fn fault(&mut self, number: usize, message: String) {
        self.record(number, Err(vec![message]));
        let kernel = self.manifest.item(number).kernel;
        let lost = "the GPU";
        let faults = self.outcomes.iter().filter(|(n, outcome)| {
            let wrong = outcome.as_ref().err().and_then(|wrong| wrong.first());
            self.manifest.item(**n).kernel == kernel && wrong.is_some_and(|w| w.starts_with(lost))
        });
        if faults.count() < PATIENCE {
            return;
        }
        for other in self.numbers.iter().filter(|n| self.manifest.item(**n).kernel == kernel) {
            let reason = || Err(vec!["not run: its kernel faulted before".to_string()]);
            self.outcomes.entry(*other).or_insert_with(reason);
        }
    }

    /// Runs cases in one process, until all are through or a kernel takes it down. Errors: it did nothing.
    fn process(&mut self, numbers: &[usize]) -> Result<(), String> {
        let (mut child, lines) = self.spawn(numbers)?;
        let before = self.outcomes.len();
        let mut running: Option<(usize, Instant)> = None;
        let patience = Duration::from_secs(self.args.timeout);
        loop {
            let wait = match running {
                Some((_, since)) => (since + patience).saturating_duration_since(Instant::now()),
                None => Duration::from_secs(600),
            };
            match lines.recv_timeout(wait) {
                Ok(Line::Start(number)) => running = Some((number, Instant::now())),
                Ok(Line::Ran(_)) => running = None,
                Ok(Line::Done(number, outcome)) => self.record(number, outcome),
                Ok(Line::Fault(number, message)) => {
                    running = None;
                    self.fault(number, format!("the GPU faulted: {message}"));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let Some((number, _)) = running else {
                        return Err("nothing happened for ten minutes".into());
                    };
                    self.fault(number, format!("the GPU did not end in {} s", self.args.timeout));
                    return Ok(());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        if let Some((number, _)) = running {
            self.fault(number, format!("the GPU's process ended: {status}"));
        }
        if self.outcomes.len() == before {
            return Err(format!("the process that holds the GPU did nothing: {status}"));
        }
        Ok(())
    }

    fn spawn(&self, numbers: &[usize]) -> Result<(Child, Receiver<Line>), String> {
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(this);
        command.arg(&self.args.folder).arg("--worker").args(["--seed", &self.seed.to_string()]);
        if let Some(threads) = self.args.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        for (on, flag) in [(self.args.jit, "--jit"), (self.args.leave_scratch, "--leave-scratch")] {
            command.args(on.then_some(flag));
        }
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|e| format!("cannot start a process: {e}"))?;
        let list: String = numbers.iter().map(|number| format!("{number}\n")).collect();
        if let Some(mut input) = child.stdin.take() {
            // A process that ends at once says why on its own.
            let _ = input.write_all(list.as_bytes());
        }
        let (send, receive) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for text in BufReader::new(out).lines().map_while(Result::ok) {
                    let sent = serde_json::from_str(&text).map(|line| send.send(line));
                    match sent {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => break,
                        Err(_) => eprintln!("{text}"),
                    }
                }
            });
        }
        Ok((child, receive))
    }
}

/// A line a family; whether all is well.
fn table(manifest: &Manifest, outcomes: &BTreeMap<usize, Outcome>) -> bool {
    #[derive(Default)]
    struct Row {
        cases: usize,
        failed: usize,
        worst: f64,
        limit: f64,
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (number, outcome) in outcomes {
        let row = rows.entry(manifest.item(*number).family).or_default();
        row.cases += 1;
        row.limit = row.limit.max(worker::limit(manifest, *number));
        match outcome {
            Ok(error) => row.worst = row.worst.max(*error),
            Err(_) => row.failed += 1,
        }
    }
    println!("\n{:<26} {:>6} {:>6} {:>12} {:>9}", "kernels", "cases", "failed", "worst error", "limit");
    for (family, row) in &rows {
        let verdict = if row.failed == 0 { "pass" } else { "FAIL" };
        let Row { cases, failed, worst, limit } = row;
        println!("{family:<26} {cases:>6} {failed:>6} {worst:>12.1e} {limit:>9.0e}  {verdict}");
    }
    let failed: usize = rows.values().map(|row| row.failed).sum();
    println!("{} cases, {failed} failed", outcomes.len());
    failed == 0
}
