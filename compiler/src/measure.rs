//! Measures prefill and decode of a model, beside what they must read and compute.

use std::sync::Arc;
use std::time::Instant;

use hyc_plan::sample::SampleParams;
use hyc_plan::{KernelId, Step};
use hyc_runtime::{Engine, KvRoom, LaunchTimes, MemoryPlan, Model, SessionOptions, StepInput, open_runner};

use crate::bandwidth;
use crate::cost::{self, Cost};
use crate::error::{Error, ErrorKind, Result};
use crate::made_up::{Choice, Chunk};
use crate::workload::Workload;

/// What the machine can do, which measurements are set beside.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes per second: read by the host; read and written, together, by a GPU that copies.
    pub bytes_per_s: f64,
    /// Operations per second; of a GPU only where it was given.
    pub flop_per_s: Option<f64>,
}

/// One measurement.
pub struct Point {
    /// Tokens of the prompt, or the context that a step decodes at.
    pub tokens: u64,
    /// Sequences of a decode step; 0 for a prefill.
    pub batch: u64,
    /// Of the prefill, or of the median step.
    pub seconds: f64,
    /// The least and the most of several rounds, in seconds.
    pub range: (f64, f64),
    /// Bytes that must be read; 0 for a prefill.
    pub bytes: f64,
    /// Operations.
    pub flop: f64,
    /// Kernels, slowest first; empty where they were not timed.
    pub kernels: Vec<KernelTime>,
}

/// All launches of one kernel in a pass.
pub struct KernelTime {
    /// The kernel.
    pub name: String,
    /// Steps of the plan that it runs.
    pub steps: usize,
    /// In all of them.
    pub seconds: f64,
    /// Bytes that they must read; 0 for a prefill.
    pub bytes: f64,
    /// Operations.
    pub flop: f64,
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most sequences of a decode step.
    pub batch: u64,
    /// Most pages of all sequences of a step.
    pub pages: u64,
}

/// A model with room for what is measured.
pub struct Bench<'m> {
    model: &'m Model,
    engine: Engine,
    cost: Cost<'m>,
    /// Whether kernels are timed in passes of their own, which would slow down the others.
    apart: bool,
    /// What oracles select and routers choose, where it is not what the weights say.
    pub workload: Workload,
    /// What the machine can do.
    pub limits: Limits,
    /// What all of it takes.
    pub memory: MemoryPlan,
}

