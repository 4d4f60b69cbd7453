//! Long contexts on a GPU, with weights made up at load: a prefill, and decode steps behind caches of noise, beside the floor of
//! their bytes; with the memory that the plan says, and a token of every step, which there is where all logits are numbers. What has no
//! room is refused before anything is allocated.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use hyc::cost;
use hyc_runtime::{
    Engine, KvRoom, LoadOptions, MemoryPlan, Model, SampleParams, SessionOptions, StepInput, Verify,
    open_runner,
};
use hyc_tests::first_gpu::{free_bytes, memory};
use hyc_tests::{Table, each_artefact, text};

/// Prefill and decode at long contexts with artefacts compiled with `--no-weights`
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts
    #[arg(default_value = "target/gpu/long")]
    folder: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 131_072)]
    prefill: u64,
    /// Decode steps of each row
    #[arg(long, default_value_t = 256)]
    steps: usize,
    /// Sequences and context of a row of decode steps, as 8x131072 (may be repeated)
    #[arg(long, value_parser = sequences, default_values = ["1x4096", "1x131072", "1x1048000", "8x131072"])]
    decode: Vec<(u64, u64)>,
}

fn sequences(word: &str) -> Result<(u64, u64), String> {
    let (batch, context) = word.split_once('x').ok_or("it must be SEQUENCESxCONTEXT")?;
    let number =
        |word: &str| word.parse::<u64>().ok().filter(|n| *n > 0).ok_or("it must have numbers above 0");
    Ok((number(batch)?, number(context)?))
}

fn main() -> ExitCode {
    let args = Args::parse();
    each_artefact(&args.folder, &args.filter, &mut |path, name, table| measure(&args, path, name, table))
}

fn measure(args: &Args, path: &Path, name: &str, table: &mut Table) -> Result<(), String> {
    let options = LoadOptions { verify: Verify::Header, random_weights: Some(1), ..LoadOptions::default() };
    // SAFETY: tests/gpu/build.sh made it.
    let model = Arc::new(unsafe { Model::load(path, &options) }.map_err(text)?);
    let m = &model.plan().model;
    let pages = |(batch, context): (u64, u64)| batch * context.div_ceil(m.page);
    let mut rows = args.decode.clone();
    let too_much = rows.iter().find(|(batch, context)| *batch > m.max_batch || *context > m.max_context);
    if let Some((batch, context)) = too_much {
        return Err(format!(
            "compiled for {} sequences of {} tokens, not {batch} of {context}",
            m.max_batch, m.max_context
        ));
    }
    // The largest rows that have room: what a row needs beside the weights grows with its pages.
    let mut opened = loop {
        let Some(most) = rows.iter().map(|row| pages(*row)).max() else {
            return Err("no row has room".into());
        };
        let before = free_bytes()?;
        match Opened::new(&model, KvRoom::new(most, m.max_batch)) {
            Ok(opened) => break opened,
            Err(message) => {
                let kept = before.saturating_sub(free_bytes()?);
                for (batch, context) in rows.extract_if(.., |row| pages(*row) == most) {
                    let refused = match kept {
                        0 => Ok(format!("refused, nothing was allocated: {message}")),
                        kept => Err(format!("{kept} bytes are gone after: {message}")),
                    };
                    table.row(name, &format!("decode {batch} x {context}"), refused);
                }
            }
        }
    };
    table.row(name, "memory", memory(opened.planned, opened.taken));
    println!("{name:<16} opened in {:.1} s; copies {:.0} GB/s", opened.seconds, opened.bytes_per_s / 1e9);
    let most = rows.iter().map(|(batch, context)| batch * context).max().unwrap_or(0);
    if args.prefill <= most {
        table.row(name, &format!("prefill {}", args.prefill), opened.prefill(args.prefill));
    }
    opened.fill()?;
    let cost = cost::of(model.plan());
    for (batch, context) in rows {
        let floor = cost.decode_bytes(context, batch) as f64 / opened.bytes_per_s;
        let row = opened.decode((batch, context), args.steps, floor);
        table.row(name, &format!("decode {batch} x {context}"), row);
    }
    Ok(())
}

/// A model on the GPU.
struct Opened {
    engine: Engine,
    /// Bytes.
    planned: u64,
    taken: u64,
    seconds: f64,
    bytes_per_s: f64,
}

