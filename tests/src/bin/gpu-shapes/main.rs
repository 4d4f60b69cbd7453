//! Published shapes on a GPU, with weights made up at load: long prefills and long decodes, alone and in a batch, with
//! the memory that the plan says; the same steps twice, whose tokens and last logits are equal; many steps in a row. The last
//! two with slices too, whose logits are held against those without.
//!
//! Sampling happens on the device, whose kernel gives no token for a row with a logit that is no finite number: so
//! every step's logits are finite where every step gives a token. The last step's are looked at here.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

mod slices;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hyc_runtime::{LoadOptions, Model, SequenceId, Session, SessionOptions, Verify};
use hyc_tests::first_gpu::{free_bytes, memory};
use hyc_tests::{Table, each_artefact, text};

/// Run artefacts compiled with `--no-weights` at the lengths that they are made for
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts
    #[arg(default_value = "target/gpu/shapes")]
    folder: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
    /// Tokens of the prompt of one sequence
    #[arg(long, default_value_t = 32_768)]
    tokens: usize,
    /// Sequences of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of each prompt of a batch
    #[arg(long, default_value_t = 4096)]
    batch_tokens: usize,
    /// Also a batch of prompts of --tokens, where that is likely to take fewer seconds than this
    #[arg(long, default_value_t = 0)]
    long: u64,
    /// Decode steps
    #[arg(long, default_value_t = 256)]
    steps: usize,
    /// Steps of one sequence in a row, without slices and with them; 0: none
    #[arg(long, default_value_t = 0)]
    endless: usize,
    /// Seed of the weights and of the tokens
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    each_artefact(&args.folder, &args.filter, &mut |path, name, table| shape(&args, path, name, table))
}

fn shape(args: &Args, path: &Path, name: &str, table: &mut Table) -> Result<(), String> {
    let before = free_bytes()?;
    let options =
        LoadOptions { verify: Verify::Header, random_weights: Some(args.seed), ..LoadOptions::default() };
    // SAFETY: tests/gpu/build.sh made it.
    let model = Arc::new(unsafe { Model::load(path, &options) }.map_err(text)?);
    let start = Instant::now();
    let mut session = Session::new(model.clone(), &SessionOptions::default()).map_err(text)?;
    let opened = start.elapsed();
    let taken = before.saturating_sub(free_bytes()?);
    table.row(name, "memory", memory(session.memory().total(), taken));
    println!("{name:<16} opened in {:.1} s", opened.as_secs_f64());

    let mut runner = Runner { session: &mut session, state: args.seed, steps: args.steps };
    // Kernels are loaded and passes captured when they first run.
    runner.run(1, 300, 2)?;
    let one = runner.measured(table, name, 1, args.tokens);
    runner.run(args.batch, 300, 2)?;
    runner.measured(table, name, args.batch, args.batch_tokens);
    if let Some(one) = one
        && one.prefill.as_secs_f64() * (args.batch as f64) < args.long as f64
    {
        runner.measured(table, name, args.batch, args.tokens);
    }
    table.row(name, "twice", runner.twice());
    if args.endless > 0 {
        table.row(name, "endless", runner.endless(args.endless));
    }
    let given: Vec<u32> = (0..slices::TOKENS.0 + slices::TOKENS.1).map(|_| runner.token()).collect();
    let without = slices::logits(&mut session, &given);
    let used = before.saturating_sub(free_bytes()?);
    println!("{name:<16} {} MiB more after all runs", used.saturating_sub(taken) >> 20);
    // Two sessions have no room beside each other.
    drop(session);
    let Some(told) = slices::told(model.plan()) else {
        println!("{name:<16} has no slices");
        return Ok(());
    };
    sliced(args, (name, &told), (&model, &given, without), table)
}

/// The checks of a session with slices.
fn sliced(
    args: &Args,
    (name, told): (&str, &str),
    (model, given, without): (&Arc<Model>, &[u32], Result<slices::Rows, String>),
    table: &mut Table,
) -> Result<(), String> {
    let mut session = Session::new(model.clone(), &slices::options()).map_err(text)?;
    let compared =
        without.and_then(|without| slices::compare(&slices::logits(&mut session, given)?, &without));
    table.row(name, "slices", compared.map(|text| format!("{told}; {text}")));
    let mut runner = Runner { session: &mut session, state: args.seed, steps: args.steps };
    table.row(name, "slices, twice", runner.twice());
    if args.endless > 0 {
        table.row(name, "slices, endless", runner.endless(args.endless));
    }
    Ok(())
}

/// Times of one run.
struct Times {
    prefill: Duration,
    /// One per decode step, in order of their size.
    steps: Vec<Duration>,
    /// What each step gave.
    tokens: Vec<u32>,
    /// Bits of the logits behind the last one.
    logits: Vec<u32>,
}

/// Sequences and the tokens of their prompts of the runs that are done twice.
const TWICE: [(usize, usize); 2] = [(1, 700), (5, 130)];
const TWICE_STEPS: usize = 256;

struct Runner<'a> {
    session: &'a mut Session,
    /// Of the generator of prompts.
    state: u64,
    steps: usize,
}