impl<'m> Bench<'m> {
    /// Sets everything up and measures the machine. `peak`: a GPU's operations per second.
    pub fn new(
        model: &'m Arc<Model>,
        options: &SessionOptions,
        sizes: Sizes,
        peak: Option<f64>,
    ) -> Result<Bench<'m>> {
        let room = KvRoom::new(sizes.pages, sizes.batch);
        let memory = MemoryPlan::new(model, room, options.thread_count());
        let stop = &mut |_, _| !crate::signal::pressed();
        let mut engine = Engine::new(open_runner(model, options, &memory, stop)?);
        let limits = match engine.clock().copy_bandwidth()? {
            Some(bytes_per_s) => Limits { bytes_per_s, flop_per_s: peak },
            None => {
                let host = bandwidth::measure(options.thread_count());
                let flop_per_s = Some(peak.unwrap_or(host.flop_per_s));
                Limits { bytes_per_s: host.read_bytes_per_s, flop_per_s }
            }
        };
        let apart = !model.plan().target.is_host();
        let workload = Workload::default();
        Ok(Bench { model, engine, cost: cost::of(model.plan()), apart, workload, limits, memory })
    }

    /// Fills the caches with uniform noise of about unit variance.
    pub fn fill(&mut self) -> Result<()> {
        let mut state = 1u64;
        self.engine.fill_caches(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })?;
        Ok(())
    }

    /// Starts a pass over positions `begin..end` of `batch` sequences, with the logits of each one's last row
    /// where they are wanted. Returns the seconds that no clock should count: those that put choices in the place of its own.
    fn start(
        &mut self,
        (begin, end): (u64, u64),
        batch: u64,
        logits: bool,
        choices: &[Choice],
    ) -> Result<f64> {
        let m = &self.model.plan().model;
        let (rows, pages) = (end - begin, end.div_ceil(m.page));
        let each = |f: &dyn Fn(u64, u64) -> u64| -> Vec<i32> {
            (0..batch).flat_map(|s| (begin..end).map(move |p| (s, p))).map(|(s, p)| f(s, p) as i32).collect()
        };
        let samples = logits && self.model.plan().sampled.is_some();
        let input = StepInput {
            token_ids: each(&|s, p| (p + s * 7919).wrapping_mul(2_654_435_761) % m.vocab),
            positions: each(&|_, p| p),
            sequence: each(&|s, _| s),
            page_table: (0..(batch * pages) as i32).collect(),
            ring_slot: (0..batch as i32).collect(),
            // The likeliest token, as every decode step ends with one.
            sampling: vec![SampleParams::default(); if samples { batch as usize } else { 0 }],
            seen: vec![],
            out_rows: (1..=if logits { batch as i32 } else { 0 }).map(|s| s * rows as i32 - 1).collect(),
        };
        self.engine.begin(input)?;
        let aside = self.replace(choices)?;
        self.engine.run_pass()?;
        Ok(aside)
    }

    /// Makes the pass that begins choose so. Returns the seconds that it took, once all before was through.
    fn replace(&mut self, choices: &[Choice]) -> Result<f64> {
        if choices.is_empty() {
            return Ok(0.0);
        }
        self.engine.synchronise()?;
        let start = Instant::now();
        for choice in choices {
            self.engine.replace_choice(&choice.steps, &choice.rows)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of a prefill of one sequence, in these chunks; the last gives logits.
    fn prefill_once(&mut self, chunks: &[Chunk], check: &dyn Fn() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        let mut aside = 0.0;
        for (i, chunk) in chunks.iter().enumerate() {
            check()?;
            aside += self.start((chunk.begin, chunk.end), 1, i + 1 == chunks.len(), &chunk.choices)?;
        }
        self.engine.synchronise()?;
        Ok(start.elapsed().as_secs_f64() - aside)
    }

    fn set_timing(&mut self, on: bool) -> Result<()> {
        self.engine.clock().set_timing(on)?;
        Ok(())
    }

    /// Measures a prefill of `tokens`. `kernels`: each kernel too. `check` may end it between two chunks.
    pub fn prefill(&mut self, tokens: u64, kernels: bool, check: &dyn Fn() -> Result<()>) -> Result<Point> {
        let chunks = self.workload.chunks(self.model.plan(), tokens);
        self.set_timing(!self.apart)?;
        if self.apart {
            // The first pass of a size loads code and grows clocks.
            self.prefill_once(&chunks[..chunks.len().min(1)], check)?;
        }
        let seconds = self.prefill_once(&chunks, check)?;
        if self.apart && kernels {
            self.set_timing(true)?;
            self.prefill_once(&chunks, check)?;
        }
        let times = self.engine.clock().take_times();
        let cost = |cost: &Cost<'_>, step: &Step| (0.0, cost.step_flop(step, tokens));
        let kernels = self.kernels(&times, &cost);
        let flop = self.cost.prefill_flop(tokens);
        Ok(Point { tokens, batch: 0, seconds, range: (seconds, seconds), bytes: 0.0, flop, kernels })
    }

    /// Measures decode steps of `batch` sequences at `context`; the median of `steps` counts.
    pub fn decode(
        &mut self,
        context: u64,
        batch: u64,
        steps: usize,
        kernels: bool,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Point> {
        self.set_timing(!self.apart)?;
        let (mut all, mut times) = (Vec::new(), Vec::new());
        // The first two make a GPU's graph and warm it up.
        for round in 0..steps + if self.apart { 2 } else { 0 } {
            check()?;
            let start = Instant::now();
            self.start((context - 1, context), batch, true, &[])?;
            self.engine.synchronise()?;
            if round >= 2 || !self.apart {
                all.push(start.elapsed().as_secs_f64());
                times.push(self.engine.clock().take_times());
            }
        }
        all.sort_by(f64::total_cmp);
        if self.apart && kernels {
            self.set_timing(true)?;
            times.clear();
            for _ in 0..steps.min(5) {
                self.start((context - 1, context), batch, true, &[])?;
                times.push(self.engine.clock().take_times());
            }
        }
        let cost = |cost: &Cost<'_>, step: &Step| {
            (cost.step_bytes(step, context, batch) as f64, cost.decode_flop(step, context, batch))
        };
        let kernels = self.kernels(&medians(&times), &cost);
        let bytes = self.cost.decode_bytes(context, batch) as f64;
        let flop = self.model.plan().steps.iter().map(|s| self.cost.decode_flop(s, context, batch)).sum();
        let seconds = all[steps / 2];
        Ok(Point { tokens: context, batch, seconds, range: (seconds, seconds), bytes, flop, kernels })
    }

    /// Seconds of each step of the plan in a pass over positions `begin..end` of `batch` sequences, by the device's own clock:
    /// the medians of `rounds` passes, after one that warms up.
    pub fn step_seconds(
        &mut self,
        (begin, end): (u64, u64),
        batch: u64,
        rounds: usize,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f64>> {
        self.set_timing(true)?;
        let mut times = Vec::new();
        for round in 0..=rounds {
            check()?;
            self.start((begin, end), batch, true, &[])?;
            let pass = self.engine.clock().take_times();
            times.extend((round > 0).then_some(pass));
        }
        Ok(medians(&times))
    }

    /// The times of the last step's blocks, by launch; empty where its code writes down none.
    pub fn launch_times(&mut self) -> Result<Vec<LaunchTimes>> {
        Ok(self.engine.clock().launch_times()?)
    }

    /// The bytes of weights, keys and values that a step of the plan must read in a decode.
    pub fn step_bytes(&self, step: usize, context: u64, batch: u64) -> f64 {
        self.cost.step_bytes(&self.model.plan().steps[step], context, batch) as f64
    }

    /// The device's name; `None` for the host.
    pub fn device_name(&mut self) -> Result<Option<String>> {
        Ok(self.engine.clock().device_name()?)
    }

    /// From now on this variant computes those steps of a kernel that it can.
    pub fn force_variant(&mut self, kernel: KernelId, variant: &str) -> Result<()> {
        Ok(self.engine.clock().force_variant(kernel, Some(variant))?)
    }

    /// The times of a pass's steps, by kernel; `cost` gives bytes and operations of a step.
    fn kernels(&self, times: &[f64], cost: &dyn Fn(&Cost<'_>, &Step) -> (f64, f64)) -> Vec<KernelTime> {
        let plan = self.model.plan();
        let empty = |k: &hyc_plan::Kernel| KernelTime {
            name: k.name.clone(),
            steps: 0,
            seconds: 0.0,
            bytes: 0.0,
            flop: 0.0,
        };
        let mut kernels: Vec<KernelTime> = plan.kernels.iter().map(empty).collect();
        for (step, seconds) in plan.steps.iter().zip(times) {
            let kernel = &mut kernels[step.kernel.index()];
            let (bytes, flop) = cost(&self.cost, step);
            kernel.steps += 1;
            kernel.seconds += seconds;
            kernel.bytes += bytes;
            kernel.flop += flop;
        }
        kernels.retain(|kernel| kernel.steps > 0);
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        kernels
    }
}

/// The median of several rounds, with their range.
pub fn median(mut rounds: Vec<Point>) -> Option<Point> {
    rounds.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let range = (rounds.first()?.seconds, rounds.last()?.seconds);
    let middle = rounds.swap_remove(rounds.len() / 2);
    Some(Point { range, ..middle })
}

/// The median of each step over some passes.
fn medians(passes: &[Vec<f64>]) -> Vec<f64> {
    let steps = passes.iter().map(Vec::len).min().unwrap_or(0);
    let median = |step: usize| {
        let mut all: Vec<f64> = passes.iter().map(|pass| pass[step]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    (0..steps).map(median).collect()
}

/// What the points need. Errors: contexts or batches that the model was not compiled for.
pub fn sizes(model: &Model, contexts: &[u64], batches: &[u64], prefill: &[u64]) -> Result<Sizes> {
    let m = &model.plan().model;
    let wrong = |what: &str, n: u64, most: u64| {
        Error::new(ErrorKind::Usage, format!("a {what} of {n} cannot be measured"))
            .help(format!("the model was compiled for {most}; give 1 to {most}"))
    };
    if let Some(n) = contexts.iter().chain(prefill).find(|n| **n == 0 || **n > m.max_context) {
        return Err(wrong("context", *n, m.max_context));
    }
    let rows = m.max_batch.min(m.max_outputs).min(m.chunk);
    if let Some(n) = batches.iter().find(|n| **n == 0 || **n > rows) {
        return Err(wrong("batch", *n, rows));
    }
    let most = |list: &[u64]| list.iter().copied().max().unwrap_or(0);
    let (context, batch, prompt) = (most(contexts), most(batches).max(1), most(prefill));
    let pages = (batch * context.div_ceil(m.page)).max(prompt.div_ceil(m.page)).max(1);
    if pages > i32::MAX as u64 {
        return Err(Error::new(ErrorKind::Usage, format!("{pages} pages are too many")));
    }
    Ok(Sizes { batch, pages })
}
