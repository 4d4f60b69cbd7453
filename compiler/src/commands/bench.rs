//! `hyc bench`.

use std::path::PathBuf;
use std::time::Instant;

use hyc_runtime::{Engine, LoadOptions, MemoryPlan, Model, SessionOptions, StepInput, Verify};
use serde_json::json;

use super::signal;
use crate::bandwidth::{self, Limits};
use crate::cost::{self, Cost};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{self, Clock};
use crate::report::table;

/// Measure prefill and decode, beside the machine's own limits
///
/// The read bandwidth and the multiply-add rate of this machine are measured in the same run. The floor of
/// decode is bytes over bandwidth: all weights, and the KV that the step reads. Decode runs on caches that
/// are filled with noise, so that a long context can be measured without its prefill.
///
/// Examples:
///   hyc bench model.hyc
///   hyc bench model.hyc --context 512,8192,32768 --json
///   hyc bench model.hyc --context 32768 --kernels         where the time goes
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// Contexts to decode at, in tokens
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    context: Vec<u64>,
    /// Prompts to prefill, in tokens
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    prefill: Vec<u64>,
    /// Decode steps measured at each context; the median counts
    #[arg(long, default_value_t = 16)]
    steps: usize,
    /// Print the time of each kernel too
    #[arg(long)]
    kernels: bool,
    /// Threads
    #[arg(long)]
    threads: Option<usize>,
    /// Random weights of this seed, for an artefact compiled with --no-weights
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {})?;
    let start = Instant::now();
    let load =
        LoadOptions { verify: Verify::Header, random_weights: args.random_weights, ..LoadOptions::default() };
    let model = super::load(&args.model, &load, false)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let lengths = || args.context.iter().chain(&args.prefill).copied();
    let longest = lengths().max().unwrap_or(1);
    let limit = model.plan().model.max_context;
    if let Some(wrong) = lengths().find(|n| *n == 0 || *n > limit) {
        return Err(Error::new(ErrorKind::Usage, format!("a context of {wrong} tokens cannot be measured"))
            .help(format!("the model was compiled for {limit}; give 1 to {limit}")));
    }
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let limits = bandwidth::measure(threads);
    let mut bench = Bench::new(&model, threads, longest)?;
    let prefill = args.prefill.iter().map(|n| bench.prefill(*n)).collect::<Result<Vec<_>>>()?;
    bench.fill()?;
    let decode =
        args.context.iter().map(|n| bench.decode(*n, args.steps.max(1))).collect::<Result<Vec<_>>>()?;
    if args.json {
        let list = |points: &[Point]| points.iter().map(|p| p.json(&limits)).collect::<Vec<_>>();
        let value = json!({
            "model": model.plan().model.name, "threads": threads, "load_seconds": load_seconds,
            "read_bytes_per_s": limits.read_bytes_per_s, "fma_flop_per_s": limits.flop_per_s,
            "prefill": list(&prefill), "decode": list(&decode),
        });
        return super::print(&format!("{value:#}\n"));
    }
    let mut out = format!(
        "{}: {threads} threads; this machine reads {:.1} GB/s, multiplies and adds {:.1} GFLOP/s (f32x4)\n",
        model.plan().model.name,
        limits.read_bytes_per_s / 1e9,
        limits.flop_per_s / 1e9
    );
    for points in [&prefill, &decode] {
        let Some(first) = points.first() else { continue };
        let rows: Vec<_> = points.iter().map(|p| p.row(&limits)).collect();
        out.push_str(&format!("\n{}", table(&first.phase.header(), &rows)));
    }
    if args.kernels {
        for point in prefill.iter().chain(&decode) {
            out.push_str(&format!("\n{}", point.kernel_table(&limits)));
        }
    }
    super::print(&out)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prefill,
    Decode,
}

impl Phase {
    fn name(self) -> &'static str {
        if self == Phase::Prefill { "prefill" } else { "decode" }
    }

    fn header(self) -> [&'static str; 4] {
        match self {
            Phase::Prefill => ["prefill", "tok/s", "GFLOP", "of peak"],
            Phase::Decode => ["decode at", "tok/s", "MB a step", "of bandwidth"],
        }
    }

    /// Seconds that `work` (operations of a prefill, bytes of a decode step) takes at the machine's limit.
    fn floor(self, work: f64, limits: &Limits) -> f64 {
        work / if self == Phase::Prefill { limits.flop_per_s } else { limits.read_bytes_per_s }
    }
}

/// One measurement.
struct Point {
    phase: Phase,
    /// Tokens of the prompt, or the context that a step decodes at.
    tokens: u64,
    /// Of the prefill, or of the median step.
    seconds: f64,
    /// Operations or bytes.
    work: f64,
    kernels: Vec<KernelTime>,
}

/// All launches of one kernel.
struct KernelTime {
    name: String,
    steps: usize,
    seconds: f64,
    work: f64,
}

impl Point {
    fn rate(&self) -> f64 {
        if self.phase == Phase::Prefill { self.tokens as f64 / self.seconds } else { 1.0 / self.seconds }
    }

    fn share(&self, limits: &Limits) -> f64 {
        self.phase.floor(self.work, limits) / self.seconds
    }