impl Runner<'_> {
    fn measured(&mut self, table: &mut Table, name: &str, batch: usize, tokens: usize) -> Option<Times> {
        let check = format!("{batch} x {tokens}");
        match self.run(batch, tokens, self.steps) {
            Ok(times) => {
                let prefill = times.prefill.as_secs_f64();
                let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
                let (least, half, most) =
                    (times.steps.first(), times.steps.get(times.steps.len() / 2), times.steps.last());
                let text = format!(
                    "prefill {:.0} tokens/s ({prefill:.2} s), decode {:.3} ms per step (median of {}, {:.3} to {:.3})",
                    (batch * tokens) as f64 / prefill,
                    ms(half),
                    times.steps.len(),
                    ms(least),
                    ms(most),
                );
                table.row(name, &check, Ok(text));
                Some(times)
            }
            Err(message) => {
                table.row(name, &check, Err(message));
                None
            }
        }
    }

    /// Whether the same prompts and greedy steps give the same tokens and, bit by bit, the same logits.
    fn twice(&mut self) -> Result<String, String> {
        for (batch, tokens) in TWICE {
            let state = self.state;
            let mut once = || {
                self.state = state;
                self.run(batch, tokens, TWICE_STEPS)
            };
            let (first, second) = (once()?, once()?);
            let what = format!("{batch} x {tokens}, {TWICE_STEPS} steps");
            if first.tokens != second.tokens {
                return Err(format!("{what}: other tokens"));
            }
            if first.logits != second.logits {
                return Err(format!("{what}: the same tokens, other logits"));
            }
        }
        Ok(format!("{TWICE:?}: {TWICE_STEPS} steps, equal to the bit"))
    }

    /// Whether so many steps in a row end.
    fn endless(&mut self, steps: usize) -> Result<String, String> {
        let start = Instant::now();
        let done = self.run(1, 300, steps)?.steps.len();
        Ok(format!("{done} steps in {:.1} s", start.elapsed().as_secs_f64()))
    }

    /// Prompts of `batch` new sequences, then `steps` steps of all of them together.
    fn run(&mut self, batch: usize, tokens: usize, steps: usize) -> Result<Times, String> {
        let ids: Vec<SequenceId> =
            (0..batch).map(|_| self.session.add_sequence()).collect::<Result<_, _>>().map_err(text)?;
        let times = self.advance(&ids, tokens, steps);
        ids.iter().for_each(|id| self.session.remove_sequence(*id).expect("a sequence of this session"));
        times
    }

    fn advance(&mut self, ids: &[SequenceId], tokens: usize, steps: usize) -> Result<Times, String> {
        for id in ids {
            let prompt: Vec<u32> = (0..tokens).map(|_| self.token()).collect();
            self.session.feed(*id, &prompt).map_err(text)?;
        }
        let start = Instant::now();
        let mut next: Vec<(SequenceId, u32)> = Vec::new();
        let (mut done, mut passes) = (0, 0);
        while done < tokens * ids.len() {
            let output = self.session.step_sampled().map_err(|e| format!("prefill, pass {passes}: {e}"))?;
            next.extend(each(output.sampled).map_err(|e| format!("prefill, pass {passes}: {e}"))?);
            if output.tokens == 0 {
                return Err(format!("prefill stopped after {done} tokens"));
            }
            done += output.tokens as usize;
            passes += 1;
        }
        let prefill = start.elapsed();
        let (mut times, mut given) = (Vec::with_capacity(steps), Vec::new());
        for step in 0..steps {
            self.check(ids, &next).map_err(|message| format!("decode, step {step}: {message}"))?;
            for (id, token) in &next {
                self.session.feed(*id, &[*token]).map_err(text)?;
            }
            let start = Instant::now();
            let output = self.session.step_sampled().map_err(|e| format!("decode, step {step}: {e}"))?;
            times.push(start.elapsed());
            next = each(output.sampled).map_err(|e| format!("decode, step {step}: {e}"))?;
            given.extend(next.iter().map(|(_, token)| *token));
        }
        self.check(ids, &next)?;
        for (id, token) in &next {
            self.session.feed(*id, &[*token]).map_err(text)?;
        }
        let rows = self.session.step().map_err(text)?.logits;
        if rows.len() != ids.len() {
            return Err(format!("{} rows of logits at the end, not {}", rows.len(), ids.len()));
        }
        let mut logits = Vec::new();
        for (_, row) in rows {
            // An error where a logit is no number.
            logits.extend(row.map_err(text)?.iter().map(|logit| logit.to_bits()));
        }
        times.sort_unstable();
        Ok(Times { prefill, steps: times, tokens: given, logits })
    }

    /// Every sequence has one token of the vocabulary.
    fn check(&self, ids: &[SequenceId], tokens: &[(SequenceId, u32)]) -> Result<(), String> {
        let vocab = self.session.model().plan().model.vocab;
        if let Some((_, token)) = tokens.iter().find(|(_, token)| u64::from(*token) >= vocab) {
            return Err(format!("token {token} of a vocabulary of {vocab}"));
        }
        let all = |id: &&SequenceId| tokens.iter().filter(|(of, _)| of == *id).count() == 1;
        match ids.iter().all(|id| all(&id)) && tokens.len() == ids.len() {
            true => Ok(()),
            false => Err(format!("{} tokens for {} sequences", tokens.len(), ids.len())),
        }
    }

    /// The next random token (splitmix64).
    fn token(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % self.session.model().plan().model.vocab) as u32
    }
}

/// The tokens of all sequences. Errors: the first of a sequence.
fn each(sampled: Vec<(SequenceId, hyc_runtime::Result<u32>)>) -> hyc_runtime::Result<Vec<(SequenceId, u32)>> {
    sampled.into_iter().map(|(id, token)| Ok((id, token?))).collect()
}