impl Opened {
    fn new(model: &Arc<Model>, room: KvRoom) -> Result<Opened, String> {
        let options = SessionOptions::default();
        let plan = MemoryPlan::new(model, room, options.thread_count());
        let (before, start) = (free_bytes()?, Instant::now());
        let mut engine = Engine::new(open_runner(model, &options, &plan, &mut |_, _| true).map_err(text)?);
        let seconds = start.elapsed().as_secs_f64();
        let taken = before.saturating_sub(free_bytes()?);
        let rate = engine.clock().copy_bandwidth().map_err(text)?;
        Ok(Opened {
            engine,
            planned: plan.total(),
            taken,
            seconds,
            bytes_per_s: rate.ok_or("this is no GPU")?,
        })
    }

    fn fill(&mut self) -> Result<(), String> {
        let mut state = 1u64;
        let noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        };
        self.engine.fill_caches(noise).map_err(text)
    }

    /// Positions `begin..end` of `batch` sequences, with a token of each one's last row where `last`.
    fn pass(&mut self, (begin, end): (u64, u64), batch: u64, last: bool) -> Result<(), String> {
        let m = &self.engine.model().plan().model;
        let (rows, pages, vocab) = (end - begin, end.div_ceil(m.page), m.vocab);
        let each = |f: &dyn Fn(u64, u64) -> u64| -> Vec<i32> {
            (0..batch).flat_map(|s| (begin..end).map(move |p| (s, p))).map(|(s, p)| f(s, p) as i32).collect()
        };
        let outputs = if last { batch } else { 0 };
        let input = StepInput {
            token_ids: each(&|s, p| (p + s * 7919).wrapping_mul(2_654_435_761) % vocab),
            positions: each(&|_, p| p),
            sequence: each(&|s, _| s),
            page_table: (0..(batch * pages) as i32).collect(),
            ring_slot: (0..batch as i32).collect(),
            sampling: vec![SampleParams::default(); outputs as usize],
            seen: vec![],
            out_rows: (1..=outputs as i32).map(|s| s * rows as i32 - 1).collect(),
        };
        self.engine.begin(input).map_err(text)?;
        self.engine.run_pass().map_err(text)
    }

    /// Errors: a row of the last pass has no token.
    fn tokens(&mut self, batch: u64) -> Result<(), String> {
        let vocab = self.engine.model().plan().model.vocab;
        let tokens = self.engine.sampled().map_err(text)?.ok_or("nothing is sampled")?;
        match tokens.iter().all(|token| u64::try_from(*token).is_ok_and(|token| token < vocab)) {
            true if tokens.len() as u64 == batch => Ok(()),
            _ => Err(format!("tokens {tokens:?}: -1 is a row whose logits are no numbers")),
        }
    }

    fn prefill(&mut self, tokens: u64) -> Result<String, String> {
        let chunk = self.engine.model().plan().model.chunk;
        // The first pass of a size loads code.
        self.pass((0, chunk.min(tokens)), 1, false)?;
        self.engine.synchronise().map_err(text)?;
        let start = Instant::now();
        for begin in (0..tokens).step_by(chunk as usize) {
            let end = tokens.min(begin + chunk);
            self.pass((begin, end), 1, end == tokens)?;
        }
        self.engine.synchronise().map_err(text)?;
        let seconds = start.elapsed().as_secs_f64();
        self.tokens(1)?;
        Ok(format!("{:.0} tokens/s ({seconds:.2} s)", tokens as f64 / seconds))
    }

    /// Steps at `context` and the positions behind it. `floor`: seconds.
    fn decode(&mut self, (batch, context): (u64, u64), steps: usize, floor: f64) -> Result<String, String> {
        let mut times = Vec::with_capacity(steps);
        let first = context.saturating_sub(steps as u64 + 2);
        // The first two make a graph and warm it up.
        for (step, position) in (first..context).enumerate() {
            let start = Instant::now();
            self.pass((position, position + 1), batch, true)?;
            self.engine.synchronise().map_err(text)?;
            times.extend((step >= 2).then(|| start.elapsed().as_secs_f64()));
            self.tokens(batch).map_err(|message| format!("step {step}: {message}"))?;
        }
        times.sort_by(f64::total_cmp);
        let half = *times.get(times.len() / 2).ok_or("no steps")?;
        Ok(format!(
            "{:.3} ms a step of {} (floor {:.3}, {:.2} of it), {:.0} tokens/s",
            half * 1e3,
            times.len(),
            floor * 1e3,
            half / floor,
            batch as f64 / half,
        ))
    }
}