    fn row(&self, limits: &Limits) -> Vec<String> {
        vec![
            self.tokens.to_string(),
            format!("{:.1}", self.rate()),
            format!("{:.1}", self.work / if self.phase == Phase::Prefill { 1e9 } else { 1e6 }),
            format!("{:.0} %", 100.0 * self.share(limits)),
        ]
    }

    fn json(&self, limits: &Limits) -> serde_json::Value {
        let kernels: Vec<_> = self
            .kernels
            .iter()
            .map(|k| json!({"name": k.name, "steps": k.steps, "seconds": k.seconds, "work": k.work}))
            .collect();
        json!({
            "tokens": self.tokens, "tokens_per_s": self.rate(), "seconds": self.seconds,
            "work": self.work, "share_of_limit": self.share(limits), "kernels": kernels,
        })
    }

    fn kernel_table(&self, limits: &Limits) -> String {
        let total: f64 = self.kernels.iter().map(|k| k.seconds).sum();
        let rows: Vec<_> = self
            .kernels
            .iter()
            .map(|k| {
                vec![
                    k.name.clone(),
                    k.steps.to_string(),
                    format!("{:.3}", 1e3 * k.seconds),
                    format!("{:.1} %", 100.0 * k.seconds / total),
                    format!("{:.0} %", 100.0 * self.phase.floor(k.work, limits) / k.seconds),
                ]
            })
            .collect();
        let title = format!("{} {}", self.phase.name(), self.tokens);
        table(&[&title, "steps", "ms", "of all", self.phase.header()[3]], &rows)
    }
}

/// A model with room for one sequence.
struct Bench<'m> {
    model: &'m Model,
    engine: Engine<'m>,
    clock: Clock,
    cost: Cost<'m>,
    pages: i32,
}

impl<'m> Bench<'m> {
    fn new(model: &'m Model, threads: usize, tokens: u64) -> Result<Bench<'m>> {
        let plan = model.plan();
        let pages = tokens.div_ceil(plan.model.page);
        let memory = MemoryPlan::new(model, pages, 1, threads);
        let options = SessionOptions { threads: Some(threads), ..SessionOptions::default() };
        let (executor, clock) = profile::executor(model, &options, &memory)?;
        let engine = Engine::new(model, executor, pages, 1)?;
        let pages = i32::try_from(pages).map_err(|_| Error::new(ErrorKind::Usage, "too many tokens"))?;
        Ok(Bench { model, engine, clock, cost: cost::of(plan), pages })
    }

    /// Fills the caches with uniform noise of about unit variance.
    fn fill(&mut self) -> Result<()> {
        let mut state = 1u64;
        self.engine.fill_caches(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })?;
        Ok(())
    }

    /// Runs positions `begin..end`, with the logits of the last row where they are wanted.
    fn step(&mut self, begin: u64, end: u64, logits: bool) -> Result<f64> {
        let vocab = self.model.plan().model.vocab;
        let rows = (end - begin) as i32;
        let input = StepInput {
            token_ids: (begin..end).map(|i| (i.wrapping_mul(2_654_435_761) % vocab) as i32).collect(),
            positions: (begin as i32..end as i32).collect(),
            sequence: vec![0; rows as usize],
            page_table: (0..self.pages).collect(),
            ring_slot: vec![0],
            out_rows: if logits { vec![rows - 1] } else { vec![] },
        };
        let start = Instant::now();
        self.engine.begin(input)?;
        for index in 0..self.model.plan().steps.len() {
            self.engine.run_step(index)?;
        }
        self.engine.synchronise()?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn prefill(&mut self, tokens: u64) -> Result<Point> {
        self.clock.take();
        let (chunk, mut seconds, mut begin) = (self.model.plan().model.chunk, 0.0, 0);
        while begin < tokens {
            signal::check("measuring prefill")?;
            let end = tokens.min(begin + chunk);
            seconds += self.step(begin, end, end == tokens)?;
            begin = end;
        }
        let times = self.clock.take();
        Ok(self.point(Phase::Prefill, tokens, seconds, &times))
    }

    fn decode(&mut self, context: u64, steps: usize) -> Result<Point> {
        let mut all = Vec::with_capacity(steps);
        for _ in 0..steps {
            signal::check("measuring decode")?;
            self.clock.take();
            all.push((self.step(context - 1, context, true)?, self.clock.take()));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (seconds, times) = &all[steps / 2];
        Ok(self.point(Phase::Decode, context, *seconds, times))
    }

    fn point(&self, phase: Phase, tokens: u64, seconds: f64, times: &[f64]) -> Point {
        let plan = self.model.plan();
        let mut kernels: Vec<KernelTime> = plan
            .kernels
            .iter()
            .map(|k| KernelTime { name: k.name.clone(), steps: 0, seconds: 0.0, work: 0.0 })
            .collect();
        for (step, seconds) in plan.steps.iter().zip(times) {
            let kernel = &mut kernels[step.kernel.index()];
            kernel.steps += 1;
            kernel.seconds += seconds;
            kernel.work += match phase {
                Phase::Prefill => self.cost.step_flop(step, tokens),
                Phase::Decode => self.cost.step_bytes(step, tokens) as f64,
            };
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let work = match phase {
            Phase::Prefill => self.cost.prefill_flop(tokens),
            Phase::Decode => self.cost.decode_bytes(tokens) as f64,
        };
        Point { phase, tokens, seconds, work, kernels }
    }
}
