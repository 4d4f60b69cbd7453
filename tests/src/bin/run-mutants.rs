//! `run-mutants FIRST COUNT`: changes plans behind their code's back, seed by seed, and prints what becomes of each as
//! `SEED MILLISECONDS OUTCOME: what was changed`. Its parent sees from which seed it does not come back.
//!
//! A seed below the number of [`DIRECTED`] changes is one of those. Every seed is tried twice: with all digests outside
//! the code made anew, and with the plan's digest in the code as well.

#![allow(clippy::print_stdout)] // A program of the tests: it may end at a closed pipe.

use std::error::Error;

use hyc_tests::directed::DIRECTED;
use hyc_tests::mutate::{Outcome, Subject, mutate};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Address space: what a plan asks for beyond it is no memory that there is.
const ADDRESSES: u64 = 6 << 30;
/// Architectures: plain, a mixture of experts, caches of its own with rings.
const SUBJECTS: [&str; 3] = ["dense", "moe", "own"];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<u64> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [first, count] = args[..] else { return Err("run-mutants FIRST COUNT".into()) };
    setrlimit(Resource::As, Rlimit { current: Some(ADDRESSES), maximum: Some(ADDRESSES) })?;
    let folder = tempfile::tempdir()?;
    let subjects = SUBJECTS.map(|name| Subject::of(name, folder.path()));
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let subject = &subjects[random.below(subjects.len())];
        let (plan, what) = match DIRECTED.get(seed as usize) {
            Some((name, change)) => {
                let mut plan = subjects[0].plan().clone();
                change(&mut plan);
                (plan, (*name).to_string())
            }
            None => loop {
                if let Some(mutant) = mutate(subject.plan(), &mut |n| random.below(n)) {
                    break mutant;
                }
            },
        };
        let subject = if (seed as usize) < DIRECTED.len() { &subjects[0] } else { subject };
        for renew in [false, true] {
            let before = milliseconds();
            let outcome = subject.outcome(&plan, renew);
            let bad = match &outcome {
                Outcome::Refused(message) => message.len() < 20,
                Outcome::Same => false,
                Outcome::Another => !renew,
                Outcome::Wrong(_) => true,
            };
            let mark = if bad { "BAD " } else { "" };
            println!("{seed} {} {mark}{outcome:?}: {what}", milliseconds() - before);
        }
    }
    Ok(())
}

/// Time of this process on a processor: other processes' do not count.
fn milliseconds() -> i64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}
