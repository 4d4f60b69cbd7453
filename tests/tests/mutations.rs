//! Plans that were changed behind their code's back: each is refused with a sentence, or means the same.
//!
//! `HYC_MUTANTS=5000 cargo test -p hyc-tests --test mutations` tries as many. A child of this test runs them, so that a
//! crash is one seed's failure: its output says which.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Processor time of one mutant, in milliseconds, in a debug build.
const MOST_MS: i64 = 10_000;
/// Until a mutant counts as hanging, on a machine that does other work as well.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a run of seeds gave: lines, and how the child ended where it did before the last seed.
fn run(first: u64, count: u64) -> (Vec<String>, Option<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_run-mutants"))
        .args([first.to_string(), count.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let out = child.stdout.take().expect("is piped");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => seen.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().expect("is ours");
                child.wait().expect("ends");
                return (seen, Some(format!("nothing for {} s", PATIENCE.as_secs())));
            }
        }
    }
    drop(reader.join());
    let status = child.wait().expect("ends");
    (seen, (!status.success()).then(|| status.to_string()))
}

#[test]
fn changed_plans_are_refused_or_mean_the_same() {
    let count = std::env::var("HYC_MUTANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let (mut first, mut faults, mut lines) = (0, Vec::new(), Vec::new());
    while first < count {
        let (seen, end) = run(first, count - first);
        let done = seen.iter().filter_map(|line| line.split(' ').next()?.parse::<u64>().ok()).max();
        if let Some(end) = end {
            // Each seed has two lines.
            let half = seen.len() % 2;
            let at = done.map_or(first, |done| done + 1 - half as u64);
            faults.push(format!("seed {at}, try {}: {end}", half + 1));
            first = at + 1;
        } else {
            first = count;
        }
        lines.extend(seen);
    }
    for line in &lines {
        let time: i64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a time");
        if time > MOST_MS || line.contains(" BAD ") {
            faults.push(line.clone());
        }
    }
    let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let (refused, same, another) = (of(" Refused"), of(" Same:"), of(" Another:"));
    println!("{} tries: {refused} refused, {same} same, {another} another valid program", lines.len());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), lines.len(), faults.join("\n"));
    assert!(refused as u64 > count, "hardly any is refused");
    assert!(
        count < 100 || same > 0,
        "no change is harmless: does the mutator reach what is behind the digests?"
    );
}
